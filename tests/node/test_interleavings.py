"""Moves of money that meet: what one has given up is not paid by another, and what one has paid is not paid again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from node.errors import LedgerError
from node.payouts import PayoutRule, Payouts
from relays.money import from_sat
from router_client.ecash.mint import MeltQuote, MintClient
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from tests.client.mints import running_mint
from tests.client.purses import until_claimed
from tests.client.test_lnurl import LnurlServer
from tests.node.harness import (
    HELLO,
    Running,
    adds_up,
    bearer,
    funded_wallet,
    granted_key,
    paying_node,
    running_node,
    token_of,
)

HANGING = {"FAKEWALLET_PAY_INVOICE_STATE": "PENDING", "FAKEWALLET_PAYMENT_STATE": "PENDING"}
"""A mint whose Lightning payments never end."""


@pytest.fixture
async def node(folder: Path, mint_url: str, model_url: str) -> AsyncIterator[Running]:
    async with paying_node(folder, mint_url, model_url) as running:
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


async def test_earnings_from_granted_credit_are_not_paid_out_of_what_callers_brought(
    folder: Path, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, model_url: str, address: LnurlServer
) -> None:
    """A balance is of two units, and counts with the later one; what the operator earns of his own grants is no money."""
    await wallet.invoice(1000, mint_url, "sat", "fund-sat")
    await until_claimed(wallet, "fund-sat")
    async with running_node(
        folder,
        cashu_mints=mint_url,
        upstream_base_url=model_url,
        allow_local_addresses=True,
        fixed_cost_per_request="100",
    ) as node:
        _, granted = await granted_key(node.node, 1_000_000)
        for _ in range(3):
            asked = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(granted))
            assert asked.status_code == 200
        assert (await node.node.ledger.earnings()).available_msat >= 300_000
        key = bearer(await token_of(wallet, mint_url, 400_000))
        assert (await http.get(f"{node.url}/v1/balance", headers=key)).status_code == 200
        sats = (await wallet.send(2, mint_url, "sat", "two sats")).token
        topped = await http.post(f"{node.url}/v1/balance/topup", json={"cashu_token": sats}, headers=key)
        owed_msat = topped.json()["balance"]
        assert owed_msat > 400_000
        payouts = Payouts(
            node.node.ledger,
            node.node.wallet,
            node.node.payouts._cashier,
            PayoutRule(address.address, from_sat(1), (mint_url,)),
        )
        assert await payouts.run() is None
        assert node.node.wallet.balance_msat() >= owed_msat
        await adds_up(node)


async def test_a_mint_that_keeps_the_change_of_a_payment_is_the_operators_loss_and_stops_nobody(
    node: Running,
    wallet: Wallet,
    http: httpx.AsyncClient,
    mint_url: str,
    address: LnurlServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The refund has arrived and cost more than was held for it: it is over, and the next one can be made."""
    key = bearer((await wallet.send(2**18, mint_url, "msat", "deposit")).token)
    assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)).status_code == 200
    assert len(node.node.wallet.balances()) == 1
    with monkeypatch.context() as greedy:
        melt, state = MintClient.melt, MintClient.melt_quote_state

        async def kept(client: MintClient, *wanted: Any) -> MeltQuote:
            return msgspec.structs.replace(await melt(client, *wanted), change=None)

        async def looked(client: MintClient, quote: str) -> MeltQuote:
            return msgspec.structs.replace(await state(client, quote), change=None)

        async def nothing(*_: object) -> dict[str, object]:
            return {}

        greedy.setattr(MintClient, "melt", kept)
        greedy.setattr(MintClient, "melt_quote_state", looked)
        greedy.setattr(MintClient, "restore", nothing)
        paid = await http.post(f"{node.url}/v1/balance/refund", json={"recipient": address.address}, headers=key)
        assert paid.status_code == 200, paid.text
    told = paid.json()
    totals = await node.node.ledger.audit()
    assert told["msats"] + told["fee_msats"] == 2**18 - totals.earned_msat, "what was held for it, and no more"
    assert (totals.keys_msat, totals.held_msat, totals.lost_msat) == (0, 0, totals.earned_msat)
    await node.node.audit()
    await adds_up(node)
    more = await token_of(wallet, mint_url, 5_000)
    topped = await http.post(f"{node.url}/v1/balance/topup", json={"cashu_token": more}, headers=key)
    back = (await http.post(f"{node.url}/v1/balance/refund", headers=key)).json()
    assert back["msats"] + back["fee_msats"] == topped.json()["balance"]
    await adds_up(node)


async def test_coins_of_strangers_mints_do_not_hide_what_is_missing_from_the_audit(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, payee_url: str, folder: Path
) -> None:
    """Those that come home leave a rest abroad, and what a stranger's mint says of its coins is no money."""
    key = bearer(await token_of(wallet, mint_url, 50_000))
    assert (await http.get(f"{node.url}/v1/balance", headers=key)).status_code == 200
    stranger = await funded_wallet(folder / "stranger.db", http, payee_url)
    await node.node.wallet.receive(await token_of(stranger, payee_url, 30_000), "a rest abroad")
    stranger.close()
    await node.node.audit()
    await node.node.wallet.send(1_000, mint_url, "msat", "the operator took this out by hand")
    assert node.node.wallet.holdings().all_msat > (await node.node.ledger.audit()).ecash_in_msat
    with pytest.raises(LedgerError, match="the wallet holds"):
        await node.node.audit()


async def test_a_small_payment_that_hangs_keeps_no_large_coin(
    folder: Path, http: httpx.AsyncClient, model_url: str, address: LnurlServer
) -> None:
    """Whoever has an address chooses how long, and other callers' refunds would lack it meanwhile."""
    with running_mint(folder / "mint", extra=HANGING) as mint_url:
        wallet = await funded_wallet(folder / "caller.db", http, mint_url)
        async with running_node(
            folder, cashu_mints=mint_url, upstream_base_url=model_url, allow_local_addresses=True, change_stock=0
        ) as node:
            large, small = [bearer(await token_of(wallet, mint_url, amount)) for amount in (2**18, 20_000)]
            assert (await http.get(f"{node.url}/v1/balance", headers=small)).status_code == 200
            # Its coins go elsewhere, as in payouts.
            await node.node.wallet.send(20_000, mint_url, "msat", "small coins", fees="inside")
            assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=large)).status_code == 200
            free_msat = await node.node.ledger.free_msat()
            wish = {"recipient": address.address}
            hanging = await http.post(f"{node.url}/v1/balance/refund", json=wish, headers=small)
            assert hanging.status_code == 503, hanging.text
            assert len(await node.node.ledger.open_refunds()) == 1
            assert 0 < node.node.wallet.holdings().away_msat <= 2 * 20_000
            assert (await node.node.ledger.audit()).lost_msat == free_msat - await node.node.ledger.free_msat() == 1
        wallet.close()


async def test_a_payment_that_hangs_does_not_stop_the_audit_of_the_wallet(
    folder: Path, http: httpx.AsyncClient, model_url: str, address: LnurlServer
) -> None:
    """Whoever has an address chooses how long: nobody could say meanwhile whether coins are missing."""
    with running_mint(folder / "mint", extra=HANGING) as mint_url:
        wallet = await funded_wallet(folder / "caller.db", http, mint_url)
        async with paying_node(folder, mint_url, model_url) as node:
            for key in [bearer(await token_of(wallet, mint_url, 50_000)) for _ in range(2)]:
                assert (await http.get(f"{node.url}/v1/balance", headers=key)).status_code == 200
            wish = {"recipient": address.address}
            hanging = await http.post(f"{node.url}/v1/balance/refund", json=wish, headers=key)
            assert hanging.status_code == 503, hanging.text
            assert len(await node.node.ledger.open_refunds()) == 1
            await node.node.audit()
            await node.node.wallet.send(1_000, mint_url, "msat", "the operator took this out by hand")
            with pytest.raises(LedgerError, match="the wallet holds"):
                await node.node.audit()
        wallet.close()
