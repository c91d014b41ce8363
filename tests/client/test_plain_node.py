"""A plain Routstr node is found, chosen, paid and asked for its change, from its announcement on, with money of a real mint.

The node is a stand-in that speaks the documented interface: Routstr's own program is in no package registry.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from relays.payment import PAID_BACK
from relays.pool import RelayPool
from router_client.client import RouterClient
from router_client.ecash.wallet import Wallet
from router_client.errors import NoProvider
from router_client.net.nodeapi import error_of
from tests.client.purses import funded
from tests.client.routstr import COST_MSAT, MAX_COST_MSAT, MODEL, TEXT, Routstr, serving

ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "What is 2+2?"}]}
MOST_FEES_MSAT = 20
"""What the mint takes on the way there and back."""


@pytest.fixture
async def node(folder: Path, http: httpx.AsyncClient, mint_url: str, relay_url: str) -> AsyncIterator[Routstr]:
    wallet = await Wallet.open(folder / "routstr.db", http)
    running = Routstr(wallet, mint_url)
    async with serving(running), RelayPool([relay_url]) as pool:
        await pool.publish(running.announcement(int(time.time())))
        yield running
    wallet.close()


@pytest.fixture
async def client(
    folder: Path, http: httpx.AsyncClient, mint_url: str, relay_url: str, node: Routstr
) -> AsyncIterator[RouterClient]:
    (await funded(folder / "wallet.db", http, mint_url, 50_000)).close()
    async with RouterClient.open([relay_url], folder) as opened:
        yield opened


async def test_it_is_listed_with_its_prices_and_paid_to_the_msat(client: RouterClient, node: Routstr) -> None:
    (found,) = [each for each in await client.directory.providers() if each.npub == node.signer.npub]
    assert (found.is_plain, found.url, found.proven) == (True, node.url, False)
    (offer,) = found.offers
    assert (offer.id, offer.price.prompt_msat_per_mtok, offer.limits.context_length) == (MODEL, 2_000_000, 4096)
    assert found.least_msat(MODEL) == MAX_COST_MSAT

    before_msat = client.wallet.balance_msat()
    told: list[str] = []
    answer = await client.chat(ASK, on_text=told.append)
    assert (answer.text, "".join(told), answer.node) == (TEXT, TEXT, node.signer.npub)
    assert (answer.verified, answer.problem) == (False, "plain nodes give no receipts")
    assert answer.usage.completion_tokens == 6
    assert COST_MSAT <= answer.cost_msat <= COST_MSAT + MOST_FEES_MSAT
    spent_msat = before_msat - client.wallet.balance_msat()
    assert answer.cost_msat <= spent_msat <= COST_MSAT + MOST_FEES_MSAT
    assert client.payments.out() == []
    assert node.asked == ["chat"]


async def test_its_list_is_asked_for_again_after_a_restart(
    client: RouterClient, node: Routstr, folder: Path, relay_url: str
) -> None:
    await client.directory.providers()
    async with RouterClient.open([relay_url], folder) as again:
        (found,) = [each for each in await again.directory.providers() if each.npub == node.signer.npub]
        assert [offer.id for offer in found.offers] == [MODEL]


async def test_change_that_does_not_come_with_the_answer_is_fetched(client: RouterClient, node: Routstr) -> None:
    node.gives = "on request"
    before_msat = client.wallet.balance_msat()
    assert (await client.chat(ASK)).settled
    assert before_msat - client.wallet.balance_msat() <= COST_MSAT + MOST_FEES_MSAT
    assert node.asked == ["chat", "refund of a balance", "refund of a request"]


async def test_change_that_is_late_is_out_and_comes_with_a_recovery(client: RouterClient, node: Routstr) -> None:
    node.gives = "later"
    before_msat = client.wallet.balance_msat()
    answer = await client.chat(ASK)
    assert (answer.text, answer.settled) == (TEXT, False)
    (out,) = client.payments.out()
    assert out.node_url == node.url
    assert await client.recover() == 0
    node.gives = "on request"
    assert await client.recover() > 0
    assert client.payments.out() == []
    assert before_msat - client.wallet.balance_msat() <= COST_MSAT + MOST_FEES_MSAT


@pytest.mark.parametrize("gives", ["with the answer", "on request"])
async def test_a_node_that_does_not_serve_gives_all_back(client: RouterClient, node: Routstr, gives: str) -> None:
    node.gives, node.fails = gives, 502
    before_msat = client.wallet.balance_msat()
    with pytest.raises(NoProvider, match="Error forwarding request"):
        await client.chat(ASK)
    assert before_msat - client.wallet.balance_msat() <= MOST_FEES_MSAT
    assert client.payments.out() == []


async def test_a_balance_there_comes_back_by_its_token(
    client: RouterClient, node: Routstr, http: httpx.AsyncClient, mint_url: str
) -> None:
    """What a token became at the node's balance API is the payer's: it is given back to whoever has the token."""
    before_msat = client.wallet.balance_msat()
    paid = await client.payments.pay(node.url, mint_url, "msat", 5_000)
    made = await http.get(f"{node.url}/v1/balance/create", params={"initial_balance_token": paid.token})
    assert made.json()["balance"] >= 5_000
    settled = await client.payments.take_back(paid)
    assert settled.change_msat >= 5_000 - MOST_FEES_MSAT
    assert before_msat - client.wallet.balance_msat() <= MOST_FEES_MSAT


def test_its_errors_are_read_in_their_own_shape() -> None:
    said = {b'{"detail":{"reason":"Too little"}}': "Too little", b'{"detail":"Unauthorized"}': "Unauthorized"}
    for body, words in (*said.items(), (b'{"detail":[1]}', "HTTP 402"), (b"[]", "HTTP 402")):
        assert str(error_of(402, body)).startswith(words)


def test_where_the_money_of_an_error_is_stays_with_who_paid() -> None:
    """The local endpoint's callers, who paid nothing, were told of an X-Cashu that they have not."""
    body = json.dumps({"error": {"message": f"too hot{PAID_BACK}", "code": "upstream_refused"}}).encode()
    assert str(error_of(400, body)) == "too hot (400 upstream_refused)"


async def test_what_it_wants_to_see_counts_as_what_it_can_cost(client: RouterClient, node: Routstr) -> None:
    with pytest.raises(NoProvider, match="could cost 9000 msat"):
        await client.chat(ASK, max_cost_msat=MAX_COST_MSAT - 1)
    assert node.asked == []


async def test_it_is_not_asked_for_what_it_does_not_tell_that_it_sells(client: RouterClient, node: Routstr) -> None:
    """It gives no quote: the money would be with it before it says no."""
    before_msat = client.wallet.balance_msat()
    with pytest.raises(NoProvider, match="is not sold at /v1/embeddings"):
        await client.embeddings({"model": MODEL, "input": "hi"})
    assert client.wallet.balance_msat() == before_msat
