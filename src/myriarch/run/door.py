"""The agent's Unix socket: workers attach here, drains leave their results.

Only processes of this user that know the run's token get in; anything else is disconnected and said in the log.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from myriarch.errors import AuthenticationError, EnvironmentFault, MyriarchError, WireError
from myriarch.run.drains import Drains
from myriarch.run.sweep import SOCKET_PATH_LIMIT_BYTES
from myriarch.run.worker import Channel, Worker
from myriarch.wire.frames import AsyncChannel
from myriarch.wire.worker import Attach, FromWorker
from myriarch.wire.zygote import DrainResult

log = logging.getLogger("myriarch.agent")

FIRST_FRAME_TIMEOUT_S: Final = 5.0
_CREDENTIALS: Final = struct.Struct("3i")
"""`struct ucred` of unix(7): process, user, group."""

FindWorker = Callable[[Attach], Worker | None]


class Door:
    """Listens while it is entered."""

    def __init__(self, path: str, *, token: str, find_worker: FindWorker, drains: Drains) -> None:
        self._path = path
        self._token = token
        self._find_worker = find_worker
        self._drains = drains
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Door:
        if len(os.fsencode(self._path)) > SOCKET_PATH_LIMIT_BYTES:
            raise EnvironmentFault(
                f"the socket path {self._path} is longer than the {SOCKET_PATH_LIMIT_BYTES} bytes that Unix allows",
                hint="give the run a shorter `name`",
            )
        self._server = await asyncio.start_unix_server(self._accept, self._path)
        os.chmod(self._path, 0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel: Channel = AsyncChannel(reader, writer, decode_type=FromWorker | DrainResult, peer="a process")
        try:
            pid = _peer_of(writer.get_extra_info("socket"))
            channel.peer = f"process {pid}"
            async with asyncio.timeout(FIRST_FRAME_TIMEOUT_S):
                first = await channel.receive()
            if self._admit(first, pid, channel):
                return  # the worker's own from now on
        except TimeoutError:
            log.warning("%s said nothing for %g s", channel.peer, FIRST_FRAME_TIMEOUT_S)
        except MyriarchError as error:
            log.warning("refused %s: %s", channel.peer, error)
        await channel.close()

    def _admit(self, first: FromWorker | DrainResult | None, pid: int, channel: Channel) -> bool:
        """Whether the connection stays open."""
        match first:
            case Attach():
                self._check(first.token)
                worker = self._find_worker(first)
                if worker is None or pid != first.pid:
                    raise WireError(
                        f"no worker {first.group}/{first.rank} of incarnation {first.incarnation} is expected from it"
                    )
                worker.attach(channel)
                return True
            case DrainResult():
                self._check(first.token)
                self._drains.result(first)
                return False
            case None:
                return False
            case _:
                raise WireError(f"its first message is {type(first).__name__}")

    def _check(self, token: str) -> None:
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise AuthenticationError("wrong token")


def _peer_of(sock: socket.socket) -> int:
    """The process at the other end, by the kernel's word. AuthenticationError if it is another user's."""
    pid, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user != os.getuid():
        raise AuthenticationError(f"process {pid} belongs to user {user}, not {os.getuid()}")
    return int(pid)
