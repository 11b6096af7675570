"""The same `control` in virtual time: simulated agents and workers carry its actions out, with faults."""

from __future__ import annotations

from myriarch.simulate.conformance import decisions
from myriarch.simulate.faults import Fault
from myriarch.simulate.replay import replay
from myriarch.simulate.timing import Timing
from myriarch.simulate.world import Simulation, World, simulate

__all__ = ["Fault", "Simulation", "Timing", "World", "decisions", "replay", "simulate"]
