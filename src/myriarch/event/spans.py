"""Where device time went: the leaves of the ledger and the spans that fill them."""

from __future__ import annotations

from typing import Final, Literal, get_args

from myriarch.event.base import Value
from myriarch.event.ids import DeviceId, GroupId, Incarnation, Step

Leaf = Literal[
    "repair", "drained", "quarantined", "maintenance", "power_or_network_down",
    "idle_no_demand", "idle_fragmented", "idle_reserved_spare", "idle_waiting_gang", "idle_price_hold",
    "queue_to_start", "image_pull", "rendezvous", "comm_init", "model_build", "warm_up", "data_open",
    "useful_compute", "exposed_comm", "pipeline_bubble", "straggler_wait", "data_stall", "host_sync", "throttled",
    "checkpoint_stall", "checkpoint_contention",
    "detect", "diagnose", "replace", "restart", "restore", "reshard", "lost_work", "degraded", "sdc_replay",
    "evaluation", "manual_restart", "debug_hold", "preempted_by_policy",
    "unattributed",
]  # fmt: skip
"""Every device-nanosecond is in exactly one of these."""

Level = Literal["unusable", "unscheduled", "start", "step", "save", "fault", "user", "unknown"]

LEAVES: Final[tuple[Leaf, ...]] = get_args(Leaf)

_LEVEL_SIZES: Final[tuple[tuple[Level, int], ...]] = (
    ("unusable", 5), ("unscheduled", 5), ("start", 7), ("step", 7),
    ("save", 2), ("fault", 9), ("user", 4), ("unknown", 1),
)  # fmt: skip


def _levels() -> dict[Leaf, Level]:
    levels: dict[Leaf, Level] = {}
    start = 0
    for level, size in _LEVEL_SIZES:
        for leaf in LEAVES[start : start + size]:
            levels[leaf] = level
        start += size
    return levels


LEVEL_OF: Final[dict[Leaf, Level]] = _levels()


class Span(Value, frozen=True, kw_only=True):
    """`device` spent `[start_ns, end_ns)` in `leaf`, as the process that ran there saw it.

    Instants are nanoseconds since the Unix epoch, from a clock that does not step back inside one process.
    Spans of a step carry its number, so that the ledger can move them to `lost_work` when the step is lost.
    """

    device: DeviceId
    start_ns: int
    end_ns: int
    leaf: Leaf
    group: GroupId | None = None
    incarnation: Incarnation | None = None
    step: Step | None = None
    """The step that this span belongs to: the one that makes the state of `step` steps into `step + 1`."""
