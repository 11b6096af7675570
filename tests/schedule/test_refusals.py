"""A job that can never run is refused, with the reason, by every scheduler that there is; nobody waits behind it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

import myriarch.schedule
from myriarch.schedule.counted import Counted
from myriarch.schedule.decision import Refuse, Start
from myriarch.schedule.defragmentation import Defragmenting
from myriarch.schedule.easy import Easy
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.machine import Machine
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import ByArrival, EarliestDeadline, LeastService, ShortestRemaining
from myriarch.schedule.scheduler import Scheduler
from myriarch.schedule.sparing import Sparing
from myriarch.schedule.stream import Recorder

POOL = PoolLayout(name="a", nodes=4, devices_per_node=4, nodes_per_rack=2, precisions=("bf16",))
COUNTED: Callable[[], Machine] = partial(Counted, 16)
PLACED: Callable[[], Machine] = partial(Placed, [POOL])
RANKINGS: dict[str, Callable[[], Any]] = {
    "by arrival": ByArrival,
    "deadline": EarliestDeadline,
    "least service": LeastService,
    "shortest remaining": lambda: ShortestRemaining(lambda job: job.estimate_s),
}

NEEDY: dict[str, Callable[[], Scheduler]] = {
    "Defragmenting": lambda: Defragmenting(Easy(Placed([POOL]))),
    "Sparing": lambda: Sparing(Easy(Placed([POOL])), failures_per_node_s=1e-6),
}
"""Schedulers that need more than a machine."""


def classes() -> Iterator[type]:
    """Every class of `schedule` that can be used as a scheduler."""
    for module in pkgutil.iter_modules(myriarch.schedule.__path__):
        for kind in vars(importlib.import_module(f"myriarch.schedule.{module.name}")).values():
            if not inspect.isclass(kind) or kind.__module__ != f"myriarch.schedule.{module.name}":
                continue
            if all(hasattr(kind, name) for name in ("submit", "end", "wake", "wake_s", "waiting", "check")):
                yield kind


def made(kind: Callable[[Machine], Scheduler], machine: Callable[[], Machine]) -> Scheduler:
    return kind(machine())


def ranked(ranking: Callable[[], Any]) -> Scheduler:
    return Ranked(Placed([POOL]), ranking())


def makers() -> dict[str, Callable[[], Scheduler]]:
    found: dict[str, Callable[[], Scheduler]] = {}
    for kind in classes():
        if getattr(kind, "_is_protocol", False) or kind in (Ranked, Recorder):
            continue
        first, *others = inspect.signature(kind).parameters.values()
        if any(one.default is inspect.Parameter.empty for one in others):
            continue  # it needs more than a machine: see NEEDY
        if first.name == "scheduler":
            continue  # it wraps another one: see NEEDY
        machines = {
            "Counted": [COUNTED],
            "Placed": [PLACED],
        }.get(str(first.annotation), [COUNTED, PLACED])
        for machine in machines:
            name = f"{kind.__name__} on {type(machine()).__name__}"
            found[name] = partial(made, kind, machine)
    for name, ranking in RANKINGS.items():
        found[f"Ranked {name}"] = partial(ranked, ranking)
    found |= NEEDY
    found["Recorder"] = lambda: Recorder(Ranked(Placed([POOL]), ByArrival()), lambda data: None)
    return found


MAKERS = makers()
LARGE = Job(id=JobId("large"), submit_s=0.0, devices=17, estimate_s=10.0)


def test_all_of_them_are_here() -> None:
    named = {"InOrder on Counted", "Easy on Placed", "Conservative on Counted", "ConservativeNodes on Placed"}
    assert named <= set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_a_job_larger_than_the_fleet_is_refused_and_nobody_waits_for_it(name: str) -> None:
    scheduler = MAKERS[name]()
    (refused,) = scheduler.submit(LARGE, now_s=0.0)
    assert isinstance(refused, Refuse)
    assert (refused.job, refused.at_s) == ("large", 0.0)
    assert "17 devices" in refused.reason
    assert "16" in refused.reason
    assert scheduler.waiting == 0
    assert scheduler.head is None
    scheduler.check()
    small = msgspec.structs.replace(LARGE, id=JobId("small"), devices=16)
    decisions = [*scheduler.submit(small, now_s=0.0), *scheduler.wake(now_s=0.0)]
    assert [type(one) for one in decisions if one.job == "small"] == [Start]
    scheduler.check()


@pytest.mark.parametrize("name", [name for name in MAKERS if "Counted" not in name])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"devices": 5, "within": "node"}, "1 nodes to a node, and it needs 2 in one"),
        ({"devices": 12, "within": "rack"}, "2 nodes to a rack, and it needs 3 in one"),
        ({"devices": 1, "pools": ("b",)}, "is not among the pools it names"),
        ({"devices": 1, "precision": "fp64"}, "has no fp64"),
        ({"devices": 0}, "both must be above zero"),
        ({"devices": 10**9}, "1000000000 devices"),
        ({"devices": 1, "estimate_s": float("nan")}, "both must be above zero"),
    ],
)
def test_so_is_what_no_node_can_do(name: str, changes: dict[str, Any], why: str) -> None:
    scheduler = MAKERS[name]()
    (refused,) = scheduler.submit(msgspec.structs.replace(LARGE, **changes), now_s=0.0)
    assert isinstance(refused, Refuse)
    assert why in refused.reason
    scheduler.check()
