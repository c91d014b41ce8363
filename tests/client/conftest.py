"""A cheating node and its buyer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import pytest
from aiohttp import web

from relays.pool import RelayPool
from router_client.client import RouterClient
from router_client.discovery.directory import Directory
from router_client.ecash.wallet import Wallet
from router_client.paying.payments import Payments
from router_client.proxy.app import Proxy
from router_client.proxy.guard import Guard
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import Budget
from tests.client.cheat import DONE, NOTHING_LEFT, Cheat, announce, receipt, serving
from tests.client.proxies import HELLO, calling, sdk_by
from tests.client.purses import funded


@pytest.fixture
async def cheat(folder: Path, http: httpx.AsyncClient) -> AsyncIterator[Cheat]:
    node = Cheat(await Wallet.open(folder / "cheat.db", http))
    async with serving(node):
        yield node
    node.wallet.close()


@pytest.fixture
async def buyer(folder: Path, http: httpx.AsyncClient, mint_url: str, cheat: Cheat) -> AsyncIterator[RouterClient]:
    wallet = await funded(folder / "buyer.db", http, mint_url, 10_000)
    payments = await Payments.open(folder / "payments.db", wallet, http)
    async with RelayPool([]) as pool:
        client = RouterClient(Directory(pool, http), wallet, payments, http)
        announce(client, cheat, mint_url)
        yield client
    payments.close()
    wallet.close()


@pytest.fixture
async def spending(folder: Path, buyer: RouterClient) -> AsyncIterator[Spending]:
    """The buyer's, whose day has 5,000 msat."""
    opened = await Spending.open(folder / "spending.db")
    buyer._serving.allowance = Allowance(opened, Budget(day_msat=5000))
    yield opened
    opened.close()


@pytest.fixture
def proxy(buyer: RouterClient, cheat: Cheat) -> Proxy:
    cheat.chat = [*HELLO, receipt(), DONE]
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    return Proxy(buyer, Guard())


@pytest.fixture
async def caller(proxy: Proxy) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(proxy) as client:
        yield client


@pytest.fixture
async def idle(folder: Path, http: httpx.AsyncClient) -> AsyncIterator[RouterClient]:
    """A client without money and nodes."""
    wallet = await Wallet.open(folder / "idle.db", http)
    payments = await Payments.open(folder / "idle-payments.db", wallet, http)
    async with RelayPool([]) as pool:
        yield RouterClient(Directory(pool, http), wallet, payments, http)
    payments.close()
    wallet.close()


@pytest.fixture
async def stranger(idle: RouterClient) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(Proxy(idle, Guard())) as client:
        yield client


@pytest.fixture
async def sdk(caller: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk_by(caller) as client:
        yield client
