"""The controller's one port: WebSocket for agents and the launcher, HTTP for people's verbs; TLS, one token.

    GET  /v1/state            what `Control.view()` says, as JSON
    GET  /v1/health           204 while the controller lives; the only route without a token
    POST /v1/stop             {"why"}: end after a last snapshot
    POST /v1/chaos            {"action", "target", "factor"}: inflict a fault
    POST /v1/engine/exited    {"node", "boot", "detail"}: the engine saw an agent end
    WS   /v1/agent            `run.messages`
    WS   /v1/watch            the state whenever it changes, and what the engine is asked to do

Whatever a peer sends, only its own connection suffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator
from typing import Final, Protocol, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from myriarch.errors import MyriarchError, UsageError, WireError
from myriarch.event.base import Value
from myriarch.run.messages import (
    MESSAGE_LIMIT_BYTES,
    FromAgent,
    FromController,
    Hello,
    encode,
    from_agent,
)

log = logging.getLogger("myriarch.controller")

T = TypeVar("T")

BODY_LIMIT_BYTES: Final = 64 * 1024
HELLO_TIMEOUT_S: Final = 10.0
QUEUE_LIMIT: Final = 8192
"""Messages waiting for one agent that does not read; then it is disconnected, and gets them after it reconnects."""
WATCH_INTERVAL_S: Final = 0.05
"""Least time between two states sent to one watcher."""


class StopOrder(Value, frozen=True, kw_only=True):
    why: str = "asked over HTTP"


class ChaosOrder(Value, frozen=True, kw_only=True):
    action: str
    target: str
    factor: float | None = None


class Exited(Value, frozen=True, kw_only=True):
    node: str
    boot: str
    detail: str = ""


class Backend(Protocol):
    """What the routes need of the controller."""

    def state(self) -> bytes:
        """JSON of the state."""

    def stop(self, order: StopOrder) -> None: ...

    async def chaos(self, order: ChaosOrder) -> str:
        """Inflict a fault; returns what was done. UsageError for one that cannot be."""

    def exited(self, exited: Exited) -> None: ...

    def hello(self, hello: Hello, connection: AgentConnection) -> None:
        """A node's agent is here. WireError if it is none of this run's."""

    async def message(self, message: FromAgent, connection: AgentConnection) -> None:
        """WireError for what this node may not say."""

    def gone(self, connection: AgentConnection, detail: str) -> None: ...

    def watch(self) -> contextlib.AbstractContextManager[Watcher]: ...


class Watcher(Protocol):
    """One who is shown the state."""

    changed: asyncio.Event
    orders: list[bytes]
    """Texts for the engine, sent before the next state."""
    closed: bool
    """There is nothing more to be seen."""


class AgentConnection:
    """One agent's WebSocket, with a bounded queue of what it is sent."""

    def __init__(self, websocket: WebSocket) -> None:
        self.node = ""
        self.boot = ""
        self._websocket = websocket
        self._queue: asyncio.Queue[FromController] = asyncio.Queue(QUEUE_LIMIT)
        self._closing = asyncio.Event()
        self.why = ""

    def send(self, message: FromController) -> None:
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.close(f"it did not read {QUEUE_LIMIT} messages")

    def close(self, why: str) -> None:
        self.why = self.why or why
        self._closing.set()

    async def serve(self, backend: Backend) -> None:
        """Until either side closes."""
        await self._websocket.accept()
        tasks = {
            asyncio.create_task(self._read(backend)),
            asyncio.create_task(self._write()),
            asyncio.create_task(self._closed()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                match task.exception():
                    case WebSocketDisconnect():
                        pass
                    case TimeoutError():
                        self.why = self.why or f"no Hello within {HELLO_TIMEOUT_S:g} s"
                    case BaseException() as error:
                        self.why = self.why or f"{type(error).__name__}: {error}"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.node:
                backend.gone(self, self.why or "its connection closed")
            with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
                await self._websocket.close(1008 if self.why else 1000, self.why[:120])

    async def _closed(self) -> None:
        await self._closing.wait()

    async def _read(self, backend: Backend) -> None:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            first = await self._receive()
        if not isinstance(first, Hello):
            raise WireError(f"the first message is {type(first).__name__}, not Hello")
        backend.hello(first, self)
        while True:
            await backend.message(await self._receive(), self)

    async def _receive(self) -> FromAgent:
        frame = await self._websocket.receive()
        if frame["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(frame.get("code", 1006))
        data = frame.get("bytes")
        if data is None:
            raise WireError("a text message where MessagePack is spoken")
        try:
            message: FromAgent = from_agent.decode(data)
        except msgspec.DecodeError as error:
            raise WireError(f"a message of {len(data)} bytes is none of the protocol's: {error}") from error
        return message

    async def _write(self) -> None:
        while True:
            await self._websocket.send_bytes(encode(await self._queue.get()))


def build_app(backend: Backend, *, token: str) -> Starlette:
    """The routes over `backend`."""
    routes = _Routes(backend, token=token)
    return Starlette(
        routes=[
            Route("/v1/health", routes.health, methods=["GET"]),
            Route("/v1/state", routes.state, methods=["GET"]),
            Route("/v1/stop", routes.stop, methods=["POST"]),
            Route("/v1/chaos", routes.chaos, methods=["POST"]),
            Route("/v1/engine/exited", routes.exited, methods=["POST"]),
            WebSocketRoute("/v1/agent", routes.agent),
            WebSocketRoute("/v1/watch", routes.watch),
        ],
        exception_handlers={MyriarchError: _refused},
    )


class _Routes:
    def __init__(self, backend: Backend, *, token: str) -> None:
        self._backend = backend
        self._expected = f"Bearer {token}".encode()

    def _allowed(self, connection: HTTPConnection) -> bool:
        given = connection.headers.get("authorization", "").encode()
        if hmac.compare_digest(given, self._expected):
            return True
        log.warning("refused %s from %s: wrong token", connection.url.path, connection.client)
        return False

    async def health(self, request: Request) -> Response:
        return Response(status_code=204)

    async def state(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorized()
        return Response(self._backend.state(), media_type="application/json")

    async def stop(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorized()
        self._backend.stop(await _body(request, StopOrder))
        return JSONResponse({})

    async def chaos(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorized()
        return JSONResponse({"done": await self._backend.chaos(await _body(request, ChaosOrder))})

    async def exited(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorized()
        self._backend.exited(await _body(request, Exited))
        return JSONResponse({})

    async def agent(self, websocket: WebSocket) -> None:
        if not self._allowed(websocket):
            await websocket.close(1008)  # before accept: the upgrade is answered with 403
            return
        connection = AgentConnection(websocket)
        try:
            await connection.serve(self._backend)
        finally:
            if connection.why:
                log.warning("connection of %s closed: %s", connection.node or websocket.client, connection.why)

    async def watch(self, websocket: WebSocket) -> None:
        if not self._allowed(websocket):
            await websocket.close(1008)
            return
        await websocket.accept()
        with self._backend.watch() as watcher, contextlib.suppress(WebSocketDisconnect, RuntimeError):
            listening = asyncio.create_task(websocket.receive())  # a watcher says nothing: this ends when it leaves
            try:
                async for text in _watched(self._backend, watcher, listening):
                    await websocket.send_text(text.decode())
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)


async def _watched(backend: Backend, watcher: Watcher, leaving: asyncio.Task[object]) -> AsyncIterator[bytes]:
    """The state now and after each change, with a least interval; the engine's orders at once."""
    while not leaving.done() and not watcher.closed:
        for order in watcher.orders:
            yield order
        watcher.orders.clear()
        watcher.changed.clear()
        yield backend.state()
        await asyncio.wait({leaving}, timeout=WATCH_INTERVAL_S)
        changed = asyncio.create_task(watcher.changed.wait())
        await asyncio.wait({changed, leaving}, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()


async def _body(request: Request, kind: type[T]) -> T:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT_BYTES:
            raise UsageError(f"the request's body is larger than {BODY_LIMIT_BYTES} bytes")
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise UsageError(f"the request's body is no {kind.__name__}: {error}") from error


async def _refused(request: Request, error: Exception) -> Response:
    hint = error.hint if isinstance(error, MyriarchError) else ""
    return JSONResponse({"error": str(error), "hint": hint}, status_code=400)


def _unauthorized() -> Response:
    body = {"error": "wrong token", "hint": "only the user who launched a run may talk to it"}
    return JSONResponse(body, status_code=401)


WEBSOCKET_LIMIT_BYTES: Final = MESSAGE_LIMIT_BYTES
