"""One worker of a node: forked, attached, spoken to, mourned.

A worker's life is one task. It is told things through a queue that nobody waits on, and it is over when its socket is
closed or its process is gone, whichever is seen first; then its exit status and its last words are waited for, briefly.

Its messages name no incarnation. They belong to that of the plan that it last answered with `Ready`: what it says
between a `Rejoin` and the answer is still said in the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from pathlib import Path
from typing import Final, Literal

from myriarch.errors import MyriarchError, WireError
from myriarch.event.actions import WorkerPlan
from myriarch.event.events import (
    HeldShard,
    ShardSealed,
    SnapshotSkipped,
    StepCompleted,
    WorkerExited,
    WorkerForked,
    WorkerHeld,
    WorkerReady,
)
from myriarch.event.ids import GroupId, Rank, Step
from myriarch.run import procfs
from myriarch.run.fetch import Fetcher
from myriarch.run.messages import Validation
from myriarch.run.node import Node
from myriarch.run.replicate import Replicator
from myriarch.wire.frames import AsyncChannel
from myriarch.wire.worker import (
    Attach,
    Begin,
    Failed,
    FromAgent,
    FromWorker,
    Held,
    Ready,
    Rejoin,
    Sealed,
    Skipped,
    SlotRequest,
    Slots,
    Spans,
    StepDone,
    Validated,
)
from myriarch.wire.zygote import DrainResult, ForkWorker, Reaped

log = logging.getLogger("myriarch.agent")

LAST_WORDS_S: Final = 0.05
"""From the end of a process that was killed, or never attached, to the verdict: it is not expected to have said why."""
STATUS_LIMIT_S: Final = 2.0
"""For the exit status of a worker whose connection is closed, and for the last words of one that exited. Usually a
millisecond; a worker that is held to a CPU quota may need several of the quota's periods to be gone."""
LOG_TAIL_BYTES: Final = 4096
"""Of the log of a worker that ended without a word."""
END_LIMIT_S: Final = 5.0
"""For a killed process to be gone; the kernel may be writing its pages."""
TOLD_LIMIT: Final = 256
"""Messages waiting for one worker: it polls between steps, so more of them means that it does not."""
DETAIL_LIMIT: Final = 16_000
"""Characters of a traceback that are kept: its end says most."""

Key = tuple[GroupId, Rank]
Cause = Literal["signal", "exit", "user_error", "collective_error", "finished"]
Channel = AsyncChannel[FromWorker | DrainResult]


class Worker:
    """One worker process, from before its fork until it is reaped."""

    def __init__(self, plan: WorkerPlan, *, node: Node, fetcher: Fetcher, replicator: Replicator) -> None:
        self.plan = plan
        """The newest plan that it was given."""
        self.spoken_for = plan
        """The plan that its messages belong to."""
        self.pid = 0
        self.ordered_to_end = False
        """Its end was asked for: not an event."""
        self.ended = asyncio.Event()
        self._node = node
        self._fetcher = fetcher
        self._replicator = replicator
        self._attached: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._channel: Channel | None = None
        self._told: asyncio.Queue[FromAgent] = asyncio.Queue(TOLD_LIMIT)
        self._unanswered: deque[WorkerPlan] = deque()
        """Plans that it was told of and has not yet answered with `Ready`, oldest first."""
        self._finished = False
        self._killed_for = ""
        """Why its agent killed it, if that was not ordered."""
        self._log_start = 0
        """Where its own part of its log begins: the log is that of its seat."""
        self._reported_exit = False
        self._rejoining: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        """Its task has had its first turn."""
        self._interrupted = False
        """It was told to end before it had a process."""

    @property
    def key(self) -> Key:
        return self.plan.group, self.plan.rank

    @property
    def attached(self) -> bool:
        return self._channel is not None and not self.ended.is_set()

    # --- orders ---

    def start(self, after: list[Worker]) -> None:
        """Begin its life when those that had its name or its device have ended."""
        self._task = asyncio.create_task(self._live(after), name=f"worker {self.plan.group}/{self.plan.rank}")

    def tell(self, message: FromAgent) -> None:
        """Queue a message; a worker that takes none is killed."""
        try:
            self._told.put_nowait(message)
        except asyncio.QueueFull:
            self.kill("it takes no messages")

    def rejoin(self, plan: WorkerPlan) -> None:
        """Same process, new incarnation."""
        self.plan = plan
        if self._rejoining is not None:
            self._rejoining.cancel()
        self._rejoining = asyncio.create_task(self._rejoin(plan), name=f"rejoin {plan.group}/{plan.rank}")

    def stop(self) -> None:
        """Kill it; its end is no event."""
        self.ordered_to_end = True
        self.kill()
        # Once: a second cancellation would interrupt its burial, and whoever comes after it would wait for ever. So
        # would one before the first turn of its task, which then never runs: `_live` looks for itself.
        if self.pid == 0 and not self._interrupted:
            self._interrupted = True
            if self._begun and self._task is not None:
                self._task.cancel()

    def kill(self, why: str = "") -> None:
        """End its process; `why` is for its `WorkerExited`."""
        if why:
            log.error("worker %s/%d: %s; killing it", *self.key, why)
            self._killed_for = self._killed_for or why
        if self.pid and not self.ended.is_set():
            procfs.kill(self.pid)

    def dismiss(self) -> None:
        """Let it end by itself: it reads the end of the stream, says what it still has to, and exits."""
        self.ordered_to_end = True
        if self._channel is not None and not self.ended.is_set():
            with contextlib.suppress(OSError, RuntimeError):
                self._channel.writer.write_eof()
        else:
            self.stop()

    def attach(self, channel: Channel) -> None:
        """Its connection is here. WireError if it has one already."""
        if self._attached.done():
            raise WireError(f"worker {self.plan.group}/{self.plan.rank} is attached already")
        self._attached.set_result(channel)

    # --- its life ---

    async def _live(self, after: list[Worker]) -> None:
        self._begun = True
        try:
            if self.ordered_to_end:
                return
            for worker in after:
                await worker.ended.wait()
            fetching = asyncio.create_task(self._fetcher.bring(self.plan))
            try:
                await self._fork()
                await self._serve(fetching)
            finally:
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)
        except (MyriarchError, OSError) as error:
            log.error("worker %s/%d: %s", *self.key, error)
            self._report_exit("exit", 0, str(error))
        finally:
            await self._bury()
            for worker in after:  # whoever comes after this one counts on it
                await worker.ended.wait()
            self.ended.set()

    async def _fork(self) -> None:
        node, plan = self._node, self.plan
        node.beacons.clear(plan.device_index)
        self._log_start = self._log_path.stat().st_size if self._log_path.exists() else 0
        request = ForkWorker(
            socket_path=node.socket_path, token=node.token, group=plan.group, rank=plan.rank,
            incarnation=plan.incarnation, device_index=plan.device_index,
            log_path=str(self._log_path),
            cgroup_procs=node.limiter.procs_path(plan.device_index),
        )  # fmt: skip
        forking = asyncio.ensure_future(node.zygote.fork(request))
        try:
            self.pid = await asyncio.shield(forking)
        except asyncio.CancelledError:
            # The zygote may have forked it by now: it must not live on unknown to us.
            forking.add_done_callback(lambda done: None if done.exception() else procfs.kill(done.result()))
            raise
        if self.ordered_to_end:
            self.kill()
        node.link.report(
            WorkerForked(node=node.id, group=plan.group, rank=plan.rank, incarnation=plan.incarnation, pid=self.pid)
        )

    async def _serve(self, fetching: asyncio.Task[tuple[str, ...] | None]) -> None:
        """From the fork to the end."""
        gone = _watch_exit(self.pid)
        talking = asyncio.create_task(self._talk(fetching))
        try:
            await asyncio.wait({gone, talking}, return_when=asyncio.FIRST_COMPLETED)
            await self._judge(talking)
        finally:
            talking.cancel()
            gone.cancel()
            await asyncio.gather(talking, return_exceptions=True)

    async def _talk(self, fetching: asyncio.Task[tuple[str, ...] | None]) -> None:
        """Until the worker's socket is closed."""
        channel = await self._attached
        self._channel = channel
        slot_paths = await fetching
        if slot_paths is None:
            self.stop()  # the restore cannot be had; that was reported
            return
        writing = asyncio.create_task(self._write(channel))
        try:
            self._unanswered.append(self.plan)
            self.tell(self._begin(slot_paths))
            while (message := await channel.receive()) is not None:
                await self._take(message)
        except WireError as error:
            self.kill(str(error))
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, channel: Channel) -> None:
        while True:
            try:
                await channel.send(await self._told.get())
            except WireError as error:
                log.debug("worker %s/%d: %s", *self.key, error)  # the reader sees the end
                return

    def _begin(self, slot_paths: tuple[str, ...]) -> Begin:
        node = self._node
        return Begin(
            resolved=node.resolved, plan=self.plan, run_token=node.token, address=node.place.address,
            slot_paths=slot_paths, beacon_path=str(node.beacons.path), beacon_index=self.plan.device_index,
            node=node.id,
        )  # fmt: skip

    async def _rejoin(self, plan: WorkerPlan) -> None:
        slot_paths = await self._fetcher.bring(plan)
        if slot_paths is not None:
            self._unanswered.append(plan)
            self.tell(Rejoin(plan=plan, slot_paths=slot_paths))

    # --- its messages ---

    async def _take(self, message: FromWorker | DrainResult) -> None:
        match message:
            case SlotRequest():
                self.tell(await self._slots(message))
            case Ready():
                self._ready(message)
            case StepDone():
                self._step_done(message)
            case Sealed():
                await self._sealed(message)
            case Skipped():
                self._skipped(message.step, message.why)
            case Held():
                self._finished = message.finished
                self._held(message)
            case Spans():
                self._node.link.report_spans(message.spans)
            case Validated():
                self._node.link.report_validation(
                    Validation(
                        group=self.plan.group, step=message.step, loss_sum=message.loss_sum, tokens=message.tokens
                    )
                )
            case Failed():
                self._report_exit(message.cause, 0, message.detail)
            case Attach() | DrainResult():
                raise WireError(f"{type(message).__name__} from a worker that is attached")

    async def _slots(self, request: SlotRequest) -> Slots:
        plan = self.plan
        try:
            pair = await self._node.in_lane(
                self._node.memory.ensure, plan.group, plan.rank, world_size=plan.world_size, role="own",
                layout_hash=request.layout_hash, payload_bytes=request.payload_bytes, index_bytes=request.index_bytes,
            )  # fmt: skip
        except MyriarchError as error:
            why = f"{error} ({error.hint})" if error.hint else str(error)
            log.error("worker %s/%d trains without snapshots: %s", *self.key, why)
            return Slots(paths=("", ""), error=why)
        return Slots(paths=pair.paths, committed=pair.committed)

    def _ready(self, message: Ready) -> None:
        if not self._unanswered:
            raise WireError("Ready from a worker that was asked nothing")
        self.spoken_for = plan = self._unanswered.popleft()
        self._finished = False
        # A snapshot that it sealed before it read the Rejoin would occupy a slot for ever.
        self._node.in_lane(self._node.memory.discard_stale, plan.incarnation)
        self._node.link.report(
            WorkerReady(
                node=self._node.id, group=plan.group, rank=plan.rank, incarnation=plan.incarnation, step=message.step,
                bridge_host=message.bridge_host, bridge_port=message.bridge_port, state_bytes=message.state_bytes,
                digest=message.digest, sequence_s=message.sequence_s, snapshot_s=message.snapshot_s,
                rate_flops_per_s=message.rate_flops_per_s, phases=message.phases,
            )
        )  # fmt: skip

    def _held(self, message: Held) -> None:
        plan = self.spoken_for
        self._finished = message.finished
        self._node.link.report(
            WorkerHeld(
                node=self._node.id, group=plan.group, rank=plan.rank, incarnation=plan.incarnation, step=message.step,
                finished=message.finished,
            )
        )  # fmt: skip

    def _step_done(self, message: StepDone) -> None:
        self._node.link.report(
            StepCompleted(
                group=self.plan.group, incarnation=self.spoken_for.incarnation, step=message.step,
                loss_sum=message.loss_sum, tokens=message.tokens, group_tokens=message.group_tokens,
                duration_s=message.duration_s, compute_s=message.compute_s, grad_norm=message.grad_norm,
                learning_rate=message.learning_rate,
            )
        )  # fmt: skip

    async def _sealed(self, message: Sealed) -> None:
        plan = self.spoken_for
        shard: HeldShard | None = await self._node.in_lane(
            self._node.memory.shard, plan.group, plan.rank, message.step, plan.incarnation, role="own"
        )
        if shard is None or shard.root != message.root:  # or a `DropSnapshot` overtook the worker's word
            self._skipped(message.step, "the sealed slot is not in this node's memory")
            return
        self._node.link.report(
            ShardSealed(node=self._node.id, shard=shard, digest=message.digest, stall_s=message.stall_s)
        )
        self._replicator.start(shard, plan)

    def _skipped(self, step: Step, why: str) -> None:
        plan = self.spoken_for
        self._node.link.report(
            SnapshotSkipped(
                node=self._node.id, group=plan.group, rank=plan.rank, incarnation=plan.incarnation, step=step, why=why
            )
        )  # fmt: skip

    # --- its end ---

    async def _judge(self, talking: asyncio.Task[None]) -> None:
        """Something ended: wait for all that can be known, each for a limited time, and say it."""
        if talking.done() and (error := talking.exception()) is not None:
            log.error("worker %s/%d cannot be served", *self.key, exc_info=error)
            self.kill(f"it cannot be served: {type(error).__name__}: {error}")
        end = self._node.zygote.end_of(self.pid)
        await asyncio.wait({end}, timeout=STATUS_LIMIT_S)
        if not end.done():
            lives = procfs.is_alive(self.pid)
            what = "it closed its connection and lives on" if lives else "it is gone; its zygote does not say how"
            self._report_exit("exit", 0, f"{what}, {STATUS_LIMIT_S:g} s later")
            return
        how = end.result()
        said_why = self.attached and not how.signal
        await asyncio.wait({talking}, timeout=STATUS_LIMIT_S if said_why else LAST_WORDS_S)
        self._report_end(how)

    def _report_end(self, how: Reaped) -> None:
        """What its exit status says; if it said more itself, that is reported already."""
        if how.signal == signal.SIGKILL:  # nothing in its log can be about that
            by_agent = f"killed by its agent: {self._killed_for}"
            self._report_exit("signal", how.signal, by_agent if self._killed_for else "killed by SIGKILL")
        elif how.signal:
            self._report_exit("signal", how.signal, f"killed by {_signal_name(how.signal)}{self._log_tail()}")
        elif how.code:
            self._report_exit("exit", how.code, f"ended with exit code {how.code} without a word{self._log_tail()}")
        elif self._finished:
            self._report_exit("finished", 0, "")
        else:
            what = "ended by itself with exit code 0 before the run was over"
            self._report_exit("exit", 0, f"{what}{self._log_tail()}")

    @property
    def _log_path(self) -> Path:
        node = self._node
        return node.attempt.logs / f"{node.id}-{self.plan.group}-{self.plan.rank}.log"

    def _log_tail(self) -> str:
        """The end of what it wrote to its log, as the rest of a sentence; empty if it wrote nothing."""
        try:
            with self._log_path.open("rb") as file:
                size_bytes = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size_bytes - LOG_TAIL_BYTES))
                tail = file.read(LOG_TAIL_BYTES).decode(errors="replace").strip()
        except OSError:  # it never came to write any
            return ""
        return f"; its log ends:\n{tail}" if tail else ""

    def _report_exit(self, cause: Cause, code: int, detail: str) -> None:
        """Once; and not at all when the end was ordered."""
        if self._reported_exit or self.ordered_to_end:
            return
        self._reported_exit = True
        plan = self.plan  # not what it spoke for: the newest incarnation has lost it
        log.info("worker %s/%d ended: %s %s", *self.key, cause, detail[-200:])
        self._node.link.report(
            WorkerExited(
                node=self._node.id, group=plan.group, rank=plan.rank, incarnation=plan.incarnation,
                cause=cause, code=code, detail=detail[-DETAIL_LIMIT:],
            )
        )  # fmt: skip

    async def _bury(self) -> None:
        """Whatever happened: the process is gone when this is done."""
        if self._rejoining is not None:
            self._rejoining.cancel()
        if self.pid:
            procfs.kill(self.pid)
            end = self._node.zygote.end_of(self.pid)
            await asyncio.wait({end}, timeout=END_LIMIT_S)
            self._node.zygote.forget(self.pid)
            self._node.frozen.discard(self.pid)
        if self._attached.done() and not self._attached.cancelled():
            await self._attached.result().close()


def _signal_name(number: int) -> str:
    """Real-time signals have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _watch_exit(pid: int) -> asyncio.Future[None]:
    """Done when the process has ended, reaped or not."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        gone.set_result(None)
        return gone

    def ended() -> None:
        if not gone.done():
            gone.set_result(None)

    def close(_: asyncio.Future[None]) -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)

    loop.add_reader(descriptor, ended)
    gone.add_done_callback(close)
    return gone
