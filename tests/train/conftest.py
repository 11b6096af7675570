"""A fake agent for real workers: it speaks `wire/worker.py` as a node's agent does, and decides nothing."""

from __future__ import annotations

import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from myriarch.arena.beacon import BeaconTable
from myriarch.arena.memory import NodeMemory, make_private_directory
from myriarch.event.actions import (
    BridgeEndpoint,
    Fresh,
    FromMemory,
    GroupShare,
    Restore,
    ShardSource,
    WorkerPlan,
)
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank, Step
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Bridge, Data, Group, Mesh, Optimizer, ResolvedRun, Run
from myriarch.train.digest import combine, to_hex
from myriarch.train.index import decode_index
from myriarch.wire.frames import Channel
from myriarch.wire.shards import ByteServer
from myriarch.wire.store import KeyValueStore
from myriarch.wire.worker import (
    Attach,
    Begin,
    Failed,
    FromWorker,
    Go,
    Held,
    Hold,
    Ready,
    Rejoin,
    Sealed,
    SlotRequest,
    Slots,
    StepDone,
)
from myriarch.wire.zygote import DrainResult, ForkDrain, Forked, ForkWorker, FromZygote, Reaped, ZygoteReady

TOKEN = "f" * 64
LIMIT_S = 60.0
Key = tuple[str, int]
M = TypeVar("M")


class Zygote:
    """A real zygote and what it says."""

    def __init__(self, log_path: Path, *, command: Sequence[str] = ("-m", "myriarch.train.zygote")) -> None:
        ours, theirs = socket.socketpair()
        with theirs, log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
            )
        self._channel: Channel[FromZygote] = Channel(ours, decode_type=FromZygote)
        self._forked: queue.Queue[Forked] = queue.Queue()
        self._ends: dict[int, Reaped] = {}
        self._ended = threading.Condition()
        self.ready = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while (message := self._channel.receive()) is not None:
            if isinstance(message, Forked):
                self._forked.put(message)
            elif isinstance(message, Reaped):
                with self._ended:
                    self._ends[message.pid] = message
                    self._ended.notify_all()
            else:
                assert isinstance(message, ZygoteReady)
                self.ready.set()

    def fork(self, order: ForkWorker | ForkDrain) -> int:
        answer = self.try_to_fork(order)
        assert not answer.error, answer.error
        return answer.pid

    def try_to_fork(self, order: ForkWorker | ForkDrain) -> Forked:
        assert self.ready.wait(LIMIT_S)
        self._channel.send(order)
        return self._forked.get(timeout=LIMIT_S)

    def end_of(self, pid: int) -> Reaped:
        with self._ended:
            assert self._ended.wait_for(lambda: pid in self._ends, LIMIT_S), f"process {pid} did not end"
            return self._ends[pid]

    def close(self) -> None:
        self._channel.frames.shutdown()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join(10)
        self._channel.close()


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    zygote = Zygote(tmp_path_factory.mktemp("zygote") / "zygote.log")
    yield zygote
    zygote.close()


WITHOUT_IMPORTS = "from myriarch.train import zygote; zygote.import_everything = lambda: 'none'; zygote.main()"


@pytest.fixture
def own_zygote(tmp_path: Path) -> Iterator[Zygote]:
    """One that imports nothing, for tests in which it dies."""
    zygote = Zygote(tmp_path / "own.log", command=("-c", WITHOUT_IMPORTS))
    yield zygote
    zygote.close()


@dataclass
class FakeWorker:
    """One worker as its agent sees it."""

    plan: WorkerPlan
    pid: int = 0
    channel: Channel[FromWorker | DrainResult] | None = None
    messages: list[FromWorker | DrainResult] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    closed: bool = False
    seen: int = 0
    """Messages that `next` has passed."""

    @property
    def key(self) -> Key:
        return self.plan.group, self.plan.rank

    def tell(self, message: Any) -> None:
        assert self.channel is not None
        self.channel.send(message)

    def next(self, kind: type[M], *, where: Callable[[M], bool] = lambda message: True) -> M:
        """The next message of a kind, waiting for it; fails at once when the worker fails."""
        until = time.monotonic() + LIMIT_S
        with self.changed:
            while True:
                while self.seen < len(self.messages):
                    message = self.messages[self.seen]
                    self.seen += 1
                    if isinstance(message, kind) and where(message):
                        return message
                    if isinstance(message, Failed):
                        raise AssertionError(f"worker {self.key} failed: {message.cause}\n{message.detail}")
                assert not self.closed, f"worker {self.key} ended without {kind.__name__}"
                left_s = until - time.monotonic()
                assert left_s > 0, f"worker {self.key} sent no {kind.__name__}"
                self.changed.wait(left_s)

    def all(self, kind: type[M]) -> list[M]:
        with self.changed:
            return [message for message in self.messages if isinstance(message, kind)]


class FakeFleet:
    """All nodes in one: a memory, a store, a socket, and workers forked from a shared zygote."""

    def __init__(self, zygote: Zygote, folder: Path, resolved: ResolvedRun) -> None:
        self.zygote = zygote
        self.folder = folder
        self.resolved = resolved
        self.workers: dict[Key, FakeWorker] = {}
        self.store = KeyValueStore()
        self.drained: queue.Queue[DrainResult] = queue.Queue()
        self.commits_up_to = 10**9
        """Commit each snapshot up to this step as soon as all workers have sealed it."""
        self._sealed: dict[tuple[int, int], set[Key]] = {}
        self._lock = threading.Lock()
        arena = Path("/dev/shm") / f"myriarch-{os.getuid()}" / f"test-{os.getpid()}-{folder.name}" / "node-x"
        make_private_directory(arena)
        self.arena = arena
        self.memory = NodeMemory(arena, "test")
        self.server = ByteServer("127.0.0.1", TOKEN, self.store, self.memory)
        self.server.start()
        self.beacons = BeaconTable(arena / "beacons", 16)
        self.socket_path = str(folder / "agent.sock")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.socket_path)
        self._listener.listen()
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with Channel[FromWorker | DrainResult](sock, decode_type=FromWorker | DrainResult) as channel:
            first = channel.receive(timeout_s=LIMIT_S)
            if isinstance(first, DrainResult):
                self.drained.put(first)
                return
            assert isinstance(first, Attach)
            assert first.token == TOKEN
            worker = self.workers[first.group, first.rank]
            worker.channel = channel
            channel.send(self.begin_of(worker.plan))
            while (message := channel.receive()) is not None:
                if isinstance(message, SlotRequest):
                    channel.send(self.slots_for(worker.plan, message))
                if isinstance(message, Ready):  # as the agent does: a snapshot sealed just before the Rejoin was read
                    self.memory.discard_stale(worker.plan.incarnation)
                if isinstance(message, Sealed):
                    self._note_sealed(worker, message)
                with worker.changed:
                    worker.messages.append(message)
                    worker.changed.notify_all()
            with worker.changed:
                worker.closed = True
                worker.changed.notify_all()

    def _note_sealed(self, worker: FakeWorker, sealed: Sealed) -> None:
        with self._lock:
            by = self._sealed.setdefault((sealed.step, worker.plan.incarnation), set())
            by.add(worker.key)
            if sealed.step <= self.commits_up_to and by == self.workers.keys():
                self.commit(sealed.step, worker.plan.incarnation)

    def begin_of(self, plan: WorkerPlan) -> Begin:
        return Begin(
            resolved=self.resolved,
            plan=plan,
            run_token=TOKEN,
            address="127.0.0.1",
            slot_paths=self.slot_paths_of(plan.restore),
            beacon_path=str(self.beacons.path),
            beacon_index=plan.device_index,
            node=NodeId(f"{plan.group}-{plan.rank}"),
        )

    def slots_for(self, plan: WorkerPlan, request: SlotRequest) -> Slots:
        pair = self.memory.ensure(
            plan.group,
            plan.rank,
            world_size=plan.world_size,
            role="own",
            layout_hash=request.layout_hash,
            payload_bytes=request.payload_bytes,
            index_bytes=request.index_bytes,
        )
        return Slots(paths=pair.paths, committed=pair.committed)

    def slot_paths_of(self, restore: Restore) -> tuple[str, ...]:
        if not isinstance(restore, FromMemory):
            return ()
        found = [
            self.memory.find(s.shard.group, s.shard.rank, restore.step, s.shard.incarnation) for s in restore.shards
        ]
        assert all(slot is not None for slot in found)
        return tuple(str(slot.path) for slot in found if slot is not None)

    # --- what a test does ---

    def plans(
        self,
        group: str,
        world_size: int,
        *,
        incarnation: int = 1,
        restores: Sequence[Restore] = (),
        calibrate: bool = False,
    ) -> list[WorkerPlan]:
        """Plans of a whole group; `restores` are by rank, or Fresh."""
        return [
            WorkerPlan(
                group=GroupId(group),
                rank=Rank(rank),
                world_size=world_size,
                mesh=self.mesh_of(group, world_size),
                device_index=len(self.workers)
                if (group, rank) not in self.workers
                else self.workers[group, rank].plan.device_index,
                incarnation=Incarnation(incarnation),
                store_node=NodeId("x"),
                store_address="127.0.0.1",
                store_port=self.server.port,
                copy_nodes=(),
                restore=restores[rank] if restores else Fresh(),
                calibrate=calibrate,
            )
            for rank in range(world_size)
        ]

    def mesh_of(self, group: str, world_size: int) -> Mesh:
        for configured in self.resolved.run.groups:
            if configured.name == group and configured.mesh.devices == world_size:
                return configured.mesh
        return Mesh(dp_shard=world_size)

    def launch(self, group: str, world_size: int, **options: Any) -> list[FakeWorker]:
        """Fork a group's workers."""
        launched = []
        for plan in self.plans(group, world_size, **options):
            worker = FakeWorker(plan)
            self.workers[worker.key] = worker
            worker.pid = self.zygote.fork(
                ForkWorker(
                    socket_path=self.socket_path,
                    token=TOKEN,
                    group=plan.group,
                    rank=plan.rank,
                    incarnation=plan.incarnation,
                    device_index=plan.device_index,
                    log_path=str(self.folder / f"{plan.group}-{plan.rank}.log"),
                )
            )
            launched.append(worker)
        return launched

    def rejoin(self, group: str, world_size: int, **options: Any) -> None:
        for plan in self.plans(group, world_size, **options):
            worker = self.workers[plan.group, plan.rank]
            worker.plan = plan
            worker.tell(Rejoin(plan=plan, slot_paths=self.slot_paths_of(plan.restore)))

    def ready(self) -> dict[Key, Ready]:
        """Everybody's next `Ready`."""
        return {key: worker.next(Ready) for key, worker in self.workers.items()}

    def go(
        self, ready: Mapping[Key, Ready], shares: Sequence[tuple[str, int]], *, step: int = 0, memory_every: int = 0
    ) -> None:
        """Let everybody step; `shares` are (group, sequences) in the order of summation."""
        first, listed = 0, []
        for group, count in shares:
            size = sum(1 for key in self.workers if key[0] == group)
            listed.append(GroupShare(group=GroupId(group), world_size=size, first=first, count=count))
            first += count
        endpoints = tuple(
            BridgeEndpoint(group=GroupId(group), rank=Rank(rank), host=said.bridge_host, port=said.bridge_port)
            for (group, rank), said in ready.items()
        )
        for worker in self.workers.values():
            worker.tell(
                Go(
                    incarnation=worker.plan.incarnation,
                    start_step=Step(step),
                    shares=tuple(listed),
                    endpoints=endpoints,
                    memory_every_steps=memory_every,
                )
            )

    def hold(self) -> None:
        for worker in self.workers.values():
            worker.tell(Hold())

    def held(self) -> int:
        """Everybody held; at which step."""
        steps = {worker.next(Held).step for worker in self.workers.values()}
        assert len(steps) == 1
        return steps.pop()

    def commit(self, step: int, incarnation: int) -> None:
        self.memory.commit(Step(step), Incarnation(incarnation))

    def from_memory(
        self, group: str, world_size: int, *, step: int, incarnation: int, ranks: int | None = None
    ) -> list[Restore]:
        """How the ranks of a group restore: each its own shard, or, for another number of `ranks`, all of `group`'s."""
        shards = []
        for rank in range(world_size):
            slot = self.memory.find(GroupId(group), Rank(rank), Step(step), Incarnation(incarnation))
            assert slot is not None
            shards.append(ShardSource(node=NodeId("x"), shard=slot.held()))
        if ranks is None:
            return [FromMemory(step=Step(step), shards=(shard,), same_layout=True) for shard in shards]
        return [FromMemory(step=Step(step), shards=tuple(shards), same_layout=False) for _ in range(ranks)]

    def digest(self, group: str, step: int) -> str:
        """The digest of a group's snapshot of a step."""
        parts = [
            sealed.digest
            for worker in self.workers.values()
            if worker.plan.group == group
            for sealed in worker.all(Sealed)[-4:]
            if sealed.step == step
        ]
        assert parts
        return to_hex(combine(int(part, 16) for part in parts))

    def tensors(self, group: str, step: int) -> dict[str, npt.NDArray[np.float32]]:
        """All tensors of a group's snapshot, put together."""
        whole: dict[str, npt.NDArray[np.float32]] = {}
        for key, worker in self.workers.items():
            if key[0] != group:
                continue
            slot = self.memory.find(worker.plan.group, worker.plan.rank, Step(step))
            assert slot is not None
            for entry in decode_index(slot.index, source="slot"):
                if entry.kind == "tensor":
                    tensor = whole.setdefault(entry.name, np.full(entry.shape, np.nan, dtype=np.float32))
                    data = np.frombuffer(slot.read(entry.offset_bytes, entry.size_bytes), dtype=np.float32)
                    box = tuple(slice(o, o + s) for o, s in zip(entry.offsets, entry.sizes, strict=True))
                    tensor[box] = data.reshape(entry.sizes)
        assert not any(np.isnan(tensor).any() for tensor in whole.values())
        return whole

    def losses(self, group: str) -> dict[int, float]:
        """The newest loss of each step, in nats per token, as the group's rank 0 said."""
        return {done.step: done.loss_sum / done.tokens for done in self.workers[group, 0].all(StepDone)}

    def forget(self, *keys: Key) -> None:
        """Kill workers; returns when they are gone."""
        for key in keys:
            worker = self.workers.pop(key)
            os.kill(worker.pid, 9)
            self.zygote.end_of(worker.pid)

    def end(self) -> dict[Key, Reaped]:
        """Hang up on everybody, as an agent does whose run is over."""
        for worker in self.workers.values():
            if worker.channel is not None:
                worker.channel.frames.shutdown()
        return {key: self.zygote.end_of(worker.pid) for key, worker in self.workers.items()}

    def close(self) -> None:
        for worker in self.workers.values():
            try:
                os.kill(worker.pid, 9)
            except ProcessLookupError:
                continue
        for worker in self.workers.values():
            self.zygote.end_of(worker.pid)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(LIMIT_S)
        self.server.close()
        self.store.close()
        self.beacons.close()
        self.memory.close()
        shutil.rmtree(self.arena.parent, ignore_errors=True)


MakeFleet = Callable[..., FakeFleet]


def resolved_run(
    *,
    steps: int = 4,
    sequences: int = 6,
    micro_sequences: int = 1,
    groups: Sequence[Group] = (),
    data: Data | None = None,
    clip_norm: float | None = 1.0,
    validate_every_steps: int | None = None,
    bridge_timeout_s: float = 20.0,
) -> ResolvedRun:
    """A tiny run: some 30,000 parameters, 32 tokens of context."""
    chip = Chip(id="core", rate_flops_per_s={"fp32": 1e10})
    pools = tuple(Pool(name=name, chip=chip, nodes=3) for name in ("a", "b", "c"))
    return ResolvedRun(
        run=Run(
            name="tiny",
            fleet="fleet.yaml",
            model="model.yaml",
            steps=steps,
            seed=7,
            batch=Batch(sequences=sequences, micro_sequences=micro_sequences),
            data=data or Data(max_bytes=200_000),
            optimizer=Optimizer(learning_rate=1e-2, warmup_steps=1, clip_norm=clip_norm),
            groups=tuple(groups),
            bridge=Bridge(timeout_s=bridge_timeout_s),
            validate_every_steps=validate_every_steps,
        ),
        fleet=Fleet(name="fake", pools=pools),
        model=Model(name="tiny", layers=2, width=32, heads=4, kv_heads=2, context_tokens=32),
    )


@pytest.fixture
def make_fleet(zygote: Zygote, tmp_path: Path) -> Iterator[MakeFleet]:
    made: list[FakeFleet] = []

    def make(**options: Any) -> FakeFleet:
        folder = tmp_path / f"fleet{len(made)}"
        folder.mkdir()
        made.append(FakeFleet(zygote, folder, resolved_run(**options)))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()
