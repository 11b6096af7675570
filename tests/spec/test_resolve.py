"""A run against its fleet and model: what is filled in, and every way in which they cannot fit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from myriarch.errors import SpecError
from myriarch.spec.catalogue import catalogue
from myriarch.spec.consistency import check_model
from myriarch.spec.document import Source
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.parse import parse_located
from myriarch.spec.resolve import Sources, resolve
from myriarch.spec.run import Batch, Group, Mesh, ResolvedRun, Run

FAST = {"name": "fast", "chip": {"id": "c"}, "nodes": 2, "spares": 1}
SLOW = {"name": "slow", "chip": {"id": "c"}, "nodes": 3, "devices_per_node": 2}
FLEET = {"name": "f", "pools": [FAST, SLOW]}
MODEL = {"name": "m", "layers": 1, "width": 48, "heads": 4, "context_tokens": 16}
RUN = {"name": "r", "fleet": "f", "model": "m", "steps": 100, "batch": {"sequences": 20}}


def resolved(*, run: dict[str, Any] = {}, fleet: dict[str, Any] = {}, model: dict[str, Any] = {}) -> ResolvedRun:  # noqa: B006
    return resolve(
        msgspec.convert(RUN | run, Run),
        msgspec.convert(FLEET | fleet, Fleet),
        msgspec.convert(MODEL | model, Model),
        catalogue=catalogue(),
    )


def error(**parts: Any) -> str:
    with pytest.raises(SpecError) as caught:
        resolved(**parts)
    return str(caught.value)


# --- what is filled in -----------------------------------------------------------------------------------------------


def test_a_run_without_groups_gets_one_per_pool_over_its_nodes_without_spares() -> None:
    assert resolved().run.groups == (
        Group(name="fast", pool="fast", nodes=2, mesh=Mesh(dp_shard=2)),
        Group(name="slow", pool="slow", nodes=3, mesh=Mesh(dp_shard=6)),
    )


def test_groups_that_are_given_stay() -> None:
    groups = [
        {"name": "a", "pool": "slow", "nodes": 1, "mesh": {"dp_replicate": 2}},
        {"name": "b", "pool": "slow", "nodes": 2, "mesh": {"dp_shard": 2, "dp_replicate": 2}},
    ]
    assert [group.name for group in resolved(run={"groups": groups}).run.groups] == ["a", "b"]


def test_chips_of_the_catalogue_come_inline() -> None:
    pool = {"name": "p", "chip": "h100-sxm", "nodes": 20}
    assert resolved(fleet={"pools": [pool]}).fleet.pools[0].chip == catalogue()["h100-sxm"]


def test_what_is_resolved_is_a_value_that_travels() -> None:
    value = resolved()
    assert msgspec.json.decode(msgspec.json.encode(value), type=ResolvedRun) == value
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=ResolvedRun) == value
    assert resolve(value.run, value.fleet, value.model, catalogue={}) == value


def test_nodes_have_names_and_racks() -> None:
    fleet = msgspec.convert(FLEET | {"pools": [FAST, SLOW | {"nodes_per_rack": 2}]}, Fleet)
    assert fleet.node_names == ("fast-0", "fast-1", "fast-2", "slow-0", "slow-1", "slow-2")
    assert fleet.racks["fast/rack-1"] == ("fast-1",)
    assert fleet.racks["slow/rack-0"] == ("slow-0", "slow-1")
    assert fleet.fault_domain("slow-2") == "slow/rack-1"
    assert fleet.pool_of("fast-2").name == "fast"
    for nobody in ("fast-3", "fast", "fast-", "fast-01", "fsat-0", ""):
        with pytest.raises(KeyError):
            fleet.pool_of(nobody)


def test_names_of_nodes_never_collide() -> None:
    pools = tuple(Pool(name=name, chip=Chip(id="c"), nodes=12) for name in ("a", "a-1", "a-1-1", "1"))
    names = Fleet(name="f", pools=pools).node_names
    assert len(set(names)) == len(names) == 48


# --- what does not fit -----------------------------------------------------------------------------------------------


def link(one: str, other: str) -> dict[str, Any]:
    return {"between": [one, other], "bandwidth_bytes_per_s": 1}


@pytest.mark.parametrize(
    ("fleet", "message"),
    [
        ({"pools": []}, "fleet: pools: is empty; give at least one pool"),
        ({"pools": [FAST, FAST]}, "fleet: pools[1].name: `fast` is pools[0] already; give each its own name"),
        (
            {"pools": [FAST | {"chip": "h100-sxmm"}]},
            (
                "fleet: pools[0].chip: chip `h100-sxmm` is not in the catalogue; "
                "did you mean `h100-sxm`? describe it inline: {id: h100-sxmm, ...}"
            ),
        ),
        (
            {"pools": [FAST | {"nodes": 10**18}]},
            "fleet: pools: have 1000000000000000001 nodes; a fleet has at most 1000000",
        ),
        (
            {"pools": [FAST | {"devices_per_node": 10**18}]},
            "fleet: pools: have 2000000000000000000 devices; a fleet has at most 10000000",
        ),
        (
            {"links": [link("fast", "slwo")]},
            "fleet: links[0].between[1]: no pool is called `slwo`; did you mean `slow`? the fleet has `fast`, `slow`",
        ),
        (
            {"links": [link("fast", "fast")]},
            "fleet: links[0].between: joins pool `fast` with itself; say that as the `link` of the pool",
        ),
        (
            {"links": [link("fast", "slow"), link("slow", "fast")]},
            "fleet: links[1].between: joins `slow`, `fast` as links[0] does; keep one",
        ),
    ],
)
def test_says_what_does_not_fit_in_the_fleet(fleet: dict[str, Any], message: str) -> None:
    assert error(fleet=fleet) == message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"heads": 5}, "model: heads: 5 heads do not split the width, 48, into equal even parts; use 2 or 3 or 4 or 6"),
        (
            {"heads": 16},
            "model: heads: 16 heads do not split the width, 48, into equal even parts; use 6 or 8 or 12 or 24",
        ),
        ({"width": 47}, "model: width: 47 is odd, and rotary positions need heads of even width; use 48"),
        ({"kv_heads": 3}, "model: kv_heads: 3 does not divide the 4 heads; use 1 or 2 or 4"),
        ({"kv_heads": 8}, "model: kv_heads: 8 does not divide the 4 heads; use 1 or 2 or 4"),
        ({"vocabulary": 128}, "model: vocabulary: 128 is too small for data that are bytes; use at least 256"),
    ],
)
def test_says_what_does_not_fit_in_the_model(model: dict[str, Any], message: str) -> None:
    assert error(model=model) == message


LATENT = {"kv_rank": 8, "nope_width": 8, "rope_width": 4, "value_width": 8}
MIXTURE = {"experts": 4, "top_k": 2, "expert_feed_forward": 32}
BUILDS = "the trainer builds dense Llama-style models"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"mixture": MIXTURE}, f"mixture: is for `myriarch plan`: {BUILDS}; remove it"),
        ({"latent": LATENT}, f"latent: is for `myriarch plan`: {BUILDS}; remove it"),
        ({"window": {"tokens": 8}}, f"window: is for `myriarch plan`: {BUILDS}; remove it"),
        ({"activation": "gelu"}, f"activation: `gelu` is for `myriarch plan`: {BUILDS}; use `swiglu`"),
        ({"positions": "learned"}, f"positions: `learned` is for `myriarch plan`: {BUILDS}; use `rotary`"),
        ({"norm": "layernorm"}, f"norm: `layernorm` is for `myriarch plan`: {BUILDS}; use `rmsnorm`"),
        ({"norms_per_layer": 4}, f"norms_per_layer: `4` is for `myriarch plan`: {BUILDS}; use 2"),
        ({"query_key_norm": True}, f"query_key_norm: true is for `myriarch plan`: {BUILDS}; use false"),
        ({"biases": "all"}, f"biases: `all` is for `myriarch plan`: {BUILDS}; use `none`"),
        (
            {"head_width": 16},
            "head_width: 16 is for `myriarch plan`: the trainer splits the width, 48, among the 4 heads; remove it",
        ),
    ],
)
def test_a_model_that_the_trainer_cannot_build_is_refused_before_anything_starts(
    model: dict[str, Any], message: str
) -> None:
    assert error(model=model) == f"model: {message}"


def test_what_the_trainer_builds_may_be_written_out() -> None:
    plain = {"head_width": 12, "activation": "swiglu", "biases": "none", "positions": "rotary"}
    assert resolved(model=plain).model.parameters == resolved().model.parameters


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"mixture": MIXTURE | {"top_k": 5}}, "mixture.top_k: 5 is more than the 4 experts; use at most that"),
        (
            {"mixture": MIXTURE | {"dense_layers": 1}},
            "mixture.dense_layers: 1 leaves none of the 1 layers to the mixture; use at most 0",
        ),
        (
            {"mixture": MIXTURE, "feed_forward": 64},
            "feed_forward: has no meaning where every layer is a mixture; say `mixture.expert_feed_forward`",
        ),
        ({"latent": LATENT | {"rope_width": 3}}, "latent.rope_width: 3 is odd, and rotary positions need pairs"),
        (
            {"latent": LATENT, "kv_heads": 2},
            "kv_heads: has no meaning with `latent`, which says how wide heads are; remove one of them",
        ),
        ({"latent": LATENT, "biases": "qkv"}, "biases: `qkv` is not known with `latent`; use `none`"),
        ({"head_width": 5}, "head_width: 5 is odd, and rotary positions need heads of even width; use 6"),
    ],
)
def test_says_what_does_not_fit_in_a_model_for_the_planner(model: dict[str, Any], message: str) -> None:
    told: list[str] = []
    check_model(msgspec.convert(MODEL | model, Model), tell=lambda path, text: told.append(f"{path}: {text}"))
    assert len(told) == 1
    assert told[0].startswith(message)


EQUALLY = "(fast 2, slow 6): every worker of a group takes equally many sequences, at least one"


def group(name: str = "g", pool: str = "fast", nodes: int = 2, **mesh: int) -> dict[str, Any]:
    return {"name": name, "pool": pool, "nodes": nodes, "mesh": mesh or {"dp_shard": nodes}}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            {"groups": [group(pool="fsat")]},
            "groups[0].pool: no pool is called `fsat`; did you mean `fast`? the fleet has `fast`, `slow`",
        ),
        (
            {"groups": [group(), group(pool="slow", nodes=1, dp_shard=2)]},
            "groups[1].name: `g` is groups[0] already; give each its own name",
        ),
        ({"groups": [group(nodes=3)]}, "groups[0].nodes: 3 is more than the 2 of 2 nodes left in `fast`"),
        (
            {"groups": [group("a", nodes=1), group("b", nodes=2)]},
            "groups[1].nodes: 2 is more than the 1 of 2 nodes left in `fast`",
        ),
        (
            {"groups": [group(pool="slow", nodes=3, dp_shard=3)]},
            "groups[0].mesh: dp_replicate 1 x dp_shard 3 = 3 is not the 3 nodes x 2 = 6 devices; make the product 6",
        ),
        (
            {"batch": {"sequences": 13}},
            f"batch.sequences: 13 cannot be divided among workers {EQUALLY}; use 12 or 14",
        ),
        (
            {"batch": {"sequences": 7}},
            f"batch.sequences: 7 cannot be divided among workers {EQUALLY}; use 8",
        ),
        (
            {"shares": {"fast": 7, "slow": 12}, "batch": {"sequences": 19}},
            "shares.fast: 7 is not a multiple of the group's 2 workers; use 6 or 8",
        ),
        (
            {"shares": {"fast": 1, "slow": 12}, "batch": {"sequences": 13}},
            "shares.fast: 1 is not a multiple of the group's 2 workers; use 2",
        ),
        ({"shares": {"fast": 8, "slow": 6}}, "shares: sum to 14, and batch.sequences is 20; make them equal"),
        ({"shares": {"fast": 20}}, "shares: group `slow` has no share; give it a multiple of 6"),
        (
            {"shares": {"fast": 8, "slow": 12, "slwo": 6}, "batch": {"sequences": 26}},
            "shares.slwo: no group is called `slwo`; did you mean `slow`? there are `fast`, `slow`",
        ),
        (
            {"optimizer": {"learning_rate": 1e-5}},
            "optimizer.minimum_learning_rate: 0.0001 is above learning_rate, 1e-05; use at most that",
        ),
        (
            {"checkpoint": {"memory_every_steps": 10, "disk_every_steps": 25}},
            "checkpoint.disk_every_steps: 25 is not a multiple of memory_every_steps, 10; use 20 or 30",
        ),
        (
            {"checkpoint": {"memory_every_steps": 10, "disk_every_steps": 5}},
            "checkpoint.disk_every_steps: 5 is not a multiple of memory_every_steps, 10; use 10",
        ),
        (
            {"recovery": {"heartbeat_interval_s": 3}},
            (
                "recovery.heartbeat_timeout_s: 5 s is less than two heartbeat intervals of 3 s, "
                "so that one late heartbeat would look like a death; use at least 6"
            ),
        ),
    ],
)
def test_says_what_does_not_fit_in_the_run(run: dict[str, Any], message: str) -> None:
    assert error(run=run) == f"run: {message}"


def test_copies_need_other_nodes() -> None:
    one = {"pools": [FAST | {"nodes": 1, "spares": 0}]}
    assert error(fleet=one, run={"checkpoint": {"copies": 1}}) == (
        "run: checkpoint.copies: 1 is too many: no two copies of a shard lie on one node, and the fleet has 1; use 0"
    )
    assert resolved(fleet=one, run={"checkpoint": {"copies": 0}}).run.checkpoint.copies == 0


FORMS = "a target is a node (`<pool>-<index>`), a worker (`<group>/<rank>`) or `controller`"


@pytest.mark.parametrize(
    ("chaos", "message"),
    [
        ({"at_step": 100}, ".at_step: 100 is not before the run's last step, 100; use at most 99"),
        ({"action": "slow"}, ": `factor` is missing; say which share of its speed is left, like `factor: 0.5`"),
        ({"factor": 0.5}, ".factor: has no meaning with `kill`; remove it"),
        ({"action": "stop", "target": "controller"}, ".action: `stop` is not done to the controller; use `kill`"),
        ({"target": "fast-3"}, ".target: pool `fast` has nodes fast-0 to fast-2"),
        ({"target": "fast-01"}, ".target: pool `fast` has nodes fast-0 to fast-2"),
        ({"target": "fsat-1"}, f".target: `fsat-1` is not known; did you mean `fast-1`? {FORMS}"),
        ({"target": "fast"}, f".target: `fast` is not known; did you mean `fast-2`? {FORMS}"),
        ({"target": ""}, f".target: `` is not known; {FORMS}"),
        ({"target": "fast/2"}, ".target: group `fast` has ranks 0 to 1, not `2`"),
        ({"target": "fast/-1"}, ".target: group `fast` has ranks 0 to 1, not `-1`"),
        ({"target": "fast/²"}, ".target: group `fast` has ranks 0 to 1, not `²`"),
        ({"target": "fast/99999999999999999999"}, ".target: group `fast` has ranks 0 to 1, not `99999999999999999999`"),
        ({"target": "fats/0"}, f".target: no group is called `fats`; did you mean `fast`? {FORMS}"),
    ],
)
def test_says_what_does_not_fit_in_a_fault(chaos: dict[str, Any], message: str) -> None:
    event = {"at_step": 5, "action": "kill", "target": "fast-0"} | chaos
    assert error(run={"chaos": [event]}) == f"run: chaos[0]{message}"


@pytest.mark.parametrize("target", ["fast-0", "fast-2", "slow-2", "fast/1", "slow/5", "controller"])
def test_targets_that_are_there(target: str) -> None:
    assert resolved(run={"chaos": [{"at_step": 99, "action": "kill", "target": target}]}).run.chaos[0].target == target


def test_problems_of_all_three_files_come_together_with_their_lines() -> None:
    run = parse_located("name: r\nfleet: f\nmodel: m\nsteps: 9\nbatch:\n  sequences: 3\n", kind=Run, source="r.yaml")
    fleet = parse_located("name: f\npools:\n- name: a\n  nodes: 2\n  chip: h1\n", kind=Fleet, source="f.yaml")
    model = parse_located("name: m\nlayers: 1\nwidth: 8\nheads: 3\ncontext_tokens: 8\n", kind=Model, source="m.yaml")
    sources = Sources(run=run.source, fleet=fleet.source, model=model.source)
    with pytest.raises(SpecError) as caught:
        resolve(run.spec, fleet.spec, model.spec, catalogue=catalogue(), sources=sources)
    starts = [line.split(": ")[:2] for line in str(caught.value).splitlines()]
    assert starts == [["f.yaml:5", "pools[0].chip"], ["m.yaml:4", "heads"], ["r.yaml:6", "batch.sequences"]]


def test_a_batch_for_groups_of_one_worker_each_may_be_any() -> None:
    fleet = {"pools": [FAST | {"nodes": 1}, SLOW | {"nodes": 1, "devices_per_node": 1}]}
    assert resolved(fleet=fleet, run={"batch": {"sequences": 17}}).run.batch == Batch(sequences=17)


def test_sources_without_a_file_are_named_by_what_they_are() -> None:
    assert Source("fleet").at("pools[0]") == "fleet"
