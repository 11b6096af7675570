"""Spec files that are right, and everything that can be wrong with one: the exact words."""

from __future__ import annotations

import pytest

from myriarch.errors import EXIT_USAGE, SpecError
from myriarch.spec.base import Spec
from myriarch.spec.document import Format
from myriarch.spec.fleet import Chip, FailureRate, Fleet, Link, Pool, PoolLink
from myriarch.spec.model import Model
from myriarch.spec.parse import parse, parse_located
from myriarch.spec.run import Batch, ChaosEvent, Data, Recovery, Run

FLEET = """\
name: lab
pools:
  - name: fast
    chip: h100-sxm
    nodes: 4
    link: {bandwidth_bytes_per_s: 50 GB/s, latency_s: 5 us}
  - name: slow
    chip:
      id: card
      rate_flops_per_s: {bf16: 96 TFLOP/s, fp32: 24e12}
      power_w: 250 W
      memory_bytes: 48 GB
    nodes: 2
    failures: {per_node_day: 1e-3, repair_s: 2h}
links:
  - between: [fast, slow]
    bandwidth_bytes_per_s: 1.25e9
"""


def error(text: str, kind: type[Spec] = Fleet, *, format: Format = "yaml") -> str:
    with pytest.raises(SpecError) as caught:
        parse(text, kind=kind, format=format, source="it")
    assert caught.value.exit_code == EXIT_USAGE
    return str(caught.value)


def test_reads_a_fleet_into_si() -> None:
    fast = Pool(name="fast", chip="h100-sxm", nodes=4, link=Link(bandwidth_bytes_per_s=50e9, latency_s=5e-6))
    card = Chip(id="card", rate_flops_per_s={"bf16": 96e12, "fp32": 24e12}, power_w=250.0, memory_bytes=48e9)
    failures = FailureRate(per_node_day=1e-3, repair_s=7200.0)
    slow = Pool(name="slow", chip=card, nodes=2, failures=failures)
    link = PoolLink(between=("fast", "slow"), bandwidth_bytes_per_s=1.25e9)
    assert parse(FLEET, kind=Fleet) == Fleet(name="lab", pools=(fast, slow), links=(link,))


def test_reads_a_run() -> None:
    text = """
    name: r
    fleet: fleet.yaml
    model: model.yaml
    steps: 1e3            # a whole number, however it is written
    batch: {sequences: 0x10}
    shares: {fast: 12, slow: 4}
    data: {max_bytes: 10 MB}
    recovery: {wait_limit_s: 1 min}
    chaos: [{at_step: 5, action: slow, target: fast-0, factor: 0.5}]
    validate_every_steps: ~
    """
    assert parse(text, kind=Run) == Run(
        name="r",
        fleet="fleet.yaml",
        model="model.yaml",
        steps=1000,
        batch=Batch(sequences=16),
        shares={"fast": 12, "slow": 4},
        data=Data(max_bytes=10_000_000),
        recovery=Recovery(wait_limit_s=60.0),
        chaos=(ChaosEvent(at_step=5, action="slow", target="fast-0", factor=0.5),),
    )


@pytest.mark.parametrize(
    ("plain", "value"),
    [("1e-3", 0.001), ("1E3", 1000.0), (".5", 0.5), ("5.", 5.0), ("+2", 2.0), ("010", 10.0), ("0o10", 8.0)],
)
def test_yaml_numbers_are_those_of_yaml_1_2(plain: str, value: float) -> None:
    text = f"{{name: p, chip: c, nodes: 1, price_per_device_hour: {plain}}}"
    assert parse(text, kind=Pool).price_per_device_hour == value


@pytest.mark.parametrize("word", ["no", "on", "off", "yes", "y", "1:30", "2024-01-01", "=", "<<"])
def test_yaml_words_stay_words(word: str) -> None:
    text = f"{{name: p, chip: {word}, nodes: 1, site: {word}}}"
    pool = parse(text, kind=Pool)
    assert (pool.chip, pool.site) == (word, word)


def test_yaml_keys_are_text_as_written() -> None:
    text = "{name: r, fleet: f, model: m, steps: 1, batch: {sequences: 3}, shares: {on: 1, 007: 2}}"
    assert parse(text, kind=Run).shares == {"on": 1, "007": 2}


def test_yaml_anchors_repeat_what_was_said() -> None:
    text = "{name: f, pools: [{name: a, chip: &c {id: x}, nodes: 1}, {name: b, chip: *c, nodes: 1}]}"
    fleet = parse(text, kind=Fleet)
    assert fleet.pools[0].chip == fleet.pools[1].chip == Chip(id="x")


def test_an_editors_schema_key_is_passed_over() -> None:
    text = '{"$schema": "fleet.json", "name": "f", "pools": []}'
    assert parse(text, kind=Fleet, format="json") == Fleet(name="f", pools=())


def test_a_located_spec_knows_its_lines() -> None:
    source = parse_located(FLEET, kind=Fleet, source="fleet.yaml").source
    assert source.at("pools[1].chip.power_w") == "fleet.yaml:11"
    assert source.at("pools[1].nothing.of[3].this") == "fleet.yaml:7"
    assert source.at("nor_this") == "fleet.yaml:1"


# --- what is wrong with the values -----------------------------------------------------------------------------------

PRECISIONS = "`bf16`, `fp16`, `fp32`, `fp4`, `fp64`, `fp64_tc`, `fp8`, `int8`, `tf32`"
RATES = "use a plain number in SI, or a number and one of: `FLOP/s`, `kFLOP/s`, `MFLOP/s`, `GFLOP/s`, `TFLOP/s`"
NAME = "is not a name; use lower-case letters, digits and inner hyphens, at most 40"
POOL = "a pool has `name`, `chip`, `nodes`, `spares`, `devices_per_node`, `nodes_per_rack`, `site`, `link`, \
`oversubscription`, `failures`, `price_per_device_hour`, `currency`, `carbon_kg_per_kwh`, `power_per_device_w`, \
`host_memory_bytes`, `host_memory_bandwidth_bytes_per_s`, `host_link_bandwidth_bytes_per_s`, \
`disk_bandwidth_bytes_per_s`, `emulate`"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: f, pools: 3}", "it:1: pools: the number 3 is not a list; put it in [brackets]"),
        ("{name: f, pools: [7]}", "it:1: pools[0]: the number 7 is not a pool; it needs `name`, `chip`, `nodes`"),
        ("{name: f}", "it:1: `pools` is missing; a fleet needs `name`, `pools`"),
        ("{name: Lab 1, pools: []}", f"it:1: name: `Lab 1` {NAME}"),
        ('{name: "f\\n", pools: []}', f"it:1: name: `f\n` {NAME}"),
        ("{name: 7, pools: []}", 'it:1: name: the number 7 is not text; put it in quotes: "7"'),
        ("{name: f, pools: [], engine: ray}", "it:1: engine: `ray` is not known; it is one of `local`"),
        ("{name: f, pools: [], note: }", "it:1: note: an empty value is not text"),
        (
            "{name: f, pools: [], links: [{between: [a], bandwidth_bytes_per_s: 1}]}",
            "it:1: links[0].between: has 1 entries; give exactly 2",
        ),
        ("", "it: an empty value is not a fleet; it needs `name`, `pools`"),
        ("- 1", "it:1: a list is not a fleet; it needs `name`, `pools`"),
    ],
)
def test_says_what_is_wrong_with_a_fleet(text: str, message: str) -> None:
    assert error(text) == message


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("nodes: 0", "nodes: 0 is out of range; use at least 1"),
        ("nodes: 2.5", "nodes: 2.5 is not a whole number; use 2 or 3"),
        ("nodes: true", "nodes: `true` is not a whole number"),
        ('nodes: "2"', "nodes: the text `2` is not a whole number; write it without quotes or underscores: 2"),
        ("nodes: 1_000", "nodes: the text `1_000` is not a whole number; write it without quotes or underscores: 1000"),
        ("nodes: two", "nodes: the text `two` is not a whole number"),
        ("nodes: 1e30", "nodes: is too large for a whole number; use at most 9.22337e+18"),
        ("nodes: .inf", "nodes: inf is not a whole number; use a finite one"),
        ("nodes: [1]", "nodes: a list is not a whole number"),
        ("nodes: {a: 1}", "nodes: a table of keys and values is not a whole number"),
        ("nodes: !!int 1", None),
        ("nodes: !thing 1", "nodes: has the tag `!thing`, and tags are not used here; remove it"),
        ("chip: 3", 'chip: the number 3 is not text; put it in quotes: "3"'),
        ("chip: .nan", 'chip: the number nan is not text; put it in quotes: "nan"'),
        ("chip: {vendor: x}", "chip: `id` is missing; a chip needs `id`"),
        (
            "chip: {id: x, rate_flops_per_s: {bf17: 1}}",
            f"chip.rate_flops_per_s.bf17: `bf17` is not known; did you mean `bf16`? it is one of {PRECISIONS}",
        ),
        (
            "chip: {id: x, rate_flops_per_s: {bf16: fast}}",
            f"chip.rate_flops_per_s.bf16: `fast` is not a number and a unit; {RATES}",
        ),
        ("emulate: {cpu_fraction: 1.5}", "emulate.cpu_fraction: 1.5 is out of range; use more than 0 and at most 1"),
        ("emulate: {cpu_fraction: .nan}", "emulate.cpu_fraction: nan is not a number; use a finite one"),
        ("failures: 3", "failures: the number 3 is not a failure rate; it needs `per_node_day`"),
        ("site: [a]", "site: a list is not text"),
        ("nodess: 2", f"nodess: unknown key; {POOL}"),
        ("chip_: 2", f"chip_: unknown key; {POOL}"),
        ("spare: 2", f"spare: unknown key; did you mean `spares`? {POOL}"),
    ],
)
def test_says_what_is_wrong_with_a_pool(part: str, message: str | None) -> None:
    key = part.partition(":")[0]
    whole = {"name": "p", "chip": "c", "nodes": "1"}
    text = "\n".join([*(f"{name}: {value}" for name, value in whole.items() if name != key), part])
    if message is None:
        assert parse(text, kind=Pool).nodes == 1
    else:
        assert error(text, Pool) == f"it:{text.count(chr(10)) + 1}: {message}"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("tied_embeddings: no", "tied_embeddings: the text `no` is not a yes or no; write true or false"),
        ("tied_embeddings: 1", "tied_embeddings: the number 1 is not a yes or no; write true or false"),
        ("dtype: bf61", "dtype: `bf61` is not known; did you mean `bf16`? it is one of `bf16`, `fp32`"),
        ("dtype: 16", "dtype: the number 16 is not one of `bf16`, `fp32`"),
        ("rope_theta: 0", "rope_theta: 0 is out of range; use more than 0"),
        ("rope_theta: 1e301", "rope_theta: is too large for a number; use at most 1e+300"),
    ],
)
def test_says_what_is_wrong_with_a_model(part: str, message: str) -> None:
    text = f"name: m\nlayers: 1\nwidth: 8\nheads: 2\ncontext_tokens: 8\n{part}"
    assert error(text, Model) == f"it:6: {message}"


def test_a_misspelt_required_key_is_told_once() -> None:
    assert error("name: p\nchipp: h100-sxm\nnodes: 1", Pool) == f"it:2: chipp: unknown key; did you mean `chip`? {POOL}"


def test_tells_all_problems_at_once_each_with_its_line() -> None:
    text = "name: r\nfleet: f\nmodel: m\nsteps: -1\nbatch:\n  sequences: 2.5\nshares: {a: 0}\nchaos:\n  - at_step: x\n"
    assert error(text, Run).splitlines() == [
        "it:4: steps: -1 is out of range; use at least 1",
        "it:6: batch.sequences: 2.5 is not a whole number; use 2 or 3",
        "it:7: shares.a: 0 is out of range; use at least 1",
        "it:9: chaos[0]: `action` is missing; a chaos event needs `at_step`, `action`, `target`",
        "it:9: chaos[0]: `target` is missing; a chaos event needs `at_step`, `action`, `target`",
        "it:9: chaos[0].at_step: the text `x` is not a whole number",
    ]


def test_counts_the_problems_past_a_screenful() -> None:
    pools = "\n".join("  - 1" for _ in range(30))
    lines = error(f"name: f\npools:\n{pools}").splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 10 more problems"


# --- what is wrong with the text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("yaml", "a: 1\nb: 2\na: 3", "it:3: a: is given twice, first on line 1; keep one"),
        ("yaml", "a: {b: 1, b: 1}", "it:1: a.b: is given twice, first on line 1; keep one"),
        ("yaml", "a: 1\n b: 2", "it:2: is not valid YAML: mapping values are not allowed here"),
        (
            "yaml",
            "a: 1\n---\nb: 2",
            "it:2: is not valid YAML: expected a single document in the stream, but found another document",
        ),
        ("yaml", "[a]: 1", "it:1: a key must be text"),
        (
            "yaml",
            "a: !!python/none x",
            "it:1: a: has the tag `tag:yaml.org,2002:python/none`, and tags are not used here; remove it",
        ),
        ("yaml", "a: !!int x", "it:1: a: is not a number: invalid literal for int() with base 10: 'x'"),
        ("yaml", "a: &a [*a]", "it: is nested too deeply; a spec needs a handful of levels"),
        ("yaml", "[" * 5000, "it: is nested too deeply; a spec needs a handful of levels"),
        ("json", '{"a": 1, "a": 2}', "it: the key `a` is given twice in one object; keep one"),
        ("json", '{"a": 1,\n "b": }', "it:2: is not valid JSON: Expecting value (column 7)"),
        ("json", "[" * 50_000, "it: is nested too deeply; a spec needs a handful of levels"),
        ("toml", "a = 1\na = 2", "it: is not valid TOML: Cannot overwrite a value"),
        ("toml", "a = ", "it: is not valid TOML: Invalid value (at end of document)"),
    ],
)
def test_says_what_is_wrong_with_the_text(format: Format, text: str, message: str) -> None:
    told = error(text, format=format)
    assert told.startswith(message) if format == "toml" else told == message


def test_control_characters_are_refused() -> None:
    assert error("a: \x00").startswith("it: is not valid YAML: unacceptable character #x0000")


def test_half_a_surrogate_pair_is_refused() -> None:
    text = '{"name": "f", "pools": [], "note": "\\ud800"}'
    assert error(text, format="json") == r"it: note: '\ud800' has half of a surrogate pair; write the whole character"


def test_a_number_of_ten_thousand_digits_is_refused() -> None:
    assert error(f'{{"name": {"9" * 10_000}}}', format="json").startswith("it: is not valid JSON: Exceeds the limit")
    assert error(f"name: {'9' * 10_000}").startswith("it:1: name: is not a number: Exceeds the limit")


def test_a_date_in_toml_is_no_text() -> None:
    text = 'name = "f"\npools = []\nnote = 2024-01-01'
    assert error(text, format="toml") == "it: note: the date or time `2024-01-01` is not text"


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert error("\n".join(lines)).endswith("the file has more than 200000 values; aliases count each time")


def test_without_a_source_the_path_alone_is_told() -> None:
    with pytest.raises(SpecError) as caught:
        parse("name: f\npools: [{}]", kind=Fleet)
    assert str(caught.value).splitlines()[0] == "pools[0]: `name` is missing; a pool needs `name`, `chip`, `nodes`"
    assert caught.value.path == "pools[0]"
