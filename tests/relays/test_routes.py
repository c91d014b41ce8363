"""Which way a connection takes, and what aiohttp makes of it."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import pytest
from aiohttp import web

from relays.dialing import connector_to
from relays.errors import NoTor
from relays.routes import DIRECT, Purpose, Routes, host_and_port, is_onion
from tests.socks import forbid_dns, socks_port
from tests.strangers import served

TOR = Routes("127.0.0.1:9050")
ONLY = Routes("127.0.0.1:9050", tor_only=True)
A, B, ONION = "https://a.example", "http://b.example", "http://x.onion"


@pytest.mark.parametrize(
    ("routes", "host", "through"),
    [
        (DIRECT, "a.example", False),
        (TOR, "a.example", False),
        (TOR, "127.0.0.1", False),
        (TOR, "x.onion", True),
        (TOR, "X.ONION.", True),
        (TOR, "onion", False),
        (TOR, "x.onion.example", False),
        (ONLY, "a.example", True),
        (ONLY, "127.0.0.1", True),
        (ONLY, "x.onion", True),
    ],
)
def test_onions_go_through_tor_and_with_tor_only_all(routes: Routes, host: str, through: bool) -> None:
    way = routes.way(host, Purpose.MINTS)
    assert (way is not None) is through
    if way is not None:
        assert (way.host, way.port, way.username) == ("127.0.0.1", 9050, "mints")
        assert way != routes.way(host, Purpose.RELAYS)
        assert way == routes.way(host, Purpose.MINTS)


def test_a_forked_worker_has_circuits_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ONLY.way("a.example", Purpose.MINTS)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert ONLY.way("a.example", Purpose.MINTS) != ours


@pytest.mark.parametrize(("routes", "host"), [(DIRECT, "x.onion"), (Routes(tor_only=True), "a.example")])
def test_without_tor_there_is_no_way_rather_than_another(routes: Routes, host: str) -> None:
    with pytest.raises(NoTor, match="SOCKS port"):
        routes.way(host, Purpose.NODES)
    assert not routes.reaches(f"http://{host}")


def test_the_faster_way_is_tried_first() -> None:
    urls = (ONION, A, B)
    assert DIRECT.in_order(urls) == ((A, B),)
    assert TOR.in_order(urls) == ((A, B), (ONION,))
    assert ONLY.in_order(urls) == ((ONION,), (A, B))
    assert DIRECT.in_order((ONION,)) == ()
    assert Routes("127.0.0.1:9050", onions_only=True).in_order(urls) == ((ONION,),)
    assert Routes(onions_only=True).in_order(urls) == ()


@pytest.mark.parametrize("text", ["", "9050", ":9050", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "a:b", "a:٣"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        host_and_port(text)


def test_ports_of_both_families() -> None:
    assert host_and_port("127.0.0.1:9050") == ("127.0.0.1", 9050)
    assert host_and_port("[::1]:9150") == ("::1", 9150)


async def test_a_redirect_to_an_onion_asks_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    async def elsewhere(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://secret.onion/")

    app = web.Application()
    app.router.add_get("/", elsewhere)
    async with served(app) as where:
        url = f"http://{where}/"
        asked = forbid_dns(monkeypatch)
        async with aiohttp.ClientSession(connector=connector_to(url, TOR, Purpose.RELAYS)) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(url)
        assert is_onion("secret.onion")
        assert asked == []


async def test_what_tor_cannot_reach_is_an_error_of_aiohttps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = forbid_dns(monkeypatch)
    async with socks_port() as port:
        for socks in (port.where, "127.0.0.1:9"):
            routes = Routes(socks)
            async with aiohttp.ClientSession(connector=connector_to(ONION, routes, Purpose.RELAYS)) as session:
                with pytest.raises(aiohttp.ClientConnectorError, match="Tor made no connection"):
                    await session.get(ONION)
        assert port.asked == [("relays", "x.onion")]
    assert asked == []


async def test_a_tor_that_goes_while_it_looks_is_an_error_of_aiohttps() -> None:
    """It has read all that was said, so its end is no reset."""

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"\x05\x02", b"\x01\x00", b""):
            await reader.read(1000)
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(leave, "127.0.0.1", 0)
    async with server:
        routes = Routes(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with aiohttp.ClientSession(connector=connector_to(ONION, routes, Purpose.RELAYS)) as session:
            with pytest.raises(aiohttp.ClientConnectorError, match="closes the connection"):
                await session.get(ONION)
