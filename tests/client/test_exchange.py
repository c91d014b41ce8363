"""A foreign mint's token arrives at the primary mint over Lightning, once, whatever is lost on the way."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import free_port
from relays.money import ceil_div
from router_client.ecash.exchange import arrival
from router_client.ecash.token import MSAT_PER_UNIT, decode
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable, PaymentFailed, TokenRefused, TokenSpent
from tests.client.faults import LosesNth, Where
from tests.client.mints import running_mint
from tests.client.purses import funded, retried

units = st.sampled_from(["sat", "msat"])


@pytest.fixture(scope="module")
def foreign_mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_mint(tmp_path_factory.mktemp("foreign")) as url:
        yield url


@given(st.integers(0, 10**12), st.integers(0, 10**10), st.integers(0, 1000), units, units)
def test_what_arrives_can_be_paid_for(budget: int, reserve: int, fee: int, unit: str, primary: str) -> None:
    amount = arrival(budget, reserve, fee, unit, primary)
    assert amount >= 0
    if amount:
        assert ceil_div(amount * MSAT_PER_UNIT[primary], MSAT_PER_UNIT[unit]) + reserve + fee <= budget
    more_msat = (amount + 1) * MSAT_PER_UNIT[primary]
    assert ceil_div(more_msat, MSAT_PER_UNIT[unit]) + reserve + fee > budget


@pytest.mark.parametrize(("unit", "primary"), [("msat", "msat"), ("sat", "msat"), ("msat", "sat"), ("sat", "sat")])
async def test_a_foreign_token_arrives_less_what_it_cost(
    unit: str, primary: str, folder: Path, http: httpx.AsyncClient, mint_url: str, foreign_mint: str
) -> None:
    payer = await funded(folder / "a.db", http, foreign_mint, 200_000 // MSAT_PER_UNIT[unit], unit)
    token = (await payer.send(100_000 // MSAT_PER_UNIT[unit], foreign_mint, unit, "pay")).token
    node = await Wallet.open(folder / "n.db", http, stock=3)
    done = await node.exchange(token, mint_url, primary, "x")
    assert done.amount_msat + done.fee_msat + done.left_msat == decode(token).amount_msat
    assert done.amount_msat >= 90_000
    assert done.fee_msat <= (5 if unit == primary == "msat" else 4000)
    held = {key: amount * MSAT_PER_UNIT[key[1]] for key, amount in node.balances().items()}
    assert held.pop((mint_url, primary)) == done.amount_msat
    assert sum(held.values()) == done.left_msat
    assert await node.exchange(token, mint_url, primary, "x") == done
    with pytest.raises(TokenSpent):
        await node.exchange(token, mint_url, primary, "y")
    await node.send(done.amount_msat // MSAT_PER_UNIT[primary] // 2, mint_url, primary, "real")


async def test_a_token_that_is_not_worth_it_is_left_untouched(
    folder: Path, http: httpx.AsyncClient, mint_url: str, foreign_mint: str
) -> None:
    payer = await funded(folder / "a.db", http, foreign_mint, 10_000)
    await payer.send(1500, foreign_mint, "msat", "small")
    node = await Wallet.open(folder / "n.db", http)
    sent = payer.outcome("small")
    assert sent is not None
    with pytest.raises(TokenRefused, match="worth less"):
        await node.exchange(sent.result, mint_url, "msat", "x")
    assert node.balances() == {}
    assert (await payer.reclaim("small")).amount_msat >= 1400


async def test_a_payment_that_fails_is_tried_again_until_lightning_finds_a_way(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """A node asks every minute: half an hour of trouble is no end of the money. The same invoice is paid, while it is good;
    it cannot be paid twice."""
    failing = {"FAKEWALLET_PAY_INVOICE_STATE": "FAILED", "FAKEWALLET_PAYMENT_STATE": "FAILED"}
    port, now = free_port(), time.time()
    mint, foreign = start_mint(folder / "mint", port=port, input_fee_ppk=100, extra=failing)
    try:
        wait_mint(mint, foreign)
        payer = await funded(folder / "a.db", http, foreign, 200_000)
        token = (await payer.send(100_000, foreign, "msat", "pay")).token
        payer.close()
        node = await Wallet.open(folder / "n.db", http, lambda: now)
        for _ in range(25):
            with pytest.raises(PaymentFailed):
                await node.exchange(token, mint_url, "msat", "x")
            failed = node.outcome("x:pay:0")
            assert failed is not None
            assert failed.state == "failed"
            assert node.balances() == {(foreign, "msat"): 100_000}
            now += 60
        mint.stop()
        mint, _ = start_mint(folder / "mint", port=port, input_fee_ppk=100)
        wait_mint(mint, foreign)
        done = await node.exchange(token, mint_url, "msat", "x")
        assert node.balance_msat() == done.amount_msat + done.left_msat
        assert done.amount_msat > 90_000
        assert await node.exchange(token, mint_url, "msat", "x") == done
        assert node.outcome("x:pay:1") is None
        node.close()
    finally:
        mint.stop()


async def test_a_stuck_payment_is_waited_for(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    extra = {"FAKEWALLET_PAY_INVOICE_STATE": "PENDING", "FAKEWALLET_PAYMENT_STATE": "SETTLED"}
    with running_mint(folder / "mint", extra=extra) as foreign:
        payer = await funded(folder / "a.db", http, foreign, 200_000)
        token = (await payer.send(100_000, foreign, "msat", "pay")).token
        node = await Wallet.open(folder / "n.db", http)
        with pytest.raises(MintUnavailable):
            await node.exchange(token, mint_url, "msat", "x")
        done = await node.exchange(token, mint_url, "msat", "x")
        assert node.balance_msat() == done.amount_msat + done.left_msat
        assert node.outcome("x:pay:1") is None
        node.close()


@pytest.mark.parametrize("where", ["request", "reply"])
async def test_no_lost_exchange_loses_or_makes_money(
    where: Where, folder: Path, http: httpx.AsyncClient, mint_url: str, foreign_mint: str
) -> None:
    """Lose exchange 1, 2, 3 … between the two mints, with a crash each time, until one run passes untouched."""
    for n in itertools.count(1):
        place = folder / str(n)
        payer = await funded(place / "a.db", http, foreign_mint, 100_000)
        token = (await payer.send(60_000, foreign_mint, "msat", "pay")).token
        payer.close()
        transport = LosesNth(n, where)
        async with httpx.AsyncClient(transport=transport) as faulty:
            bring = partial(Wallet.exchange, token=token, mint_url=mint_url, unit="msat", operation_id="x")
            done = await retried(place / "n.db", faulty, bring)
        node = await Wallet.open(place / "n.db", http)
        assert done.amount_msat + done.fee_msat + done.left_msat == decode(token).amount_msat
        assert node.balances()[(mint_url, "msat")] == done.amount_msat
        assert node.balance_msat() == done.amount_msat + done.left_msat
        await node.recover()
        assert node.balance_msat() == done.amount_msat + done.left_msat
        await node.send(done.amount_msat // 2, mint_url, "msat", "real")
        node.close()
        if not transport.struck:
            assert n > 12
            return
