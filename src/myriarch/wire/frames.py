"""Frames: how messages travel over a stream socket.

    u32 length of the body | u32 crc32 of the body | body          little-endian

The end of the stream between two frames is an end (`None`); inside a frame it is a torn frame (WireError), as is a
frame that is too long or whose checksum is wrong. After any WireError the stream has lost its place: close it.

`FrameSocket` and `Channel` are for threads and workers, `read_frame`, `write_frame` and `AsyncChannel` for asyncio. A
channel carries typed MessagePack messages, one per frame.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import threading
import time
import zlib
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import msgspec

from myriarch.errors import WireError

FRAME_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""A longer frame is refused before it is read. Bulk bytes do not travel in frames."""
FRAME_TIMEOUT_S: Final = 30.0
"""From a frame's first byte to its last, either way: a peer that stalls inside a frame is cut off."""

_HEAD: Final = struct.Struct("<II")
_JOIN_BYTES: Final = 64 * 1024
"""Up to here head and body go out in one piece; a longer body is not copied for that."""

_learning: Final = threading.Lock()
"""msgspec learns a struct when the first decoder that names it is made. One made by another thread meanwhile shares
what is half learned, and ends the process with SIGSEGV as it decodes (msgspec 0.22: two first peers at once)."""

M = TypeVar("M")


def _check_length(length: int, limit_bytes: int, peer: str) -> None:
    if length > limit_bytes:
        raise WireError(f"{peer} announced a frame of {length} bytes; the limit here is {limit_bytes}")


def _check_body(body: bytes, checksum: int, peer: str) -> None:
    if zlib.crc32(body) != checksum:
        raise WireError(f"a frame from {peer} does not match its checksum")


class FrameSocket:
    """Frames over a connected socket. One thread may send while another receives; each waits its turn otherwise."""

    def __init__(self, sock: socket.socket, *, peer: str = "") -> None:
        sock.settimeout(None)
        self.sock = sock
        self.peer = peer or _peer_name(sock)
        self._send_lock = threading.Lock()

    def send(self, body: bytes, *, timeout_s: float = FRAME_TIMEOUT_S) -> None:
        """Send one frame. Raises WireError if the peer is gone, or takes nothing for `timeout_s`."""
        _check_length(len(body), FRAME_LIMIT_BYTES, "this process")
        head = _HEAD.pack(len(body), zlib.crc32(body))
        pieces = (head + body,) if len(body) <= _JOIN_BYTES else (head, body)
        until = time.monotonic() + timeout_s
        with self._send_lock:
            for piece in pieces:
                self._send_all(memoryview(piece), until, timeout_s)

    def _send_all(self, data: memoryview, until: float, timeout_s: float) -> None:
        while data:
            try:
                sent = self.sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if not _wait(self.sock, select.POLLOUT, until - time.monotonic()):
                    raise WireError(f"{self.peer} took no data for {timeout_s:g} s") from None
            except OSError as error:
                raise WireError(f"the connection to {self.peer} is broken: {error.strerror or error}") from error
            else:
                data = data[sent:]

    def recv(self, *, timeout_s: float | None = None, limit_bytes: int = FRAME_LIMIT_BYTES) -> bytes | None:
        """The next frame; None at the end of the stream.

        `timeout_s` bounds the wait for its first byte (None: for ever), FRAME_TIMEOUT_S the rest. Raises WireError.
        """
        if timeout_s is not None and not self.poll(timeout_s):
            raise WireError(f"{self.peer} sent nothing for {timeout_s:g} s")
        first = self._receive(1, None)
        if not first:
            return None
        until = time.monotonic() + FRAME_TIMEOUT_S
        length, checksum = _HEAD.unpack(first + self._exactly(_HEAD.size - 1, until))
        _check_length(length, limit_bytes, self.peer)
        body = self._exactly(length, until)
        _check_body(body, checksum, self.peer)
        return body

    def _exactly(self, size_bytes: int, until: float) -> bytes:
        data = bytearray()
        while len(data) < size_bytes:
            part = self._receive(min(size_bytes - len(data), 1 << 20), until)
            if not part:
                raise WireError(f"{self.peer} closed the connection in the middle of a frame")
            data += part
        return bytes(data)

    def _receive(self, size_bytes: int, until: float | None) -> bytes:
        try:
            if until is not None:
                try:
                    return self.sock.recv(size_bytes, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    if not _wait(self.sock, select.POLLIN, until - time.monotonic()):
                        raise WireError(f"{self.peer} stopped in the middle of a frame") from None
            return self.sock.recv(size_bytes)
        except ConnectionResetError:
            return b""  # a peer that was killed with data unread: an end like any other
        except OSError as error:
            raise WireError(f"the connection to {self.peer} is broken: {error.strerror or error}") from error

    def poll(self, timeout_s: float = 0.0) -> bool:
        """Whether a frame, or the end of the stream, can be received now or comes within `timeout_s`."""
        return _wait(self.sock, select.POLLIN, timeout_s)

    def fileno(self) -> int:
        return self.sock.fileno()

    def shutdown(self) -> None:
        """End the connection under whoever is waiting on it, from any thread. Still to be closed."""
        with suppress(OSError):  # the peer was faster
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wait(sock: socket.socket, events: int, timeout_s: float) -> bool:
    if sock.fileno() < 0:
        raise WireError("the connection was closed on this side")
    poller = select.poll()  # not select(): file numbers past 1024 are common on big nodes
    poller.register(sock, events)
    return bool(poller.poll(max(0.0, timeout_s) * 1000))


def _peer_name(sock: socket.socket) -> str:
    try:
        peer: Any = sock.getpeername()
    except OSError:
        return "a peer that is gone"
    if isinstance(peer, tuple):
        return f"{peer[0]}:{peer[1]}"
    return str(peer) or "the peer"


# --- asyncio ---------------------------------------------------------------------------------------------------------


async def read_frame(
    reader: asyncio.StreamReader, *, limit_bytes: int = FRAME_LIMIT_BYTES, peer: str = "the peer"
) -> bytes | None:
    """The next frame; None at the end of the stream. Waits for ever for its first byte. Raises WireError."""
    try:
        first = await reader.read(1)
        if not first:
            return None
        async with asyncio.timeout(FRAME_TIMEOUT_S):
            length, checksum = _HEAD.unpack(first + await reader.readexactly(_HEAD.size - 1))
            _check_length(length, limit_bytes, peer)
            body = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise WireError(f"{peer} closed the connection in the middle of a frame") from error
    except TimeoutError as error:
        raise WireError(f"{peer} stopped in the middle of a frame") from error
    except ConnectionError:
        return None
    _check_body(body, checksum, peer)
    return body


async def write_frame(writer: asyncio.StreamWriter, body: bytes, *, peer: str = "the peer") -> None:
    """Send one frame and wait until the transport has room again. Raises WireError."""
    _check_length(len(body), FRAME_LIMIT_BYTES, "this process")
    try:
        writer.write(_HEAD.pack(len(body), zlib.crc32(body)) + body)
        async with asyncio.timeout(FRAME_TIMEOUT_S):
            await writer.drain()
    except TimeoutError as error:
        raise WireError(f"{peer} took no data for {FRAME_TIMEOUT_S:g} s") from error
    except (ConnectionError, RuntimeError) as error:
        raise WireError(f"the connection to {peer} is broken: {error}") from error


# --- typed messages --------------------------------------------------------------------------------------------------


class Channel(Generic[M]):
    """Typed messages over a socket: `Channel(sock, decode_type=FromAgent)` receives what that union names."""

    def __init__(self, sock: socket.socket | FrameSocket, *, decode_type: Any) -> None:
        self.frames = sock if isinstance(sock, FrameSocket) else FrameSocket(sock)
        self._codec = _Codec[M](decode_type)

    def send(self, message: msgspec.Struct) -> None:
        self.frames.send(self._codec.encode(message))

    def receive(self, *, timeout_s: float | None = None) -> M | None:
        """The next message; None at the end of the stream."""
        body = self.frames.recv(timeout_s=timeout_s)
        return None if body is None else self._codec.decode(body, self.frames.peer)

    def poll(self, timeout_s: float = 0.0) -> bool:
        return self.frames.poll(timeout_s)

    def fileno(self) -> int:
        return self.frames.fileno()

    def close(self) -> None:
        self.frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChannel(Generic[M]):
    """The same over asyncio streams."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, decode_type: Any, peer: str = "the peer"
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.peer = peer
        self._codec = _Codec[M](decode_type)

    async def send(self, message: msgspec.Struct) -> None:
        await write_frame(self.writer, self._codec.encode(message), peer=self.peer)

    async def receive(self) -> M | None:
        """The next message; None at the end of the stream."""
        body = await read_frame(self.reader, peer=self.peer)
        return None if body is None else self._codec.decode(body, self.peer)

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):  # it was broken before: closed all the same
            await self.writer.wait_closed()


class _Codec(Generic[M]):
    def __init__(self, decode_type: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        with _learning:
            self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(decode_type)

    def encode(self, message: msgspec.Struct) -> bytes:
        return self._encoder.encode(message)

    def decode(self, body: bytes, peer: str) -> M:
        try:
            return self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise WireError(f"{peer} sent a message that is not of this protocol: {error}") from error
