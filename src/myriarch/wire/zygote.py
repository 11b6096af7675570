"""What an agent and its zygote say to each other over a socket pair.

The zygote has torch imported and holds no device; it forks workers and drains, reaps them, and says so. It is started
as `python -m myriarch.train.zygote <fd>`, because `run` never imports `train`.
"""

from __future__ import annotations

from typing import Literal

from myriarch.event.base import Value
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.wire.worker import Message


class DrainJob(Value, frozen=True, kw_only=True):
    """Write shards to a folder, or make a checkpoint of a folder that is complete."""

    kind: Literal["shards", "finish"]
    step: Step
    incarnation: Incarnation
    path: str
    slot_paths: tuple[str, ...] = ()
    """`shards`: the slots to write."""
    shards: tuple[tuple[GroupId, Rank], ...] = ()
    """`shards`: whose they are, in the same order."""
    final_path: str = ""
    delete_paths: tuple[str, ...] = ()
    run_hash: str = ""
    """Written into the manifest: what a resume compares before it trusts the checkpoint."""


# --- agent to zygote -------------------------------------------------------------------------------------------------


class ForkWorker(Message, frozen=True, kw_only=True):
    """Fork a worker: it joins `cgroup_procs` unless that is empty, writes to `log_path`, attaches to `socket_path`."""

    socket_path: str
    token: str
    group: GroupId
    rank: Rank
    incarnation: Incarnation
    device_index: int
    log_path: str
    cgroup_procs: str = ""


class ForkDrain(Message, frozen=True, kw_only=True):
    """Fork a drain at low priority. It connects to `socket_path`, sends `DrainResult` as its only frame, and ends."""

    socket_path: str
    token: str
    job: DrainJob
    log_path: str


# --- zygote to agent -------------------------------------------------------------------------------------------------


class ZygoteReady(Message, frozen=True, kw_only=True):
    torch_version: str
    import_s: float


class Forked(Message, frozen=True, kw_only=True):
    """The answer to each fork, in order."""

    pid: int
    """0: there is no process, for the reason that `error` says."""
    error: str = ""


class Reaped(Message, frozen=True, kw_only=True):
    pid: int
    signal: int
    """0: it exited by itself."""
    code: int


# --- drain to agent, over the agent's Unix socket --------------------------------------------------------------------


class DrainResult(Message, frozen=True, kw_only=True):
    token: str
    job: DrainJob
    size_bytes: int = 0
    duration_s: float = 0.0
    error: str = ""


ToZygote = ForkWorker | ForkDrain
FromZygote = ZygoteReady | Forked | Reaped
