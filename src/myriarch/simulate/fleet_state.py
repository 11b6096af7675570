"""All that is known of a job on a simulated fleet. What follows from it is in the other `fleet_*` modules."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from myriarch.control.judging import going_on
from myriarch.control.pace import Pace
from myriarch.event.ids import GroupId, NodeId, PoolId, Step
from myriarch.event.spans import Leaf
from myriarch.recover.decide import Budget
from myriarch.recover.incident import Incident
from myriarch.recover.rests import Rests
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.faults import Fault
from myriarch.simulate.fleet_agenda import Agenda
from myriarch.simulate.fleet_books import Books
from myriarch.simulate.fleet_crew import Crew
from myriarch.simulate.fleet_memory import Copies, Saved
from myriarch.simulate.fleet_outcome import Chronicle, Counts, FleetDecision
from myriarch.simulate.fleet_stride import Stride
from myriarch.simulate.fleet_terms import FleetTerms
from myriarch.spec.run import Recovery, ResolvedRun


class Work(msgspec.Struct, kw_only=True):
    """What working devices do. `turn` counts interruptions: what was planned in an earlier turn does not happen."""

    current: Step = Step(0)
    newest: Step = Step(0)
    stride: Stride | None = None
    """Set exactly while steps are done."""
    wait_ns: int = 0
    """Of each step of the stride: what the slowest node adds."""
    leaves: list[tuple[Leaf, int]] = []
    """What working devices do while no steps are done, each until an instant; the last one goes on."""
    since_ns: int = 0
    """Their time is spent up to here."""
    turn: int = 0
    stopping: int = -1
    """The turn in which all are to stop after the step under way."""


class Tiers(msgspec.Struct, kw_only=True):
    """What is saved, and what is on its way."""

    saved: Saved
    copies: Copies | None = None
    """Where the present groups' copies lie; None: within each group."""
    short: bool = False
    """Copies were lost with a node that does not work."""
    drain: tuple[Step, int] | None = None
    """The step that goes to the store, and when it is there."""


class Trouble(msgspec.Struct, kw_only=True):
    """What is wrong, and not answered yet."""

    budget: Budget = msgspec.field(default_factory=Budget)
    rests: Rests = msgspec.field(default_factory=Rests)
    """With `live`: nodes that fail again and again."""
    incident: Incident | None = None
    incidents: int = 0
    hurt: dict[GroupId, None] = {}
    """Groups that have to be started anew: somebody of theirs was lost, or they are starting."""
    struck: dict[GroupId, None] = {}
    """Of these, those that lost nodes, which nobody took the places of yet."""
    leaving: dict[NodeId, Breakdown] = {}
    """Nodes whose maintenance waits for a save."""
    slow: dict[NodeId, list[float]] = {}
    """Factors of slow nodes."""
    wrong_since: Step | None = None
    """Values are wrong from this step on."""

    def found(self, *, now_s: float) -> Incident:
        """The open incident, or a new one."""
        if self.incident is None:
            self.incidents += 1
            self.incident = Incident(number=self.incidents, opened_s=now_s)
        return self.incident


class State:
    """The job, its nodes, and what is going on: small machines, composed.

    Invariant: exactly the nodes of `crew.layouts` work, but for those whose loss was just noticed.
    """

    def __init__(self, resolved: ResolvedRun, *, terms: FleetTerms) -> None:
        fleet, run = resolved.fleet, resolved.run
        nodes = {NodeId(name): PoolId(pool.name) for pool in fleet.pools for name in pool.node_names}
        per_node = {PoolId(pool.name): pool.devices_per_node for pool in fleet.pools}
        self.resolved = resolved
        self.terms = terms
        self.recovery = run.recovery
        self.going_on: Recovery = going_on(run.recovery)
        """The policy with `terms.live` while there is any group: nobody waits for one that is missing."""
        self.agenda = Agenda()
        self.books = Books(nodes, devices=per_node, start_ns=0)
        self.crew = Crew(resolved, books=self.books)
        self.tiers = Tiers(
            saved=Saved(
                copies=run.checkpoint.copies,
                keep=run.checkpoint.keep_on_disk,
                racks={node: fleet.pool(pool).fault_domain(node) for node, pool in nodes.items()},
                workers=sum(group.mesh.devices for group in run.groups),
            )
        )
        self.pace = Pace(
            device_speed={name: terms.device_speed[PoolId(group.pool)] for name, group in self.crew.groups.items()},
            snapshot_s=terms.save_stop_s + terms.contention_s,
        )
        self.work = Work()
        self.trouble = Trouble()
        self.stepped: list[Fault] = []
        """Faults that wait for a step, by step."""
        self.ended = ""
        self.counts = Counts()
        self.chronicle = Chronicle()
        self.whole_step_s = 0.0
        """Of the whole job, undisturbed. Set when it begins."""
        self.steps_s: dict[tuple[tuple[GroupId, int], ...], float] = {}
        """Seconds of a step, by what groups are missing or of another size (`fleet_work`)."""

    @property
    def now_ns(self) -> int:
        return self.agenda.now_ns

    @property
    def now_s(self) -> float:
        return self.agenda.now_s

    @property
    def every(self) -> int:
        """Steps from save to save."""
        assert self.pace.memory_every_steps is not None, "set at the first start"
        return self.pace.memory_every_steps

    def tell(
        self,
        choice: str,
        text: str,
        incident: Incident | None,
        *,
        groups: Sequence[GroupId],
        from_step: Step | None = None,
        to_step: Step | None = None,
        tier: str = "",
    ) -> None:
        """A decision was made."""
        counts = self.counts
        counts.choices[choice] = counts.choices.get(choice, 0) + 1
        if tier:
            counts.tiers[tier] = counts.tiers.get(tier, 0) + 1
        self.chronicle.add(
            FleetDecision(
                at_s=self.now_s,
                incident=0 if incident is None else incident.number,
                choice=choice,
                lost_nodes=() if incident is None else tuple(incident.nodes),
                groups=tuple(groups),
                incarnation=self.crew.incarnation,
                from_step=from_step if to_step is not None else self.work.current,
                to_step=to_step,
                tier=tier,
                text=text,
            )
        )

    def check(self) -> None:
        """Invariants."""
        self.crew.check()
        self.trouble.rests.check()
        self.books.tally.check()
