"""How the bridge's connections come about: who calls whom, who is let in, and how waiting ends.

Workers of an earlier group in the order of summation dial those of later ones. Calls go out in order and are
answered in any, so nobody waits in a circle. A stranger, a fenced worker of an older incarnation or a model of
another layout is refused at the door and costs nobody a step.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from myriarch.errors import AuthenticationError, WireError
from myriarch.event.actions import BridgeEndpoint
from myriarch.event.ids import GroupId, Incarnation, Rank
from myriarch.train.bridge_wire import (
    HELLO_LIMIT_BYTES,
    PURPOSE,
    VERSION,
    BridgeError,
    Hello,
    PeerLost,
    Welcome,
    decode_hello,
    decode_welcome,
    encode,
)
from myriarch.train.layout import Run, fingerprint
from myriarch.wire.auth import authenticate_client, authenticate_server
from myriarch.wire.frames import FrameSocket

CALLER_TIMEOUT_S: Final = 3.0
"""A caller that says nothing for so long is cut off: it holds up the others."""
REFUSALS_LIMIT: Final = 256
"""Callers turned away before the listener calls it an attack."""
BACKLOG: Final = 256
_BUFFER_BYTES: Final = 4 << 20
"""Socket buffers: twice the bandwidth-delay product of 1 Gbit/s over 16 ms."""

PeerId = tuple[GroupId, Rank]


class Interrupted(Exception):
    """The agent wants this worker out of the incarnation, or is gone."""


class Interrupt(Protocol):
    """What every wait of the bridge listens to besides its peers: the agent."""

    def fileno(self) -> int: ...

    def pump(self) -> bool:
        """Take in what the agent said; True when this worker is to leave the incarnation."""
        ...


@dataclass(frozen=True)
class Membership:
    """Who this worker is in an incarnation, and what everybody holds."""

    group: GroupId
    rank: Rank
    incarnation: Incarnation
    token: str
    layouts: Mapping[PeerId, tuple[Run, ...]]
    """Of all workers of all groups, this one included."""

    @property
    def own(self) -> PeerId:
        return self.group, self.rank


def name_of(peer: PeerId) -> str:
    """For people: `worker 1 of group slow`."""
    return f"worker {peer[1]} of group {peer[0]}"


def listen(host: str) -> socket.socket:
    """The worker's end of the bridge, on a free port of `host`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def wait_for(sock: socket.socket, interrupt: Interrupt, *, until: float) -> bool:
    """Until `sock` is readable (True) or the monotonic instant has come (False). Raises Interrupted."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poller.register(interrupt.fileno(), select.POLLIN)
    while (left_s := until - time.monotonic()) > 0:
        ready = {descriptor for descriptor, _ in poller.poll(left_s * 1000)}
        if interrupt.fileno() in ready and interrupt.pump():
            raise Interrupted
        if sock.fileno() in ready:
            return True
    return False


def dial(
    member: Membership, peer: PeerId, endpoint: BridgeEndpoint, *, interrupt: Interrupt, until: float
) -> socket.socket:
    """Connect to `peer`.

    Raises PeerLost when it is gone, BridgeError when it refuses, AuthenticationError, Interrupted.
    """
    try:
        sock = socket.create_connection((endpoint.host, endpoint.port), timeout=max(0.1, until - time.monotonic()))
    except OSError as error:
        raise PeerLost(f"{name_of(peer)} cannot be reached at {endpoint.host}:{endpoint.port}: {error}") from error
    try:
        frames = FrameSocket(sock, peer=name_of(peer))
        if not wait_for(sock, interrupt, until=until):
            raise BridgeError(f"{name_of(peer)} did not open its end of the bridge in time")
        _greet(member, peer, frames)
    except BaseException:
        sock.close()
        raise
    return _tuned(sock)


def _greet(member: Membership, peer: PeerId, frames: FrameSocket) -> None:
    try:
        authenticate_client(frames, member.token, purpose=PURPOSE)
        frames.send(
            encode(
                Hello(
                    version=VERSION,
                    incarnation=member.incarnation,
                    group=member.group,
                    rank=member.rank,
                    own_layout=fingerprint(member.layouts[member.own]),
                    peer_layout=fingerprint(member.layouts[peer]),
                )
            )
        )
        body = frames.recv(timeout_s=CALLER_TIMEOUT_S, limit_bytes=HELLO_LIMIT_BYTES)
    except AuthenticationError:
        raise
    except WireError as error:
        raise PeerLost(f"{name_of(peer)} broke off while the bridge was built: {error}") from error
    if body is None:
        raise PeerLost(f"{name_of(peer)} hung up while the bridge was built")
    welcome = decode_welcome(body, name_of(peer))
    if welcome.refusal:
        raise BridgeError(f"{name_of(peer)} refused {name_of(member.own)}: {welcome.refusal}")


class Doorkeeper:
    """Accepts the workers that are to call, and nobody else."""

    def __init__(self, member: Membership, listener: socket.socket, expected: frozenset[PeerId]) -> None:
        self._member = member
        self._listener = listener
        self._expected = expected
        self.refused: list[str] = []
        """Why callers were turned away, for the error message of a bridge that did not come about."""

    def accept(self, *, interrupt: Interrupt, until: float) -> tuple[PeerId, socket.socket] | None:
        """The next caller that belongs here; None when the time is up. Raises Interrupted, BridgeError."""
        while wait_for(self._listener, interrupt, until=until):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            frames = FrameSocket(sock, peer=f"{address[0]}:{address[1]}")
            try:
                return self._admit(frames), _tuned(sock)
            except WireError as error:
                sock.close()
                self.refused.append(str(error))
                if len(self.refused) > REFUSALS_LIMIT:
                    raise BridgeError(
                        f"{name_of(self._member.own)} turned away {len(self.refused)} callers, the last as {error}",
                        hint="something else connects to the bridge's port; keep it on the pools' own network",
                    ) from error
        return None

    def _admit(self, frames: FrameSocket) -> PeerId:
        authenticate_server(frames, self._member.token, purpose=PURPOSE, timeout_s=CALLER_TIMEOUT_S)
        body = frames.recv(timeout_s=CALLER_TIMEOUT_S, limit_bytes=HELLO_LIMIT_BYTES)
        if body is None:
            raise BridgeError(f"{frames.peer} hung up before it said who it is")
        hello = decode_hello(body, frames.peer)
        refusal = self._objection(hello)
        frames.send(encode(Welcome(refusal=refusal)))
        if refusal:
            raise BridgeError(refusal)
        return hello.group, hello.rank

    def _objection(self, hello: Hello) -> str:
        """Why this caller cannot be let in; empty when it can."""
        member, peer = self._member, (hello.group, hello.rank)
        if hello.version != VERSION:
            return f"{name_of(peer)} speaks version {hello.version} of the bridge's format, not {VERSION}"
        if hello.incarnation != member.incarnation:
            return f"{name_of(peer)} is of incarnation {hello.incarnation}, this is {member.incarnation}"
        if peer not in self._expected:
            return f"{name_of(peer)} is not expected here"
        if hello.own_layout != fingerprint(member.layouts[peer]) or hello.peer_layout != fingerprint(
            member.layouts[member.own]
        ):
            return f"{name_of(peer)} has another model or mesh than {name_of(member.own)} believes"
        return ""


def _tuned(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    sock.setblocking(False)
    return sock
