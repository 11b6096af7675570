"""Runs written by hand: a journal and spans with instants in seconds, so that a reader can add them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from myriarch.account import History
from myriarch.event.actions import (
    AnyAction,
    Decide,
    EndRun,
    Fresh,
    GroupShare,
    LaunchWorkers,
    LogMembership,
    Reason,
    RejoinWorkers,
    StartSteps,
    WorkerPlan,
)
from myriarch.event.events import (
    AnyEvent,
    FaultInjected,
    NodeDisconnected,
    NodeExited,
    NodeJoined,
    Phase,
    RunStarted,
    StepCompleted,
    WorkerExited,
    WorkerForked,
    WorkerHeld,
    WorkerReady,
)
from myriarch.event.ids import DeviceId, GroupId, Incarnation, NodeId, PoolId, Rank, Step
from myriarch.event.journal import Record
from myriarch.event.spans import Leaf, Span
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Group, Mesh, ResolvedRun, Run
from myriarch.units import NS_PER_S

EPOCH_NS = 1_790_000_000 * NS_PER_S
MODEL = Model(name="tiny", layers=1, width=8, heads=1, context_tokens=10)
TOKENS = 100
"""Of one step, all groups."""
Seat = tuple[str, str, int]
"""`(node, group, rank)`."""
WHY = Reason(text="because the story says so")


def ns(seconds: float) -> int:
    """An instant of the story."""
    return EPOCH_NS + round(seconds * NS_PER_S)


def pool(name: str, *, nodes: int, spares: int = 0, rate: float | None = None) -> Pool:
    rates: dict[Any, float] = {} if rate is None else {"fp32": rate}
    return Pool(name=name, chip=Chip(id=f"chip-{name}", rate_flops_per_s=rates), nodes=nodes, spares=spares)


class Story:
    """One run. Seats are `(node, group, rank)`, one device a node."""

    def __init__(self, *pools: Pool, resume_step: int | None = None) -> None:
        self.resolved = ResolvedRun(
            run=Run(
                name="story",
                fleet="fleet.yaml",
                model="model.yaml",
                steps=100,
                batch=Batch(sequences=10),
                groups=tuple(
                    Group(name=p.name, pool=p.name, nodes=p.nodes, mesh=Mesh(dp_shard=p.nodes)) for p in pools
                ),
            ),
            fleet=Fleet(name="fleet", pools=pools),
            model=MODEL,
        )
        self.records: list[Record] = []
        self.spans: list[Span] = []
        resume = Step(resume_step) if resume_step is not None else None
        self.at(0, RunStarted(run_id="story-1", resolved=self.resolved, resume_step=resume))

    def at(self, seconds: float, *what: AnyEvent | AnyAction) -> None:
        """Journal these."""
        for each in what:
            key = "action" if hasattr(each, "reason") and not isinstance(each, str) else "event"
            fields: dict[str, Any] = {key: each}
            self.records.append(Record(seq=len(self.records) + 1, at_ns=ns(seconds), **fields))

    def span(
        self,
        node: str,
        start: float,
        end: float,
        leaf: Leaf,
        *,
        step: int | None = None,
        incarnation: int | None = None,
        group: str | None = None,
    ) -> None:
        """A worker says so."""
        self.spans.append(
            Span(
                device=DeviceId(f"{node}/0"),
                start_ns=ns(start),
                end_ns=ns(end),
                leaf=leaf,
                step=Step(step) if step is not None else None,
                incarnation=Incarnation(incarnation) if incarnation is not None else None,
                group=GroupId(group) if group is not None else None,
            )
        )

    def history(self, end: float | None = None) -> History:
        return History.from_records(self.records, self.spans, end_ns=None if end is None else ns(end))

    # --- what usually happens ---

    def join(self, seconds: float, **roles: Any) -> None:
        """Nodes join: `join(2, **{"fast-0": "active"})`."""
        for node, role in roles.items():
            where = PoolId(node.rpartition("-")[0])
            self.at(
                seconds,
                NodeJoined(
                    node=NodeId(node), pool=where, boot=f"boot-{node}", address="127.0.0.2", port=1, devices=1,
                    fault_domain=node,
                ),
                LogMembership(reason=WHY, node=NodeId(node), pool=where, role=role),
            )  # fmt: skip

    def launch(self, seconds: float, incarnation: int, seats: Sequence[Seat], *, rejoin: bool = False) -> None:
        for node, group, rank in seats:
            plan = WorkerPlan(
                group=GroupId(group), rank=Rank(rank), world_size=len([s for s in seats if s[1] == group]),
                mesh=Mesh(), device_index=0, incarnation=Incarnation(incarnation), store_node=NodeId(seats[0][0]),
                store_address="127.0.0.2", store_port=1, copy_nodes=(), restore=Fresh(),
            )  # fmt: skip
            kind = RejoinWorkers if rejoin else LaunchWorkers
            self.at(seconds, kind(reason=WHY, node=NodeId(node), workers=(plan,), peers=()))

    def fork(self, seconds: float, incarnation: int, seats: Sequence[Seat]) -> None:
        for node, group, rank in seats:
            self.at(
                seconds,
                WorkerForked(
                    node=NodeId(node),
                    group=GroupId(group),
                    rank=Rank(rank),
                    incarnation=Incarnation(incarnation),
                    pid=1,
                ),
            )

    def ready(
        self,
        seconds: float,
        incarnation: int,
        seat: Seat,
        *phases: tuple[Leaf, float, float],
        rate: float | None = None,
    ) -> None:
        node, group, rank = seat
        self.at(
            seconds,
            WorkerReady(
                node=NodeId(node), group=GroupId(group), rank=Rank(rank), incarnation=Incarnation(incarnation),
                step=Step(0), bridge_host="127.0.0.2", bridge_port=1, state_bytes=1, digest="", rate_flops_per_s=rate,
                phases=tuple(Phase(leaf=leaf, start_ns=ns(start), end_ns=ns(end)) for leaf, start, end in phases),
            ),
        )  # fmt: skip

    def start(self, seconds: float, incarnation: int, start_step: int, groups: Sequence[str]) -> None:
        shares = tuple(GroupShare(group=GroupId(g), world_size=1, first=0, count=1) for g in groups)
        self.at(
            seconds,
            StartSteps(
                reason=WHY, incarnation=Incarnation(incarnation), start_step=Step(start_step), nodes=(), shares=shares,
                endpoints=(), memory_every_steps=1, disk_every_steps=10,
            ),
        )  # fmt: skip

    def decide(self, seconds: float, choice: Any, incarnation: int, **fields: Any) -> None:
        fields = {"incident": 0 if choice == "form" else 1, **fields}
        self.at(seconds, Decide(reason=WHY, choice=choice, incarnation=Incarnation(incarnation), **fields))

    def completed(
        self, seconds: float, group: str, incarnation: int, step: int, duration: float, *, tokens: int, compute: float
    ) -> None:
        """`step` as in spans: it makes the state of `step` steps into `step + 1`."""
        self.at(
            seconds,
            StepCompleted(
                group=GroupId(group), incarnation=Incarnation(incarnation), step=Step(step + 1),
                loss_sum=TOKENS * 5.0 / (step + 1), tokens=TOKENS, group_tokens=tokens, duration_s=duration,
                compute_s=compute,
            ),
        )  # fmt: skip

    def kill(self, seconds: float, node: str) -> None:
        self.at(seconds, FaultInjected(action="kill", target=node, nodes=(NodeId(node),)))

    def disconnected(self, seconds: float, node: str) -> None:
        self.at(seconds, NodeDisconnected(node=NodeId(node), boot=f"boot-{node}"))

    def exited(self, seconds: float, node: str) -> None:
        self.at(seconds, NodeExited(node=NodeId(node), boot=f"boot-{node}", detail="killed by SIGKILL"))

    def worker_exited(self, seconds: float, seat: Seat, incarnation: int, cause: Any = "signal") -> None:
        node, group, rank = seat
        self.at(
            seconds,
            WorkerExited(
                node=NodeId(node), group=GroupId(group), rank=Rank(rank), incarnation=Incarnation(incarnation),
                cause=cause, code=9,
            ),
        )  # fmt: skip

    def lost(self, seconds: float, node: str) -> None:
        where = PoolId(node.rpartition("-")[0])
        self.at(seconds, LogMembership(reason=WHY, node=NodeId(node), pool=where, role="lost"))

    def held(self, seconds: float, seat: Seat, incarnation: int, step: int) -> None:
        node, group, rank = seat
        self.at(
            seconds,
            WorkerHeld(
                node=NodeId(node), group=GroupId(group), rank=Rank(rank), incarnation=Incarnation(incarnation),
                step=Step(step), finished=True,
            ),
        )  # fmt: skip

    def end(self, seconds: float, step: int, outcome: Any = "completed") -> None:
        self.at(seconds, EndRun(reason=WHY, outcome=outcome, step=Step(step)))

    # --- one device that does nothing but steps ---

    def solo(self) -> None:
        """Node `p-0` is stepping from second 0 on."""
        seats = [("p-0", "p", 0)]
        self.join(0, **{"p-0": "active"})
        self.decide(0, "form", 1)
        self.launch(0, 1, seats)
        self.fork(0, 1, seats)
        self.ready(0, 1, seats[0])
        self.start(0, 1, 0, ["p"])

    def solo_steps(
        self, start: float, first: int, count: int, *, duration: float = 10.0, incarnation: int = 1
    ) -> float:
        """So many steps in a row; returns when the last one ended."""
        for step in range(first, first + count):
            end = start + duration
            self.span("p-0", start, end, "useful_compute", step=step, incarnation=incarnation, group="p")
            self.completed(end, "p", incarnation, step, duration, tokens=TOKENS, compute=duration)
            start = end
        return start


def node_lost() -> Story:
    """Two pools; node `fast-1` is killed in step 4 at second 50; the spare `fast-2` takes its place; step 3 is lost.

    second   0  run starts                    50  fast-1 killed           60  incarnation 2 goes on from step 3
             2  nodes join, formation         51  its connection closes   90  six steps are done
             3  workers forked                52  the engine says so      95  the last drain is done
             6  incarnation 1 steps           53  decision
    """
    story = Story(pool("fast", nodes=2, spares=1, rate=100_000.0), pool("slow", nodes=1, rate=50_000.0))
    fast0, fast1, fast2, slow0 = (
        ("fast-0", "fast", 0),
        ("fast-1", "fast", 1),
        ("fast-2", "fast", 1),
        ("slow-0", "slow", 0),
    )
    story.join(2, **{"fast-0": "active", "fast-1": "active", "fast-2": "spare", "slow-0": "active"})
    story.decide(2, "form", 1, groups=("fast", "slow"))
    story.launch(2, 1, [fast0, fast1, slow0])
    story.fork(3, 1, [fast0, fast1, slow0])
    for seat in (fast0, fast1, slow0):
        story.ready(6, 1, seat, ("model_build", 3, 5), ("rendezvous", 5, 6))
    story.start(6, 1, 0, ["fast", "slow"])

    def steps(start: float, first: int, count: int, incarnation: int, fast: list[str]) -> None:
        for step in range(first, first + count):
            for node, group, compute in [*((f, "fast", 8.0) for f in fast), ("slow-0", "slow", 9.0)]:
                told = {"step": step, "incarnation": incarnation}
                story.span(node, start, start + compute, "useful_compute", group=group, **told)
                story.span(node, start + compute, start + 10, "exposed_comm", group=group, **told)
            start += 10
            story.completed(start, "fast", incarnation, step, 10, tokens=80, compute=8)
            story.completed(start, "slow", incarnation, step, 10, tokens=20, compute=9)

    steps(6, 0, 4, 1, ["fast-0", "fast-1"])
    story.kill(50, "fast-1")
    story.span("slow-0", 46, 55, "useful_compute", step=4, incarnation=1)
    story.span("slow-0", 55, 57, "exposed_comm", step=4, incarnation=1)
    story.disconnected(51, "fast-1")
    story.exited(52, "fast-1")
    story.lost(52, "fast-1")
    story.decide(53, "replace_node", 2, lost_nodes=("fast-1",), from_step=4, to_step=3, groups=("fast", "slow"))
    story.join(53, **{"fast-2": "active"})
    story.launch(53, 2, [fast0, fast2])
    story.launch(53, 2, [slow0], rejoin=True)
    story.worker_exited(53, fast0, 1)
    story.fork(54, 2, [fast0, fast2])
    story.ready(58, 2, slow0, ("restore", 57, 58))
    story.ready(59, 2, fast0, ("rendezvous", 54, 55), ("model_build", 55, 56), ("restore", 56, 58))
    story.ready(60, 2, fast2, ("rendezvous", 54, 55), ("model_build", 55, 56), ("restore", 56, 59))
    story.start(60, 2, 3, ["fast", "slow"])
    steps(60, 3, 3, 2, ["fast-0", "fast-2"])
    for seat in (fast0, fast2, slow0):
        story.held(90, seat, 2, 6)
    story.end(95, 6)
    return story


@pytest.fixture
def story() -> Callable[..., Story]:
    return Story


@pytest.fixture
def story_of_a_lost_node() -> Story:
    return node_lost()


@pytest.fixture(scope="session")
def lost_node_records() -> tuple[Record, ...]:
    return tuple(node_lost().records)


@pytest.fixture(scope="session")
def lost_node_spans() -> tuple[Span, ...]:
    return tuple(node_lost().spans)


@pytest.fixture
def make_pool() -> Callable[..., Pool]:
    return pool


@pytest.fixture
def solo_pool() -> Pool:
    return pool("p", nodes=1)
