"""The three formats say the same thing, for any spec that can be written."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.spec.base import Spec
from myriarch.spec.document import Document, Format, Source, read_document
from myriarch.spec.fleet import Chip, FailureRate, Fleet, Link, Pool
from myriarch.spec.model import Mixture, Model, Window
from myriarch.spec.parse import parse
from myriarch.spec.run import Batch, ChaosEvent, Group, Mesh, Recovery, Run
from myriarch.spec.shape import shaped

# Everything but what TOML or YAML cannot hold even in quotes: surrogates and control characters.
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12) | st.sampled_from(
    ["no", "1e3", "0o17", "null", "~", "", "<<", "1_000", "- a", "# not a comment", '"', "'", "\\", "25 GB/s"]
)
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
counts = st.integers(1, 2**53)
positives = st.floats(1e-12, 1e18)
fractions = st.floats(1e-6, 1.0)
precisions = st.sampled_from(["bf16", "fp32", "fp8"])

chips = st.builds(
    Chip,
    id=texts,
    note=texts,
    rate_flops_per_s=st.dictionaries(precisions, positives),
    power_w=st.none() | positives,
    sources=st.lists(texts, max_size=2).map(tuple),
)
pools = st.builds(
    Pool,
    name=names,
    chip=texts | chips,
    nodes=counts,
    link=st.none() | st.builds(Link, bandwidth_bytes_per_s=positives),
    failures=st.none() | st.builds(FailureRate, per_node_day=positives, source=texts),
)
fleets = st.builds(Fleet, name=names, pools=st.lists(pools, max_size=2).map(tuple), note=texts)
models = st.builds(
    Model,
    name=names,
    layers=counts,
    width=counts,
    heads=counts,
    context_tokens=counts,
    tied_embeddings=st.booleans(),
    activation=st.sampled_from(["swiglu", "relu2"]),
    mixture=st.none() | st.builds(Mixture, experts=counts, top_k=counts, expert_feed_forward=counts),
    window=st.none() | st.builds(Window, tokens=counts, share=fractions),
    source=texts,
)
runs = st.builds(
    Run,
    name=names,
    fleet=texts,
    model=texts,
    steps=counts,
    batch=st.builds(Batch, sequences=counts),
    groups=st.lists(st.builds(Group, name=names, pool=names, nodes=counts, mesh=st.builds(Mesh)), max_size=2).map(
        tuple
    ),
    shares=st.just("measured") | st.dictionaries(names, counts, max_size=3),
    recovery=st.builds(Recovery, wait_limit_s=positives, missing_group=st.sampled_from(["wait", "degrade"])),
    chaos=st.lists(
        st.builds(ChaosEvent, at_step=counts, target=texts, factor=st.none() | fractions, action=st.just("slow")),
        max_size=2,
    ).map(tuple),
)


class _QuotingDumper(yaml.SafeDumper):
    """Quotes all text: PyYAML itself thinks in YAML 1.1 and would leave `0o17` and `1e3` bare."""


_QuotingDumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, '"'))


def _toml(value: Any) -> str:
    """TOML's inline form; the standard library reads TOML and does not write it."""
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case dict():
            return "{" + ", ".join(f"{_toml(key)} = {_toml(part)}" for key, part in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return json.dumps(value)


def _without_none(value: Any) -> Any:
    """TOML has no null: what is unknown is left out, as in a file that a person writes."""
    if isinstance(value, dict):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, (list, tuple)) else value


def written(spec: Spec) -> dict[Format, str]:
    """The spec as a file of each format."""
    plain = _without_none(msgspec.to_builtins(spec))
    return {
        "yaml": yaml.dump(plain, Dumper=_QuotingDumper, allow_unicode=True),
        "json": json.dumps(plain, ensure_ascii=False),
        "toml": "\n".join(f"{_toml(key)} = {_toml(part)}" for key, part in plain.items()),
    }


@settings(max_examples=40)
@given(fleets | models | runs)
def test_what_is_written_is_read_back_alike_from_all_formats(spec: Spec) -> None:
    for format, text in written(spec).items():
        assert parse(text, kind=type(spec), format=format) == spec


@settings(max_examples=40)
@given(fleets | models | runs)
def test_json_is_yaml(spec: Spec) -> None:
    assert parse(written(spec)["json"], kind=type(spec), format="yaml") == spec


_LIKE_A_SPEC = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from([*Run.__struct_fields__, "x"]), parts),
    max_leaves=12,
)


@given(_LIKE_A_SPEC, st.sampled_from([Fleet, Model, Run, Pool, Chip]))
def test_any_document_is_a_spec_or_a_spec_error(value: object, kind: type[Spec]) -> None:
    with contextlib.suppress(SpecError):
        assert isinstance(shaped(Document(value=value, source=Source()), kind), kind)


@given(st.text(max_size=60), st.sampled_from(["yaml", "json", "toml"]))
def test_any_text_is_a_document_or_a_spec_error(text: str, format: Format) -> None:
    with contextlib.suppress(SpecError):
        assert read_document(text, format=format, source="it").source.name == "it"


@pytest.mark.parametrize("format", ["yaml", "json", "toml"])
def test_quantities_are_text_in_every_format(format: Format) -> None:
    texts: dict[Format, str] = {
        "yaml": "bandwidth_bytes_per_s: 25 GB/s\nlatency_s: 20 ms",
        "json": '{"bandwidth_bytes_per_s": "25 GB/s", "latency_s": "20 ms"}',
        "toml": 'bandwidth_bytes_per_s = "25 GB/s"\nlatency_s = "20 ms"',
    }
    assert parse(texts[format], kind=Link, format=format) == Link(bandwidth_bytes_per_s=25e9, latency_s=0.02)
