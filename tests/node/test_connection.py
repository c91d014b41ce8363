"""A caller's connection: nobody keeps one for nothing, fills memory with a head, or passes trailers for headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from node.api import connection
from node.api.connection import MAX_HEAD_BYTES
from node.api.server import Server, config_of

HEAD = b"POST / HTTP/1.1\r\nhost: node\r\n"
WHOLE = HEAD + b"content-length: 5\r\n\r\nhello"
SOON_S = 0.3
LARGE = b"x" * 16_000_000


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says which headers came and how long the body was; slowly, if that is asked for."""
    names = ",".join(name.decode() for name, _ in scope["headers"])
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/large":
        await send({"type": "http.response.body", "body": LARGE})
        return
    for word in (names, " ", str(size)):
        await asyncio.sleep(SOON_S if scope["path"] == "/slow" else 0)
        await send({"type": "http.response.body", "body": word.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"."})


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(connection, "STUCK_S", SOON_S)
    monkeypatch.setattr(connection, "HEAD_S", SOON_S)
    monkeypatch.setattr(connection, "BODY_S", SOON_S)
    config = config_of(echo, lifespan="off", grace_s=1)
    config.host, config.port, config.timeout_keep_alive = "127.0.0.1", 0, 1
    server = Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await serving


@pytest.fixture
def port(server: Server) -> int:
    found: int = server.servers[0].sockets[0].getsockname()[1]
    return found


async def said(port: int, *pieces: bytes) -> bytes:
    """All that the node says until it closes the connection, which it must."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        async with asyncio.timeout(10):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                while piece := await reader.read(65536):
                    answer += piece
            except ConnectionError:  # closed while we write
                pass
    finally:
        writer.close()
    return answer


def error_in(answer: bytes) -> tuple[int, str]:
    """The status, and the message in OpenAI's form."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "pieces",
    [
        (b"\r\n\r\n",),
        (HEAD,),
        (HEAD + b"content-length: 5\r\n\r\n", b"hell"),
        (HEAD + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n",),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", b"0\r\nx-trailer: a"),
    ],
    ids=["empty lines", "half a head", "half a body", "no body", "half a trailer"],
)
async def test_what_does_not_come_is_not_waited_for(port: int, pieces: tuple[bytes, ...]) -> None:
    answer = (await said(port, *pieces)).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert error_in(answer) == (408, f"the request did not come within {SOON_S:g} s")


async def test_who_says_nothing_is_told_nothing(port: int) -> None:
    """Browsers connect before they have a request, and would show its page such an answer for another."""
    assert await said(port) == b""


async def test_empty_lines_after_an_answer_keep_no_connection(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(WHOLE)
    async with asyncio.timeout(10):
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.write(b"\r\n")
        assert error_in(await reader.read())[0] == 408
    writer.close()


@pytest.mark.parametrize(
    "begin",
    [
        HEAD + b"x: ",
        b"POST /",
        HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5;x=",
    ],
    ids=["header", "path", "trailer", "chunk"],
)
async def test_a_head_without_end_is_cut_off(port: int, begin: bytes) -> None:
    """However fast it comes: it would be kept, and put together again and again."""
    endless = [b"a" * 65536] * (4 * MAX_HEAD_BYTES // 65536)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(10):
            for piece in (begin, *endless, *endless):
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
                await asyncio.sleep(0.01)
    assert sent <= 4 * MAX_HEAD_BYTES
    writer.close()


async def test_many_headers_are_no_way_around_it(port: int) -> None:
    answer = await said(port, HEAD, *[b"x: a\r\n" * 20_000] * 4, b"\r\n")
    assert answer == b"" or error_in(answer)[0] == 431


async def test_an_answer_that_nobody_takes_is_not_kept(server: Server, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(b"GET /large HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(10):
        while not server.server_state.connections:
            await asyncio.sleep(0.01)
        while server.server_state.connections:
            await asyncio.sleep(0.05)
        assert len(await reader.read()) < len(LARGE)
    writer.close()


async def test_who_takes_an_answer_slowly_has_all_of_it(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /large HTTP/1.1\r\n\r\n")
    came = 0
    while came < len(LARGE):
        piece = await reader.read(2_000_000)
        assert piece, came
        came += len(piece)
        await asyncio.sleep(SOON_S / 20)
    writer.close()


async def test_trailers_are_no_headers(port: int) -> None:
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nauthorization: Bearer other\r\n\r\n"
    answer = await said(port, chunked)
    assert b"host,transfer-encoding" in answer
    assert b"authorization" not in answer


async def test_requests_behind_each_other_are_answered_in_turn(port: int) -> None:
    answer = await said(port, WHOLE * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 3


async def test_what_stands_behind_a_request_does_not_end_its_answer(port: int) -> None:
    answer = await said(port, WHOLE.replace(b"/ ", b"/slow "), b"GET /")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"host,content-length" in body
    assert b"0\r\n\r\n" in body, "to its end"


async def test_a_long_head_that_is_no_longer_than_that_is_read(port: int) -> None:
    answer = await said(port, HEAD + b"x-cashu: " + b"a" * 100_000 + b"\r\ncontent-length: 5\r\n\r\n", b"hello")
    assert answer.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-OpenSSH\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET /\xff HTTP/1.1\r\n\r\n"]
)
async def test_what_is_no_http_is_told_so_as_all_else_is(port: int, raw: bytes) -> None:
    status, message = error_in(await said(port, raw))
    assert (status, message) == (400, "this is no HTTP request that can be read")


def test_who_is_in_front_closes_a_connection_first() -> None:
    """A request that meets the node's own closing is lost. Caddy keeps connections for the longest."""
    caddys_s = 120
    assert config_of(echo).timeout_keep_alive > caddys_s
