"""Mutual proof that both ends hold the run's token, which itself never travels.

    server -> client    MAGIC, server nonce
    client -> server    client nonce, HMAC(token, "client" | purpose | server nonce | client nonce)
    server -> client    HMAC(token, "server" | purpose | server nonce | client nonce)

HMAC-SHA256 with 32-byte nonces. A recorded exchange proves nothing to a fresh nonce (replay); a proof sent back to its
maker is of the wrong role (reflection); a proof for one service is none for another (purpose). The server proves itself
only to a client that did so first. Tokens are random and long (256 bits), so that a recorded proof is no help in
guessing them.

What this does not give: secrecy, or protection of later frames against somebody who sits on the path. Where that is a
danger, run it inside TLS.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from typing import Final

from myriarch.errors import AuthenticationError, WireError
from myriarch.wire.frames import FrameSocket, read_frame, write_frame

MAGIC: Final = b"myriarch/1"
HANDSHAKE_TIMEOUT_S: Final = 5.0
"""For each frame of the handshake: a peer that says nothing is cut off."""
HANDSHAKE_FRAME_LIMIT_BYTES: Final = 256
"""Strangers cannot make us allocate."""
NONCE_BYTES: Final = 32
_PROOF_BYTES: Final = 32

BYTES: Final = "bytes"
"""Purpose of an agent's byte server: store and shards. The bridge has its own."""


def _proof(token: str, role: bytes, purpose: str, server_nonce: bytes, client_nonce: bytes) -> bytes:
    # The parts before the nonces have their lengths in front: no two inputs run together to the same bytes.
    text = b"".join(len(part).to_bytes(2, "little") + part for part in (role, purpose.encode()))
    return hmac.new(token.encode(), text + server_nonce + client_nonce, hashlib.sha256).digest()


class ServerHandshake:
    """The server's side, without I/O: `hello`, then `answer(reply)`."""

    def __init__(self, token: str, *, purpose: str = BYTES) -> None:
        self._token = _required(token)
        self._purpose = purpose
        self._nonce = secrets.token_bytes(NONCE_BYTES)

    @property
    def hello(self) -> bytes:
        return MAGIC + self._nonce

    def answer(self, reply: bytes | None, peer: str) -> bytes:
        """The proof to send back. Raises AuthenticationError when `reply` proves nothing."""
        if reply is None:
            raise AuthenticationError(f"{peer} closed the connection before it proved itself")
        nonce, proof = reply[:NONCE_BYTES], reply[NONCE_BYTES:]
        expected = _proof(self._token, b"client", self._purpose, self._nonce, nonce)
        if len(reply) != NONCE_BYTES + _PROOF_BYTES or not hmac.compare_digest(proof, expected):
            raise AuthenticationError(f"{peer} does not hold this run's token")
        return _proof(self._token, b"server", self._purpose, self._nonce, nonce)


class ClientHandshake:
    """The client's side, without I/O: `reply(hello)`, then `check(answer)`."""

    def __init__(self, token: str, *, purpose: str = BYTES) -> None:
        self._token = _required(token)
        self._purpose = purpose
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._server_nonce = b""

    def reply(self, hello: bytes | None, peer: str) -> bytes:
        """What proves this side. Raises AuthenticationError when the other end speaks something else."""
        if hello is None:
            raise AuthenticationError(
                f"{peer} closed the connection at once: it has no place left, or is shutting down"
            )
        if len(hello) != len(MAGIC) + NONCE_BYTES or not hello.startswith(MAGIC):
            raise AuthenticationError(f"{peer} is no Myriarch process of this version")
        self._server_nonce = hello[len(MAGIC) :]
        return self._nonce + _proof(self._token, b"client", self._purpose, self._server_nonce, self._nonce)

    def check(self, answer: bytes | None, peer: str) -> None:
        """Raises AuthenticationError unless the server has proved itself."""
        if answer is None:
            raise AuthenticationError(f"{peer} refused this process: it belongs to another run, or its token differs")
        expected = _proof(self._token, b"server", self._purpose, self._server_nonce, self._nonce)
        if not hmac.compare_digest(answer, expected):
            raise AuthenticationError(f"{peer} does not hold this run's token; it may be an impostor")


def _required(token: str) -> str:
    if not token:
        raise AuthenticationError("the run's token is empty; every connection needs one")
    return token


def authenticate_server(
    frames: FrameSocket, token: str, *, purpose: str = BYTES, timeout_s: float = HANDSHAKE_TIMEOUT_S
) -> None:
    """The accepting side. Raises AuthenticationError; the caller closes the connection."""
    handshake = ServerHandshake(token, purpose=purpose)
    try:
        frames.send(handshake.hello, timeout_s=timeout_s)
        reply = frames.recv(timeout_s=timeout_s, limit_bytes=HANDSHAKE_FRAME_LIMIT_BYTES)
        frames.send(handshake.answer(reply, frames.peer), timeout_s=timeout_s)
    except AuthenticationError:
        raise
    except WireError as error:
        raise AuthenticationError(f"the handshake with {frames.peer} failed: {error}") from error


def authenticate_client(
    frames: FrameSocket, token: str, *, purpose: str = BYTES, timeout_s: float = HANDSHAKE_TIMEOUT_S
) -> None:
    """The connecting side. Raises AuthenticationError; the caller closes the connection."""
    handshake = ClientHandshake(token, purpose=purpose)
    try:
        hello = frames.recv(timeout_s=timeout_s, limit_bytes=HANDSHAKE_FRAME_LIMIT_BYTES)
        frames.send(handshake.reply(hello, frames.peer), timeout_s=timeout_s)
        answer = frames.recv(timeout_s=timeout_s, limit_bytes=HANDSHAKE_FRAME_LIMIT_BYTES)
        handshake.check(answer, frames.peer)
    except AuthenticationError:
        raise
    except WireError as error:
        raise AuthenticationError(f"the handshake with {frames.peer} failed: {error}") from error


async def authenticate_server_async(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    token: str,
    *,
    purpose: str = BYTES,
    peer: str = "the peer",
    timeout_s: float = HANDSHAKE_TIMEOUT_S,
) -> None:
    """`authenticate_server` over asyncio streams."""
    handshake = ServerHandshake(token, purpose=purpose)
    try:
        async with asyncio.timeout(timeout_s):
            await write_frame(writer, handshake.hello, peer=peer)
            reply = await read_frame(reader, limit_bytes=HANDSHAKE_FRAME_LIMIT_BYTES, peer=peer)
            await write_frame(writer, handshake.answer(reply, peer), peer=peer)
    except AuthenticationError:
        raise
    except TimeoutError as error:
        raise AuthenticationError(f"the handshake with {peer} failed: it took more than {timeout_s:g} s") from error
    except WireError as error:
        raise AuthenticationError(f"the handshake with {peer} failed: {error}") from error


async def authenticate_client_async(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    token: str,
    *,
    purpose: str = BYTES,
    peer: str = "the peer",
    timeout_s: float = HANDSHAKE_TIMEOUT_S,
) -> None:
    """`authenticate_client` over asyncio streams."""
    handshake = ClientHandshake(token, purpose=purpose)
    try:
        async with asyncio.timeout(timeout_s):
            hello = await read_frame(reader, limit_bytes=HANDSHAKE_FRAME_LIMIT_BYTES, peer=peer)
            await write_frame(writer, handshake.reply(hello, peer), peer=peer)
            handshake.check(await read_frame(reader, limit_bytes=HANDSHAKE_FRAME_LIMIT_BYTES, peer=peer), peer)
    except AuthenticationError:
        raise
    except TimeoutError as error:
        raise AuthenticationError(f"the handshake with {peer} failed: it took more than {timeout_s:g} s") from error
    except WireError as error:
        raise AuthenticationError(f"the handshake with {peer} failed: {error}") from error
