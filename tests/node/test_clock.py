"""A clock that was ahead, or runs on while nobody looks: what was begun is finished and booked all the same."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from router_client.ecash.mint import MintClient
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable
from router_client.paying.payments import Payments
from tests.client.purses import funded
from tests.node.harness import HELLO, adds_up, bearer, granted_key, running_node, token_of
from tests.node.hostile import TEXT, Hostile

DAY_S = 24 * 3600


async def test_fees_of_swaps_are_booked_however_long_ago_the_clock_says_they_were(
    folder: Path,
    wallet: Wallet,
    http: httpx.AsyncClient,
    mint_url: str,
    model_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crash between the swap and its booking, and a node that is started again a year later; or a clock that was wrong. Or
    the audit would call the fees lost money for ever."""
    for job in ("REDEEM_EVERY_S", "RESTOCK_EVERY_S", "AUDIT_EVERY_S"):
        monkeypatch.setattr(f"node.jobs.{job}", DAY_S)
    settings = {"cashu_mints": mint_url, "upstream_base_url": model_url, "change_stock": 20}
    async with running_node(folder, **settings) as node:
        key = bearer(await token_of(wallet, mint_url, 2**18))
        assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)).status_code == 200
        assert await node.node.wallet.restock(await node.node.ledger.free_msat()) > 0
    with closing(sqlite3.connect(folder / "node" / "wallet.db")) as file, file:
        assert file.execute("UPDATE operations SET created_at = created_at - ?", (365 * DAY_S,)).rowcount > 0
    async with running_node(folder, **settings) as node:
        await node.node.audit()
        totals = await node.node.ledger.audit()
        assert node.node.wallet.holdings().all_msat == totals.ecash_in_msat
        assert totals.lost_msat > 0
        assert node.node.wallet.redemptions() == []
        await adds_up(node)


async def test_a_clock_that_is_set_on_makes_nothing_free_that_runs(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str], mint_url: str
) -> None:
    """A small machine starts with the clock of its last day and is told the time later. What nobody ended is free."""
    hostile[0].answer = (200, {"content-type": "text/event-stream"}, [TEXT] * 40)
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=hostile[1]) as node:
        key, text = await granted_key(node.node, 10**6)
        ledger = node.node.ledger
        asked = asyncio.create_task(
            http.post(f"{node.url}/v1/chat/completions", json={**HELLO, "stream": True}, headers=bearer(text))
        )
        while not (await ledger.account(key.account)).held_msat:
            await asyncio.sleep(0.01)
        await ledger.hold(key, "left", 1000, 60)
        ledger._clock = lambda: time.time() + 30 * DAY_S
        assert await node.node.holding.expire() == 1
        assert "satroute-receipt" in (await asked).text
        account = await ledger.account(key.account)
        assert (account.held_msat, account.available_msat + account.spent_msat) == (0, 10**6)
        assert account.spent_msat > 0
        assert await node.node.holding.expire() == 0
        await ledger.audit()


async def test_what_was_begun_in_the_future_is_recovered_now(
    folder: Path, http: httpx.AsyncClient, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its money would be out of reach until then."""
    payer = await funded(folder / "payer.db", http, mint_url, 5000)
    token = (await payer.send(1000, mint_url, "msat", "token")).token
    payer.close()
    now = time.time() + DAY_S
    wallet = await Wallet.open(folder / "w.db", http, lambda: now)

    async def silent(*_: object) -> None:
        raise MintUnavailable("no answer")

    with monkeypatch.context() as away:
        away.setattr(MintClient, "swap", silent)
        with pytest.raises(MintUnavailable):
            await wallet.receive(token, "open")
    now -= DAY_S
    assert [(done.id, done.state) for done in await wallet.recover(60)] == [("open", "done")]
    assert wallet.balance_msat() >= 1000
    wallet.close()


async def test_a_payment_of_the_future_is_asked_back_now(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    now = time.time() + DAY_S
    wallet = await funded(folder / "w.db", http, mint_url, 5000)
    payments = await Payments.open(folder / "payments.db", wallet, http, lambda: now)
    await payments.pay("http://127.0.0.1:9", mint_url, "msat", 1000)
    now -= 60
    assert await payments.recover(older_than_s=600) == 0, "it may be under way"
    now -= DAY_S
    assert await payments.recover(older_than_s=600) >= 1000
    assert payments.open_count() == 0
    payments.close()
    wallet.close()
