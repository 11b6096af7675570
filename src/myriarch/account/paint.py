"""One device's time, painted: from claims that may overlap to segments that do not.

A *claim* says "this device was in this leaf from here to there". Claims come from workers (measured), from the journal
(what control did with the device) and from nobody (what is left is `unattributed`). They overlap, repeat and contradict
each other: a restarted worker's clock may run behind, an agent may send the same spans twice after a reconnect, a wait
in a collective may go on after the fault that caused it. Painting gives each nanosecond to exactly one claim, the one
that ranks highest:

1. by layer: what is known to be impossible (a device of a lost node computes nothing) over what was measured, over what
   was counted, over what is inferred from the incident, over what the journal says of the device in general;
2. by incarnation: the newer worker's word over the fenced one's;
3. by leaf: the special over the general, so that a stall inside a span of compute cuts a hole into it;
4. by step: the later one.

The rank is a total order on everything that the result shows, so the result depends neither on the order of the claims
nor on how often one is repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from heapq import heappop, heappush
from typing import Final

from myriarch.event.base import Value
from myriarch.event.spans import LEAVES, Leaf

UNKNOWN: Final[Leaf] = "unattributed"


class Layer(IntEnum):
    """Whose word it is. The higher wins."""

    NOBODY = 0
    HINT = 1
    """A worker's wait that belongs to no step: it does not know what it waits for. The journal may."""
    CONTEXT = 2
    """The journal: waiting for the first incarnation, spare, held for the last drain."""
    INCIDENT = 3
    """The journal: the present phase of an incident, for devices that it keeps waiting."""
    COUNTED = 4
    """A `StepCompleted` of the device's group, for a worker whose own spans never arrived (it was killed)."""
    MEASURED = 5
    """The worker's own spans, and its phases from fork to readiness."""
    LOST = 6
    """The device's node is gone."""


_GENERAL_TO_SPECIAL: Final[tuple[Leaf, ...]] = (
    "unattributed",
    # A step is useful unless something more special is said about a part of it.
    "useful_compute", "exposed_comm", "pipeline_bubble", "straggler_wait", "data_stall", "host_sync", "throttled",
    "idle_no_demand", "idle_fragmented", "idle_reserved_spare", "idle_waiting_gang", "idle_price_hold",
    "queue_to_start", "image_pull", "rendezvous", "comm_init", "model_build", "warm_up", "data_open",
    "lost_work", "detect", "diagnose", "replace", "restart", "restore", "reshard", "degraded", "sdc_replay",
    "checkpoint_contention", "checkpoint_stall",
    "preempted_by_policy", "manual_restart", "evaluation", "debug_hold",
    "maintenance", "drained", "quarantined", "power_or_network_down", "repair",
)  # fmt: skip
_SPECIALITY: Final[dict[Leaf, int]] = {leaf: index for index, leaf in enumerate(_GENERAL_TO_SPECIAL)}
assert set(_GENERAL_TO_SPECIAL) == set(LEAVES), "every leaf needs a place in the order"

_NO_STEP: Final = -1


class Claim(Value, frozen=True, kw_only=True):
    """Somebody says that the device was in `leaf` during `[start_ns, end_ns)`."""

    start_ns: int
    end_ns: int
    leaf: Leaf
    layer: Layer
    incarnation: int = 0
    step: int | None = None
    """As in `Span.step`: the step that makes the state of `step` steps into `step + 1`."""


class Segment(Value, frozen=True, kw_only=True):
    """A part of a device's time that belongs to one claim, or to nobody. A device's segments touch, never overlap."""

    start_ns: int
    end_ns: int
    leaf: Leaf
    layer: Layer
    incarnation: int
    step: int | None

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


_Rank = tuple[int, int, int, int]
_NOBODY: Final[_Rank] = (0, 0, 0, 0)


def _rank(claim: Claim) -> _Rank:
    """Sorts ascending with the strongest claim first, and says all that a segment needs."""
    step = _NO_STEP if claim.step is None else claim.step
    return (-claim.layer, -claim.incarnation, -_SPECIALITY[claim.leaf], -step)


def paint(claims: Iterable[Claim], *, start_ns: int, end_ns: int) -> tuple[Segment, ...]:
    """Segments that cover `[start_ns, end_ns)` exactly, in order; O(n log n).

    Parts of claims outside the interval and claims without extent are ignored.
    """
    arriving = sorted((c.start_ns, c.end_ns, _rank(c)) for c in claims if c.start_ns < c.end_ns)
    segments: list[tuple[int, int, _Rank]] = []
    active: list[tuple[_Rank, int]] = []
    arrived = 0
    now = start_ns
    while now < end_ns:
        while arrived < len(arriving) and arriving[arrived][0] <= now:
            _, claim_end_ns, rank = arriving[arrived]
            heappush(active, (rank, claim_end_ns))
            arrived += 1
        while active and active[0][1] <= now:
            heappop(active)
        until = min(end_ns, arriving[arrived][0]) if arrived < len(arriving) else end_ns
        winner = _NOBODY
        if active:
            winner = active[0][0]
            until = min(until, active[0][1])
        if segments and segments[-1][2] == winner:
            segments[-1] = (segments[-1][0], until, winner)
        else:
            segments.append((now, until, winner))
        now = until
    return tuple(_segment(*segment) for segment in segments)


def _segment(start_ns: int, end_ns: int, rank: _Rank) -> Segment:
    layer, incarnation, speciality, step = (-part for part in rank)
    return Segment(
        start_ns=start_ns,
        end_ns=end_ns,
        leaf=_GENERAL_TO_SPECIAL[speciality],
        layer=Layer(layer),
        incarnation=incarnation,
        step=None if layer == Layer.NOBODY or step == _NO_STEP else step,
    )
