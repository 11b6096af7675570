"""A zygote without torch: forks workers that speak the real protocol and train a toy, in milliseconds.

    python fake_zygote.py <fd>

The toy's state is a vector of 64-bit numbers, split evenly over a group's ranks. A step is a fixed function of the
state and the step's number, so every layout and every history gives the same vector. All workers of an incarnation meet
after each step in files of `FAKE_FOLDER`, which stands in for collectives and bridge.

    FAKE_STEP_S      how long a step takes
    FAKE_RAISE       `<group>/<rank>@<step>`: that worker raises there
    FAKE_QUIT        `<group>/<rank>@<incarnation>:<how>`, comma between: it ends in its third step there; `exit0`
                     without a word, `late5` hangs up long before it exits with 5, `babble` says what nobody asked
    FAKE_REFUSE      `<group>/<rank>@<incarnation>`: there is no room to fork that worker
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from pathlib import Path

import numpy as np
import xxhash

from myriarch.arena.beacon import Beacon
from myriarch.arena.manifest import Manifest, record_of, write_manifest
from myriarch.arena.slot import BLOCK_BYTES, Slot, SlotState
from myriarch.errors import MyriarchError
from myriarch.event.actions import Fresh, FromDisk, FromMemory, Keep, WorkerPlan
from myriarch.event.ids import Step
from myriarch.event.spans import Span
from myriarch.wire.frames import Channel
from myriarch.wire.worker import (
    Attach,
    Begin,
    Failed,
    FromAgent,
    Go,
    Held,
    Hold,
    Ready,
    Rejoin,
    Sealed,
    Skipped,
    SlotFree,
    SlotRequest,
    Slots,
    Spans,
    StepDone,
)
from myriarch.wire.zygote import DrainJob, DrainResult, ForkDrain, Forked, ForkWorker, Reaped, ToZygote, ZygoteReady

NUMBERS = 1 << 14
FACTOR = 6364136223846793005
FOLDER = Path(os.environ["FAKE_FOLDER"])
STEP_S = float(os.environ.get("FAKE_STEP_S", "0.01"))
RAISE = os.environ.get("FAKE_RAISE", "")
QUIT = dict(one.split(":") for one in os.environ.get("FAKE_QUIT", "").split(",") if one)
REFUSE = os.environ.get("FAKE_REFUSE", "")
PR_SET_PDEATHSIG = 1


def slice_of(plan: WorkerPlan) -> slice:
    size = NUMBERS // plan.world_size
    return slice(plan.rank * size, (plan.rank + 1) * size)


class Toy:
    """One worker."""

    def __init__(self, channel: Channel[FromAgent], begin: Begin) -> None:
        self.channel = channel
        self.begin = begin
        self.plan = begin.plan
        self.beacon = Beacon(begin.beacon_path, begin.beacon_index)
        self.slots: list[Slot] = []
        self.words: deque[FromAgent] = deque()
        self.hold = False
        self.state = np.zeros(0, dtype=np.uint64)
        self.step = 0

    def run(self) -> None:
        self.restore(self.plan, self.begin.slot_paths)
        self.channel.send(
            SlotRequest(payload_bytes=self.state.nbytes, index_bytes=64, layout_hash=f"world {self.plan.world_size}")
        )
        slots = self.receive_slots()
        if not slots.error:
            self.slots = [Slot.open(path, writable=True) for path in slots.paths]
        self.ready()
        while True:
            match self.words.popleft() if self.words else self.receive():
                case Go() as go:
                    self.train(go)
                case Rejoin() as rejoin:
                    self.rejoin(rejoin)
                case Hold():
                    self.hold = True
                case _:
                    pass

    def receive(self) -> FromAgent:
        message = self.channel.receive()
        if message is None:
            os._exit(0)
        return message

    def receive_slots(self) -> Slots:
        """The answer to a `SlotRequest`. Other words may be on their way before it: they come after it."""
        while not isinstance(message := self.receive(), Slots):
            self.words.append(message)
        return message

    def restore(self, plan: WorkerPlan, slot_paths: tuple[str, ...]) -> None:
        self.plan = plan
        self.hold = False
        match plan.restore:
            case Keep():
                pass
            case Fresh():
                self.step, whole = 0, np.arange(NUMBERS, dtype=np.uint64)
                self.state = whole[slice_of(plan)].copy()
            case FromMemory() as memory:
                self.step = memory.step
                parts = []
                for path in slot_paths:
                    with Slot.open(path) as slot:
                        parts.append(np.frombuffer(bytes(slot.payload), dtype=np.uint64))
                whole = np.concatenate(parts)
                self.state = whole.copy() if memory.same_layout else whole[slice_of(plan)].copy()
            case FromDisk() as disk:
                self.step = disk.step
                files = sorted(Path(disk.path).glob("*.bin"))
                whole = np.concatenate([np.fromfile(file, dtype=np.uint64) for file in files])
                self.state = whole[slice_of(plan)].copy()

    def digest(self) -> str:
        return f"{int(self.state.sum(dtype=np.uint64)):016x}"

    def ready(self) -> None:
        self.beacon.set(self.plan.incarnation, self.step, "wait")
        self.channel.send(
            Ready(
                step=Step(self.step), bridge_host=self.begin.address, bridge_port=1, state_bytes=self.state.nbytes,
                digest=self.digest(), sequence_s=0.001, snapshot_s=0.001, rate_flops_per_s=1e9,
            )
        )  # fmt: skip

    def rejoin(self, rejoin: Rejoin) -> None:
        self.restore(rejoin.plan, rejoin.slot_paths)
        self.ready()

    def train(self, go: Go) -> None:
        """Until the last step, a hold, or a word from the agent."""
        workers = sum(share.world_size for share in go.shares)
        steps = self.begin.resolved.run.steps
        assert self.step == go.start_step
        if self.step == steps and isinstance(self.plan.restore, Keep):
            self.snapshot()
        while self.step < steps:
            start_ns = time.time_ns()
            self.beacon.set(self.plan.incarnation, self.step, "compute")
            if f"{self.plan.group}/{self.plan.rank}@{self.step}" == RAISE:
                raise ValueError("the toy was told to raise")
            if self.step == go.start_step + 2:
                self.quit(QUIT.get(f"{self.plan.group}/{self.plan.rank}@{self.plan.incarnation}", ""))
            time.sleep(STEP_S)
            self.beacon.set(self.plan.incarnation, self.step, "bridge")
            held = self.meet(workers)
            if held is None:
                return
            self.state = self.state * np.uint64(FACTOR) + np.uint64(self.step)
            self.step += 1
            self.tell_step(go, start_ns)
            due = go.memory_every_steps and self.step % go.memory_every_steps == 0
            if due or held or self.step == steps:
                self.snapshot()
            if held or self.step == steps:
                break
        self.beacon.set(self.plan.incarnation, self.step, "wait")
        self.channel.send(Held(step=Step(self.step), finished=self.step == steps))

    def quit(self, how: str) -> None:
        match how:
            case "exit0":
                os._exit(0)
            case "late5":
                sys.stderr.write("the toy hangs up\n")
                sys.stderr.flush()
                self.channel.frames.shutdown()
                time.sleep(0.3)
                os._exit(5)
            case "babble":
                self.ready()

    def meet(self, workers: int) -> bool | None:
        """Whether somebody wants to hold; None: the agent has another word."""
        folder = FOLDER / f"{self.begin.resolved.run.name}-{self.plan.incarnation}-{self.step}"
        folder.mkdir(parents=True, exist_ok=True)
        if self.poll():
            return None
        mine = folder / f"{self.plan.group}-{self.plan.rank}"
        mine.with_suffix(".new").write_text("1" if self.hold else "0")
        mine.with_suffix(".new").rename(mine.with_suffix(".here"))
        while len(files := list(folder.glob("*.here"))) < workers:
            if self.poll():
                return None
        return any(file.read_text() == "1" for file in files)

    def poll(self) -> bool:
        """Wait a little for the agent; True when it says `Rejoin`, which has then been obeyed."""
        if not self.channel.poll(0.002):
            return False
        match self.receive():
            case Rejoin() as rejoin:
                self.rejoin(rejoin)
                return True
            case Hold():
                self.hold = True
        return False

    def tell_step(self, go: Go, start_ns: int) -> None:
        end_ns = time.time_ns()
        if self.plan.rank == 0:
            self.channel.send(
                StepDone(
                    step=Step(self.step), loss_sum=100.0 / self.step, tokens=100, group_tokens=50,
                    duration_s=(end_ns - start_ns) / 1e9, compute_s=STEP_S,
                )
            )  # fmt: skip
        span = Span(
            device=f"{self.begin.node}/{self.plan.device_index}", start_ns=start_ns, end_ns=end_ns,  # type: ignore[arg-type]
            leaf="useful_compute", group=self.plan.group, incarnation=self.plan.incarnation, step=Step(self.step - 1),
        )  # fmt: skip
        self.channel.send(Spans(spans=(span,)))

    def snapshot(self) -> None:
        self.beacon.set(self.plan.incarnation, self.step, "snapshot")
        until = time.monotonic() + 2.0
        while not (free := [i for i, slot in enumerate(self.slots) if slot.state < SlotState.SEALED]):
            if time.monotonic() > until or not self.slots:
                self.channel.send(Skipped(step=Step(self.step), why="no slot is free"))
                return
            time.sleep(0.002)
        slot = self.slots[free[0]]
        slot.begin(step=Step(self.step), incarnation=self.plan.incarnation, index=b"toy")
        data = self.state.tobytes()
        with slot.payload as payload:
            payload[:] = data
        hashes = [xxhash.xxh3_64_intdigest(data[i : i + BLOCK_BYTES]) for i in range(0, len(data), BLOCK_BYTES)]
        root = slot.seal(hashes, digest=self.digest())
        self.channel.send(
            Sealed(
                slot=free[0], step=Step(self.step), size_bytes=len(data), root=root, digest=self.digest(), stall_s=0.001
            )
        )


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    return sock


def work(request: ForkWorker) -> None:
    if request.cgroup_procs:
        Path(request.cgroup_procs).write_text(str(os.getpid()))
    with Path(request.log_path).open("ab") as log:
        os.dup2(log.fileno(), 2)
    channel: Channel[FromAgent] = Channel(connect(request.socket_path), decode_type=FromAgent)
    channel.send(
        Attach(
            token=request.token,
            pid=os.getpid(),
            group=request.group,
            rank=request.rank,
            incarnation=request.incarnation,
        )
    )
    while isinstance(begin := channel.receive(), SlotFree):
        pass  # of the worker that was here before
    if begin is None:
        os._exit(0)
    assert isinstance(begin, Begin)
    try:
        Toy(channel, begin).run()
    except Exception as error:  # noqa: BLE001
        ours = isinstance(error, MyriarchError)
        channel.send(Failed(cause="collective_error" if ours else "user_error", detail=traceback.format_exc()))
        os._exit(1)


def drain(request: ForkDrain) -> None:
    job = request.job
    channel: Channel[FromAgent] = Channel(connect(request.socket_path), decode_type=FromAgent)
    try:
        result = DrainResult(token=request.token, job=job, size_bytes=write(job))
    except Exception as error:  # noqa: BLE001
        result = DrainResult(token=request.token, job=job, error=f"{type(error).__name__}: {error}")
    channel.send(result)


def write(job: DrainJob) -> int:
    folder = Path(job.path)
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    if job.kind == "shards":
        for path, (group, rank) in zip(job.slot_paths, job.shards, strict=True):
            with Slot.open(path) as slot:
                slot.verify()
                size += (folder / f"{group}-{rank:04d}.bin").write_bytes(bytes(slot.payload))
        return size
    files = sorted(folder.glob("*.bin"))
    manifest = Manifest(
        step=job.step, run_hash=job.run_hash, world_size=len(files), digest="", files=tuple(map(record_of, files))
    )
    write_manifest(folder, manifest)
    folder.rename(job.final_path)
    return size


def main(descriptor: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    channel: Channel[ToZygote] = Channel(socket.socket(fileno=descriptor), decode_type=ToZygote)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    channel.send(ZygoteReady(torch_version="none", import_s=0.0))
    while True:
        readable, _, _ = select.select([channel.fileno(), wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            reap(channel)
        if channel.fileno() in readable:
            request = channel.receive()
            if request is None:
                os._exit(0)
            fork(channel, request)


def fork(channel: Channel[ToZygote], request: ForkWorker | ForkDrain) -> None:
    if isinstance(request, ForkWorker) and f"{request.group}/{request.rank}@{request.incarnation}" == REFUSE:
        channel.send(Forked(pid=0, error="the toy has no room"))
        return
    pid = os.fork()
    if pid:
        channel.send(Forked(pid=pid))
        return
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.close()
        if isinstance(request, ForkWorker):
            work(request)
        else:
            drain(request)
        os._exit(0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def reap(channel: Channel[ToZygote]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        channel.send(Reaped(pid=pid, signal=number, code=code))


if __name__ == "__main__":
    main(int(sys.argv[1]))
