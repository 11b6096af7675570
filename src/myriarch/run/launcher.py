"""The launcher: the supervisor behind `myriarch train`.

It makes the launch's folder, identity and shared memory, starts the fleet, shows how it goes, inflicts the faults that
the run file asks for, starts a dead controller again, passes Ctrl-C on as a wish to stop, and at the end, whatever the
end is, leaves no process, no shared memory and no cgroup behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from myriarch.errors import EnvironmentFault, MyriarchError, UsageError
from myriarch.run import procfs, room, sweep
from myriarch.run.api import ControllerClient
from myriarch.run.certificate import create_identity
from myriarch.run.directory import (
    Attempt,
    Contact,
    Launch,
    Outcome,
    RunDirectory,
    read_json,
    write_json,
    writing,
)
from myriarch.run.identity import client_context, read_token
from myriarch.run.local import Child, LocalEngine, places_of
from myriarch.run.messages import MESSAGE_LIMIT_BYTES
from myriarch.run.progress import ProgressLine, Shown
from myriarch.run.progress import decoder as shown_decoder
from myriarch.run.resume import newest_step
from myriarch.spec.run import ChaosEvent, ResolvedRun
from myriarch.units import format_bytes

log = logging.getLogger("myriarch.launcher")

TRAIN_ZYGOTE: Final = ("-m", "myriarch.train.zygote")
CONTROLLER_RESTARTS: Final = 10
"""Of one launch. A controller that dies more often dies of its journal or of this machine."""
CONTROLLER_LOOK_S: Final = 0.5
"""Between two looks whether the kernel calls the controller stopped."""
AGENTS_END_S: Final = 5.0
"""After the run's end, for the agents to end by themselves."""
RETRY_S: Final = 0.02
NO_AGENTS_S: Final = 3.0
"""After the last agent has ended, for the controller to end the run."""
TELL_TRIES: Final = 500
"""Of telling the controller something, RETRY_S apart: ten seconds, enough for it to be started again."""


class Ended(NamedTuple):
    """How a launch ended, and where its files are."""

    outcome: Outcome
    attempt: Attempt
    resumed_step: int | None


def run_training(
    resolved: ResolvedRun, *, fresh: bool = False, zygote: tuple[str, ...] = TRAIN_ZYGOTE, port: int = 0
) -> Ended:
    """Train until the run ends, on the local engine. Blocks; answers SIGINT and SIGTERM while it does.

    `zygote` are Python's arguments that start a node's zygote; `port` is the controller's, 0 for any.
    Raises UsageError when the run is under way or complete, EnvironmentFault when this machine cannot do it.
    """
    if zygote == TRAIN_ZYGOTE and importlib.util.find_spec("torch") is None:
        raise EnvironmentFault(
            "PyTorch is not installed for this Python", hint="install it: pip install 'myriarch[train]'"
        )
    room.check(resolved)
    room.check_disk(resolved)
    with _signals_interrupt():
        return _train(resolved, fresh=fresh, zygote=zygote, port=port)


def _train(resolved: ResolvedRun, *, fresh: bool, zygote: tuple[str, ...], port: int) -> Ended:
    directory = RunDirectory(Path(resolved.run.output).absolute() / resolved.run.name)
    for run_id in sweep.sweep_stale():
        log.info("swept what run %s left", run_id)
    with directory.lock():
        if fresh:
            directory.set_checkpoints_aside()
        _remove_partial(directory.checkpoints)
        resumed = newest_step(directory.checkpoints, resolved)
        if resumed is not None and resumed >= resolved.run.steps:
            return _complete_already(directory, resumed)
        attempt = directory.new_attempt()
        with _launch(attempt, resolved, directory, zygote=zygote) as launch:
            outcome = asyncio.run(_Supervisor(attempt, launch, resolved, port=port).run())
    return Ended(outcome, attempt, resumed)


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Until the supervisor answers them itself, SIGTERM and SIGHUP are what Ctrl-C is: what was made is removed."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _complete_already(directory: RunDirectory, step: int) -> Ended:
    attempts = sorted(entry for entry in directory.attempts.iterdir()) if directory.attempts.is_dir() else []
    if not attempts:
        raise UsageError(f"run `{directory.path.name}` is complete at step {step}", hint="start over with --fresh")
    outcome = Outcome(
        outcome="completed", step=step, checkpoint=str(directory.checkpoints / f"step-{step:08d}"),
        detail="nothing to do: the run is complete; start over with --fresh, or raise `steps`",
    )  # fmt: skip
    return Ended(outcome, Attempt(attempts[-1]), step)


def _remove_partial(checkpoints: Path) -> None:
    """What drains of earlier launches left half written. Only under the run's lock."""
    for path in checkpoints.glob("*.partial*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _launch(
    attempt: Attempt, resolved: ResolvedRun, directory: RunDirectory, *, zygote: tuple[str, ...]
) -> Iterator[Launch]:
    """The launch's files and its shared memory, which goes again."""
    run_id = f"{resolved.run.name[:24].rstrip('-')}-{secrets.token_hex(3)}"
    shm = sweep.create_directory(run_id)
    try:
        launch = Launch(
            run_id=run_id, owner_pid=os.getpid(), shm_directory=str(shm), checkpoints=str(directory.checkpoints),
            nodes=places_of(resolved.fleet), zygote=zygote,
        )  # fmt: skip
        with writing(attempt.path):
            create_identity(attempt, addresses=("127.0.0.1",))
            write_json(attempt.run, resolved)
            write_json(attempt.launch, launch)
        yield launch
    finally:
        sweep.remove_directory(shm)


class _Supervisor:
    """One launch, from the first process to the last."""

    def __init__(self, attempt: Attempt, launch: Launch, resolved: ResolvedRun, *, port: int) -> None:
        self._attempt = attempt
        self._launch = launch
        self._resolved = resolved
        self._port = port
        self._client = ControllerClient(attempt)
        self._progress = ProgressLine(steps=resolved.run.steps)
        self._engine: LocalEngine
        self._over: asyncio.Future[Outcome]
        self._restarts = 0
        self._signals = 0
        self._chaos = sorted(resolved.run.chaos, key=lambda event: event.at_step)
        self._told: set[asyncio.Task[None]] = set()
        self._order = asyncio.Lock()

    async def run(self) -> Outcome:
        """Start everything, wait for the end, leave nothing."""
        self._over = asyncio.get_running_loop().create_future()
        self._engine = LocalEngine(
            self._attempt, self._launch, on_agent_exit=self._agent_ended, on_controller_exit=self._controller_ended
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled, number)
        try:
            with self._progress:
                self._progress.say(f"run {self._resolved.run.name}: {self._attempt.path}")
                self._engine.start_controller(port=self._port)
                self._engine.start_agents()
                watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._look_after_controller())]
                try:
                    return await self._over
                finally:
                    for task in watching:
                        task.cancel()
                    await asyncio.gather(*watching, return_exceptions=True)
        finally:
            if self._over.done() and not self._over.cancelled() and self._over.exception() is None:
                await self._engine.wait_agents(AGENTS_END_S)
            for task in self._told:
                task.cancel()
            await self._engine.close()

    # --- what happens to processes ---

    def _agent_ended(self, child: Child) -> None:
        if self._over.done():
            return
        if child.code > 0:  # it gave up by itself: nobody killed it
            self._progress.say(f"{child.name} ended with {child.detail}", style="red")
        self._tell(lambda: self._client.exited(child.name, child.boot, child.detail))
        if all(agent.ended.is_set() for agent in self._engine.agents.values()):
            asyncio.get_running_loop().call_later(NO_AGENTS_S, self._no_agents)

    def _no_agents(self) -> None:
        """Nobody is left, and the controller has not ended the run: it has nobody to wait for either."""
        said = [f"{name}: {text}" for name in self._engine.agents if (text := self._engine.output_of(name))]
        self._fail(
            EnvironmentFault(
                "all nodes of the fleet have ended" + "".join(f"\n  {line}" for line in said[:3]),
                hint=f"the logs are in {self._attempt.logs}",
            )
        )

    def _controller_ended(self, child: Child) -> None:
        if self._over.done():
            return
        if self._attempt.outcome.exists():
            self._over.set_result(read_json(self._attempt.outcome, Outcome))
            return
        said = self._engine.output_of("controller")
        if child.code > 0:  # it gave up by itself, and said why: starting it again would not help
            free = format_bytes(shutil.disk_usage(self._attempt.path).free)
            hint = "" if said else f"it could not say why; {self._attempt.path} has {free} free"
            self._fail(EnvironmentFault(f"the controller ended with {child.how}" + (said and f"\n  {said}"), hint=hint))
        elif self._restarts >= CONTROLLER_RESTARTS:
            self._fail(EnvironmentFault(f"the controller died {self._restarts + 1} times, the last time {child.how}"))
        else:
            self._restarts += 1
            self._progress.say(
                f"the controller was {child.how}; starting it again, it goes on from its journal", style="yellow"
            )
            self._engine.start_controller(port=self._port)

    async def _look_after_controller(self) -> None:
        """A stopped controller answers nobody and does not end: after the time-out of a silent node it is killed."""
        limit_s, stopped_s = self._resolved.run.recovery.heartbeat_timeout_s, 0.0
        while True:
            await asyncio.sleep(CONTROLLER_LOOK_S)
            child = self._engine.controller
            if child is None or procfs.state(child.process.pid) != "T":
                stopped_s = 0.0
                continue
            stopped_s += CONTROLLER_LOOK_S
            if stopped_s >= limit_s:
                log.warning("the controller is stopped for %g s: it is killed", stopped_s)
                child.kill_group()
                stopped_s = 0.0

    def _fail(self, error: MyriarchError) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    # --- what the user wants ---

    def _signalled(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._over.done():
            return
        if self._signals == 1:
            self._progress.say("stopping after a last snapshot; once more to end at once", style="yellow")
            self._tell(lambda: self._client.stop(f"the launcher was sent {signal.Signals(number).name}"))
        else:
            self._over.set_result(
                Outcome(outcome="interrupted", step=0, detail="ended at once, without a last snapshot")
            )

    def _tell(self, call: Callable[[], None]) -> None:
        """Tell the controller, in order, until it has heard or is over."""
        task = asyncio.create_task(self._tell_until_heard(call))
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def _tell_until_heard(self, call: Callable[[], None]) -> None:
        async with self._order:
            for _ in range(TELL_TRIES):
                if self._over.done():
                    return
                try:
                    await asyncio.to_thread(call)
                except EnvironmentFault:
                    await asyncio.sleep(RETRY_S)
                except MyriarchError as error:
                    log.error("the controller refused: %s", error)
                    return
                else:
                    return
            log.error("the controller could not be told")

    # --- what the state says ---

    async def _watch(self) -> None:
        """Follow the state; through every restart of the controller."""
        headers = {"Authorization": f"Bearer {read_token(self._attempt)}"}
        tls = client_context(self._attempt)
        while True:
            with contextlib.suppress(OSError, WebSocketException, EnvironmentFault, TimeoutError, EOFError):
                url = read_json(self._attempt.contact, Contact).url.replace("https://", "wss://")
                async with connect(
                    f"{url}/v1/watch", ssl=tls, additional_headers=headers, compression=None, ping_interval=None,
                    max_size=MESSAGE_LIMIT_BYTES, close_timeout=0.2, proxy=None,
                ) as websocket:  # fmt: skip
                    async for text in websocket:
                        self._seen(text.encode() if isinstance(text, str) else text)
            await asyncio.sleep(RETRY_S)

    def _seen(self, text: bytes) -> None:
        order = msgspec.json.decode(text, type=dict[str, object])
        if "resume" in order:
            self._engine.resume(str(order["resume"]))
            return
        shown: Shown = shown_decoder.decode(text)
        if shown.phase == "ended":
            self._engine.resume_all()  # a stopped node cannot hear that the run is over
        self._progress.show(shown)
        while self._chaos and shown.step >= self._chaos[0].at_step:
            self._inflict(self._chaos.pop(0))

    def _inflict(self, event: ChaosEvent) -> None:
        self._progress.say(f"chaos at step {event.at_step}: {event.action} {event.target}", style="red")

        def order() -> None:
            try:
                self._client.chaos(event.action, event.target, factor=event.factor)
            except UsageError as error:
                log.error("%s", error)
                self._progress.say(f"warning: no chaos: {error}", style="yellow")

        self._tell(order)
