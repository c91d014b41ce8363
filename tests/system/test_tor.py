"""A node behind an onion service, on a private Tor network: whoever it calls is called by Tor."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import msgspec
import pytest

from relays import kinds
from relays.pool import RelayPool
from relays.routes import DIRECT, Purpose, Routes
from router_client.client import RouterClient
from router_client.ecash.wallet import Wallet
from router_client.net.outside import client_for
from router_client.preferences import Preferences
from tests.client.purses import until_claimed
from tests.doors import Door, doors
from tests.node.harness import HELLO, MODEL
from tests.system.children import until
from tests.system.forked import Served, Workers, satroute
from tests.tornet import TorNet

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60
pytestmark = pytest.mark.timeout(200)


class Shop(msgspec.Struct, frozen=True):
    """A node that uses nothing but Tor, and the doors of all whom it calls."""

    served: Served
    mint: Door
    relay: Door
    model: Door
    prices: Door
    network: TorNet

    @property
    def routes(self) -> Routes:
        """Of a buyer who uses nothing but Tor."""
        return Routes(self.network.socks, tor_only=True)

    @property
    def onion(self) -> str:
        return str(httpx.get(f"{self.served.url}/v1/info", trust_env=False).json()["onion_url"])

    def callers(self) -> dict[str, set[str]]:
        return {name: set(getattr(self, name).callers) for name in ("mint", "relay", "model", "prices")}


@pytest.fixture(scope="module")
def prices_url() -> Iterator[str]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"usd": "100000"}')

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory,
    mint_url: str,
    relay_url: str,
    model_url: str,
    prices_url: str,
    tor_network: TorNet,
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("tor")
    pricing = {"prompt": "0.000002", "completion": "0.000008"}
    models = {"data": [{"id": MODEL, "context_length": 2048, "pricing": pricing}]}
    (folder / "models.json").write_text(json.dumps(models))
    said = folder / "rend.log"
    (folder / "torrc").write_text(f"%include {tor_network.config}\nLog [rend]info file {said}\n")
    with doors(mint_url, relay_url, model_url, prices_url) as (mint, relay, model, prices):
        served = Served(
            folder / "node",
            PATH=os.environ["PATH"],
            RUN_TOR="true",
            TOR_ONLY="true",
            TOR_CONFIG=str(folder / "torrc"),
            CASHU_MINTS=mint.url,
            RELAYS=relay.url,
            UPSTREAM_BASE_URL=model.url,
            UPSTREAM_TOR="true",
            MODELS_PATH=str(folder / "models.json"),
            BTC_PRICE_SOURCES=f"{prices.url}/ticker#/usd",
        )
        try:
            # Who asks before that is not told for a while.
            assert until(lambda: "descriptor: finished with status 200" in said.read_text(), DEADLINE_S), (
                said.read_text()
            )
            yield Shop(served, mint, relay, model, prices, tor_network)
        finally:
            served.stop()


@pytest.fixture
async def wallet(shop: Shop, folder: Path) -> AsyncIterator[Wallet]:
    """A buyer's, filled through Tor."""
    async with client_for(Purpose.MINTS, shop.routes, timeout=30) as http:
        opened = await Wallet.open(folder / "wallet.db", http)
        await opened.invoice(1_000_000, shop.mint.url, "msat", "fund")
        await until_claimed(opened, "fund")
        yield opened
        opened.close()


async def until_open(shop: Shop, path: str = "/v1/models") -> Any:
    """What the node answers at its onion, which others need a moment to hear of."""
    async with client_for(Purpose.NODES, shop.routes, timeout=8) as http, asyncio.timeout(DEADLINE_S):
        while True:
            try:
                reply = await http.get(f"{shop.onion}{path}")
                if reply.is_success and (path != "/v1/models" or reply.json()["data"]):
                    return reply
            except httpx.HTTPError:
                await asyncio.to_thread(shop.network.forget)
            await asyncio.sleep(0.2)


async def test_the_openai_sdk_pays_for_a_stream(shop: Shop, wallet: Wallet) -> None:
    await until_open(shop)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tor.md").read_text(), re.DOTALL)
    token = (await wallet.send(100_000, shop.mint.url, "msat", "token")).token
    code = (
        example.replace("127.0.0.1:9050", shop.network.socks)
        .replace("http://youraddress.onion", shop.onion)
        .replace("cashuB...", token)
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    async with client_for(Purpose.NODES, shop.routes, timeout=20) as http:
        balance = (await http.get(f"{shop.onion}/v1/balance", headers={"Authorization": f"Bearer {token}"})).json()
    assert 0 < balance["balance"] < 100_000


async def test_the_router_client_finds_it_and_pays_for_a_stream(shop: Shop, folder: Path) -> None:
    await until_open(shop)
    async with RouterClient.open([shop.relay.url], folder, shop.routes, Preferences(onion=True)) as client:
        await client.wallet.invoice(100_000, shop.mint.url, "msat", "fund")
        await until_claimed(client.wallet, "fund")
        texts: list[str] = []
        answer = await client.chat({**HELLO, "model": MODEL}, on_text=texts.append)
        assert answer.verified, answer.problem
        assert answer.settled
        assert "".join(texts) == answer.text
        (provider,) = [p for p in client.directory.known() if p.npub == answer.node]
        assert provider.url == shop.onion
        assert provider.announcement.urls == (shop.onion,)


async def test_all_that_it_calls_is_called_by_tor(shop: Shop) -> None:
    await until_open(shop)
    assert shop.callers() == {name: {"tor"} for name in ("mint", "relay", "model", "prices")}


async def test_commands_beside_the_node_go_through_its_tor(shop: Shop) -> None:
    info = await until_open(shop, "/v1/info")
    while info.json()["relays"] != {shop.relay.url: "accepted"}:
        info = await until_open(shop, "/v1/info")
        await asyncio.sleep(0.2)
    done = await asyncio.to_thread(satroute, "doctor", "--json", env=shop.served.env, within_s=100)
    findings = json.loads(done.stdout)["findings"]
    assert {(each["part"], each["state"]) for each in findings} == {
        (part, "ok") for part in ("tor", "data", "clock", "mint", "upstream", "price", "relay", "onion")
    }, done.stdout
    assert shop.callers()["relay"] == {"tor"}


async def test_no_address_but_the_onions_is_told(shop: Shop) -> None:
    await until_open(shop)
    async with client_for(Purpose.NODES, shop.routes, timeout=20) as http:
        told = [
            await http.get(f"{shop.onion}{path}") for path in ("/v1/info", "/v1/models", "/nowhere", "/openapi.json")
        ]
        told.append(await http.post(f"{shop.onion}/v1/chat/completions", json=HELLO))
        told.append(await http.post(f"{shop.onion}/v1/chat/completions", content=b"{"))
    info = told[0].json()
    assert (info["http_url"], info["onion_url"]) == ("", shop.onion)
    async with RelayPool([shop.relay.url], routes=shop.routes) as pool:
        found = await pool.query({"kinds": [kinds.PROVIDER_ANNOUNCEMENT, 0, 10002, kinds.CAPACITY]}, deadline_s=20)
    ours = [event for event in found.events if shop.onion in str(event.tags) + event.content]
    assert [event.values("u") for event in ours if event.values("u")] == [(shop.onion,)]
    texts = [f"{reply.headers} {reply.text}" for reply in told] + [f"{event.tags} {event.content}" for event in ours]
    for text in texts:
        assert f":{shop.served.port}" not in text
        assert "localhost" not in text


async def test_a_killed_tor_comes_back_and_a_restart_keeps_the_address(shop: Shop, wallet: Wallet) -> None:
    await until_open(shop)
    onion, key = shop.onion, shop.served.folder / "data" / "onion_key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text() not in shop.served.log.read_text()
    (first,) = tors(shop.served)
    os.kill(first, 9)
    assert await asyncio.to_thread(until, lambda: tors(shop.served) not in ([], [first]), DEADLINE_S)
    await until_open(shop)
    await asyncio.to_thread(shop.served.stop)
    assert shop.served.exit_code() == 0
    assert tors(shop.served) == []
    await asyncio.to_thread(shop.served.start)
    assert shop.onion == onion
    assert (await until_open(shop, "/v1/info")).json()["onion_url"] == onion
    assert len(tors(shop.served)) == 1


async def test_a_killed_node_takes_its_tor_along_and_commands_start_one(shop: Shop) -> None:
    assert len(tors(shop.served)) == 1
    await asyncio.to_thread(shop.served.kill)
    assert await asyncio.to_thread(until, lambda: tors(shop.served) == [])
    # What it has left at the relays is taken back through a tor of the command's own.
    done = await asyncio.to_thread(satroute, "announce", "--withdraw", env=shop.served.env, within_s=100)
    assert (done.returncode, done.stdout) == (0, f"{shop.relay.url}: deleted\n"), done.stderr
    assert shop.callers()["relay"] == {"tor"}
    await asyncio.to_thread(shop.served.start)


def test_several_workers_have_one_onion(
    folder: Path, model_url: str, mint_url: str, postgres_books_url: str, tor_network: TorNet
) -> None:
    served = Workers(
        folder / "node",
        PATH=os.environ["PATH"],
        RUN_TOR="true",
        TOR_CONFIG=str(tor_network.config),
        DATABASE_URL=postgres_books_url,
        CASHU_MINTS=mint_url,
        UPSTREAM_BASE_URL=model_url,
        FIXED_PER_1K_INPUT_TOKENS="2",
        FIXED_PER_1K_OUTPUT_TOKENS="8",
    )
    try:
        shops = [httpx.get(f"{served.url}/v1/info", trust_env=False).json()["onion_url"] for _ in range(8)]
        assert len(set(shops)) == 1
        assert shops[0] in served.log.read_text()
        assert len(tors(served)) == 1
    finally:
        served.stop()
    assert tors(served) == []


async def test_a_door_sees_who_does_not_go_through_tor(shop: Shop) -> None:
    """So that the tests above could fail."""
    async with client_for(Purpose.MINTS, DIRECT) as http:
        await http.get(f"{shop.mint.url}/v1/keysets")
    assert shop.callers()["mint"] - {"tor"}


def tors(served: Served) -> list[int]:
    """Processes of the node's own tor."""
    torrc = str(served.folder / "data" / "tor" / "torrc").encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if torrc in words:
                found.append(int(process.name))
    return found
