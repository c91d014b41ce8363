"""A node's own 402 is enough to pay it: creqA, locked to the node, in sat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from router_client.errors import FeeTooHigh
from router_client.paying.http402 import pay_per_request
from router_client.paying.payments import Payments
from tests.client.purses import funded, until_claimed
from tests.node.harness import HELLO, running_node

LIMIT_MSAT = 50_000


@pytest.fixture
async def payments(folder: Path, http: httpx.AsyncClient, mint_url: str) -> AsyncIterator[Payments]:
    wallet = await funded(folder / "payer.db", http, mint_url, 100_000)
    opened = await Payments.open(folder / "payments.db", wallet, http)
    yield opened
    opened.close()
    wallet.close()


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
async def test_a_node_is_paid_what_it_asks_for_and_gives_the_rest_back(
    folder: Path, http: httpx.AsyncClient, mint_url: str, model_url: str, payments: Payments, streaming: bool
) -> None:
    await payments.wallet.invoice(100, mint_url, "sat", "sats")
    await until_claimed(payments.wallet, "sats")
    before = payments.wallet.balance_msat()
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url) as node:
        url = f"{node.url}/v1/chat/completions"
        reply = await pay_per_request(http, payments, url, {**HELLO, "stream": streaming}, max_msat=LIMIT_MSAT)
        assert reply.status == 200, reply.body
        assert b'"choices"' in reply.body
        assert reply.settled is not None
        assert reply.settled.change_msat > 0
        assert payments.open_count() == 0
        earned_msat = (await node.node.ledger.audit()).earned_msat
        assert 0 < earned_msat <= before - payments.wallet.balance_msat() <= earned_msat + 5_000
        with pytest.raises(FeeTooHigh):
            await pay_per_request(http, payments, url, HELLO, max_msat=10)
    assert payments.open_count() == 0
