"""Devices of services, lent by night: asked back where least is lost, and there when they are needed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Preempt, Refuse, Resize, Start
from myriarch.schedule.easy import Easy
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.lending import Lending, Service
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import ByArrival
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task

POOL = PoolLayout(name="serve", nodes=4, devices_per_node=8)
OWN = PoolLayout(name="train", nodes=2, devices_per_node=8)
BY_NIGHT = (0.25,) + (1.0,) * 23
"""One node of four in the first hour, all afterwards."""


def job(name: str, devices: int = 8, **more: object) -> Job:
    told = {"estimate_s": 7200.0, "preemptible": True, "save_s": 10.0, "restart_s": 20.0, "pools": ("serve",)} | more
    return msgspec.convert({"id": name, "submit_s": 0.0, "devices": devices, **told}, Job)


def service(load: object = BY_NIGHT, devices: int = 32, notice_s: float = 600.0) -> Service:
    return Service(name="chat", pool="serve", devices=devices, load=load, notice_s=notice_s)  # type: ignore[arg-type]


def wake_until(lending: Lending, at_s: float) -> list[Decision]:
    decisions: list[Decision] = []
    while lending.wake_s <= at_s:
        decisions += lending.wake(now_s=lending.wake_s)
        lending.check()
    return decisions


def test_nodes_are_lent_by_night_and_there_in_the_morning() -> None:
    """Three are lent. Two are needed again: the gang of one node that costs least goes, then the next."""
    lending = Lending(Easy(Placed([POOL])), [service((0.25, *(0.75,) * 23))])
    for name, save_s in (("a", 30.0), ("b", 10.0), ("c", 20.0)):
        (start,) = lending.submit(job(name, save_s=save_s), now_s=0.0)
        assert isinstance(start, Start)
    assert lending.owned("serve") == (3,)
    assert not wake_until(lending, 3599.0)
    decisions = lending.wake(now_s=lending.wake_s)
    assert [(type(one), one.job, one.at_s) for one in decisions] == [(Preempt, "b", 3600.0), (Preempt, "c", 3600.0)]
    assert lending.owned("serve") == (1, 2, 3)
    assert isinstance(decisions[0], Preempt)
    assert decisions[0].reason == (
        "the services of pool `serve` need 3 nodes at 3600 s; serve-1, asked back at 3000 s, was where least is lost: "
        "240 device-seconds"
    )
    assert not decisions[0].lost
    assert lending.waiting == 2


def test_who_is_over_in_time_costs_nothing_and_nobody_starts_who_is_not() -> None:
    lending = Lending(Easy(Placed([POOL])), [service((0.25, *(0.5,) * 23))])
    for name, estimate_s in (("a", 7200.0), ("b", 3600.0), ("c", 7200.0)):
        lending.submit(job(name, estimate_s=estimate_s), now_s=0.0)
    assert not wake_until(lending, 3300.0), "node 1 is claimed, where b is over at 3600 s"
    lending.end(JobId("b"), now_s=3300.0)
    assert not lending.submit(job("d", estimate_s=301.0), now_s=3300.0), "it would reach into the claim"
    (start,) = lending.submit(job("e", estimate_s=299.0), now_s=3300.0)
    assert isinstance(start, Start)
    assert start.placement.nodes == (1,)
    lending.end(JobId("e"), now_s=3599.0)
    assert not wake_until(lending, 3600.0)
    assert lending.owned("serve") == (1, 3)


class Linear:
    """As fast as it has devices."""

    def __call__(self, job: Job, *, pool: str, devices: int) -> float:
        return devices / job.devices


def test_elastic_jobs_shrink_first() -> None:
    lending = Lending(
        Ranked(Placed([POOL]), ByArrival(), speeds=Linear()), [service((0.25, *(0.5,) * 23))], speeds=Linear()
    )
    lending.submit(job("rigid", save_s=0.0, restart_s=1.0), now_s=0.0)
    lending.submit(job("elastic", 16, sizes=(8,), elastic=True), now_s=0.0)
    (shrinks,) = wake_until(lending, 3600.0)
    assert isinstance(shrinks, Resize)
    assert (shrinks.job, shrinks.placement.nodes, shrinks.placement.devices) == ("elastic", (1,), 8)
    assert shrinks.until_s == 3600.0 + 20.0 + 2 * 3600.0
    assert "it shrinks from 16 to 8 devices" in shrinks.reason


def test_who_cannot_leave_in_time_does_not_come() -> None:
    lending = Lending(Easy(Placed([POOL, OWN])), [service()])
    stays = job("stays", preemptible=False, pools=())
    (start,) = lending.submit(stays, now_s=0.0)
    assert isinstance(start, Start)
    assert start.placement.pool == "train"
    for refused, why in (
        (job("x", preemptible=False), "may not be preempted"),
        (job("y", save_s=601.0), "saves for 601 s"),
        (job("z", 32), "needs 4 nodes, and pool `serve` never lends more than 3"),
    ):
        (refusal,) = lending.submit(refused, now_s=0.0)
        assert isinstance(refusal, Refuse)
        assert why in refusal.reason
    assert lending.waiting == 0


def test_a_broken_node_of_the_services_is_replaced() -> None:
    lending = Lending(Easy(Placed([POOL])), [service((0.5,) * 24)])
    lending.submit(job("a"), now_s=0.0)
    assert lending.owned("serve") == (2, 3)
    lending.lose("serve", 3, now_s=100.0)
    assert lending.owned("serve") == (1, 2), "an empty one at once"
    lending.lose("serve", 2, now_s=200.0)
    (preempt,) = wake_until(lending, 800.0)
    assert (preempt.job, preempt.at_s) == ("a", 800.0)
    assert lending.owned("serve") == (0, 1)
    starts = lending.regain("serve", 3, now_s=900.0)
    assert [one.job for one in starts] == ["a"]
    assert lending.owned("serve") == (1, 3)
    lending.check()


def test_services_that_cannot_be_are_refused() -> None:
    for wrong, match in (
        (lambda: service((1.0,)), "load"),
        (lambda: service(notice_s=0.0), "notice of 0"),
        (lambda: Lending(Easy(Placed([POOL])), [service(devices=33)]), "need 5 nodes"),
        (lambda: Lending(Easy(Placed([OWN])), [service()]), "not there"),
        (lambda: Lending(Easy(Placed([POOL])), [service()], step_s=7.0), "divide"),
    ):
        with pytest.raises(SpecError, match=match):
            wrong()


@st.composite
def workloads(draw: st.DrawFn) -> list[Task]:
    tasks, at_s = [], 0.0
    for number in range(draw(st.integers(1, 14))):
        at_s += draw(st.integers(0, 4000))
        run_s = draw(st.integers(1, 9000))
        one = job(
            f"j{number}",
            draw(st.sampled_from([2, 4, 8, 16])),
            submit_s=at_s,
            estimate_s=float(run_s * draw(st.sampled_from([1, 2]))),
            save_s=float(draw(st.integers(0, 400))),
            restart_s=float(draw(st.integers(0, 60))),
            pools=draw(st.sampled_from([(), ("serve",)])),
            preemptible=draw(st.booleans()),
            saves_every_s=600.0,
            elastic=True,
            sizes=(8,),
        )
        tasks.append(Task(job=one, run_s=float(run_s)))
    return tasks


@settings(max_examples=20, deadline=None)
@given(
    tasks=workloads(),
    shares=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=24, max_size=24),
    notice_s=st.sampled_from([60.0, 300.0, 1000.0, 4000.0]),
    ranked=st.booleans(),
    breaks=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 3), st.booleans()), max_size=3),
)
def test_services_never_lack_devices(
    tasks: list[Task], shares: list[float], notice_s: float, ranked: bool, breaks: list[tuple[int, int, bool]]
) -> None:
    """`check` asserts it after every event, and that nobody runs on their nodes; only faults are an exception."""
    machine, speeds = Placed([POOL, OWN]), Linear()
    base = Ranked(machine, ByArrival(), speeds=speeds) if ranked else Easy(machine)
    shares[0] = min(shares[0], 0.5)
    chat = service(tuple(shares), notice_s=notice_s)
    lending = Lending(base, [chat], speeds=speeds)
    breakdowns = [
        Breakdown(
            at_s=float(at_s),
            pool="serve",
            node=node,
            cause="x",
            course="maintenance" if planned else "repair",
            duration_s=5000.0,
            announced_s=3000.0 if planned else 0.0,
        )
        for at_s, node, planned in breaks
    ]

    def seen(decision: Decision) -> None:
        if not breaks and isinstance(decision, Preempt):
            assert not decision.lost
        if not breaks and not decision.at_s % 300.0 and decision.at_s > 0 and isinstance(decision, Preempt):
            assert len(lending.owned("serve")) * 8 >= chat.devices_at(decision.at_s)

    outcome = simulate_cluster(
        tasks, lending, breakdowns=breakdowns, speeds=speeds, observe=seen, check=True, until_s=100_000.0
    )
    assert not lending.check()  # type: ignore[func-returns-value]
    assert len(outcome.columns.ids) == len(tasks)
