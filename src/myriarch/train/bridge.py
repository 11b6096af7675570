"""The bridge: unlike replica groups add their gradients, every step, and all get the same bits.

Each worker exchanges with workers of every other group the elements of the gradient that both hold, full duplex
over its own TCP connections, and then adds the groups' contributions in the order of `Go.shares`, in fp32. Every
element is added in the same order in every group, whatever the meshes: groups need no further agreement to stay
bit-identical.

    merged = (g_1 + g_2 + ... + g_n) / (tokens_1 + ... + tokens_n)

A ring all-reduce would move fewer bytes beyond three groups, but its order of summation depends on the place in the
ring.

Waiting is bounded and named, and the agent is listened to all the while. No torch here: numpy, sockets, hashes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from myriarch.event.actions import BridgeEndpoint, GroupShare
from myriarch.event.ids import GroupId, Rank, Step
from myriarch.spec.run import Mesh
from myriarch.train.bridge_links import Doorkeeper, Interrupt, Interrupted, Membership, PeerId, dial, name_of
from myriarch.train.bridge_wire import HEADER_BYTES, BridgeError, Header, PeerLost, unpack_header
from myriarch.train.layout import Overlap, Run, Shape, covers, elements_of, overlap, runs_of_rank

_CHUNK_BYTES: Final = 1 << 20
"""Most bytes handed to the kernel at once: keeps both directions moving."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Contribution:
    """What one group brings to a step."""

    tokens: int
    loss_sum: float
    hold: bool


@dataclass(frozen=True)
class Merged:
    """A step's sum over all groups: equal in every group."""

    tokens: int
    loss_sum: float
    hold: bool
    waited_s: float
    """Until the last group's message began to arrive: what slower groups cost this one."""


def layouts_of(
    shares: Sequence[GroupShare], shapes: Mapping[str, Shape], meshes: Mapping[GroupId, Mesh]
) -> dict[PeerId, tuple[Run, ...]]:
    """What every worker of every group holds."""
    return {
        (share.group, Rank(rank)): runs_of_rank(shapes, mesh=meshes[share.group], rank=rank)
        for share in shares
        for rank in range(share.world_size)
    }


def partners_of(own: PeerId, share: GroupShare, layouts: Mapping[PeerId, tuple[Run, ...]]) -> dict[PeerId, Overlap]:
    """From whom in another group `own` takes what: each of its elements exactly once.

    Replicas hold the same runs; each worker takes from the one that its own rank picks, so that they share the work. So
    taking need not be mutual: a pair is connected when either takes from the other.
    """
    holders: dict[tuple[Run, ...], list[PeerId]] = {}
    for rank in range(share.world_size):
        peer = (share.group, Rank(rank))
        holders.setdefault(layouts[peer], []).append(peer)
    chosen: dict[PeerId, Overlap] = {}
    for runs, peers in holders.items():
        shared = overlap(layouts[own], runs)
        if shared.elements:
            chosen[peers[own[1] % len(peers)]] = shared
    # A worker without elements (a model smaller than its group) still hears the headers: tokens, loss, hold.
    return chosen or {(share.group, Rank(own[1] % share.world_size)): Overlap((), 0)}


@dataclass(eq=False)
class _Link:
    """One connection, and where it stands in the present exchange."""

    peer: PeerId
    group: int
    sock: socket.socket
    gives: tuple[tuple[int, int], ...]
    """Slices of the local buffer that the peer takes."""
    takes: tuple[tuple[int, int], ...]
    """Slices of the local buffer that the peer fills."""
    outgoing: list[memoryview] = field(default_factory=list)
    head: bytearray = field(default_factory=lambda: bytearray(HEADER_BYTES))
    head_filled: int = 0
    header: Header | None = None
    incoming: Floats = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    filled_bytes: int = 0

    @property
    def receiving(self) -> bool:
        return self.header is None or self.filled_bytes < self.incoming.nbytes

    @property
    def events(self) -> int:
        return (select.POLLIN if self.receiving else 0) | (select.POLLOUT if self.outgoing else 0)


class Bridge:
    """One worker's end, for one incarnation. Made by `build`; a context manager."""

    def __init__(
        self,
        member: Membership,
        shares: Sequence[GroupShare],
        links: Sequence[_Link],
        *,
        interrupt: Interrupt,
        timeout_s: float,
    ) -> None:
        self._member: Final = member
        self._shares: Final = tuple(shares)
        self._links: Final = tuple(links)
        self._interrupt: Final = interrupt
        self._timeout_s: Final = timeout_s
        self._place: Final = [share.group for share in shares].index(member.group)
        self._elements: Final = elements_of(member.layouts[member.own])

    def exchange(self, gradient: Floats, *, step: Step, own: Contribution) -> Merged:
        """Replace the local gradient by the sum over all groups. In place, fp32.

        Raises PeerLost when a peer's connection ends, Interrupted when the agent wants this worker out, BridgeError
        for a message of another step, incarnation or content, or when a group does not come in time. After any of
        these the bridge is of no more use.
        """
        if gradient.size != self._elements:
            raise ValueError(f"a gradient of {gradient.size} elements, the layout has {self._elements}")
        started = time.monotonic()
        for link in self._links:
            self._load(link, gradient, step, own)
        last_arrival = self._run(step, started)
        reports: list[Contribution] = [own] * len(self._shares)
        for link in self._links:
            assert link.header is not None
            reports[link.group] = Contribution(link.header.tokens, link.header.loss_sum, link.header.hold)
        self._sum(gradient)
        return Merged(
            tokens=sum(report.tokens for report in reports),
            loss_sum=sum(report.loss_sum for report in reports),
            hold=any(report.hold for report in reports),
            waited_s=max(0.0, last_arrival - started),
        )

    def _load(self, link: _Link, gradient: Floats, step: Step, own: Contribution) -> None:
        parts = [gradient[start:stop] for start, stop in link.gives]
        payload = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else gradient[:0]
        body = _bytes_of(payload)
        header = Header(
            incarnation=self._member.incarnation,
            group=self._place,
            rank=self._member.rank,
            step=step,
            tokens=own.tokens,
            loss_sum=own.loss_sum,
            hold=own.hold,
            payload_bytes=body.nbytes,
            payload_hash=xxhash.xxh3_64_intdigest(body),
        )
        link.outgoing = [memoryview(header.pack()), *([body] if body.nbytes else [])]
        link.head_filled = link.filled_bytes = 0
        link.header = None
        elements = sum(stop - start for start, stop in link.takes)
        if link.incoming.size != elements:
            link.incoming = np.empty(elements, dtype=np.float32)

    def _run(self, step: Step, started: float) -> float:
        """Move all bytes. Returns when the last peer's header came."""
        poller = select.poll()
        by_descriptor = {link.sock.fileno(): link for link in self._links}
        for link in self._links:
            poller.register(link.sock, link.events)
        poller.register(self._interrupt.fileno(), select.POLLIN)
        last_arrival = started
        while by_descriptor:
            left_s = started + self._timeout_s - time.monotonic()
            ready = poller.poll(max(0.0, left_s) * 1000)
            if not ready:
                raise self._late(by_descriptor.values(), step)
            for descriptor, _ in ready:
                if descriptor == self._interrupt.fileno():
                    if self._interrupt.pump():
                        raise Interrupted
                    continue
                link = by_descriptor[descriptor]
                before = link.header
                self._advance(link, step)
                if before is None and link.header is not None:
                    last_arrival = time.monotonic()
                if link.events:
                    poller.modify(descriptor, link.events)
                else:
                    poller.unregister(descriptor)
                    del by_descriptor[descriptor]
        return last_arrival

    def _advance(self, link: _Link, step: Step) -> None:
        try:
            if link.outgoing:
                self._send(link)
            if link.receiving:
                self._receive(link, step)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            raise PeerLost(
                f"{name_of(link.peer)} is gone from the bridge at step {step}: {error.strerror or error}"
            ) from error

    @staticmethod
    def _send(link: _Link) -> None:
        with contextlib.suppress(BlockingIOError):
            sent = link.sock.send(link.outgoing[0][:_CHUNK_BYTES], socket.MSG_NOSIGNAL)
            link.outgoing[0] = link.outgoing[0][sent:]
            if not link.outgoing[0]:
                link.outgoing.pop(0)

    def _receive(self, link: _Link, step: Step) -> None:
        if link.header is None:
            count = link.sock.recv_into(memoryview(link.head)[link.head_filled :])
            link.head_filled += count
            if count and link.head_filled == HEADER_BYTES:
                link.header = self._checked(link, unpack_header(link.head, name_of(link.peer)), step)
        else:
            target = _bytes_of(link.incoming)[link.filled_bytes : link.filled_bytes + _CHUNK_BYTES]
            count = link.sock.recv_into(target)
            link.filled_bytes += count
            if link.filled_bytes == link.incoming.nbytes:
                self._check_payload(link, step)
        if not count:
            raise PeerLost(f"{name_of(link.peer)} closed the bridge at step {step}")

    def _checked(self, link: _Link, header: Header, step: Step) -> Header:
        peer = name_of(link.peer)
        if header.incarnation != self._member.incarnation:
            raise BridgeError(
                f"{peer} sent a gradient of incarnation {header.incarnation}; this is {self._member.incarnation}"
            )
        if header.step != step:
            raise BridgeError(f"{peer} sent the gradient of step {header.step}; this worker is at step {step}")
        if (header.group, header.rank) != (link.group, link.peer[1]):
            raise BridgeError(
                f"{peer} sent a gradient in the name of worker {header.rank} of group number {header.group}"
            )
        if header.payload_bytes != link.incoming.nbytes:
            raise BridgeError(
                f"{peer} sent {header.payload_bytes} bytes of gradient; its layout has {link.incoming.nbytes}"
            )
        return header

    def _check_payload(self, link: _Link, step: Step) -> None:
        assert link.header is not None
        if xxhash.xxh3_64_intdigest(_bytes_of(link.incoming)) != link.header.payload_hash:
            raise BridgeError(
                f"the gradient of step {step} from {name_of(link.peer)} does not match its hash",
                hint="the network or a host's memory flips bits; quarantine the node if it happens again",
            )

    def _late(self, links: Iterable[_Link], step: Step) -> BridgeError:
        late = sorted({name_of(link.peer) for link in links if link.receiving})
        who = ", ".join(late) or "nobody, but the peers took no data"
        return BridgeError(
            f"the merge of step {step} did not finish within {self._timeout_s:g} s; missing: {who}",
            hint="a slower group needs a smaller share or a longer bridge.timeout_s",
        )

    def _sum(self, gradient: Floats) -> None:
        """Add the groups' contributions in order. The own one is in `gradient` and may come anywhere in the order."""
        own = gradient.copy() if self._place > 0 else gradient
        for place in range(len(self._shares)):
            if place == self._place:
                if place > 0:
                    gradient += own
                continue
            for link in self._links:
                if link.group == place:
                    _apply(gradient, link, first=place == 0)

    def close(self) -> None:
        """Hang up. Peers see it as PeerLost."""
        for link in self._links:
            link.sock.close()


def _bytes_of(values: Floats) -> memoryview:
    return values.data.cast("B") if values.size else memoryview(b"")


def _apply(gradient: Floats, link: _Link, *, first: bool) -> None:
    position = 0
    for start, stop in link.takes:
        part = link.incoming[position : position + stop - start]
        position += stop - start
        if first:
            gradient[start:stop] = part
        else:
            gradient[start:stop] += part


def build(
    member: Membership,
    *,
    shares: Sequence[GroupShare],
    endpoints: Sequence[BridgeEndpoint],
    listener: socket.socket,
    interrupt: Interrupt,
    timeout_s: float,
) -> Bridge:
    """Connect this worker with its partners in all other groups.

    Raises PeerLost, BridgeError, AuthenticationError, Interrupted; nothing is left open then.
    """
    order = {share.group: place for place, share in enumerate(shares)}
    takes: dict[PeerId, Overlap] = {}
    for share in shares:
        if share.group != member.group:
            takes |= partners_of(member.own, share, member.layouts)
    gives = _takers(member, shares)
    peers = sorted(takes.keys() | gives.keys(), key=lambda peer: (order[peer[0]], peer[1]))
    _check_cover(member, shares, takes)
    where = {(endpoint.group, endpoint.rank): endpoint for endpoint in endpoints}
    until = time.monotonic() + timeout_s
    sockets: dict[PeerId, socket.socket] = {}
    try:
        callers = {peer for peer in peers if order[peer[0]] < order[member.group]}
        for peer in peers:
            if peer in callers:
                continue
            if peer not in where:
                raise BridgeError(f"nobody said where {name_of(peer)} listens")
            sockets[peer] = dial(member, peer, where[peer], interrupt=interrupt, until=until)
        _admit_all(member, listener, callers, sockets, interrupt=interrupt, until=until)
    except BaseException:
        for sock in sockets.values():
            sock.close()
        raise
    links = [
        _Link(
            peer=peer,
            group=order[peer[0]],
            sock=sockets[peer],
            gives=gives[peer].slices if peer in gives else (),
            takes=takes[peer].slices if peer in takes else (),
        )
        for peer in peers
    ]
    return Bridge(member, shares, links, interrupt=interrupt, timeout_s=timeout_s)


def _takers(member: Membership, shares: Sequence[GroupShare]) -> dict[PeerId, Overlap]:
    """Who takes what of this worker's gradient: slices of *its* local buffer."""
    own_share = next(share for share in shares if share.group == member.group)
    result: dict[PeerId, Overlap] = {}
    for peer, runs in member.layouts.items():
        if peer[0] != member.group and member.own in partners_of(peer, own_share, member.layouts):
            result[peer] = overlap(member.layouts[member.own], runs)
    return result


def _check_cover(member: Membership, shares: Sequence[GroupShare], takes: Mapping[PeerId, Overlap]) -> None:
    elements = elements_of(member.layouts[member.own])
    for share in shares:
        parts = [part for peer, shared in takes.items() if peer[0] == share.group for part in shared.slices]
        if share.group != member.group and not covers(parts, elements):
            raise BridgeError(
                f"group {share.group} does not hold all that {name_of(member.own)} holds; use one model for all groups"
            )


def _admit_all(
    member: Membership,
    listener: socket.socket,
    callers: set[PeerId],
    sockets: dict[PeerId, socket.socket],
    *,
    interrupt: Interrupt,
    until: float,
) -> None:
    door = Doorkeeper(member, listener, frozenset(callers))
    while missing := sorted(callers - sockets.keys()):
        caller = door.accept(interrupt=interrupt, until=until)
        if caller is None:
            refused = f"; turned away: {door.refused[-1]}" if door.refused else ""
            raise BridgeError(f"{name_of(missing[0])} did not call {name_of(member.own)} in time{refused}")
        peer, sock = caller
        if peer in sockets:
            sockets.pop(peer).close()  # it called twice: its first call broke off
        sockets[peer] = sock
