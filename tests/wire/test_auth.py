"""Only who holds the token gets in, both ways; what was overheard opens nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import AuthenticationError, WireError
from myriarch.wire.auth import (
    HANDSHAKE_FRAME_LIMIT_BYTES,
    MAGIC,
    ClientHandshake,
    ServerHandshake,
    authenticate_client,
    authenticate_client_async,
    authenticate_server,
    authenticate_server_async,
)
from myriarch.wire.frames import FrameSocket

Pair = tuple[socket.socket, socket.socket]
TOKEN = "f" * 64


def both(pair: Pair, client: Callable[[FrameSocket], None], server: Callable[[FrameSocket], None]) -> list[str]:
    """What each side says, client first; each closes when it is through."""
    results = ["", ""]

    def run(place: int, sock: socket.socket, work: Callable[[FrameSocket], None]) -> None:
        with FrameSocket(sock, peer="the other") as frames:
            try:
                work(frames)
                results[place] = "ok"
            except AuthenticationError as error:
                results[place] = error.message

    threads = [
        threading.Thread(target=run, args=(0, pair[0], client)),
        threading.Thread(target=run, args=(1, pair[1], server)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_same_token(pair: Pair) -> None:
    assert both(pair, lambda f: authenticate_client(f, TOKEN), lambda f: authenticate_server(f, TOKEN)) == ["ok", "ok"]


@pytest.mark.parametrize(("client", "server"), [("a", "b"), (TOKEN, TOKEN + "0"), (TOKEN, TOKEN[:-1])])
def test_another_token(pair: Pair, client: str, server: str) -> None:
    assert both(pair, lambda f: authenticate_client(f, client), lambda f: authenticate_server(f, server)) == [
        "the other refused this process: it belongs to another run, or its token differs",
        "the other does not hold this run's token",
    ]


def test_another_purpose(pair: Pair) -> None:
    result = both(
        pair,
        lambda f: authenticate_client(f, TOKEN, purpose="bridge"),
        lambda f: authenticate_server(f, TOKEN, purpose="bytes"),
    )
    assert "ok" not in result


def test_an_empty_token_opens_nothing() -> None:
    with pytest.raises(AuthenticationError, match="token is empty"):
        ServerHandshake("")
    with pytest.raises(AuthenticationError, match="token is empty"):
        ClientHandshake("")


def test_the_token_does_not_travel() -> None:
    server, client = ServerHandshake(TOKEN), ClientHandshake(TOKEN)
    reply = client.reply(server.hello, "")
    answer = server.answer(reply, "")
    client.check(answer, "")
    assert TOKEN.encode() not in server.hello + reply + answer
    assert bytes.fromhex(TOKEN) not in server.hello + reply + answer


def test_a_recorded_client_proves_nothing_to_another_challenge() -> None:
    server, client = ServerHandshake(TOKEN), ClientHandshake(TOKEN)
    recorded = client.reply(server.hello, "")
    server.answer(recorded, "")
    with pytest.raises(AuthenticationError):
        ServerHandshake(TOKEN).answer(recorded, "")


def test_a_recorded_server_proves_nothing_to_another_client() -> None:
    server, client = ServerHandshake(TOKEN), ClientHandshake(TOKEN)
    recorded = server.answer(client.reply(server.hello, ""), "")
    later = ClientHandshake(TOKEN)
    later.reply(server.hello, "")
    with pytest.raises(AuthenticationError, match="impostor"):
        later.check(recorded, "")


def test_a_clients_own_proof_sent_back_is_no_servers() -> None:
    """Reflection: an impostor has no token and returns what it got."""
    client = ClientHandshake(TOKEN)
    reply = client.reply(MAGIC + os.urandom(32), "")
    for answer in (reply, reply[32:], reply[:32]):
        with pytest.raises(AuthenticationError, match="impostor"):
            client.check(answer, "")


def test_a_challenge_passed_on_to_a_client_does_not_make_a_server_of_it() -> None:
    """An impostor holds two connections, and asks one peer what the other wants to know: roles keep them apart."""
    victim = ClientHandshake(TOKEN)
    reply = victim.reply(MAGIC + os.urandom(32), "")
    helper = ClientHandshake(TOKEN)
    oracle = helper.reply(MAGIC + reply[:32], "")
    with pytest.raises(AuthenticationError, match="impostor"):
        victim.check(oracle[32:], "")


@given(reply=st.binary(max_size=100))
def test_no_garbage_is_a_proof(reply: bytes) -> None:
    with pytest.raises(AuthenticationError):
        ServerHandshake(TOKEN).answer(reply, "")
    client = ClientHandshake(TOKEN)
    with pytest.raises(AuthenticationError):
        client.reply(reply, "")
    client.reply(MAGIC + bytes(32), "")
    with pytest.raises(AuthenticationError):
        client.check(reply, "")


@pytest.mark.parametrize(
    ("send", "why"),
    [
        (b"", "closed the connection before it proved itself"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "the limit here is 256"),
        ((HANDSHAKE_FRAME_LIMIT_BYTES + 1).to_bytes(4, "little") + bytes(4), "the limit here is 256"),
        (b"\4\0\0\0\0\0\0\0abcd", "does not match its checksum"),
        (b"\4\0\0\0", "in the middle of a frame"),
    ],
    ids=["nothing", "http", "oversized", "garbage", "cut"],
)
def test_strangers(pair: Pair, send: bytes, why: str) -> None:
    pair[0].sendall(send)
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(AuthenticationError, match=why):
        authenticate_server(FrameSocket(pair[1]), TOKEN)


def test_somebody_who_says_nothing(pair: Pair) -> None:
    for authenticate in (authenticate_server, authenticate_client):
        with pytest.raises(AuthenticationError, match=r"failed: silent sent nothing for 0.05 s"):
            authenticate(FrameSocket(pair[1], peer="silent"), TOKEN, timeout_s=0.05)


def test_an_authentication_error_is_a_wire_error() -> None:
    assert issubclass(AuthenticationError, WireError)


@pytest.mark.parametrize("client_token", [TOKEN, "other"])
def test_over_asyncio(pair: Pair, client_token: str) -> None:
    async def run() -> list[BaseException | None]:
        left = await asyncio.open_connection(sock=pair[0])
        right = await asyncio.open_connection(sock=pair[1])

        async def server() -> None:
            try:
                await authenticate_server_async(*right, TOKEN, peer="worker")
            finally:
                right[1].close()

        results = await asyncio.gather(
            authenticate_client_async(*left, client_token, peer="agent"), server(), return_exceptions=True
        )
        left[1].close()
        return list(results)

    results = asyncio.run(run())
    if client_token == TOKEN:
        assert results == [None, None]
    else:
        assert [type(result) for result in results] == [AuthenticationError, AuthenticationError]


def test_silence_over_asyncio(pair: Pair) -> None:
    async def run() -> None:
        reader, writer = await asyncio.open_connection(sock=pair[0])
        try:
            with pytest.raises(AuthenticationError, match=r"it took more than 0.05 s"):
                await authenticate_server_async(reader, writer, TOKEN, timeout_s=0.05)
        finally:
            writer.close()

    asyncio.run(run())
