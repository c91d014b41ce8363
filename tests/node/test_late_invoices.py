"""Lightning invoices that nobody pays in time, or somebody pays late: nothing paid is lost, nothing waits for ever."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import httpx
import msgspec
import pytest

from router_client.ecash.invoices import read_invoice
from router_client.ecash.mint import MintClient, MintQuote
from router_client.ecash.minting import GRACE_S
from router_client.ecash.wallet import Wallet
from tests.node.harness import Running, adds_up, bearer, running_node

WISH = {"amount_sats": 21, "purpose": "create"}
JUST_NOW_S = 60


class Patience:
    """A real mint that tells another end of its quotes, and sees payments when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.expiry: int | Literal["its own"] | None = "its own"
        self.is_paid = False
        quote, state = MintClient.mint_quote, MintClient.mint_quote_state

        async def quoted(client: MintClient, amount: int, unit: str) -> MintQuote:
            told = await quote(client, amount, unit)
            return told if self.expiry == "its own" else msgspec.structs.replace(told, expiry=self.expiry)

        async def looked(client: MintClient, name: str) -> MintQuote:
            told = await state(client, name)
            return told if self.is_paid else msgspec.structs.replace(told, state="UNPAID")

        monkeypatch.setattr("node.invoices.ASK_AGAIN_S", 0)
        monkeypatch.setattr(MintClient, "mint_quote", quoted)
        monkeypatch.setattr(MintClient, "mint_quote_state", looked)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    return Patience(monkeypatch)


@pytest.fixture
async def node(folder: Path, mint_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr("node.jobs.INVOICES_EVERY_S", 3600)
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url="http://127.0.0.1:9/v1") as running:
        yield running


async def paid(node: Running, http: httpx.AsyncClient, invoice_id: str) -> None:
    """Its status says so, and its key has the money."""
    status = (await http.get(f"{node.url}/lightning/invoice/{invoice_id}/status")).json()
    assert (status["status"], status["msats"]) == ("paid", 21_000)
    balance = await http.get(f"{node.url}/v1/balance", headers=bearer(status["api_key"]))
    assert balance.json()["balance"] == 21_000
    await adds_up(node)


@pytest.mark.parametrize("expiry", [0, 1, int(time.time()) - GRACE_S - JUST_NOW_S], ids=["none", "1970", "just over"])
async def test_an_invoice_is_good_to_its_own_end_whatever_the_mint_says_of_its_quote(
    node: Running, http: httpx.AsyncClient, patience: Patience, expiry: int
) -> None:
    """Some mints say 0 for none. The payer sees the invoice alone."""
    patience.expiry = expiry
    made = (await http.post(f"{node.url}/lightning/invoice", json=WISH)).json()
    assert made["expires_at"] == read_invoice(made["bolt11"]).expires_at > time.time()
    await node.node.deposits.recover(older_than_s=0)
    await node.node.invoices.watch()
    status = await http.get(f"{node.url}/lightning/invoice/{made['invoice_id']}/status")
    assert status.json()["status"] == "pending"
    patience.is_paid = True
    assert await node.node.invoices.watch() == 1
    await paid(node, http, made["invoice_id"])


async def test_a_quote_without_an_end_ends_with_its_invoice(
    folder: Path, http: httpx.AsyncClient, mint_url: str, patience: Patience
) -> None:
    """Else each that nobody pays is looked at for ever, and in the end no other is made."""
    patience.expiry, now = None, time.time()
    wallet = await Wallet.open(folder / "w.db", http, lambda: now)
    made = await wallet.invoice(1000, mint_url, "msat", "unpaid")
    assert made.expires_at is None
    now = read_invoice(made.bolt11).expires_at + GRACE_S - JUST_NOW_S
    assert await wallet.recover() == []
    now += 2 * JUST_NOW_S
    assert [(done.id, done.state) for done in await wallet.recover()] == [("unpaid", "failed")]
    wallet.close()


async def run_out(node: Running, expires_at: int, later: pytest.MonkeyPatch) -> None:
    """The wallet looks at its invoices when this one's time is over."""
    ahead_s = expires_at + GRACE_S + JUST_NOW_S - time.time()
    later.setattr(node.node.wallet._operations, "clock", lambda: time.time() + ahead_s)
    await node.node.wallet.recover()


async def test_what_was_paid_after_its_time_is_credited_when_its_owner_asks(
    node: Running, http: httpx.AsyncClient, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was wrong for a minute, or a payment that took its time: the mint has the money."""
    made = (await http.post(f"{node.url}/lightning/invoice", json=WISH)).json()
    with monkeypatch.context() as later:
        await run_out(node, made["expires_at"], later)
        await node.node.invoices.watch()
    where = f"{node.url}/lightning/invoice/{made['invoice_id']}/status"
    for _ in range(2):
        assert (await http.get(where)).json()["status"] == "expired"
    patience.is_paid = True
    await paid(node, http, made["invoice_id"])


async def test_one_that_was_paid_just_before_it_is_given_up_is_credited_unasked(
    node: Running, http: httpx.AsyncClient, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (await http.post(f"{node.url}/lightning/invoice", json=WISH)).json()
    with monkeypatch.context() as later:
        await run_out(node, made["expires_at"], later)
    patience.is_paid = True
    assert await node.node.invoices.watch() == 1
    await paid(node, http, made["invoice_id"])
