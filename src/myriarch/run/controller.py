"""The controller: `python -m myriarch.run.controller <attempt folder> <port>`.

One per run. It listens on one TLS port, keeps journal and ledger, and lets `Control` decide. Its journal is its state:
killed at any moment and started again with the same folder, it goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import uvicorn

from myriarch.errors import EXIT_FAILED, EXIT_OK, EnvironmentFault, MyriarchError, UsageError, WireError
from myriarch.event.actions import EndRun
from myriarch.event.events import AnyEvent, NodeExited, RunStarted, StopRequested
from myriarch.event.ids import NodeId
from myriarch.run import sweep
from myriarch.run.chaos import Chaos
from myriarch.run.decider import Decider
from myriarch.run.directory import Attempt, Contact, Outcome, read_json, write_json
from myriarch.run.identity import read_token
from myriarch.run.journal_file import JournalFile
from myriarch.run.ledger_writer import LedgerWriter
from myriarch.run.messages import (
    Beat,
    FromAgent,
    Hello,
    Inflicted,
    Report,
    Reports,
    Taken,
)
from myriarch.run.owner import Owner
from myriarch.run.resume import newest_checkpoint
from myriarch.run.server import (
    HELLO_TIMEOUT_S,
    WEBSOCKET_LIMIT_BYTES,
    AgentConnection,
    ChaosOrder,
    Exited,
    StopOrder,
    build_app,
)

log = logging.getLogger("myriarch.controller")

ADDRESS: Final = "127.0.0.1"
RESTART_GRACE_S: Final = 5.0
"""After a restart, for the nodes that were online to come back: they try fifty times a second."""
FAREWELL_S: Final = 4.0
"""After the end, for the agents to report their last and leave."""
BACKLOG: Final = 1024


class Watcher:
    """One who is shown the state."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.orders: list[bytes] = []
        self.closed = False


class Controller:
    """The routes' backend. `run` it once."""

    def __init__(self, attempt: Attempt, decider: Decider, ledger: LedgerWriter) -> None:
        self.attempt = attempt
        self.launch = attempt.places()
        self._decider = decider
        self._ledger = ledger
        self._emulation: dict[str, str] = {}
        self._chaos = Chaos(decider)
        self._watchers: set[Watcher] = set()
        self._taken: dict[str, tuple[str, int]] = {}
        """Of each node: its boot, and the number of its last report that was taken by this process."""

    # --- HTTP ---

    def state(self) -> bytes:
        shown: dict[str, Any] = msgspec.to_builtins(self._decider.view())
        shown["run_id"] = self.launch.run_id
        shown["emulation"] = self._emulation
        return msgspec.json.encode(shown)

    def stop(self, order: StopOrder) -> None:
        self._decider.take(StopRequested(why=order.why))

    def exited(self, exited: Exited) -> None:
        box = self._decider.outboxes.get(NodeId(exited.node))
        if box is None:
            raise UsageError(f"`{exited.node}` is no node of this run")
        # A fenced agent goes on under `<boot>.1`: it is the same process, which has ended.
        boot = box.boot if box.boot.split(".")[0] == exited.boot else exited.boot
        self._decider.take(NodeExited(node=NodeId(exited.node), boot=boot, detail=exited.detail))

    async def chaos(self, order: ChaosOrder) -> str:
        return await self._chaos.inflict(order, resume_node=self._resume_node)

    def _resume_node(self, node: NodeId) -> None:
        """Ask the engine: a stopped node cannot wake itself."""
        for watcher in self._watchers:
            watcher.orders.append(msgspec.json.encode({"resume": node}))
            watcher.changed.set()

    # --- agents ---

    def hello(self, hello: Hello, connection: AgentConnection) -> None:
        node = hello.joined.node
        try:
            place = self.launch.place(node)
        except KeyError:
            raise WireError(f"`{node}` is no node of this run") from None
        if hello.run_id != self.launch.run_id or hello.joined.pool != place.pool:
            raise WireError(f"{node} is of run {hello.run_id}, pool {hello.joined.pool}; not of this one")
        connection.node, connection.boot = node, hello.joined.boot
        log.info("%s has connected (boot %s)", node, hello.joined.boot)
        self._take(hello.reports, connection)
        self._decider.connect(hello.joined, connection, done_seq=hello.done_seq)
        if self._emulation.get(node, "") != hello.emulation:
            self._emulation[node] = hello.emulation
            write_json(self.attempt.emulation, self._emulation)

    async def message(self, message: FromAgent, connection: AgentConnection) -> None:
        match message:
            case Reports():
                self._take(message.reports, connection)
            case Beat():
                if message.heartbeat.node != connection.node:
                    raise WireError(f"{connection.node} sends a heartbeat of {message.heartbeat.node}")
                self._decider.outboxes[message.heartbeat.node].done(message.done_seq)
                self._decider.observe_beat(message.heartbeat)
            case Inflicted():
                self._chaos.answered(message)
            case Hello():
                raise WireError("a second Hello")

    def _take(self, reports: tuple[Report, ...], connection: AgentConnection) -> None:
        """Events are decided upon now; spans are written, then all are acknowledged. What was taken is not again."""
        boot, seq = self._taken.get(connection.node, ("", 0))
        new = tuple(report for report in reports if boot != connection.boot or report.seq > seq)
        for report in new:
            if report.event is not None:
                _check_speaker(report.event, connection)
                self._decider.take_report(report.event)
        if new:
            self._taken[connection.node] = (connection.boot, new[-1].seq)
        if reports:
            self._ledger.put(new, connection, taken=Taken(seq=reports[-1].seq))

    def gone(self, connection: AgentConnection, detail: str) -> None:
        log.info("%s has disconnected: %s", connection.node, detail)
        self._decider.disconnect(NodeId(connection.node), connection, detail)

    # --- watchers ---

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watcher]:
        watcher = Watcher()
        self._watchers.add(watcher)
        self._decider.watchers.add(watcher.changed)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            self._decider.watchers.discard(watcher.changed)

    # --- the end ---

    async def farewell(self) -> None:
        """Wait for the end of the run, write it down, see the agents off."""
        await self._decider.ended.wait()
        end = cast(EndRun, self._decider.end)
        log.info("the run ends: %s", end.outcome)
        try:
            async with asyncio.timeout(FAREWELL_S):
                while any(box.connection is not None for box in self._decider.outboxes.values()):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.warning("some agents have not left within %g s", FAREWELL_S)
        await self._ledger.flushed()
        outcome = Outcome(
            outcome=end.outcome, step=end.step, detail=end.detail, checkpoint=end.checkpoint, reason=end.reason.text
        )
        write_json(self.attempt.outcome, outcome)
        for watcher in self._watchers:
            watcher.closed = True
            watcher.changed.set()


def _check_speaker(event: AnyEvent, connection: AgentConnection) -> None:
    """A node speaks for itself alone."""
    node = getattr(event, "node", connection.node)
    if node != connection.node:
        raise WireError(f"{connection.node} reports {type(event).__name__} of {node}")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: this process's end is the owner's and the run's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(port: int) -> socket.socket:
    """Listen on the loopback address. EnvironmentFault when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise EnvironmentFault(
            f"the controller cannot listen on {ADDRESS}:{port}: {error.strerror}",
            hint=f"see who has it (`ss -ltnp 'sport = :{port}'`) and end it; a new launch takes another port",
        ) from error
    return listener


def bind_again(port: int) -> socket.socket:
    """Listen where the controller listened before it died; somewhere else when somebody has taken that port since.

    Whoever talks to the controller reads `controller.json` each time that he connects.
    """
    try:
        return bind(port)
    except EnvironmentFault as error:
        log.warning("%s; another port will do", error)
        return bind(0)


async def serve(attempt: Attempt, port: int) -> None:
    """Until the run has ended or the owner is gone."""
    launch, resolved = attempt.places(), attempt.resolved()
    nodes = tuple(place.node for place in launch.nodes)
    if attempt.contact.exists():
        listening = bind_again(int(read_json(attempt.contact, Contact).url.rsplit(":", 1)[1]))
    else:
        listening = bind(port)
    with JournalFile(attempt.journal) as journal, listening as listener, Owner.from_environment() as owner:
        decider = Decider(journal, nodes=nodes, recovery=resolved.run.recovery)
        restarted = bool(journal.records)
        if restarted:
            decider.replay()
            log.info("replayed %d journal records; %d torn bytes cut", len(journal.records), journal.cut_bytes)
        else:
            found = newest_checkpoint(Path(launch.checkpoints), resolved)
            decider.take(
                RunStarted(
                    run_id=launch.run_id, resolved=resolved, resume_step=found.step if found else None,
                    resume_path=found.path if found else "", resume_digest=found.digest if found else "",
                )
            )  # fmt: skip
        async with LedgerWriter(attempt.ledger, validations=attempt.validations) as ledger:
            controller = Controller(attempt, decider, ledger)
            server = _Server(_server_config(attempt, controller))
            gone = asyncio.Event()
            owner.call_when_gone(gone.set)
            tasks = [
                asyncio.create_task(server.serve(sockets=[listener]), name="server"),
                asyncio.create_task(decider.watch_deadlines(), name="deadlines"),
                asyncio.create_task(controller.farewell(), name="farewell"),
                asyncio.create_task(gone.wait(), name="owner"),
                asyncio.create_task(_wait(decider.failed), name="decider"),
            ]
            if restarted:
                asyncio.get_running_loop().call_later(RESTART_GRACE_S, decider.missing_after_restart)
            write_json(
                attempt.contact,
                Contact(url=f"https://{ADDRESS}:{listener.getsockname()[1]}", pid=os.getpid()),
                mode=0o600,
            )
            await _until_over(tasks)
            server.should_exit = server.force_exit = True
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _until_over(tasks: list[asyncio.Task[Any]]) -> None:
    """Until the farewell is done or the owner is gone; any other task that ends has failed."""
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if any(task.get_name() in ("farewell", "owner", "server") for task in done):
            return


async def _wait(failed: asyncio.Future[None]) -> None:
    await asyncio.shield(failed)


def _server_config(attempt: Attempt, controller: Controller) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(controller, token=read_token(attempt)),
        ssl_keyfile=str(attempt.key), ssl_certfile=str(attempt.certificate), log_config=None, access_log=False,
        loop="asyncio", http="h11", ws="websockets-sansio", ws_max_size=WEBSOCKET_LIMIT_BYTES, ws_ping_interval=None,
        ws_per_message_deflate=False, lifespan="off", timeout_graceful_shutdown=1,
        timeout_keep_alive=int(HELLO_TIMEOUT_S), server_header=False, date_header=False,
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    attempt = Attempt(Path(arguments[0]))
    logging.basicConfig(
        filename=attempt.logs / "controller.log", level=logging.INFO,
        format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s", datefmt="%H:%M:%S",
    )  # fmt: skip
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shm = Path(attempt.places().shm_directory)
    try:
        asyncio.run(serve(attempt, int(arguments[1])))
    except MyriarchError as error:
        log.critical("%s", error)
        sys.stderr.write(f"{error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return EXIT_FAILED
    finally:
        sweep.leave(shm)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
