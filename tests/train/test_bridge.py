"""The bridge between threads: sums in a fixed order, over unlike layouts, and nobody comes in who does not belong."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from myriarch.errors import AuthenticationError, WireError
from myriarch.event.actions import BridgeEndpoint, GroupShare
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.spec.run import Mesh
from myriarch.train.bridge import Bridge, Contribution, Merged, build, layouts_of
from myriarch.train.bridge_links import Interrupted, Membership, listen
from myriarch.train.bridge_wire import (
    PURPOSE,
    VERSION,
    BridgeError,
    Header,
    Hello,
    PeerLost,
    decode_welcome,
    encode,
    unpack_header,
)
from myriarch.train.layout import Run, fingerprint
from myriarch.wire.auth import authenticate_client
from myriarch.wire.frames import FrameSocket

SHAPES = {"a": (7, 3), "b": (5,), "c": (2, 2, 2), "d": (1, 4)}
ELEMENTS = 38
TOKEN = "secret" * 8
Floats = npt.NDArray[np.float32]


class Quiet:
    """An agent that says nothing until it is told to."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.called = False

    def call(self) -> None:
        self.called = True
        os.write(self._write, b"!")

    def fileno(self) -> int:
        return self._read

    def pump(self) -> bool:
        os.read(self._read, 1)
        return self.called

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Worlds:
    """Groups of given meshes; each worker is a thread."""

    def __init__(self, meshes: Mapping[str, Mesh], *, timeout_s: float = 10.0) -> None:
        self.meshes = {GroupId(group): mesh for group, mesh in meshes.items()}
        self.shares = [GroupShare(group=g, world_size=m.devices, first=0, count=1) for g, m in self.meshes.items()]
        self.layouts = layouts_of(self.shares, SHAPES, self.meshes)
        self.listeners = {peer: listen("127.0.0.1") for peer in self.layouts}
        self.agents = {peer: Quiet() for peer in self.layouts}
        self.timeout_s = timeout_s
        self.bridges: list[Bridge] = []

    @property
    def endpoints(self) -> list[BridgeEndpoint]:
        return [
            BridgeEndpoint(group=group, rank=rank, host="127.0.0.1", port=listener.getsockname()[1])
            for (group, rank), listener in self.listeners.items()
        ]

    def member(self, peer: tuple[GroupId, Rank], **changes: Any) -> Membership:
        fields: dict[str, Any] = {"incarnation": Incarnation(1), "token": TOKEN, "layouts": self.layouts}
        return Membership(group=peer[0], rank=peer[1], **(fields | changes))

    def build(self, peer: tuple[GroupId, Rank], **changes: Any) -> Bridge:
        bridge = build(
            self.member(peer, **changes),
            shares=self.shares,
            endpoints=self.endpoints,
            listener=self.listeners[peer],
            interrupt=self.agents[peer],
            timeout_s=self.timeout_s,
        )
        self.bridges.append(bridge)
        return bridge

    def close(self) -> None:
        for bridge in self.bridges:
            bridge.close()
        for listener in self.listeners.values():
            listener.close()
        for agent in self.agents.values():
            agent.close()


MakeWorlds = Callable[..., Worlds]


@pytest.fixture
def make_worlds() -> Iterator[MakeWorlds]:
    made: list[Worlds] = []

    def make(meshes: Mapping[str, Mesh], **options: Any) -> Worlds:
        made.append(Worlds(meshes, **options))
        return made[-1]

    yield make
    for worlds in made:
        worlds.close()


def local(gradient: Floats, runs: Sequence[Run]) -> Floats:
    return np.concatenate([gradient[run.start : run.stop] for run in runs] or [gradient[:0]])


def in_threads(work: Callable[[Any], Any], keys: Sequence[Any]) -> list[Future[Any]]:
    with ThreadPoolExecutor(len(keys)) as pool:
        return [pool.submit(work, key) for key in keys]


MESHES = [
    {"x": Mesh(), "y": Mesh()},
    {"x": Mesh(), "y": Mesh(dp_shard=2)},
    {"y": Mesh(dp_shard=3), "x": Mesh(dp_shard=2)},
    {"x": Mesh(dp_shard=2), "y": Mesh(dp_shard=2), "z": Mesh()},
    {"x": Mesh(dp_replicate=2, dp_shard=2), "y": Mesh(dp_shard=3)},
    {"x": Mesh(dp_replicate=2), "y": Mesh(dp_replicate=3)},
    {"x": Mesh(dp_shard=9), "y": Mesh()},
]


@pytest.mark.parametrize("meshes", MESHES, ids=lambda m: "+".join(f"{v.dp_replicate}x{v.dp_shard}" for v in m.values()))
def test_sums_in_the_order_of_shares_on_every_layout(make_worlds: MakeWorlds, meshes: Mapping[str, Mesh]) -> None:
    worlds = make_worlds(meshes)
    generator = np.random.default_rng(0)
    gradients = {
        g: (generator.standard_normal(ELEMENTS) * 10.0 ** generator.integers(-6, 6, ELEMENTS)).astype(np.float32)
        for g in worlds.meshes
    }
    expected = np.zeros(0, dtype=np.float32)
    for gradient in gradients.values():
        expected = gradient if not expected.size else expected + gradient

    def work(peer: tuple[GroupId, Rank]) -> tuple[Floats, Merged]:
        bridge = worlds.build(peer)
        merged = None
        for step in range(3):
            own = local(gradients[peer[0]], worlds.layouts[peer])
            hold = peer[0] == "x" and step == 2
            merged = bridge.exchange(own, step=Step(step), own=Contribution(tokens=10, loss_sum=0.1, hold=hold))
            assert merged.hold == (step == 2)
        assert merged is not None
        return own, merged

    for peer, result in zip(worlds.layouts, in_threads(work, list(worlds.layouts)), strict=True):
        own, merged = result.result()
        assert own.tobytes() == local(expected, worlds.layouts[peer]).tobytes()
        assert merged.tokens == 10 * len(meshes)
        assert merged.loss_sum == sum([0.1] * len(meshes))


def test_large_gradients_move_both_ways_at_once(make_worlds: MakeWorlds) -> None:
    """More than all socket buffers: an exchange that sent first and received then would never end."""
    worlds = make_worlds({"x": Mesh(), "y": Mesh()})
    layout = (Run(0, 6_000_000),)
    layouts = dict.fromkeys(worlds.layouts, layout)

    def work(peer: tuple[GroupId, Rank]) -> float:
        gradient = np.full(6_000_000, 1.5 if peer[0] == "x" else 2.0, dtype=np.float32)
        bridge = worlds.build(peer, layouts=layouts)
        bridge.exchange(gradient, step=Step(0), own=Contribution(tokens=1, loss_sum=0.0, hold=False))
        return float(gradient.min() + gradient.max())

    assert [done.result() for done in in_threads(work, list(layouts))] == [7.0, 7.0]


def test_waiting_for_a_slow_group_is_told_from_transfer(make_worlds: MakeWorlds) -> None:
    worlds = make_worlds({"x": Mesh(), "y": Mesh()})

    def work(peer: tuple[GroupId, Rank]) -> float:
        bridge = worlds.build(peer)
        if peer[0] == "y":
            time.sleep(0.3)
        return bridge.exchange(
            np.ones(ELEMENTS, dtype=np.float32), step=Step(0), own=Contribution(1, 0.0, False)
        ).waited_s

    fast, slow = (done.result() for done in in_threads(work, list(worlds.layouts)))
    assert fast > 0.1 > slow


# --- what ends an exchange -------------------------------------------------------------------------------------------


def pair(make_worlds: MakeWorlds, **options: Any) -> tuple[Worlds, Bridge, Bridge]:
    worlds = make_worlds({"x": Mesh(), "y": Mesh()}, **options)
    one, other = (done.result() for done in in_threads(worlds.build, list(worlds.layouts)))
    return worlds, one, other


def exchange(bridge: Bridge, *, step: int = 0) -> Merged:
    return bridge.exchange(np.ones(ELEMENTS, dtype=np.float32), step=Step(step), own=Contribution(1, 0.0, False))


def test_a_peer_that_is_gone_is_lost_and_named(make_worlds: MakeWorlds) -> None:
    _, one, other = pair(make_worlds)
    other.close()
    with pytest.raises(PeerLost, match="worker 0 of group y"):
        exchange(one, step=3)


def test_the_agents_word_ends_a_wait(make_worlds: MakeWorlds) -> None:
    worlds, one, _ = pair(make_worlds)
    timer = threading.Timer(0.1, worlds.agents[GroupId("x"), Rank(0)].call)
    timer.start()
    with pytest.raises(Interrupted):
        exchange(one)
    timer.join()


def test_a_group_that_does_not_come_is_named(make_worlds: MakeWorlds) -> None:
    _, one, _ = pair(make_worlds, timeout_s=0.3)
    with pytest.raises(BridgeError, match=r"step 5 did not finish within 0.3 s; missing: worker 0 of group y"):
        exchange(one, step=5)


def test_another_step_is_refused(make_worlds: MakeWorlds) -> None:
    _, one, other = pair(make_worlds)
    results = in_threads(lambda bridge: exchange(bridge, step=1 if bridge is one else 2), [one, other])
    errors = [str(result.exception()) for result in results]
    assert "worker 0 of group y sent the gradient of step 2; this worker is at step 1" in errors[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"GET " + data[4:], "sent garbage over the bridge: its message begins with b'GET '"),
        (
            lambda data: data[:4] + b"\x07\x00" + data[6:],
            "speaks version 7 of the bridge's format, this worker version 1",
        ),
        (lambda data: _repacked(data, incarnation=4), "sent a gradient of incarnation 4; this is 1"),
        (lambda data: _repacked(data, rank=3), "in the name of worker 3 of group number 1"),
        (lambda data: _repacked(data, payload_bytes=8), f"sent 8 bytes of gradient; its layout has {4 * ELEMENTS}"),
        (
            lambda data: _repacked(data, payload_hash=1),
            "the gradient of step 0 from worker 0 of group y does not match its hash",
        ),
    ],
)
def test_a_wrong_message_is_refused(make_worlds: MakeWorlds, change: Callable[[bytes], bytes], message: str) -> None:
    worlds, one, other = pair(make_worlds)
    link = other._links[0]
    header = Header(1, 1, Rank(0), Step(0), 1, 0.0, False, 4 * ELEMENTS, 0)  # type: ignore[arg-type]
    link.sock.setblocking(True)
    link.sock.sendall(change(header.pack()) + bytes(4 * ELEMENTS))
    with pytest.raises(BridgeError, match=message.replace("(", r"\(")):
        exchange(one)
    assert worlds.bridges


def _repacked(data: bytes, **changes: Any) -> bytes:
    return unpack_header(data, "test")._replace(**changes).pack()


# --- who is let in ---------------------------------------------------------------------------------------------------


def strangers_then_partner(worlds: Worlds, *strangers: Callable[[int], None]) -> None:
    """Group y's worker is called by strangers first, and by its partner then: the bridge comes about all the same."""
    y, x = (GroupId("y"), Rank(0)), (GroupId("x"), Rank(0))
    port = worlds.listeners[y].getsockname()[1]
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(worlds.build, y)
        for stranger in strangers:
            stranger(port)
        calling = pool.submit(worlds.build, x)
        one, other = calling.result(), waiting.result()
    results = in_threads(exchange, [one, other])
    assert [result.result().tokens for result in results] == [2, 2]


def connect(port: int) -> FrameSocket:
    return FrameSocket(socket.create_connection(("127.0.0.1", port)))


def test_garbage_at_the_door_is_turned_away(make_worlds: MakeWorlds) -> None:
    def garbage(port: int) -> None:
        with connect(port) as frames, suppress(OSError):  # it may be cut off while it still talks
            frames.sock.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
            while frames.sock.recv(4096):
                pass

    strangers_then_partner(make_worlds({"x": Mesh(), "y": Mesh()}), garbage)


def test_a_wrong_token_is_turned_away(make_worlds: MakeWorlds) -> None:
    def impostor(port: int) -> None:
        with connect(port) as frames, pytest.raises(AuthenticationError):
            authenticate_client(frames, "another token", purpose=PURPOSE)

    strangers_then_partner(make_worlds({"x": Mesh(), "y": Mesh()}), impostor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"incarnation": Incarnation(9)}, "worker 0 of group x is of incarnation 9, this is 1"),
        ({"version": 9}, "speaks version 9 of the bridge's format, not 1"),
        ({"rank": Rank(5)}, "worker 5 of group x is not expected here"),
        ({"own_layout": "other"}, "has another model or mesh than worker 0 of group y believes"),
    ],
)
def test_a_fenced_worker_is_told_why_it_is_refused(
    make_worlds: MakeWorlds, change: dict[str, Any], message: str
) -> None:
    worlds = make_worlds({"x": Mesh(), "y": Mesh()})
    print_of = fingerprint(worlds.layouts[GroupId("x"), Rank(0)])

    def fenced(port: int) -> None:
        fields: dict[str, Any] = {
            "version": VERSION, "incarnation": Incarnation(1), "group": GroupId("x"), "rank": Rank(0),
            "own_layout": print_of, "peer_layout": print_of,
        }  # fmt: skip
        with connect(port) as frames:
            authenticate_client(frames, TOKEN, purpose=PURPOSE)
            frames.send(encode(Hello(**(fields | change))))
            answer = frames.recv(timeout_s=5)
            assert answer is not None
            assert message in decode_welcome(answer, "y").refusal

    strangers_then_partner(worlds, fenced)


def test_a_caller_that_never_comes_is_named(make_worlds: MakeWorlds) -> None:
    worlds = make_worlds({"x": Mesh(), "y": Mesh()}, timeout_s=0.2)
    with pytest.raises(BridgeError, match="worker 0 of group x did not call worker 0 of group y in time"):
        worlds.build((GroupId("y"), Rank(0)))


def test_a_partner_that_is_gone_is_lost(make_worlds: MakeWorlds) -> None:
    worlds = make_worlds({"x": Mesh(), "y": Mesh()})
    endpoints = worlds.endpoints
    worlds.listeners[GroupId("y"), Rank(0)].close()
    with pytest.raises(PeerLost, match="worker 0 of group y cannot be reached"):
        build(
            worlds.member((GroupId("x"), Rank(0))),
            shares=worlds.shares,
            endpoints=endpoints,
            listener=worlds.listeners[GroupId("x"), Rank(0)],
            interrupt=worlds.agents[GroupId("x"), Rank(0)],
            timeout_s=1.0,
        )


def test_bridge_errors_are_wire_errors() -> None:
    assert issubclass(BridgeError, WireError)
