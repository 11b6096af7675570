"""What goes wrong, and when."""

from __future__ import annotations

from typing import Literal

from myriarch.event.base import Value
from myriarch.spec.run import Run

FaultAction = Literal[
    "kill", "stop", "slow", "return", "disconnect",
    "break", "kill_workers", "user_error", "bad_shard", "skip_snapshot", "no_room", "drain_error", "request_stop",
]  # fmt: skip
"""`kill`: SIGKILL. `stop`: SIGSTOP. `slow`: devices become slower. `return`: a lost node's name comes back with another
machine. `break`: a node dies, and another machine is in its place only after a while. `kill_workers`: all workers of a
node die, the node stays. `disconnect`: a control connection closes for a while. `user_error`: a worker's script
raises. `bad_shard`: a node's shards no longer match their hashes. `skip_snapshot`: a worker finds no free slot once.
`no_room`: a node takes no copies any more. `drain_error`: a node's next write to disk fails. `request_stop`: somebody
asks the run to end."""


class Fault(Value, frozen=True, kw_only=True):
    """One fault, at a time of the run or once a step was completed."""

    action: FaultAction
    target: str = ""
    """A node (`fast-1`), a worker (`fast/1`) or `controller`."""
    at_s: float | None = None
    """Seconds since the run's start."""
    at_step: int | None = None
    """Once a completed step is so high."""
    duration_s: float = 0.0
    """Of a closed connection, a controller's absence, or a repair."""
    factor: float = 1.0
    """Share of its speed that a slow target keeps."""


def chaos_of(run: Run) -> tuple[Fault, ...]:
    """The faults that a run file inflicts on its own run."""
    return tuple(
        Fault(action=one.action, target=one.target, at_step=one.at_step, factor=one.factor or 1.0, duration_s=0.3)
        for one in run.chaos
    )
