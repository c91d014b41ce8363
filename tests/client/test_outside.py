"""httpx by the way that was chosen: a SOCKS port that fails in any way is one error, in time, and costs no connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from relays.routes import DIRECT, Purpose, Routes
from router_client.net import outside, torport
from router_client.net.fetch import FetchFailed, fetch
from router_client.net.outside import NoWay, client_for
from router_client.net.torport import found_socks
from tests.socks import forbid_dns, socks_port

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def saying(*pieces: bytes) -> Talk:
    """One that answers each thing it hears with the next piece, and hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            await reader.read(1000)
            writer.write(piece)

    return talk


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [b"\x05\xff"],
        [b"\x05\x00"],
        [b"\x05\x02", b"\x01\x01"],
        [b"\x05\x02", b"\x01\x00", b"\x05\xf0\x00\x01" + bytes(6)],
        [b"\x05\x02", b"\x01\x00", b"\x05\x77\x00\x01" + bytes(6)],
        [b"\x05\x02", b"\x01\x00", b"\x05"],
    ],
    ids=["hangs up", "http", "no method", "another method", "refuses the name", "no onion", "code", "breaks off"],
)
async def test_a_port_that_fails_is_one_error(pieces: list[bytes]) -> None:
    async with listening(saying(*pieces)) as where, client_for(Purpose.NODES, Routes(where)) as http:
        with pytest.raises(httpx.ConnectError, match="Tor made no connection"):
            await http.get("http://x.onion/")


async def test_tors_own_reasons_are_told() -> None:
    talk = saying(b"\x05\x02", b"\x01\x00", b"\x05\xf0\x00\x01" + bytes(6))
    async with listening(talk) as where, client_for(Purpose.NODES, Routes(where)) as http:
        with pytest.raises(httpx.ConnectError, match="no such onion service is known"):
            await http.get("http://x.onion/")


async def test_an_answer_in_crumbs_is_read() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for count, reply in ((3, b"\x05\x02"), (2, b""), (5, b""), (1, b""), (16, b"\x01\x00")):
            await reader.readexactly(count)
            for byte in reply:
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0)
        await reader.readexactly(4 + 1 + len("x.onion") + 2)
        for byte in b"\x05\x00\x00\x03\x03abc\x00\x00":
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)

    async with listening(talk) as where, client_for(Purpose.NODES, Routes(where)) as http:
        assert (await http.get("http://x.onion/")).text == "hi"


async def test_a_silent_port_costs_its_deadline_and_no_connection() -> None:
    """httpcore's pool holds a hundred: requests that are given up while they connect must not stay in it."""

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(talk) as where, client_for(Purpose.NODES, Routes(where)) as http:
        with pytest.raises(httpx.ConnectTimeout):
            await http.get("http://x.onion/", timeout=0.05)

        async def given_up() -> None:
            with pytest.raises(FetchFailed, match="no answer within"):
                await fetch(http, "GET", "http://x.onion/", deadline_s=0.05)

        await asyncio.gather(*(given_up() for _ in range(120)))
        with pytest.raises(httpx.ConnectTimeout):  # and no PoolTimeout
            await http.get("http://x.onion/", timeout=0.05)


async def test_without_tor_an_onion_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = forbid_dns(monkeypatch)
    async with client_for(Purpose.NODES, DIRECT) as http:
        for url in ("http://x.onion/", "https://X.Onion./"):
            with pytest.raises(NoWay, match="SOCKS port"):
                await http.get(url)
        with pytest.raises(FetchFailed, match="SOCKS port"):
            await fetch(http, "GET", "http://x.onion/", deadline_s=1)
    assert asked == []


async def test_proxies_of_the_environment_count_for_what_goes_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET http://a.example/")
        writer.write(ANSWER)

    async with listening(proxy) as where, socks_port() as port:
        monkeypatch.setenv("http_proxy", f"http://{where}")
        monkeypatch.setenv("no_proxy", "b.example")
        asked = forbid_dns(monkeypatch)
        async with client_for(Purpose.MINTS, Routes(port.where)) as http:
            assert (await http.get("http://a.example/")).text == "hi"
            with pytest.raises(httpx.ConnectError):
                await http.get("http://b.example/")
            assert asked == ["b.example"]
            with pytest.raises(httpx.ConnectError, match="Tor made no connection"):
                await http.get("http://x.onion/")
        async with client_for(Purpose.MINTS, Routes(port.where, tor_only=True)) as http:
            with pytest.raises(httpx.ConnectError, match="Tor made no connection"):
                await http.get("http://a.example/")
        assert port.asked == [("mints", "x.onion"), ("mints", "a.example")]


@pytest.mark.parametrize("name", ["127.0.0.1", "x.onion"])
async def test_a_connection_that_is_left_idle_is_not_used_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server may close it at that moment."""
    assert 0 < outside.IDLE_S < 5, "uvicorn's patience"
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)

    async def after_two(idle_s: float) -> int:
        monkeypatch.setattr(outside, "IDLE_S", idle_s)
        before = connections
        async with client_for(Purpose.MINTS, Routes(port.where)) as http:
            for _ in range(2):
                assert (await http.get(url)).text == "hi"
                await asyncio.sleep(0.01)
        return connections - before

    async with listening(talk) as where, socks_port(x__onion=f"http://{where}") as port:
        url = f"http://{where}/".replace("127.0.0.1", name)
        assert await after_two(60) == 1
        assert await after_two(0) == 2


async def test_tor_is_found_where_it_speaks() -> None:
    async with listening(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as web, socks_port() as port:
        ports = [9, int(web.rpartition(":")[2]), int(port.where.rpartition(":")[2])]
        assert await found_socks(ports) == port.where
        assert await found_socks(ports[:2]) == ""
    assert torport.PORTS == (9050, 9150)
