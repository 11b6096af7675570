"""What the parts of an agent share: who this node is, its memory, and its ways to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

from myriarch.arena.beacon import BeaconTable
from myriarch.arena.memory import NodeMemory
from myriarch.event.actions import PeerAddress
from myriarch.event.ids import NodeId
from myriarch.run.directory import Attempt, Launch, NodePlace
from myriarch.run.link import ControllerLink
from myriarch.run.quota import Limiter
from myriarch.run.zygote import Zygote
from myriarch.spec.run import ResolvedRun

P = ParamSpec("P")
T = TypeVar("T")

TRANSFER_THREADS: Final = 8
"""Shards that a node sends or fetches at once."""


@dataclass(eq=False)
class Node:
    """One agent's parts. Made by `agent`, used by all; only the event loop's thread changes it."""

    attempt: Attempt
    launch: Launch
    resolved: ResolvedRun
    place: NodePlace
    boot: str
    token: str
    socket_path: str
    memory: NodeMemory
    beacons: BeaconTable
    zygote: Zygote
    limiter: Limiter
    link: ControllerLink
    peers: dict[NodeId, PeerAddress] = field(default_factory=dict)
    """The newest address of each node that an action named."""
    frozen: set[int] = field(default_factory=set)
    """Processes that somebody stopped on purpose."""
    lane: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "memory"))
    """Memory operations that may take long, one after another in the order in which they were asked for."""
    transfers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(TRANSFER_THREADS, "transfer"))

    @property
    def id(self) -> NodeId:
        return self.place.node

    def learn(self, peers: Iterable[PeerAddress]) -> None:
        """Remember addresses."""
        self.peers.update((peer.node, peer) for peer in peers)

    def in_lane(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run a memory operation after those asked for before it. Queued at once, awaited or not."""
        return asyncio.get_running_loop().run_in_executor(self.lane, lambda: call(*args, **kwargs))

    def in_transfer(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run a transfer of bulk bytes."""
        return asyncio.get_running_loop().run_in_executor(self.transfers, lambda: call(*args, **kwargs))
