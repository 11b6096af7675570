"""All that `Control` knows: small machines, composed."""

from __future__ import annotations

from typing import Literal

import msgspec

from myriarch.checkpoint.commit import Snapshots
from myriarch.checkpoint.drain import Drain
from myriarch.control.beside import Beside
from myriarch.control.crew import Crew, Worker
from myriarch.control.drift import Drift
from myriarch.control.judging import wait_until_s
from myriarch.control.membership import Membership
from myriarch.control.pace import Pace
from myriarch.control.progress import Progress
from myriarch.event.actions import EndRun, Number, Reason, Warn
from myriarch.event.ids import GroupId, NodeId, Step
from myriarch.event.layout import ShardKey
from myriarch.recover.decide import Budget
from myriarch.recover.incident import Incident
from myriarch.recover.rests import Rests
from myriarch.spec.run import Recovery, ResolvedRun

Phase = Literal["waiting", "forming", "running", "holding", "blocked", "finishing", "ended"]
"""`waiting`: for the nodes of the first formation. `forming`: workers are on their way to readiness. `running`: they
step. `holding`: they stop together, for a snapshot. `blocked`: a group is waited for. `finishing`: the last snapshot
goes to disk. `ended`: nothing is done any more."""

Outcome = Literal["completed", "degraded", "interrupted", "failed", "user_error"]

TOLD_LIMIT = 100
"""Incidents and warnings that the view keeps: the newest."""


class Ending(msgspec.Struct, kw_only=True):
    """How the run is going to end, once its last snapshot is on disk."""

    outcome: Outcome
    step: Step
    """The step that has to be on disk for this outcome."""
    text: str
    detail: str = ""


class Course(msgspec.Struct, kw_only=True):
    """Where the run is between its start and its end."""

    phase: Phase = "waiting"
    limit_s: float | None = None
    """When the present phase has taken too long. Only in `waiting`, `forming` and `holding`, and in `running` once a
    worker has finished."""
    stop_why: str = ""
    """Why somebody wants it to end; empty: nobody does."""
    ending: Ending | None = None
    """Set exactly in `finishing` and `ended`."""
    end: EndRun | None = None
    """Set exactly in `ended`."""
    grown_version: int = -1
    """The membership for which it was last looked whether groups can grow."""


class IncidentTold(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, for people."""

    incident: int
    choice: str
    text: str
    at_s: float


class Story(msgspec.Struct, kw_only=True):
    """What people are told."""

    incidents: int = 0
    """Incidents so far."""
    told: list[IncidentTold] = []
    warnings: list[str] = []

    def tell(self, incident: int, choice: str, text: str, *, at_s: float) -> None:
        """A decision was made."""
        self.told = [*self.told, IncidentTold(incident=incident, choice=choice, text=text, at_s=at_s)][-TOLD_LIMIT:]

    def warn(self, text: str, **numbers: Number) -> Warn:
        """Something that people should hear of."""
        self.warnings = [*self.warnings, text][-TOLD_LIMIT:]
        return Warn(reason=Reason(text=text, numbers=dict(numbers)))


class State(msgspec.Struct, kw_only=True):
    """The composed machine's state. Its logic is in the other modules of this package."""

    run_id: str
    resolved: ResolvedRun
    drain: Drain
    course: Course = msgspec.field(default_factory=Course)
    members: Membership = msgspec.field(default_factory=Membership)
    crew: Crew = msgspec.field(default_factory=Crew)
    beside: Beside = msgspec.field(default_factory=Beside)
    snapshots: Snapshots = msgspec.field(default_factory=Snapshots)
    progress: Progress = msgspec.field(default_factory=Progress)
    pace: Pace = msgspec.field(default_factory=Pace)
    drift: Drift = msgspec.field(default_factory=Drift)
    budget: Budget = msgspec.field(default_factory=Budget)
    rests: Rests = msgspec.field(default_factory=Rests)
    incident: Incident | None = None
    """Findings that no new incarnation has answered yet."""
    story: Story = msgspec.field(default_factory=Story)

    @property
    def recovery(self) -> Recovery:
        """The run file's policy."""
        return self.resolved.run.recovery

    @property
    def absent(self) -> tuple[GroupId, ...]:
        """Groups that the present incarnation does without."""
        names = (GroupId(group.name) for group in self.resolved.run.groups)
        return tuple(name for name in names if name not in self.crew.layouts)

    @property
    def durable_step(self) -> Step:
        """The newest step on disk; 0 when there is none."""
        return self.drain.newest.step if self.drain.newest is not None else Step(0)

    def away(self) -> tuple[NodeId, ...]:
        """Nodes with workers whose connection is closed: lost or back within their grace."""
        return tuple(node for node in self.members.offline if node in self.crew.on_node)

    def worker(self, key: ShardKey) -> Worker | None:
        """Of the present incarnation, or of a group that starts beside it."""
        return self.crew.workers.get(key) or self.beside.find(key)

    def node_of(self, key: ShardKey) -> NodeId | None:
        """Where this worker sits."""
        worker = self.worker(key)
        return worker.node if worker is not None else None

    def lose(self, key: ShardKey, *, dead: bool) -> bool:
        """A worker does no more work, and with `dead` its process is gone. False when it was lost already."""
        return self.crew.lose(key, dead=dead) if key in self.crew.workers else self.beside.lose(key, dead=dead)

    def settle_step(self) -> bool:
        """All are ready: take over the step of which the kept states are. False: they are not of one step."""
        steps = {step for stand in self.crew.stands().values() for step in stand}
        if len(steps) > 1:
            return False
        self.crew.step = steps.pop()
        self.progress.begin(self.crew.step)
        return True

    def found(self, now_s: float) -> Incident:
        """The open incident; a new one when there is none."""
        if self.incident is None:
            self.story.incidents += 1
            self.incident = Incident(number=self.story.incidents, opened_s=now_s)
        return self.incident

    def fail(self, what: str, *, now_s: float) -> None:
        """Something went wrong that only a new incarnation puts right."""
        self.found(now_s).failures.append(what)

    @property
    def deadline_s(self) -> float | None:
        """When it wants to be woken."""
        if self.course.phase == "ended":
            return None
        deadlines = [self.course.limit_s, self.members.deadline_s, self.drain.deadline_s]
        if self.course.phase != "finishing":
            deadlines += [self.beside.deadline_s, self.rests.deadline_s]
        if self.incident is not None and self.course.phase != "finishing" and not self.away():
            deadlines.append(self.wait_until_s if self.incident.waiting_since_s is not None else self._settled_s())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    @property
    def wait_until_s(self) -> float | None:
        """When missing groups have been waited for long enough."""
        return wait_until_s(self.incident, self.recovery)

    def _settled_s(self) -> float | None:
        return self.incident.settle_deadline_s() if self.incident is not None else None

    def check(self) -> None:
        """Invariants, of each machine and between them."""
        for machine in (
            self.members, self.crew, self.beside, self.snapshots, self.drain, self.progress, self.pace, self.drift,
            self.rests,
        ):  # fmt: skip
            machine.check()
        course, crew = self.course, self.crew
        assert (course.phase == "ended") == (course.end is not None)
        assert (course.phase in ("finishing", "ended")) == (course.ending is not None) or course.phase == "ended"
        assert crew.incarnation == self.snapshots.incarnation
        for start in self.beside.starts.values():
            assert start.layout.group not in crew.layouts, "who steps does not start"
            assert start.since <= crew.incarnation
            assert not any(node in crew.on_node for node in start.layout.nodes), "a node has one group"
        if self.incident is not None:
            self.incident.check()
        if course.phase in ("running", "holding") and self.incident is None:
            assert crew.unready == 0, "who steps was ready"
            assert all(worker.state != "gone" for worker in crew.workers.values()), "a loss opens an incident"
            assert all(node in self.members.nodes for node in crew.on_node), "workers are on members"
            assert not self.beside.hit, "a loss beside the others opens an incident"
        if course.phase == "running" and self.incident is None:
            used = sum(share.count for share in crew.shares)
            assert used == self.resolved.run.batch.sequences, "every slot of the batch is somebody's"
            firsts = [share.first for share in crew.shares]
            ends = [share.first + share.count for share in crew.shares]
            assert firsts == [0, *ends[:-1]], "shares lie one behind the other"
        if course.phase in ("forming", "running", "holding"):
            assert crew.step <= self.progress.current
