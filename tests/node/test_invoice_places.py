"""Anyone may ask for Lightning invoices: so many wait, and who asks for hundreds keeps them from nobody for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.invoices import GAVE_WAY
from router_client.ecash.mint import MintClient, MintQuote
from router_client.ecash.wallet import Wallet
from router_client.errors import MintMisbehaved, MintUnavailable
from tests.node.harness import HELLO, Running, adds_up, bearer, granted_key, running_node
from tests.node.payers import CHAT, asked_by, pay
from tests.node.test_late_invoices import Patience

WISH = {"amount_sats": 21, "purpose": "create"}


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    return Patience(monkeypatch)


@pytest.fixture
async def node(
    folder: Path, mint_url: str, model_url: str, unwatched: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    """It has two places for each kind, and one of them is freed an hour."""
    for name, value in (("MOST_OPEN", 2), ("MOST_CHALLENGES", 2), ("GIVE_WAY_S", 3600)):
        monkeypatch.setattr(f"node.invoices.{name}", value)
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url, l402="true") as running:
        yield running


async def invoiced(node: Running, http: httpx.AsyncClient, **headers: str) -> httpx.Response:
    wish = {**WISH, "purpose": "topup"} if headers else WISH
    return await http.post(f"{node.url}/lightning/invoice", json=wish, headers=headers)


async def status(node: Running, http: httpx.AsyncClient, made: httpx.Response) -> dict[str, Any]:
    told: dict[str, Any] = (await http.get(f"{node.url}/lightning/invoice/{made.json()['invoice_id']}/status")).json()
    return told


async def seen(node: Running, http: httpx.AsyncClient, mint_url: str) -> None:
    """Until the mint has seen what was paid for all that wait."""
    for deposit in await node.node.ledger.open_deposits():
        operation = node.node.wallet.outcome(deposit.id)
        assert operation is not None
        for _ in range(200):
            quote = (await http.get(f"{mint_url}/v1/mint/quote/bolt11/{operation.journal.quote}")).json()
            if quote["state"] == "PAID":
                break
            await asyncio.sleep(0.05)


async def test_the_oldest_gives_way_and_is_credited_when_its_owner_asks(
    node: Running, http: httpx.AsyncClient, patience: Patience, mint_url: str
) -> None:
    first = await invoiced(node, http)
    await seen(node, http, mint_url)
    others = [await invoiced(node, http) for _ in range(3)]
    assert [each.status_code for each in (first, *others)] == [200, 200, 200, 429]
    assert others[-1].headers["retry-after"] == "3600"
    assert others[-1].json()["error"]["code"] == "rate_limited"
    assert len(await node.node.ledger.open_deposits()) == 2
    assert await node.node.wallet.recover() == [], "the mint is asked after those that wait alone"
    assert (await status(node, http, first))["status"] == "pending", "it may be paid still"
    patience.is_paid = True
    told = await status(node, http, first)
    assert (told["status"], told["msats"]) == ("paid", 21_000)
    balance = (await http.get(f"{node.url}/v1/balance", headers=bearer(told["api_key"]))).json()
    assert balance["balance"] == 21_000
    await adds_up(node)


async def test_one_that_gave_way_and_was_not_paid_runs_out_as_any_other(
    node: Running, http: httpx.AsyncClient, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = [await invoiced(node, http) for _ in range(3)]
    ends_at = first.json()["expires_at"]
    monkeypatch.setattr("node.invoices.time.time", lambda: ends_at + 1)
    assert (await status(node, http, first))["status"] == "expired"


async def test_one_that_is_paid_does_not_give_way_but_is_credited(
    node: Running, http: httpx.AsyncClient, patience: Patience, mint_url: str
) -> None:
    made = [await invoiced(node, http) for _ in range(2)]
    await seen(node, http, mint_url)
    patience.is_paid = True
    assert (await invoiced(node, http)).status_code == 200
    assert (await node.node.ledger.audit()).ecash_in_msat == 21_000, "before anybody asked"
    assert {(await status(node, http, each))["status"] for each in made} == {"paid"}
    await adds_up(node)


async def test_a_hundred_unpaid_challenges_keep_them_from_nobody(
    node: Running, http: httpx.AsyncClient, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.invoices.GIVE_WAY_S", 0)
    first, *_ = [await asked_by(node.url, http) for _ in range(4)]
    assert len(await node.node.ledger.open_deposits()) == 2
    assert (await invoiced(node, http)).status_code == 200, "they have places of their own"
    patience.is_paid = True
    served = await pay(node.url, http, first)
    assert served.status_code == 200, served.text
    await adds_up(node)


async def test_so_many_that_are_asked_for_at_once_are_no_more(
    node: Running, http: httpx.AsyncClient, patience: Patience
) -> None:
    answers = await asyncio.gather(*(invoiced(node, http) for _ in range(8)))
    assert len([each for each in answers if each.status_code == 200]) <= 3
    assert len(await node.node.ledger.open_deposits()) <= 2


async def test_who_tops_up_has_places_of_their_own_that_are_kept(
    node: Running, http: httpx.AsyncClient, patience: Patience, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner may not ask after it, so it must not give way."""
    monkeypatch.setattr("node.invoices.GIVE_WAY_S", 0)
    monkeypatch.setattr("node.invoices.MOST_OF_ACCOUNT", 1)
    for _ in range(3):
        assert (await invoiced(node, http)).status_code == 200
    owners = [bearer((await granted_key(node.node, 1000))[1]) for _ in range(3)]
    assert [(await invoiced(node, http, **owners[at])).status_code for at in (0, 0, 1, 2)] == [200, 429, 200, 429]
    await seen(node, http, mint_url)
    patience.is_paid = True
    assert await node.node.invoices.watch() == 4
    for owner in owners[:2]:
        assert (await http.get(f"{node.url}/v1/balance", headers=owner)).json()["balance"] == 22_000
    await adds_up(node)


async def test_one_that_its_mint_knows_no_more_keeps_no_place(
    node: Running, http: httpx.AsyncClient, patience: Patience, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(*_: object) -> MintQuote:
        raise MintMisbehaved("there is no such quote")

    first, _ = [await invoiced(node, http) for _ in range(2)]
    await seen(node, http, mint_url)
    with monkeypatch.context() as lost:
        lost.setattr(MintClient, "mint_quote_state", unknown)
        assert (await invoiced(node, http)).status_code == 200
    patience.is_paid = True
    assert (await status(node, http, first))["status"] == "paid", "it knows it again"


async def test_hundreds_that_wait_take_turns(
    node: Running, http: httpx.AsyncClient, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.invoices.MOST_OPEN", 5)
    monkeypatch.setattr("node.invoices.MOST_LOOKS", 2)
    asked: list[str] = []
    claim = Wallet.claim

    async def counted(wallet: Wallet, name: str) -> Any:
        asked.append(name)
        return await claim(wallet, name)

    for _ in range(5):
        assert (await invoiced(node, http)).status_code == 200
    monkeypatch.setattr(Wallet, "claim", counted)
    for _ in range(3):
        assert await node.node.invoices.watch() == 0
    assert (len(asked), len(set(asked))) == (6, 5)


async def test_one_that_its_mint_is_at_keeps_no_other_waiting(
    node: Running, http: httpx.AsyncClient, patience: Patience, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be for ever, if the mint crashed in the midst of it; the others are credited though nobody asks."""
    for _ in range(2):
        assert (await invoiced(node, http)).status_code == 200
    await seen(node, http, mint_url)
    patience.is_paid = True
    first, second = await node.node.ledger.open_deposits()
    operation, mint = node.node.wallet.outcome(first.id), MintClient.mint
    assert operation is not None

    async def at_it(client: MintClient, quote: str, outputs: Any) -> Any:
        if quote == operation.journal.quote:
            raise MintUnavailable("it is at it")
        return await mint(client, quote, outputs)

    monkeypatch.setattr(MintClient, "mint", at_it)
    assert await node.node.invoices.watch() == 1
    assert [each.id for each in await node.node.ledger.open_deposits()] == [first.id]
    credited = await node.node.ledger.deposit(second.id)
    assert credited is not None
    assert credited.state == "credited"
    await adds_up(node)


async def test_who_asks_for_a_status_over_and_over_asks_the_mint_now_and_then(
    node: Running, http: httpx.AsyncClient, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.invoices.ASK_AGAIN_S", 3600)
    made = [await invoiced(node, http) for _ in range(2)]
    asked, looked = 0, MintClient.mint_quote_state

    async def counted(client: MintClient, quote: str) -> MintQuote:
        nonlocal asked
        asked += 1
        return await looked(client, quote)

    monkeypatch.setattr(MintClient, "mint_quote_state", counted)
    told = await asyncio.gather(*(status(node, http, made[at % 2]) for at in range(20)))
    assert {each["status"] for each in told} == {"pending"}
    assert asked == 2


async def test_a_402_that_finds_no_place_has_no_invoice(
    node: Running, http: httpx.AsyncClient, patience: Patience
) -> None:
    for _ in range(3):
        await asked_by(node.url, http)
    plain = await http.post(node.url + CHAT, json=HELLO)
    assert (plain.status_code, bool(plain.headers["x-cashu"])) == (402, True)
    assert "www-authenticate" not in plain.headers


async def test_a_crash_as_one_gives_way_leaves_it_to_be_credited(
    node: Running, http: httpx.AsyncClient, patience: Patience, mint_url: str
) -> None:
    """The wallet has given it up, and the books do not know."""
    made = await invoiced(node, http)
    await seen(node, http, mint_url)
    (waiting,) = await node.node.ledger.open_deposits()
    assert await node.node.wallet.give_up(waiting.id, GAVE_WAY)
    assert await node.node.invoices.watch() == 0
    assert (await status(node, http, made))["status"] == "pending"
    patience.is_paid = True
    assert (await status(node, http, made))["status"] == "paid"
    await adds_up(node)
