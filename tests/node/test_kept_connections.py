"""A model's server closes connections that it was kept waiting on, as it may (RFC 9112, 9.3.1); a request that meets that
is sent again, one that the server may have worked on is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from node.errors import UpstreamUnreachable
from node.upstream import http
from node.upstream.base import UpstreamRequest
from node.upstream.http import LONG_BODY_BYTES, HttpPool
from node.upstream.spec import Timeouts
from relays.endpoints import CHAT

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Impatient:
    """Answers the first request of a connection; hangs up on the next, `after_s` after it was read."""

    def __init__(self) -> None:
        self.after_s = 0.0
        self.answers = 1
        """So many of each connection."""
        self.bodies: list[bytes] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(self.answers):
            if not await self._read(reader):
                break
            writer.write(ANSWER)
        else:
            if await self._read(reader):
                await asyncio.sleep(self.after_s)
        writer.close()
        await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.bodies.append(await reader.readexactly(int(length.partition(b":")[2])))
        return True


@asynccontextmanager
async def pool_at(server: Impatient) -> AsyncIterator[tuple[HttpPool, str]]:
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    pool = HttpPool(url, {}, Timeouts(5, 30, 30))
    try:
        yield pool, url
    finally:
        await pool.close()
        listening.close()


async def asked(pool: HttpPool, url: str, body: bytes) -> bytes:
    request = UpstreamRequest(CHAT, {}, body, "application/json", stream=False)
    reply = await pool.post(url, body, request)
    try:
        return await reply.read(100)
    finally:
        reply.close()


@pytest.mark.parametrize("body", [b"short", b"x" * (LONG_BODY_BYTES + 1)])
async def test_what_meets_a_closed_connection_is_sent_again(body: bytes) -> None:
    server = Impatient()
    async with pool_at(server) as (pool, url):
        for _ in range(3):
            assert await asked(pool, url, body) == b"{}"
    assert server.bodies == [body] * 5


async def test_what_a_server_may_have_worked_on_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ROUND_TRIP_S", 0.1)
    server = Impatient()
    server.after_s = 0.3
    async with pool_at(server) as (pool, url):
        assert await asked(pool, url, b"one") == b"{}"
        with pytest.raises(UpstreamUnreachable, match="hung up"):
            await asked(pool, url, b"two")
    assert server.bodies == [b"one", b"two"]


async def test_a_server_that_only_hangs_up_is_asked_twice() -> None:
    server = Impatient()
    server.answers = 0
    async with pool_at(server) as (pool, url):
        with pytest.raises(UpstreamUnreachable, match="hung up"):
            await asked(pool, url, b"one")
    assert server.bodies == [b"one"] * 2
