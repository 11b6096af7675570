"""Identities. One word, one meaning; `docs/glossary.md` is the authority."""

from __future__ import annotations

from typing import NewType

RunId = NewType("RunId", str)
NodeId = NewType("NodeId", str)
"""A node of the fleet, `<pool>-<index>`: `fast-0`. It names the place, not the machine that fills it."""
PoolId = NewType("PoolId", str)
GroupId = NewType("GroupId", str)
"""A replica group: devices of one kind on one fabric that hold one copy of the model."""
DeviceId = NewType("DeviceId", str)
"""One accelerator, `<node>/<index>`: `fast-0/1`."""
Rank = NewType("Rank", int)
"""A worker's rank inside its replica group."""
Step = NewType("Step", int)
"""Number of optimizer steps done: a snapshot of step 40 is the state after 40 steps, and step 40 is next."""
Incarnation = NewType("Incarnation", int)
"""Counts the formations of a run, from 1. Every store, merge and snapshot checks it: older workers are fenced."""


def device_id(node: NodeId, index: int) -> DeviceId:
    """The name of the `index`-th device of `node`."""
    return DeviceId(f"{node}/{index}")
