"""How long things take in the simulated world."""

from __future__ import annotations

import msgspec

from myriarch.event.base import Value
from myriarch.event.ids import PoolId


class Timing(Value, frozen=True, kw_only=True):
    """Durations in seconds, and rates. Defaults: measured by this project on 2 cores without a GPU."""

    latency_s: float = 0.002
    """From an agent to the controller, or back."""
    join_s: float = 0.5
    """From the start of the run until agents join."""
    fork_s: float = 0.014
    rendezvous_s: float = 0.15
    model_build_s: float = 0.1
    restore_s: float = 0.0
    """What a restore takes beside moving its bytes."""
    calibrate_s: float = 0.3
    memory_bytes_per_s: float = 2e9
    """Copies inside a node: snapshot, restore."""
    network_bytes_per_s: float = 1e9
    """Between nodes, one stream."""
    fetch_timeout_s: float = 5.0
    """Until a fetch from a stopped node is given up."""
    disk_bytes_per_s: float = 2e8
    collective_s: float = 0.03
    """Until the peers of a dead worker notice: 12 to 45 ms in gloo."""
    bridge_s: float = 0.005
    """What a merge between groups takes, beside waiting."""
    exit_s: float = 0.02
    """Until an agent knows that a worker of its exited, or the engine that an agent did."""
    rejoin_s: float = 0.3
    """Until an agent that was fenced is back as another boot."""
    sequence_s: dict[PoolId, float] = msgspec.field(default_factory=dict)
    """Seconds of one device per sequence, by pool; `default_sequence_s` for others."""
    default_sequence_s: float = 0.02
    bytes_per_parameter: float = 12.0
    """fp32 parameters and AdamW's two moments."""

    def device_sequence_s(self, pool: PoolId) -> float:
        """Seconds that one device of the pool takes for one sequence."""
        return self.sequence_s.get(pool, self.default_sequence_s)
