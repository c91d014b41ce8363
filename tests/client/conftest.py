"""A cheating node and its buyer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from relays.pool import RelayPool
from router_client.client import RouterClient
from router_client.discovery import Directory
from router_client.ecash.wallet import Wallet
from router_client.payments import Payments
from tests.client.cheat import Cheat, announce, serving
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
