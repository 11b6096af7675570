"""One training on up to 131,072 devices for months of virtual time, by the decisions of `control`.

`World` follows every worker; this follows groups and nodes, and jumps from one decision to the next. What is decided
is decided by the same functions: `recover` says what an incident is and what to do about it (`control.judging`),
`schedule.groups.assign` who takes whose place, `checkpoint` what a fault leaves of snapshots and where to go on,
`control.pace` how the batch is split and how often to save. A conformance test plays the same faults to both.

    running  --fault-->  stricken  --noticed-->  decided: forming --ready--> running
                                                          blocked --nodes are back, or time is up--> decided
    running  --nodes are back, or copies are lost-->  stops after the step under way, saves, forms

With `terms.live` healthy groups go on without one that was hit: all wait until the fault is noticed, the step under way
is lost, and the others begin it anew. The group starts beside them; when it is ready they stop after a step, it takes
their state, and all go on. Only when no healthy group is left, or values were wrong, all begin anew from what is saved.

Simplified: an interrupted step and copies under way are lost; a slow node slows its group from the next step on, and
shares are not split anew for it; nodes that are back are as good as new.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from myriarch.control.judging import FORMING, fits, grown, judge, wait_until_s
from myriarch.control.pace import Pace
from myriarch.event.actions import Reason
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Rank, Step
from myriarch.event.layout import GroupLayout
from myriarch.event.spans import Leaf
from myriarch.recover.decide import Budget, Decision
from myriarch.recover.incident import Incident, diagnose
from myriarch.schedule.groups import Assignment, assign
from myriarch.simulate.breakdowns import Breakdown, Course
from myriarch.simulate.faults import Fault
from myriarch.simulate.fleet_books import Books, Idle
from myriarch.simulate.fleet_memory import Copies, Saved, Seat
from myriarch.simulate.fleet_outcome import Chronicle, Counts, FleetDecision, FleetOutcome
from myriarch.simulate.fleet_stride import Stride
from myriarch.simulate.fleet_terms import FleetTerms
from myriarch.spec.run import Group, ResolvedRun
from myriarch.units import NS_PER_S

EVENTS_LIMIT: Final = 50_000_000
"""A simulation that goes on longer has lost its way."""
AFTER_STEP_NS: Final = 1_000_000
"""A fault that is to strike once a step is done strikes so long after it, as in `World`."""
FOR_EVER_S: Final = 1e15
STEPS_REMEMBERED: Final = 10_000
"""Sets of groups whose step time is remembered."""

DOWN: Final[Mapping[str, Idle]] = {
    "rack switch": "power_or_network_down",
    "Network Switch/Cable": "power_or_network_down",
    "NetworkError": "power_or_network_down",
    "power or cooling of a row": "power_or_network_down",
}
"""Why a node is away; any other cause is a repair."""


NOWHERE: Final[Seat] = (GroupId(""), -1)


@dataclass(eq=False)
class Blow:
    """A breakdown on its way to being noticed."""

    node: NodeId
    breakdown: Breakdown
    rank: int | None = None
    """The worker that it hits; None: the node's first."""
    since: Step | None = None
    """Values are wrong from this step on."""
    incarnation: int = 0
    """The present one when it fell."""


def simulate_fleet(
    resolved: ResolvedRun,
    *,
    terms: FleetTerms,
    until_s: float,
    breakdowns: Iterable[Breakdown] = (),
    faults: Sequence[Fault] = (),
) -> FleetOutcome:
    """Let a job run for so long, or until it ends. `faults` strike after steps, as in `World`: `kill` and `return`."""
    return Fleet(resolved, terms=terms, until_s=until_s, breakdowns=breakdowns, faults=faults).run()


class Fleet:
    """The job, its nodes, and what is going on.

    Invariants: exactly the nodes of `layouts` work, but for those whose loss was just noticed. `stride` is set exactly
    while steps are done. `turn` counts interruptions: what was planned in an earlier turn does not happen.
    """

    def __init__(
        self,
        resolved: ResolvedRun,
        *,
        terms: FleetTerms,
        until_s: float,
        breakdowns: Iterable[Breakdown] = (),
        faults: Sequence[Fault] = (),
    ) -> None:
        fleet, run = resolved.fleet, resolved.run
        self.resolved = resolved
        self.terms = terms
        self.recovery = run.recovery
        self.going_on = msgspec.structs.replace(run.recovery, missing_group="degrade", wait_limit_s=0.0)
        """The policy where healthy groups go on: nobody waits for one that is missing."""
        self.whole_groups = terms.whole_groups or terms.live
        self.groups: dict[GroupId, Group] = {GroupId(group.name): group for group in run.groups}
        self.until_ns = round(until_s * NS_PER_S)
        self.now_ns = 0
        self.members: dict[NodeId, PoolId] = {
            NodeId(name): PoolId(pool.name) for pool in fleet.pools for name in pool.node_names
        }
        racks = {node: fleet.pool(pool).fault_domain(node) for node, pool in self.members.items()}
        per_node = {PoolId(pool.name): pool.devices_per_node for pool in fleet.pools}
        self.books = Books(self.members, devices=per_node, start_ns=0)
        workers = sum(group.mesh.devices for group in run.groups)
        self.saved = Saved(copies=run.checkpoint.copies, keep=run.checkpoint.keep_on_disk, racks=racks, workers=workers)
        self.pace = Pace(
            device_speed={name: terms.device_speed[PoolId(group.pool)] for name, group in self.groups.items()},
            snapshot_s=terms.save_stop_s + terms.contention_s,
        )
        self.layouts: dict[GroupId, GroupLayout] = {}
        self.sizes: dict[GroupId, int] = {}
        """Devices of the groups of `layouts`..."""
        self.full = {name: group.mesh.devices for name, group in self.groups.items()}
        """...and of all groups when they are whole."""
        self.last: dict[GroupId, GroupLayout] = {}
        """How each group lay last, missing and starting ones included."""
        self.seat: dict[NodeId, Seat] = {}
        """Of the nodes of `last`."""
        self.spare: dict[NodeId, None] = dict.fromkeys(self.members)
        """Members without a seat."""
        self.nodes_at_work: dict[PoolId, int] = dict.fromkeys(per_node, 0)
        """Of the groups of `layouts`."""
        self.working: dict[PoolId, int] = {}
        """Devices that do what `stride` or `leaf` says: those of `layouts`, less what was found lost."""
        self.copies: Copies | None = None
        self.incarnation = 0
        self.budget = Budget()
        self.incident: Incident | None = None
        self.incidents = 0
        self.hurt: dict[GroupId, None] = {}
        """Groups that have to be started anew: somebody of theirs was lost, or they are starting."""
        self.born: dict[GroupId, int] = {}
        """The incarnation that each group's processes were started for."""
        self.struck: dict[GroupId, None] = {}
        """Of these, those that lost nodes, which nobody took the places of yet."""
        self.starting: dict[GroupId, GroupLayout] = {}
        """With `live`: groups that start beside the others..."""
        self.prepared: dict[GroupId, GroupLayout] = {}
        """...and those that only lack the others' state."""
        self.leaving: dict[NodeId, Breakdown] = {}
        """Nodes whose maintenance waits for a save."""
        self.slow: dict[NodeId, list[float]] = {}
        self.wrong_since: Step | None = None
        """Values are wrong from this step on."""
        self.version = 0
        self.grown_version = -1
        self.short = False
        """Copies were lost with a node that does not work."""
        self.current = Step(0)
        self.newest = Step(0)
        self.stride: Stride | None = None
        self.wait_ns = 0
        """Of each step of the stride: what the slowest node adds."""
        self.leaf: list[tuple[Leaf, int]] = []
        """What working devices do while no steps are done, each until an instant; the last one goes on."""
        self.since_ns = 0
        """Working devices' time is spent up to here."""
        self.turn = 0
        self.stopping = -1
        """The turn in which all are to stop after the step under way."""
        self.drain: tuple[Step, int] | None = None
        self.ended = ""
        self.counts = Counts()
        self.chronicle = Chronicle()
        self._steps_s: dict[tuple[tuple[GroupId, int], ...], float] = {}
        self._contended = terms.contention_s / self.pace.snapshot_s
        """Of a save's stop, the part that stands for slower steps beside its copies."""
        self._stepped = sorted((one for one in faults if one.at_s is None), key=lambda one: one.at_step or 0)
        self._queue: list[tuple[int, int, str, Any]] = []
        self._arrivals = 0
        for one in breakdowns:
            self._at(round(one.at_s * NS_PER_S), "strike", one)
        for fault in faults:
            if fault.at_s is not None:
                self._at(round(fault.at_s * NS_PER_S), "fault", fault)

    # --- time -------------------------------------------------------------------------------------------------------

    def run(self) -> FleetOutcome:
        """Let it happen."""
        self._begin()
        while self._queue and not self.ended and self._queue[0][0] <= self.until_ns:
            self.now_ns, _, kind, what = heapq.heappop(self._queue)
            self.counts.events += 1
            if self.counts.events > EVENTS_LIMIT:
                raise RuntimeError(f"no end after {EVENTS_LIMIT} events of the simulated fleet")
            _HAPPEN[kind](self, what)
        if not self.ended:
            self.now_ns, self.ended = self.until_ns, "until"
        return self._outcome()

    def _at(self, when_ns: int, kind: str, what: Any) -> None:
        self._arrivals += 1
        heapq.heappush(self._queue, (max(when_ns, self.now_ns), self._arrivals, kind, what))

    def _after(self, delay_s: float, kind: str, what: Any) -> None:
        if delay_s < FOR_EVER_S:
            self._at(self.now_ns + round(delay_s * NS_PER_S), kind, what)

    @property
    def now_s(self) -> float:
        return self.now_ns / NS_PER_S

    @property
    def every(self) -> int:
        """Steps from save to save."""
        assert self.pace.memory_every_steps is not None, "set at the first start"
        return self.pace.memory_every_steps

    def _close(self) -> None:
        """Spend working devices' time up to now; a stride ends, and which steps and saves it completed is known."""
        duration_ns, self.since_ns = self.now_ns - self.since_ns, self.now_ns
        stride, self.stride = self.stride, None
        if stride is None:
            begin_ns = self.now_ns - duration_ns
            for index, (leaf, until_ns) in enumerate(self.leaf):
                last = index == len(self.leaf) - 1
                end_ns = self.now_ns if last else min(until_ns, self.now_ns)
                if end_ns > begin_ns:
                    self.books.spend(self.working, leaf, end_ns - begin_ns)
                    begin_ns = end_ns
            return
        done, stopped_ns = stride.done(self.now_ns), stride.stopped_ns(self.now_ns)
        steps = done - stride.first
        self.books.did(
            self.working,
            first=stride.first,
            steps=steps,
            compute_ns=stride.step_ns - self.wait_ns,
            wait_ns=self.wait_ns,
        )
        beside_ns = round(stopped_ns * self._contended)
        self.books.spend(self.working, "checkpoint_stall", stopped_ns - beside_ns)
        self.books.spend(self.working, "checkpoint_contention", beside_ns)
        self.books.spend(self.working, "lost_work", duration_ns - steps * stride.step_ns - stopped_ns)
        self.current = Step(done)
        self.newest = max(self.newest, self.current)
        self._bank(stride)

    def _bank(self, stride: Stride) -> None:
        """Saves that became safe during a stride that ends now."""
        if not self.terms.memory:
            step = stride.saved(self.now_ns, after_ns=0)
            if step:
                self.saved.store(Step(step))
            return
        copy_ns = round(self.terms.copy_s * NS_PER_S)
        every = self.pace.disk_every_steps
        assert every is not None
        after_ns = stride.stop_ns + copy_ns
        self._drained()
        if self.drain is None:
            free_ns, step = stride.begun_ns, (stride.first // every + 1) * every
            while (safe_ns := stride.end_ns(step) + after_ns) <= self.now_ns:
                if safe_ns >= free_ns:
                    free_ns = safe_ns + round(self.terms.drain_s * NS_PER_S)
                    self.drain = (Step(step), free_ns)
                    self._drained()
                step += every
        step = stride.saved(self.now_ns, after_ns=copy_ns)
        if step:
            self.saved.commit(Step(step), self.layouts, copies=self.copies)

    def _drained(self) -> None:
        """A checkpoint may be in the store by now."""
        if self.drain is not None and self.drain[1] <= self.now_ns:
            if self.saved.newest_durable is None or self.drain[0] > self.saved.newest_durable.step:
                self.saved.store(self.drain[0])
            self.drain = None

    def _halt(self, *leaves: tuple[Leaf, float]) -> None:
        """No more steps; working devices do this, each so many seconds, and the last one from then on."""
        self._close()
        self.turn += 1
        self.leaf, until_ns = [], self.now_ns
        for leaf, duration_s in leaves:
            until_ns += round(duration_s * NS_PER_S)
            self.leaf.append((leaf, until_ns))

    # --- what happens -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        assignment = self._assign(self.groups)
        nodes = sum(len(layout.nodes) for layout in assignment.layouts)
        reason = Reason(text=f"all {nodes} nodes of {len(assignment.layouts)} groups are there", numbers={})
        self._form(assignment, choice="form", reason=reason, incident=None)

    def _strike(self, one: Breakdown, *, rank: int | None = None) -> None:
        """Something breaks down. What is away cannot."""
        node = NodeId(f"{one.pool}-{one.node}")
        if node not in self.members or node in self.leaving:
            return
        self.counts.strikes += 1
        blow = Blow(node, one, rank, incarnation=self.incarnation)
        match one.course:
            case "slow":
                self.slow.setdefault(node, []).append(one.factor)
                self._after(one.duration_s, "faster", blow)
                self._stop_after_step(only_for=node)
            case "corrupt":
                blow.since = Step(self.current if self.stride is None else self.stride.done(self.now_ns))
                self._after(one.duration_s + self.terms.detection_s(one.cause), "noticed", blow)
            case "maintenance" if self._works(node):
                self.counts.interruptions += 1
                self.leaving[node] = one
                self._stop_after_step()
            case "maintenance":
                self._noticed(blow)
            case _:
                if self._works(node):
                    self.counts.interruptions += 1
                    if self.incident is None:
                        self._halt(("detect", 0.0))
                self._after(self.terms.detection_s(one.cause), "noticed", blow)

    def _faster(self, blow: Blow) -> None:
        """A slow node is as fast as it was."""
        factors = self.slow.get(blow.node, [])
        if blow.breakdown.factor in factors:  # else the node was replaced meanwhile
            factors.remove(blow.breakdown.factor)
            if not factors:
                del self.slow[blow.node]
            self._stop_after_step(only_for=blow.node)

    def _noticed(self, blow: Blow) -> None:
        """A fault is known: somebody is lost."""
        node, one = blow.node, blow.breakdown
        if node not in self.members:
            return
        works = self._works(node)
        if one.course == "in_place":
            group = self.seat[node][0] if node in self.seat else None
            known = group is not None and (works or group in self._beside)
            if known and self.born[self.seat[node][0]] <= blow.incarnation:  # else it was forked anew meanwhile
                self._lose_worker(blow)
            self._advance()
            return
        if blow.since is not None and works:
            self.counts.interruptions += 1
            self.wrong_since = blow.since if self.wrong_since is None else min(blow.since, self.wrong_since)
        why: Idle = "maintenance" if one.course == "maintenance" else DOWN.get(one.cause, "repair")
        away_s = one.duration_s
        if one.course == "corrupt":
            why, away_s = "quarantined", self.terms.quarantine_s
        self._lose_node(node, one.cause, why)
        self._after(away_s, "back", node)
        self._advance()

    def _back(self, node: NodeId) -> None:
        """A node is there again, with nothing of what it had."""
        if node in self.members:
            return
        self.members[node] = self.books.pool_of[node]
        self.version += 1
        if node in self.seat:
            self.books.employ([node], now_ns=self.now_ns)
            if self._works(node):  # its group still waits for it
                self._close()
                self.working[self.members[node]] += self.books.devices[self.members[node]]
            self._count_missing()
        else:
            self.spare[node] = None
            self.books.put([node], "spare", now_ns=self.now_ns)
        self._advance()

    # --- faults as `World` takes them -------------------------------------------------------------------------------

    def _fault(self, fault: Fault) -> None:
        if fault.action == "return":
            self._back(NodeId(fault.target))
        elif fault.action != "kill":
            raise ValueError(f"`{fault.action}` cannot be done to a fleet, only `kill` and `return`")
        elif "/" not in fault.target:
            self._kill(NodeId(fault.target), "repair", "its agent is gone: killed by SIGKILL", None)
        else:
            group, _, rank = fault.target.partition("/")
            layout = self.layouts.get(GroupId(group))
            if layout is not None and int(rank) < layout.world_size:
                self._kill(layout.node_of(int(rank)), "in_place", "signal 9", int(rank))

    def _kill(self, node: NodeId, course: Course, how: str, rank: int | None) -> None:
        pool, _, index = node.rpartition("-")
        one = Breakdown(at_s=self.now_s, pool=pool, node=int(index), cause=how, course=course, duration_s=FOR_EVER_S)
        self._strike(one, rank=rank)

    def _plan_fault(self, stride: Stride) -> None:
        """The next fault that waits for a step."""
        if self._stepped:
            step = max(self._stepped[0].at_step or 0, stride.first + 1)
            self._at(stride.end_ns(step) + AFTER_STEP_NS, "stepped", (self.turn, step))

    def _after_steps(self, what: tuple[int, int]) -> None:
        turn, step = what
        if turn != self.turn:
            return
        due = [one for one in self._stepped if (one.at_step or 0) <= step]
        self._stepped = self._stepped[len(due) :]
        for fault in due:
            self._fault(fault)
        if self.stride is not None:
            self._plan_fault(self.stride)

    # --- losses -----------------------------------------------------------------------------------------------------

    def _works(self, node: NodeId) -> bool:
        seat = self.seat.get(node)
        return seat is not None and seat[0] in self.layouts

    def _sits(self, node: NodeId, group: GroupId) -> bool:
        """Whether the node's seat is in this group. One that came back may have been taken by another."""
        seat = self.seat.get(node)
        return seat is not None and seat[0] == group

    @property
    def _beside(self) -> dict[GroupId, GroupLayout]:
        """Groups that start beside the others."""
        return {**self.starting, **self.prepared}

    def _found(self) -> Incident:
        if self.incident is None:
            self.incidents += 1
            self.incident = Incident(number=self.incidents, opened_s=self.now_s)
        return self.incident

    def _lose_worker(self, blow: Blow) -> None:
        group, place = self.seat[blow.node]
        rank = place * self.last[group].devices_per_node if blow.rank is None else blow.rank
        self._found().lose_worker((group, Rank(rank)), blow.breakdown.cause)
        self.hurt[group] = None

    def _lose_node(self, node: NodeId, how: str, why: Idle) -> None:
        """A member is gone, with its memory."""
        seat, works = self.seat.get(node), self._works(node)
        if self.stride is not None and works:
            self._halt(("detect", 0.0))
        elif works:
            self._close()
        pool = self.members.pop(node)
        self.spare.pop(node, None)
        self.leaving.pop(node, None)
        self.slow.pop(node, None)
        self.version += 1
        self._drained()
        self.saved.lose(node, seat)
        if works:
            self.working[pool] -= self.books.devices[pool]
        if seat is not None and (works or seat[0] in self._beside):
            self._found().nodes[node] = how
            self.hurt[seat[0]] = self.struck[seat[0]] = None
            if self.drain is not None and seat[0] == next(iter(self.layouts), None):
                # The first group writes; what is whole then is written again.
                self.drain = (self.drain[0], self.now_ns + round(self.terms.drain_s * NS_PER_S))
        elif self.copies is not None and any(node in nodes for nodes in self.copies.values()):
            self.short = True
        self.books.put([node], why, now_ns=self.now_ns)
        if seat is not None and not works:
            self._count_missing()

    # --- decisions --------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """What follows from what happened, as `control.advancing` has it."""
        if self.incident is not None:
            self._resolve()
            return
        if self.terms.live:
            self._start_missing()
        if self.leaving or self.prepared or (self.stride is not None and not self.terms.live and self._why_stop()):
            self._stop_after_step()

    def _why_stop(self) -> bool:
        """Whether all should stop together now."""
        if self.short:
            return True
        if self.grown_version == self.version:
            return False
        self.grown_version = self.version
        return bool(self._grown())

    def _grown(self) -> list[GroupId]:
        incomplete = self._incomplete()
        return grown(self.layouts, self._assign(incomplete)) if incomplete else []

    def _incomplete(self) -> dict[GroupId, Group]:
        """Groups that are missing or smaller than they are to be."""
        if self.sizes == self.full:
            return {}
        return {name: group for name, group in self.groups.items() if self.sizes.get(name) != self.full[name]}

    def _resolve(self) -> None:
        """Answer the open incident, as `control.recovering.resolve` does."""
        incident = self.incident
        assert incident is not None
        diagnosis = diagnose(incident, now_s=self.now_s)
        assert diagnosis is not None, "all that is found here are facts"
        touched = self._incomplete().keys() | self.struck.keys()
        assignment = self._assign({name: group for name, group in self.groups.items() if name in touched})
        healthy = [name for name in self.layouts if name not in self.hurt]
        goes_on = self.terms.live and bool(healthy) and self.wrong_since is None
        decision = judge(
            incident,
            diagnosis,
            assignment,
            absent=[name for name in self.groups if name not in self.layouts and name not in self._beside],
            splits=self._splits(assignment.layouts, resized=bool(assignment.resized)),
            budget=self.budget,
            newest_step=self.newest,
            recovery=self.going_on if goes_on else self.recovery,
            now_s=self.now_s,
        )
        if decision.choice == "wait_for_group":
            if incident.waiting_since_s is None:
                incident.waiting_since_s = self.now_s
                self._tell(decision.choice, decision.reason.text, incident, groups=tuple(self.layouts))
                self._halt(("replace", 0.0))
                until_s = wait_until_s(incident, self.recovery)
                assert until_s is not None
                self._at(math.ceil(until_s * NS_PER_S), "overdue", incident.number)
        elif decision.choice not in FORMING:
            self._tell(decision.choice, decision.reason.text, incident, groups=tuple(self.layouts))
            self._close()
            self.ended = "failed"
        else:
            self.budget.spend(self.newest)
            if goes_on:
                self._go_on(assignment, healthy, decision, incident)
            else:
                self._form(assignment, choice=decision.choice, reason=decision.reason, incident=incident)

    def _overdue(self, number: int) -> None:
        """Missing groups have been waited for long enough."""
        if self.incident is not None and self.incident.number == number:
            self._resolve()

    def _fit(self, some: Mapping[GroupId, int], *, besides: Container[GroupId]) -> bool:
        """Whether groups of these sizes can work with those that stay as they are."""
        if self.whole_groups and any(size != self.full[name] for name, size in some.items()):
            return False
        stay = {name: size for name, size in self.sizes.items() if name not in besides}
        return fits({**stay, **some}, sequences=self._sequences)

    def _splits(self, layouts: Sequence[GroupLayout], *, resized: bool) -> bool:
        """Whether these groups can split the batch."""
        if len(layouts) == len(self.groups) and self.sizes == self.full and not resized:
            return True  # as they did when the run began
        sizes = {
            one.group: self.sizes[one.group] if one is self.layouts.get(one.group) else one.world_size
            for one in layouts
        }
        return fits(sizes, sequences=self._sequences)

    @property
    def _sequences(self) -> int:
        return self.resolved.run.batch.sequences

    def _assign(self, groups: Mapping[GroupId, Group]) -> Assignment:
        """How all groups would lie now; only `groups` are looked at, the others stay as they are."""
        lost = self.incident.nodes if self.incident is not None else {}
        idle: dict[PoolId, list[NodeId]] = {PoolId(group.pool): [] for group in groups.values()}
        back = [node for node in lost if node in self.members]  # under its name, with nothing of what it had
        for node in (*self.spare, *back):
            if self.members[node] in idle:
                idle[self.members[node]].append(node)
        members, seat = self.members, self.seat  # asked for every node of every group that is looked at
        found = assign(
            list(groups.values()),
            idle=idle,
            previous=self.last,
            lost=lambda group, node: node not in members or node in lost or seat.get(node, NOWHERE)[0] != group,
            holds=lambda group, place, node: self.saved.holds((group, place), node),
            warm=lambda node: True,
            fits=lambda some: self._fit(some, besides=groups),
        )
        everybody = dict(self.layouts)
        for layout in found.layouts:
            if everybody.get(layout.group) != layout:  # an equal one stays itself
                everybody[layout.group] = layout
        for name in found.missing:
            everybody.pop(name, None)
        return msgspec.structs.replace(
            found, layouts=tuple(everybody[name] for name in self.groups if name in everybody)
        )

    # --- all begin anew ---------------------------------------------------------------------------------------------

    def _form(self, assignment: Assignment, *, choice: str, reason: Reason, incident: Incident | None) -> None:
        """All begin anew from the newest step that is whole."""
        self._halt(("restart", 0.0))
        self._drained()
        if self.wrong_since is not None:
            self.saved.distrust(self.wrong_since)
            if self.drain is not None and self.drain[0] > self.wrong_since:
                self.drain = None
            self.wrong_since = None
        layouts, first = assignment.layouts, self.incarnation == 0
        self.incarnation += 1
        plan, remote = self.saved.plan(layouts, incarnation=Incarnation(self.incarnation))
        groups = tuple(layout.group for layout in layouts)
        text = f"{reason.text}; {plan.text}"
        from_step = None if first else self.current
        self._tell(choice, text, incident, groups=groups, from_step=from_step, to_step=plan.step, tier=plan.tier)
        anew = {
            one.group: one
            for one in layouts
            if self.terms.whole_job or one.group in self.hurt or self.layouts.get(one.group) is not one
        }
        self.born.update(dict.fromkeys(anew, self.incarnation))
        begin_s = self._begin_s(anew.values())
        restore_s = self.terms.restore_s(tier=plan.tier, remote=remote)
        self._halt(("model_build" if first else "restart", begin_s), ("restore", restore_s))
        self.counts.lost_steps += self.books.lose_after(plan.step)
        self.current = plan.step
        self.starting, self.prepared = {}, {}
        self._lay(layouts)
        if plan.tier != "memory":
            self.saved.committed = None
        # The first incarnation begins as soon as its own nodes are there: spares hold copies from the next one on.
        self.copies = self.saved.place(layouts, members=self.members, spares=not first)
        self.short, self.incident = False, None
        self.hurt, self.struck = dict.fromkeys(anew), {}
        self._after(begin_s + restore_s, "ready", self.turn)

    def _begin_s(self, anew: Collection[GroupLayout]) -> float:
        sizes = [layout.world_size for layout in anew]
        return self.terms.begin_s(started=sum(sizes), largest_group=max(sizes, default=0))

    def _ready(self, turn: int) -> None:
        """All workers are ready: they step."""
        if turn != self.turn:
            return
        for name in self.hurt:
            self.saved.restored(self.layouts[name])
        self.hurt, self.struck = {}, {}
        self._start_stride()
        self._advance()

    def _start_stride(self) -> None:
        """Steps, from the present one on."""
        self._close()
        step_ns = round(self._step_s() * NS_PER_S)
        slowest = min((math.prod(factors) for node, factors in self.slow.items() if self._works(node)), default=1.0)
        self.wait_ns = round(step_ns / slowest) - step_ns
        self.turn += 1
        self.stride = Stride(
            begun_ns=self.now_ns,
            first=self.current,
            step_ns=step_ns + self.wait_ns,
            stop_ns=round(self.pace.snapshot_s * NS_PER_S),
            every=self.every,
        )
        last = self.resolved.run.steps
        if last > self.current:
            self._at(self.stride.end_ns(last), "finish", self.turn)
        self._plan_fault(self.stride)

    def _step_s(self) -> float:
        """Of the groups that step, by the shares that `Control` would give them."""
        odd = self.sizes.items() ^ self.full.items() if self.sizes != self.full else ()
        key = tuple(sorted(odd))  # groups that are missing or of another size
        if key not in self._steps_s:
            shares = self.pace.shares(self.resolved, self.layouts)
            self.pace.set_intervals(self.resolved, shares)
            step_s = self.pace.step_s(shares)
            assert step_s is not None, "the terms say how fast every pool is"
            if len(self._steps_s) >= STEPS_REMEMBERED:
                self._steps_s = {(): self._steps_s[()]}
            self._steps_s[key] = step_s + self.terms.merge_s
        return self._steps_s[key]

    def _finish(self, turn: int) -> None:
        if turn == self.turn:
            self._close()
            self.ended = "completed" if len(self.layouts) == len(self.groups) else "degraded"

    # --- all stop after a step --------------------------------------------------------------------------------------

    def _stop_after_step(self, *, only_for: NodeId | None = None) -> None:
        """All stop after the step under way. `only_for`: if that node takes part in it."""
        if self.stride is None or self.stopping == self.turn or (only_for is not None and not self._works(only_for)):
            return
        self.stopping = self.turn
        self._at(self.stride.boundary_ns(self.now_ns), "stopped", self.turn)

    def _stopped(self, turn: int) -> None:
        """All stand after the same step."""
        if turn != self.turn:
            return
        self._close()
        stop_s, copy_s = self.pace.snapshot_s, self.terms.copy_s
        if self.terms.live and (self.leaving or self.prepared):
            self._leave_or_join()
        elif self.leaving or self.short or self._grown():
            self._halt(("checkpoint_stall", stop_s + copy_s))
            self._after(stop_s + copy_s, "held", self.turn)
        elif self.current % self.every:
            self._start_stride()
            self._advance()
        else:
            self._halt(("checkpoint_stall", stop_s))
            self._after(stop_s, "ready", self.turn)
            self._after(stop_s + copy_s, "safe", (self.incarnation, self.current))

    def _safe(self, what: tuple[int, Step]) -> None:
        """A save that was made while all stood is safe."""
        incarnation, step = what
        if incarnation == self.incarnation:
            self._save(step)

    def _save(self, step: Step) -> None:
        if self.terms.memory:
            self.saved.commit(step, self.layouts, copies=self.copies)
        else:
            self.saved.store(step)

    def _held(self, turn: int) -> None:
        """The step that all stopped after is saved: what they stopped for can be done."""
        if turn != self.turn:
            return
        self._close()
        self._save(self.current)
        if self.leaving:
            self._let_go()
            return
        back, step = self._grown(), self.current
        choice, text = "form", f"copies are placed anew at step {step}"
        if back:
            choice, text = "readmit_group", f"{', '.join(back)} is back, from the state of step {step}"
        assignment = self._assign(self._incomplete())
        self._form(assignment, choice=choice, reason=Reason(text=text, numbers={"step": step}), incident=None)

    def _let_go(self) -> None:
        """Nodes whose maintenance waited for this."""
        for node, one in list(self.leaving.items()):
            self._lose_node(node, one.cause, "maintenance")
            self._after(one.duration_s, "back", node)
        self._advance()

    # --- healthy groups go on ---------------------------------------------------------------------------------------

    def _go_on(
        self, assignment: Assignment, healthy: Sequence[GroupId], decision: Decision, incident: Incident
    ) -> None:
        """Healthy groups begin the step under way anew; those that were hit start beside them."""
        stop = any(name in self.layouts for name in self.hurt)
        text = f"{decision.reason.text}; {len(healthy)} healthy groups go on with step {self.current}"
        self.incarnation += stop
        self._tell(
            decision.choice,
            text,
            incident,
            groups=tuple(healthy),
            from_step=self.current,
            to_step=self.current,
            tier="live",
        )
        planned = {one.group: one for one in assignment.layouts}
        for name in self.hurt:
            self.starting.pop(name, None)
            self.prepared.pop(name, None)
        if stop:
            self._halt(("restart", self.terms.regroup_s))
            self._lay([self.layouts[name] for name in healthy])
            self._after(self.terms.regroup_s, "ready", self.turn)
        for name in self.hurt:
            if name in planned:
                self._start_beside(planned[name])
        self.hurt, self.struck, self.incident = {}, {}, None

    def _start_missing(self) -> None:
        """Groups whose nodes are there again start beside the others."""
        if self.grown_version == self.version:
            return
        self.grown_version = self.version
        beside = self._beside
        missing = {name: self.groups[name] for name in self.groups if name not in self.layouts and name not in beside}
        if missing:
            for layout in self._assign(missing).layouts:
                if layout.group in missing:
                    self._start_beside(layout)

    def _start_beside(self, layout: GroupLayout) -> None:
        self.starting[layout.group] = layout
        self.born[layout.group] = self.incarnation
        self.books.employ(self._seat(layout), now_ns=self.now_ns)
        self._count_missing()
        self._after(self._begin_s([layout]), "started", layout)

    def _started(self, layout: GroupLayout) -> None:
        """A group only lacks the others' state: they stop after the step under way."""
        if self.starting.get(layout.group) is layout:
            self.prepared[layout.group] = self.starting.pop(layout.group)
            self._stop_after_step()

    def _leave_or_join(self) -> None:
        """All stand after one step: nodes leave for maintenance, or groups that are ready take its state."""
        if self.leaving:
            self._halt(("restart", 0.0))
            self._let_go()
            return
        joined = {**self.layouts, **self.prepared}
        layouts = [joined[name] for name in self.groups if name in joined]
        self.incarnation += 1
        self._tell(
            "readmit_group",
            f"{', '.join(self.prepared)} is back, from the state of step {self.current}",
            None,
            groups=tuple(layout.group for layout in layouts),
            from_step=self.current,
            to_step=self.current,
            tier="live",
        )
        self.prepared = {}
        move_s = self.terms.restore_s(tier="memory", remote=True)
        self._halt(("restart", self.terms.regroup_s), ("restore", move_s))
        self._lay(layouts)
        self._after(self.terms.regroup_s + move_s, "ready", self.turn)

    # --- who sits where ---------------------------------------------------------------------------------------------

    def _lay(self, layouts: Sequence[GroupLayout]) -> None:
        """These groups work from now on, and no others."""
        before, idle = self.layouts, self.books.idle
        self.layouts = {layout.group: layout for layout in layouts}
        for name in before.keys() - self.layouts.keys():
            del self.sizes[name]
            self.nodes_at_work[before[name].pool] -= len(before[name].nodes)
        for name, layout in self.layouts.items():
            old = before.get(name)
            if old is not layout:
                self.sizes[name] = layout.world_size
                self.nodes_at_work[layout.pool] += len(layout.nodes) - (len(old.nodes) if old is not None else 0)
                self._seat(layout)
                self.books.employ([node for node in layout.nodes if node in idle], now_ns=self.now_ns)
        self.working = {pool: nodes * self.books.devices[pool] for pool, nodes in self.nodes_at_work.items()}
        self._count_missing()

    def _count_missing(self) -> None:
        """Nodes that are there and whose group is not among those that work."""
        found: dict[PoolId, int] = {}
        if len(self.layouts) < len(self.last):
            for name, layout in self.last.items():
                if name not in self.layouts:
                    present = sum(node in self.members and self._sits(node, name) for node in layout.nodes)
                    found[layout.pool] = found.get(layout.pool, 0) + present
        self.books.miss(found, now_ns=self.now_ns)

    def _seat(self, layout: GroupLayout) -> list[NodeId]:
        """A group lies so: who sat there before and is a member becomes a spare. Returns who took a place."""
        before = self.last.get(layout.group)
        self.last[layout.group] = layout
        old: tuple[NodeId, ...] = before.nodes if before is not None else ()
        seat, group = self.seat, layout.group
        stay = {
            node
            for node, was in zip(layout.nodes, old, strict=False)
            if node == was and seat.get(node, NOWHERE)[0] == group
        }
        for node in old:
            if node not in stay and self._sits(node, layout.group):
                del self.seat[node]
        fresh = []
        for place, node in enumerate(layout.nodes):
            if node not in stay:
                self.seat[node] = (layout.group, place)
                self.spare.pop(node, None)
                fresh.append(node)
        free = [node for node in old if node not in self.seat and node in self.members]
        self.spare.update(dict.fromkeys(free))
        self.books.put(free, "spare", now_ns=self.now_ns)
        return fresh

    # --- what is told -----------------------------------------------------------------------------------------------

    def _tell(
        self,
        choice: str,
        text: str,
        incident: Incident | None,
        *,
        groups: tuple[GroupId, ...],
        from_step: Step | None = None,
        to_step: Step | None = None,
        tier: str = "",
    ) -> None:
        self.counts.choices[choice] = self.counts.choices.get(choice, 0) + 1
        if tier:
            self.counts.tiers[tier] = self.counts.tiers.get(tier, 0) + 1
        self.chronicle.add(
            FleetDecision(
                at_s=self.now_s,
                incident=0 if incident is None else incident.number,
                choice=choice,
                lost_nodes=() if incident is None else tuple(incident.nodes),
                groups=groups,
                incarnation=self.incarnation,
                from_step=from_step if to_step is not None else self.current,
                to_step=to_step,
                tier=tier,
                text=text,
            )
        )

    def _outcome(self) -> FleetOutcome:
        self._close()
        self.books.flow(self.now_ns)
        ledger = self.books.tally.ledger(end_ns=self.now_ns)
        return FleetOutcome(
            duration_s=self.now_s,
            devices=sum(group.mesh.devices for group in self.groups.values()),
            owned=sum(self.books.devices[pool] for pool in self.books.pool_of.values()),
            steps=self.current,
            step_s=self._steps_s.get((), 0.0),
            ended=self.ended,
            counts=self.counts,
            ledger=ledger,
            decisions=tuple(self.chronicle.kept),
            digest=self.chronicle.digest(ledger),
        )

    def check(self) -> None:
        """Invariants."""
        idle = self.members.keys() & self.books.idle.keys()
        assert idle == self.spare.keys(), "members that no group has are spares"
        assert self.spare.keys() == self.members.keys() - self.seat.keys(), "spares have no seat"
        assert all(self.last[group].nodes[place] == node for node, (group, place) in self.seat.items())
        self.books.tally.check()


_HAPPEN: Final[Mapping[str, Callable[[Fleet, Any], None]]] = {
    "strike": Fleet._strike,
    "fault": Fleet._fault,
    "stepped": Fleet._after_steps,
    "noticed": Fleet._noticed,
    "faster": Fleet._faster,
    "back": Fleet._back,
    "overdue": Fleet._overdue,
    "ready": Fleet._ready,
    "started": Fleet._started,
    "stopped": Fleet._stopped,
    "held": Fleet._held,
    "safe": Fleet._safe,
    "finish": Fleet._finish,
}
