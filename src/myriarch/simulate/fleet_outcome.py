"""What came of a job on a simulated fleet."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from myriarch.account.factors import Factors, Peak, integrals
from myriarch.account.ledger import Ledger
from myriarch.event.base import Value
from myriarch.event.ids import GroupId, NodeId, Step
from myriarch.event.spans import LEAVES, Leaf

DECISIONS_KEPT: Final = 100_000


class FleetDecision(Value, frozen=True, kw_only=True):
    """What was decided, as `event.actions.Decide` has it."""

    at_s: float
    incident: int
    """0: no incident's."""
    choice: str
    lost_nodes: tuple[NodeId, ...]
    groups: tuple[GroupId, ...]
    """Those that go on at once."""
    incarnation: int
    from_step: Step | None
    to_step: Step | None
    """None: nothing begins."""
    tier: str
    """Where the state comes from: `memory`, `disk` (the store), `fresh`, or `live`: a healthy group. Empty: nowhere."""
    text: str


class Counts(msgspec.Struct, kw_only=True):
    """Of things that happened."""

    events: int = 0
    strikes: int = 0
    """Breakdowns that hit a node which was there."""
    interruptions: int = 0
    """Breakdowns that stop the job, or its next steps: of nodes that work, slow ones not counted."""
    planned: int = 0
    """Of these, maintenance."""
    lost_steps: int = 0
    choices: dict[str, int] = {}
    tiers: dict[str, int] = {}


class FleetOutcome(Value, frozen=True, kw_only=True):
    """A job's months."""

    duration_s: float
    devices: int
    """That the job works on when it is whole; spares not counted."""
    owned: int
    steps: int
    """Kept."""
    step_s: float
    """Of the whole job, when nothing is wrong."""
    ended: str
    """`until`: its time was over; else how the run ended."""
    counts: Counts
    ledger: Ledger
    decisions: tuple[FleetDecision, ...]
    """The first ones."""
    digest: str
    """Of all decisions and of the ledger."""

    @property
    def factors(self) -> Factors:
        """By device time: devices of unlike pools weigh the same. `compute` stays unknown."""
        equal = dict.fromkeys(self.ledger.pools, Peak(rate_flops_per_s=1.0, source="declared"))
        whole = integrals(self.ledger, equal, model_flops=None)
        assert whole is not None
        return whole.factors()

    @property
    def effective(self) -> float:
        """Effective training time: share of the allocated device time in kept steps."""
        return self.factors.fault_handling or 0.0

    @property
    def owned_effective(self) -> float:
        """Share of all device time owned, spares and nodes in repair included, in kept steps."""
        total = self.ledger.total
        return total.level_ns("step") / total.capacity_device_ns

    @property
    def progress(self) -> float:
        """Kept steps over those of a job that nothing ever disturbs: also counts that steps take longer while a group
        is away, and that slow nodes are waited for."""
        return self.steps * self.step_s / self.duration_s

    @property
    def mtbf_s(self) -> float | None:
        """Between interruptions; None: there was none."""
        return self.duration_s / self.counts.interruptions if self.counts.interruptions else None

    def waterfall(self) -> tuple[tuple[Leaf, float], ...]:
        """Share of all device time owned, by leaf, in the ledger's order."""
        total = self.ledger.total
        return tuple((leaf, total.leaves[leaf] / total.capacity_device_ns) for leaf in LEAVES if leaf in total.leaves)


class Chronicle:
    """Collects decisions and their digest."""

    def __init__(self) -> None:
        self.kept: list[FleetDecision] = []
        self._hash = hashlib.sha256()

    def add(self, decision: FleetDecision) -> None:
        self._hash.update(msgspec.json.encode(decision))
        if len(self.kept) < DECISIONS_KEPT:
            self.kept.append(decision)

    def digest(self, ledger: Ledger) -> str:
        """Hex, over everything."""
        whole = self._hash.copy()
        whole.update(msgspec.json.encode(ledger))
        return whole.hexdigest()
