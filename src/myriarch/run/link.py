"""An agent's connection to the controller: kept open for ever, losing nothing while it is down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from myriarch.errors import EnvironmentFault
from myriarch.event.events import AnyEvent, Heartbeat, NodeJoined
from myriarch.event.spans import Span
from myriarch.run.directory import Attempt, Contact, read_json
from myriarch.run.messages import (
    MESSAGE_LIMIT_BYTES,
    REPORTS_KEPT,
    REPORTS_PER_BATCH,
    Beat,
    Do,
    FromAgent,
    FromController,
    Hello,
    Inflict,
    Inflicted,
    Report,
    Reports,
    Taken,
    Validation,
    encode,
    from_controller,
)

log = logging.getLogger("myriarch.agent")

RETRY_S: Final = 0.02
"""Between attempts to connect: a refused connection on loopback costs microseconds."""
RETRY_LATE_S: Final = 0.5
RETRY_LATE_AFTER_S: Final = 20.0
"""A controller away for so long is not about to come back at once."""
OPEN_TIMEOUT_S: Final = 10.0
OTHERS_KEPT: Final = 64
"""Beats and answers waiting to be sent; more means that the controller does not read, and old ones are of no use."""


class ControllerLink:
    """Report through it; what the controller says comes through the callbacks, on the event loop's thread."""

    def __init__(
        self,
        attempt: Attempt,
        *,
        token: str,
        tls: ssl.SSLContext,
        run_id: str,
        joined: Callable[[], Awaitable[NodeJoined]],
        on_action: Callable[[Do], None],
        on_inflict: Callable[[Inflict], None],
        emulation: Callable[[], str],
    ) -> None:
        self._attempt = attempt
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tls = tls
        self._run_id = run_id
        self._joined = joined
        self._on_action = on_action
        self._on_inflict = on_inflict
        self._emulation = emulation
        self._kept: deque[Report] = deque()
        """Reports not taken by the controller, in order; at most REPORTS_KEPT."""
        self._sent_seq = 0
        """The last report sent over the present connection."""
        self._seq = 0
        self._done_seq = 0
        """The last action that was given to `on_action`."""
        self._others: deque[FromAgent] = deque(maxlen=OTHERS_KEPT)
        self._wake = asyncio.Event()
        self._all_taken = asyncio.Event()
        self._all_taken.set()
        self.connected = False

    # --- reporting ---

    def report(self, event: AnyEvent) -> None:
        """Delivered once, in order, however long the controller is away."""
        self._keep(Report(seq=self._seq + 1, event=event))

    def report_spans(self, spans: tuple[Span, ...]) -> None:
        if spans:
            self._keep(Report(seq=self._seq + 1, spans=spans))

    def report_validation(self, validation: Validation) -> None:
        self._keep(Report(seq=self._seq + 1, validation=validation))

    def beat(self, heartbeat: Heartbeat) -> None:
        """Sent now or never."""
        if self.connected:
            self._send(Beat(heartbeat=heartbeat, done_seq=self._done_seq))

    def answer(self, inflicted: Inflicted) -> None:
        self._send(inflicted)

    async def drained(self, limit_s: float) -> bool:
        """Whether everything reported was taken within `limit_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._all_taken.wait()
        return self._all_taken.is_set()

    def start_over(self) -> None:
        """The node has become another one (a new boot): what the old one had to say, and was told, is void."""
        self._kept.clear()
        self._others.clear()
        self._all_taken.set()
        self._done_seq = 0

    # --- the connection ---

    async def run(self) -> None:
        """Connect, talk, connect again; until cancelled."""
        away_since_s = time.monotonic()
        while True:
            try:
                async with self._connect() as connection:
                    try:
                        await self._talk(connection)
                    finally:
                        self.connected = False
                        away_since_s = time.monotonic()
            except (OSError, WebSocketException, TimeoutError, EnvironmentFault, EOFError) as error:
                log.debug("no controller: %s", error)
            late = time.monotonic() - away_since_s > RETRY_LATE_AFTER_S
            await asyncio.sleep(RETRY_LATE_S if late else RETRY_S)

    def _connect(self) -> connect:
        contact = read_json(self._attempt.contact, Contact)
        return connect(
            contact.url.replace("https://", "wss://") + "/v1/agent",
            ssl=self._tls,
            additional_headers=self._headers,
            compression=None,
            max_size=MESSAGE_LIMIT_BYTES,
            ping_interval=None,  # silence is the failure detector's matter
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=0.2,
            proxy=None,
        )

    async def _talk(self, connection: ClientConnection) -> None:
        joined = await self._joined()
        self._sent_seq = 0
        reports = self._unsent()
        hello = Hello(
            run_id=self._run_id, joined=joined, done_seq=self._done_seq, reports=reports, emulation=self._emulation()
        )
        self._sent_seq = reports[-1].seq if reports else self._seq
        self._wake.set()
        self.connected = True
        await connection.send(encode(hello))
        log.info("connected to the controller, with %d reports", len(hello.reports))
        writer = asyncio.create_task(self._write(connection))
        reader = asyncio.create_task(self._read(connection))
        try:
            done, _ = await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (writer, reader):
                task.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    async def _read(self, connection: ClientConnection) -> None:
        async for frame in connection:
            if isinstance(frame, str):
                log.error("the controller sent text; connecting anew")
                return
            try:
                message = from_controller.decode(frame)
            except msgspec.DecodeError as error:
                log.error("the controller sent a message outside the protocol (%s); connecting anew", error)
                return
            self._take(message)

    def _take(self, message: FromController) -> None:
        match message:
            case Taken():
                while self._kept and self._kept[0].seq <= message.seq:
                    self._kept.popleft()
                if not self._kept:
                    self._all_taken.set()
            case Do():
                if message.seq > self._done_seq:  # else it is sent again: done
                    self._done_seq = message.seq
                    self._on_action(message)
            case Inflict():
                self._on_inflict(message)

    async def _write(self, connection: ClientConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._unsent():
                self._sent_seq = batch[-1].seq
                await connection.send(encode(Reports(reports=batch)))
            while self._others:
                await connection.send(encode(self._others.popleft()))

    def _unsent(self) -> tuple[Report, ...]:
        """The next batch. Reports are numbered without gaps, so the first unsent one's place is known."""
        if not self._kept or self._kept[-1].seq <= self._sent_seq:
            return ()
        start = max(self._sent_seq + 1 - self._kept[0].seq, 0)
        return tuple(self._kept[i] for i in range(start, min(len(self._kept), start + REPORTS_PER_BATCH)))

    def _keep(self, report: Report) -> None:
        self._seq = report.seq
        if len(self._kept) >= REPORTS_KEPT:
            lost = self._kept.popleft()
            log.error("the controller is away for too long: report %d is dropped", lost.seq)
        self._kept.append(report)
        self._all_taken.clear()
        self._wake.set()

    def _send(self, message: FromAgent) -> None:
        self._others.append(message)
        self._wake.set()
