"""A clock that was ahead and is set right: what was begun then is finished and booked now, not when its time comes."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from node.redemptions import Redemptions
from router_client.ecash.mint import MintClient
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable
from router_client.paying.payments import Payments
from tests.client.purses import funded
from tests.node.harness import HELLO, adds_up, bearer, running_node, token_of

DAY_S = 24 * 3600


async def test_fees_of_swaps_are_booked_though_the_clock_was_set_back(
    folder: Path,
    wallet: Wallet,
    http: httpx.AsyncClient,
    mint_url: str,
    model_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the audit calls them lost money, until the clock is where it was."""
    for job in ("REDEEM_EVERY_S", "RESTOCK_EVERY_S", "AUDIT_EVERY_S"):
        monkeypatch.setattr(f"node.jobs.{job}", DAY_S)
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url, change_stock=20) as node:
        ahead_s = DAY_S
        redemptions = Redemptions(node.node.ledger, node.node.wallet, lambda: time.time() + ahead_s)
        await redemptions.run()
        ahead_s = 0
        key = bearer(await token_of(wallet, mint_url, 2**18))
        assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)).status_code == 200
        assert await redemptions.restock() > 0
        totals = await node.node.ledger.audit()
        assert node.node.wallet.holdings().all_msat == totals.ecash_in_msat
        assert totals.lost_msat > 0
        await adds_up(node)


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
