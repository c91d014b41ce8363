"""The router client against real nodes: it finds, pays, streams, settles to the msat, verifies, and fails over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.localnet.process import free_port
from node.localnet.relay import start_relay, wait_relay
from router_client.client import RouterClient
from router_client.errors import NodeRefused, NoProvider
from tests.client.purses import until_claimed
from tests.conftest import DEAD_RELAY
from tests.node.harness import HELLO, Running, running_node


def settings(name: str, mint_url: str, model_url: str, relay: str, **more: Any) -> dict[str, Any]:
    chosen = {"name": name, "cashu_mints": mint_url, "upstream_base_url": model_url, "relays": relay}
    return chosen | {"http_url": "http://127.0.0.1:1"} | more


async def announced(running: Running) -> Running:
    """Publish the node under the URL it really serves at."""
    object.__setattr__(running.node.settings, "http_url", running.url)
    await running.node.announcer.publish()
    return running


@pytest.fixture
async def relay(folder: Path) -> AsyncIterator[str]:
    """A relay of this test's own, so that it holds these nodes alone."""
    child, url = start_relay(folder / "relay", port=free_port())
    wait_relay(child, url)
    yield url
    child.stop()


@pytest.fixture
async def buyer(folder: Path, relay: str, mint_url: str) -> AsyncIterator[RouterClient]:
    async with RouterClient.open([relay, DEAD_RELAY], folder / "buyer") as client:
        await client.wallet.invoice(500_000, mint_url, "msat", "fund")
        await until_claimed(client.wallet, "fund")
        yield client


async def test_buys_streams_settles_and_verifies(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        node = await announced(running)
        before = buyer.wallet.balance_msat()
        pieces: list[str] = []
        answer = await buyer.chat(HELLO, on_text=pieces.append)
        assert answer.verified, answer.problem
        assert "".join(pieces) == answer.text != ""
        assert (answer.node, answer.node_name) == (node.node.signer.npub, "solo")
        assert answer.receipt is not None
        assert answer.settled
        assert buyer.payments.open_count() == 0
        totals = await node.node.ledger.audit()
        assert totals.earned_msat == answer.cost_msat
        assert totals.keys_msat == totals.held_msat == 0
        fees = before - buyer.wallet.balance_msat() - answer.cost_msat
        assert 0 <= fees <= 12, "beyond the cost only the mint's fees are gone"


async def test_the_readers_own_error_is_the_readers_and_its_money_comes_back(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        await announced(running)

        def broken(_: str) -> None:
            raise BrokenPipeError("the reader went away")

        with pytest.raises(BrokenPipeError):
            await buyer.chat(HELLO, on_text=broken)
        for _ in range(20):
            await buyer.recover()
            if buyer.payments.open_count() == 0:
                break
            await asyncio.sleep(0.2)
        assert buyer.payments.open_count() == 0
        assert buyer.wallet.balance_msat() > 499_000


async def test_the_dearer_node_serves_when_the_cheaper_one_is_down(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    async with running_node(folder / "dear", **settings("dear", mint_url, model_url, relay)) as dear:
        await announced(dear)
        cheap_price = {"fixed_per_1k_input_tokens": "0.1", "fixed_per_1k_output_tokens": "0.1"}
        async with running_node(
            folder / "cheap", **settings("cheap", mint_url, "http://127.0.0.1:9/v1", relay, **cheap_price)
        ) as cheap:
            cheap.node.catalogue.update([{"id": HELLO["model"], "context_length": 2048}])
            await announced(cheap)
            before = buyer.wallet.balance_msat()
            answer = await buyer.chat(HELLO)
            assert (answer.node_name, answer.verified) == ("dear", True)
            assert buyer.payments.open_count() == 0, "the money of the failed try is back"
            assert before - buyer.wallet.balance_msat() - answer.cost_msat <= 30
            assert (await cheap.node.ledger.audit()).earned_msat == 0


async def test_a_node_that_is_gone_is_not_chosen_and_an_unknown_model_is_explained(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    with pytest.raises(NoProvider, match="no node was found"):
        await buyer.chat(HELLO)
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        await announced(running)
        await buyer.directory.providers(fresh=True)
        with pytest.raises(NoProvider, match="not the model"):
            await buyer.chat({**HELLO, "model": "gpt-9"})
        with pytest.raises(NodeRefused, match="role"):
            await buyer.chat({**HELLO, "messages": [{"content": "x"}]})
        assert buyer.wallet.balance_msat() >= 500_000 - 30
        with pytest.raises(NoProvider, match="could cost"):
            await buyer.chat(HELLO, max_cost_msat=1)
    await buyer.directory.providers(fresh=True)
    with pytest.raises(NoProvider):
        await buyer.chat(HELLO)


async def test_money_left_at_a_node_by_a_crash_is_fetched(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient, http: httpx.AsyncClient
) -> None:
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        node = await announced(running)
        before = buyer.wallet.balance_msat()
        redeemed = await buyer.payments.pay(node.url, mint_url, "msat", 50_000)
        await http.get(f"{node.url}/v1/balance", headers={"Authorization": f"Bearer {redeemed.token}"})
        await buyer.payments.pay(node.url, mint_url, "msat", 20_000)
        await buyer.payments.pay("http://127.0.0.1:9", mint_url, "msat", 10_000)
        assert buyer.payments.open_count() == 3
        await buyer.recover()
        assert buyer.payments.open_count() == 0
        assert before - buyer.wallet.balance_msat() <= 30


async def test_a_node_that_overcharges_is_found_out(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    async with running_node(folder, **settings("cheat", mint_url, model_url, relay)) as running:
        node = await announced(running)
        await buyer.directory.providers(fresh=True)
        object.__setattr__(node.node.settings, "fixed_per_1k_output_tokens", Decimal(9))
        node.node.catalogue.update([{"id": HELLO["model"], "context_length": 2048, "max_output_tokens": 8}])
        answer = await buyer.chat({**HELLO, "max_tokens": 100})
        assert not answer.verified
        assert answer.problem is not None
        assert "another price" in answer.problem
