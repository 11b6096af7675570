"""Frames arrive whole, in order, or not at all, and an end is told from a cut."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import WireError
from myriarch.wire import frames as frames_module
from myriarch.wire.frames import FRAME_LIMIT_BYTES, AsyncChannel, Channel, FrameSocket, read_frame, write_frame

Pair = tuple[socket.socket, socket.socket]


class Hello(msgspec.Struct, tag="hello"):
    text: str


class Bye(msgspec.Struct, tag="bye"):
    number: int


@given(st.lists(st.binary(max_size=300_000), max_size=5))
def test_frames_arrive_as_they_were_sent(bodies: list[bytes]) -> None:
    left, right = socket.socketpair()
    with FrameSocket(left) as sender, FrameSocket(right) as receiver:

        def send() -> None:
            for body in bodies:
                sender.send(body)
            left.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        received = []
        while (body := receiver.recv(timeout_s=30)) is not None:
            received.append(body)
        thread.join()
    assert received == bodies


def test_an_end_between_frames_is_an_end(pair: Pair) -> None:
    sender, receiver = FrameSocket(pair[0]), FrameSocket(pair[1])
    sender.send(b"last")
    sender.close()
    assert receiver.poll()
    assert receiver.recv() == b"last"
    assert receiver.recv() is None
    assert receiver.recv() is None


@pytest.mark.parametrize("cut", [1, 4, 7, 8, 9, 11])
def test_an_end_inside_a_frame_is_an_error(pair: Pair, cut: int) -> None:
    captured, whole = socket.socketpair()
    FrameSocket(captured).send(b"body")
    pair[0].sendall(whole.recv(100)[:cut])
    captured.close()
    whole.close()
    pair[0].close()
    with pytest.raises(WireError, match="in the middle of a frame"):
        FrameSocket(pair[1]).recv()


def test_every_flipped_bit_of_a_frame_is_found(pair: Pair) -> None:
    FrameSocket(pair[0]).send(b"some body")
    frame = pair[1].recv(100)
    for bit in range(4 * 8, len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        pair[0].sendall(damaged)
        with pytest.raises(WireError, match="does not match its checksum"):
            FrameSocket(pair[1]).recv()


def test_a_frame_that_is_too_long_is_refused_before_it_is_read(pair: Pair) -> None:
    pair[0].sendall(b"\xff\xff\xff\xff" + bytes(4))
    with pytest.raises(WireError, match="announced a frame of 4294967295 bytes; the limit here is 67108864"):
        FrameSocket(pair[1]).recv()
    with pytest.raises(WireError, match="this process announced"):
        FrameSocket(pair[0]).send(bytes(FRAME_LIMIT_BYTES + 1))


def test_silence_is_named(pair: Pair) -> None:
    with pytest.raises(WireError, match=r"worker 3 sent nothing for 0.01 s"):
        FrameSocket(pair[1], peer="worker 3").recv(timeout_s=0.01)


def test_a_peer_that_stops_inside_a_frame_is_cut_off(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "FRAME_TIMEOUT_S", 0.05)
    pair[0].sendall(b"\x10\0\0\0")
    with pytest.raises(WireError, match="stopped in the middle of a frame"):
        FrameSocket(pair[1]).recv()


def test_a_peer_that_takes_nothing_is_cut_off(pair: Pair) -> None:
    sender = FrameSocket(pair[0])
    with pytest.raises(WireError, match=r"took no data for 0.05 s"):
        sender.send(bytes(8 << 20), timeout_s=0.05)


def test_sending_to_somebody_who_is_gone(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(WireError, match="is broken: Broken pipe"):
        FrameSocket(pair[0]).send(b"anybody?")


def test_shutdown_ends_a_wait(pair: Pair) -> None:
    receiver = FrameSocket(pair[1])
    results: list[bytes | None] = [b""]
    thread = threading.Thread(target=lambda: results.append(receiver.recv()))
    thread.start()
    receiver.shutdown()
    thread.join(10)
    assert results == [b"", None]


def test_waiting_on_what_this_side_closed(pair: Pair) -> None:
    frames = FrameSocket(pair[0])
    frames.close()
    with pytest.raises(WireError, match="closed on this side"):
        frames.poll()


# --- channels --------------------------------------------------------------------------------------------------------


def test_messages_keep_their_types(pair: Pair) -> None:
    with (
        Channel[Hello | Bye](pair[0], decode_type=Hello | Bye) as left,
        Channel[Hello | Bye](pair[1], decode_type=Hello | Bye) as right,
    ):
        left.send(Hello(text="万"))
        left.send(Bye(number=3))
        assert right.poll(1.0)
        assert right.receive() == Hello(text="万")
        assert right.receive() == Bye(number=3)
        assert not right.poll()


FIRST_PEERS = """
import socket, sys, threading
import msgspec
from myriarch.wire.frames import Channel

sys.setswitchinterval(1e-6)


def meet(kind, data, together):
    together.wait()
    left, right = socket.socketpair()
    with left, right:
        Channel(left, decode_type=kind)
        channel = Channel(right, decode_type=kind)
        channel._codec.decode(data, "a peer")


for index in range(40):  # types that nobody knows yet
    part = msgspec.defstruct(f"Part{index}", [("name", str), ("sizes", tuple[int, ...]), ("more", dict[str, int])])
    one = msgspec.defstruct(f"One{index}", [("part", part), ("other", part | None)], tag=True)
    two = msgspec.defstruct(f"Two{index}", [("parts", tuple[part, ...])], tag=True)
    data = msgspec.msgpack.encode(one(part("a", (1, 2), {}), part("b", (), {"c": 3})))
    together = threading.Barrier(4)
    threads = [threading.Thread(target=meet, args=(one | two, data, together)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_first_peers_may_come_at_once() -> None:
    """Their messages' types are learned by one thread at a time: otherwise the process ends with SIGSEGV."""
    done = subprocess.run([sys.executable, "-c", FIRST_PEERS], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"type": "other"})])
def test_what_is_no_message_is_refused(pair: Pair, body: bytes) -> None:
    FrameSocket(pair[0]).send(body)
    with pytest.raises(WireError, match="not of this protocol"):
        Channel[Hello](pair[1], decode_type=Hello).receive()


# --- asyncio ---------------------------------------------------------------------------------------------------------

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def with_streams(pair: Pair, work: Callable[[Streams, Streams], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        left = await asyncio.open_connection(sock=pair[0])
        right = await asyncio.open_connection(sock=pair[1])
        try:
            await work(left, right)
        finally:
            for _, writer in (left, right):
                writer.close()

    asyncio.run(run())


def test_async_frames_and_messages(pair: Pair) -> None:
    async def work(left: Streams, right: Streams) -> None:
        await write_frame(left[1], b"one")
        assert await read_frame(right[0]) == b"one"
        channel = AsyncChannel[Hello](*left, decode_type=Hello, peer="worker")
        other = AsyncChannel[Hello](*right, decode_type=Hello)
        await other.send(Hello(text="x"))
        assert await channel.receive() == Hello(text="x")
        await other.send(Bye(number=1))
        with pytest.raises(WireError, match="worker sent a message that is not of this protocol"):
            await channel.receive()
        await other.close()
        assert await channel.receive() is None

    with_streams(pair, work)


def test_async_cuts_and_lies(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "FRAME_TIMEOUT_S", 0.05)

    async def work(left: Streams, right: Streams) -> None:
        left[1].write(b"\xff\xff\xff\xff\0\0\0\0")
        with pytest.raises(WireError, match="the limit here is"):
            await read_frame(right[0])
        left[1].write(b"\1\0\0\0\0\0\0\0x")
        with pytest.raises(WireError, match="checksum"):
            await read_frame(right[0])
        left[1].write(b"\1\0")
        with pytest.raises(WireError, match="stopped in the middle"):
            await read_frame(right[0])
        left[1].write(b"\1\0\0\0")
        left[1].close()
        with pytest.raises(WireError, match="in the middle of a frame"):
            await read_frame(right[0])

    with_streams(pair, work)
