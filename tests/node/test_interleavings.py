"""Moves of money that meet: what one has given up is not paid by another, and what one has paid is not paid again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from tests.client.test_lnurl import LnurlServer
from tests.node.harness import Running, adds_up, bearer, running_node, token_of


@pytest.fixture
async def node(folder: Path, mint_url: str, model_url: str) -> AsyncIterator[Running]:
    async with running_node(
        folder, cashu_mints=mint_url, upstream_base_url=model_url, allow_local_addresses=True
    ) as running:
        yield running


async def test_a_refund_that_was_given_up_is_not_paid_by_a_sweep_that_saw_it_open(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, address: LnurlServer
) -> None:
    """Its address takes its time and then says no, while the sweep waits for its turn: whoever owns the address chooses
    when, and would have the money and the balance."""
    key = bearer(await token_of(wallet, mint_url, 200_000))
    before = (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"]
    asked, says_no, offer = threading.Event(), threading.Event(), address.offer

    def late(path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, str], bytes]:
        address.offer = offer
        asked.set()
        says_no.wait(10)
        return 503, {}, b""

    address.offer = late
    wish = {"recipient": address.address}
    asking = asyncio.create_task(http.post(f"{node.url}/v1/balance/refund", json=wish, headers=key))
    await asyncio.to_thread(asked.wait, 10)
    sweeping = asyncio.create_task(node.node.refunds.recover())
    await asyncio.sleep(0.2)
    says_no.set()
    assert (await asking).status_code == 502
    await sweeping
    assert (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"] == before
    await adds_up(node)
    back = (await http.post(f"{node.url}/v1/balance/refund", headers=key)).json()
    assert back["msats"] + back["fee_msats"] == before
    assert decode(back["token"]).amount_msat == back["msats"]
    await adds_up(node)
