"""An agent's byte server, and the calls that use it: the rendezvous store, and shards pushed and fetched.

One connection, one thread, one request after another. A peer that does not prove itself, or says something that is not
of the protocol, is disconnected and reported; the server goes on.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, NoReturn, Self

import msgspec

from myriarch.errors import EnvironmentFault, IntegrityError, MyriarchError, UsageError, WireError
from myriarch.event.events import HeldShard, Role
from myriarch.wire.auth import authenticate_server
from myriarch.wire.frames import Channel, FrameSocket
from myriarch.wire.store import KeyValueStore, StoreRequest, answer, connect
from myriarch.wire.transfer import (
    FetchShard,
    PushShard,
    ReadableShard,
    Refused,
    Send,
    ShardHost,
    ShardOffer,
    Stored,
    WritableShard,
    make_offer,
    receive_payload,
    send_payload,
)

CONNECTIONS_LIMIT: Final = 1024
"""At once: each worker of the groups whose store this node hosts keeps one, transfers one each."""
LISTEN_BACKLOG: Final = 128
OFFER_TIMEOUT_S: Final = 30.0
"""How long the other side may think before it takes a shard or offers one: it may have to allocate."""
ACCEPT_PAUSE_S: Final = 0.05
CLOSE_TIMEOUT_S: Final = 5.0
"""How long `close` waits for its threads, together."""

_LOG: Final = logging.getLogger("myriarch.wire")


def _log_error(peer: str, error: MyriarchError) -> None:
    _LOG.warning("connection of %s ended: %s", peer, error)


def _ignore(shard: HeldShard) -> None:
    pass


class ByteServer:
    """Serves one agent's store and shards. A context manager; constructing opens nothing."""

    def __init__(
        self,
        host: str,
        token: str,
        store: KeyValueStore,
        shards: ShardHost,
        *,
        port: int = 0,
        allow_remote: bool = False,
        connections_limit: int = CONNECTIONS_LIMIT,
        on_received: Callable[[HeldShard], None] = _ignore,
        on_error: Callable[[str, MyriarchError], None] = _log_error,
    ) -> None:
        """`port` 0: any. `on_received` and `on_error(peer, error)` are called in the server's threads."""
        if not allow_remote and not _is_loopback(host):
            raise UsageError(
                f"the byte server would listen on {host}, which other machines reach; pass allow_remote to mean it"
            )
        self.host = host
        self.store = store
        self._token = token
        self._shards = shards
        self._wanted_port = port
        self._places = threading.BoundedSemaphore(connections_limit)
        self._on_received = on_received
        self._on_error = on_error
        self._lock = threading.Lock()
        self._connections: dict[FrameSocket, threading.Thread] = {}
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._closing = False

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        if self._listener is None:
            raise UsageError("the byte server was not started, or is closed")
        port: int = self._listener.getsockname()[1]
        return port

    def start(self) -> None:
        """Listen. Raises EnvironmentFault when the address or port cannot be had."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self._wanted_port))
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            listener.close()
            raise EnvironmentFault(
                f"the byte server cannot listen on {self.host}:{self._wanted_port}: {error.strerror}",
                hint="use port 0 for any free port, or end the process that has it (`ss -ltnp`)",
            ) from error
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name="byte-server", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening, end all connections and waits, join the threads. The store is closed with it."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            connections = dict(self._connections)
        self.store.close()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for frames in connections:
            frames.shutdown()
        threads = [*connections.values(), *([self._acceptor] if self._acceptor else [])]
        until = time.monotonic() + CLOSE_TIMEOUT_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- connections ---

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                if self._closing:
                    return
                # Out of file descriptors, most likely: the connections that end will give some back.
                time.sleep(ACCEPT_PAUSE_S)
                continue
            if not self._places.acquire(blocking=False):
                sock.close()
                self._report(f"{peer[0]}:{peer[1]}", WireError("all places of the byte server are taken"))
                continue
            try:
                self._welcome(sock)
            except (OSError, RuntimeError) as error:  # no more threads, or it left at once
                sock.close()
                self._places.release()
                self._report(f"{peer[0]}:{peer[1]}", WireError(f"could not be served: {error}"))

    def _welcome(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        frames = FrameSocket(sock)
        thread = threading.Thread(target=self._serve, args=(frames,), name=f"byte-server {frames.peer}", daemon=True)
        with self._lock:
            if self._closing:
                raise OSError("the byte server is closing")
            thread.start()
            self._connections[frames] = thread

    def _serve(self, frames: FrameSocket) -> None:
        try:
            authenticate_server(frames, self._token)
            channel: Channel[StoreRequest | PushShard | FetchShard] = Channel(frames, decode_type=_Request)
            while (request := channel.receive()) is not None:
                self._handle(channel, request)
        except MyriarchError as error:
            self._report(frames.peer, error)
        except Exception as error:  # noqa: BLE001  the edge of a thread: said, and the server goes on
            self._report(frames.peer, WireError(f"the request failed on this side: {type(error).__name__}: {error}"))
        finally:
            with self._lock:
                self._connections.pop(frames, None)
            frames.close()
            self._places.release()

    def _report(self, peer: str, error: MyriarchError) -> None:
        if not self._closing:
            self._on_error(peer, error)

    def _handle(self, channel: Channel[Any], request: StoreRequest | PushShard | FetchShard) -> None:
        match request:
            case PushShard(offer=offer):
                self._take(channel, offer)
            case FetchShard(shard=shard):
                self._give(channel, shard)
            case _:
                channel.send(answer(self.store, request, gone=lambda: _hung_up(channel)))

    # --- shards ---

    def _take(self, channel: Channel[Any], offer: ShardOffer) -> None:
        """Receive what somebody pushes. After a failure in the payload the connection is of no more use."""
        copy = msgspec.structs.replace(offer.shard, role="copy", committed=False)
        if self._shards.holds(copy):
            channel.send(Stored(shard=copy))
            return
        receiving = False
        try:
            with _open_for(self._shards, offer, copy) as target:
                channel.send(Send())
                receiving = True
                receive_payload(channel.frames, target)
                stored = target.publish()
        except WireError:
            raise
        except MyriarchError as error:
            if receiving or not self._shards.holds(copy):  # another connection may have brought it meanwhile
                channel.send(_refusal(error))
                if receiving:
                    raise
                return
            stored = copy
        self._on_received(stored)
        channel.send(Stored(shard=stored))

    def _give(self, channel: Channel[Any], shard: HeldShard) -> None:
        try:
            with self._shards.reading(shard) as source:
                channel.send(make_offer(shard, source))
                with source.payload as payload:
                    send_payload(channel.frames, payload)
        except WireError:
            raise
        except MyriarchError as error:
            channel.send(_refusal(error))


_Request: Final = StoreRequest | PushShard | FetchShard


def push_shard(address: str, port: int, token: str, shard: HeldShard, source: ReadableShard) -> HeldShard:
    """Copy a sealed shard into another node's memory. Blocks; returns the copy as it is held there.

    Raises IntegrityError when bytes arrived that do not match their hashes, WireError for anything else that fails.
    Nothing is visible on the other side unless this returns; asking again is harmless.
    """
    with connect(address, port, token) as frames:
        channel: Channel[Send | Stored | Refused] = Channel(frames, decode_type=Send | Stored | Refused)
        channel.send(PushShard(offer=make_offer(shard, source)))
        reply = _expect(channel, "offer")
        if isinstance(reply, Send):
            try:
                with source.payload as payload:
                    send_payload(frames, payload)
            except WireError as error:
                _raise_last_word(channel, error)
            reply = _expect(channel, "payload")
        if not isinstance(reply, Stored):
            raise WireError(f"{frames.peer} asked for the payload twice")
        return reply.shard


def fetch_shard(
    address: str, port: int, token: str, shard: HeldShard, into: ShardHost, *, role: Role = "own"
) -> HeldShard:
    """Copy a shard from another node's memory into this one's, under `role`. Blocks; returns it as it is held here.

    A committed shard is committed here too. Raises IntegrityError when the bytes do not match their hashes (nothing is
    published), WireError when the other side cannot give it or breaks off.
    """
    with connect(address, port, token) as frames:
        channel: Channel[ShardOffer | Refused] = Channel(frames, decode_type=ShardOffer | Refused)
        channel.send(FetchShard(shard=shard))
        offer = channel.receive(timeout_s=OFFER_TIMEOUT_S)
        if offer is None:
            raise WireError(f"{frames.peer} closed the connection instead of offering a shard")
        if isinstance(offer, Refused):
            raise _error_of(offer, frames.peer)
        if offer.shard != shard:
            raise WireError(f"{frames.peer} offered another shard than it was asked for")
        with _open_for(into, offer, msgspec.structs.replace(shard, role=role)) as target:
            receive_payload(frames, target)
            return target.publish()


def _open_for(host: ShardHost, offer: ShardOffer, shard: HeldShard) -> AbstractContextManager[WritableShard]:
    return host.receiving(
        shard,
        layout_hash=offer.layout_hash,
        digest=offer.digest,
        index=offer.index,
        index_room_bytes=offer.index_room_bytes,
        block_hashes=offer.block_hashes,
    )


def _expect(channel: Channel[Send | Stored | Refused], what: str) -> Send | Stored:
    reply = channel.receive(timeout_s=OFFER_TIMEOUT_S)
    if reply is None:
        raise WireError(f"{channel.frames.peer} closed the connection after the {what}")
    if isinstance(reply, Refused):
        raise _error_of(reply, channel.frames.peer)
    return reply


def _raise_last_word(channel: Channel[Send | Stored | Refused], error: WireError) -> NoReturn:
    """The peer broke off a transfer: if it said why, that is the better error."""
    try:
        reply = channel.receive(timeout_s=1.0)
    except WireError:
        reply = None
    raise _error_of(reply, channel.frames.peer) if isinstance(reply, Refused) else error


def _refusal(error: MyriarchError) -> Refused:
    return Refused(error=error.message, integrity=isinstance(error, IntegrityError))


def _error_of(refused: Refused, peer: str) -> MyriarchError:
    kind = IntegrityError if refused.integrity else WireError
    return kind(f"{peer} refused: {refused.error}")


def _hung_up(channel: Channel[Any]) -> bool:
    """Whether the client, which waits for an answer, closed its end."""
    if not channel.poll(0.0):
        return False
    try:
        return not channel.frames.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
