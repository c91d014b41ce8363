"""Lightning out: an invoice is paid once and its change comes back, also when an exchange is lost or a payment is stuck."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from router_client.ecash import restoring
from router_client.ecash.invoices import read_invoice
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    FeeTooHigh,
    InsufficientFunds,
    MintUnavailable,
    PaymentFailed,
    RequestUnreadable,
    TokenRefused,
    WrongUnit,
)
from tests.client.faults import LosesNth, Where
from tests.client.mints import running_mint
from tests.client.purses import copied, funded, retried, until_claimed


@pytest.fixture(scope="module")
def other_mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second mint, to whose invoices the first one pays."""
    with running_mint(tmp_path_factory.mktemp("other")) as url:
        yield url


async def invoiced(folder: Path, http: httpx.AsyncClient, mint: str, amount: int, unit: str = "msat") -> str:
    """Somebody's invoice. (The play mint takes it for paid by itself.)"""
    payee = await Wallet.open(folder / "payee.db", http)
    invoice = await payee.invoice(amount, mint, unit, f"invoice {time.monotonic_ns()}")
    payee.close()
    return invoice.bolt11


async def test_an_invoice_is_paid_and_the_change_comes_back(
    folder: Path, http: httpx.AsyncClient, mint_url: str, other_mint: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 100_000)
    bolt11 = await invoiced(folder, http, other_mint, 20_000)
    assert read_invoice(bolt11).amount_msat == 20_000
    cost = await alice.melt_cost(bolt11, mint_url, "msat")
    assert cost.amount_msat == 20_000
    paid = await alice.melt(bolt11, mint_url, "msat", "pay")
    assert paid.paid_msat == 20_000
    assert 0 < paid.fee_msat <= cost.reserve_msat + cost.fee_msat
    assert alice.balance_msat() == 100_000 - paid.paid_msat - paid.fee_msat
    assert await alice.melt(bolt11, mint_url, "msat", "pay") == paid
    await alice.send(70_000, mint_url, "msat", "change-is-real")
    with pytest.raises(TokenRefused, match="another"):
        await alice.melt(await invoiced(folder, http, other_mint, 5), mint_url, "msat", "pay")


async def test_sats_pay_msat_invoices_rounded_up(
    folder: Path, http: httpx.AsyncClient, mint_url: str, other_mint: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 100, "sat")
    paid = await alice.melt(await invoiced(folder, http, other_mint, 20_500), mint_url, "sat", "pay")
    assert paid.paid_msat == 21_000
    assert alice.balance_msat() == 100_000 - paid.paid_msat - paid.fee_msat


async def test_between_wallets_of_one_mint_nothing_goes_over_lightning(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    bob = await Wallet.open(folder / "b.db", http)
    invoice = await bob.invoice(3000, mint_url, "msat", "in")
    await until_claimed(bob, "in")
    with pytest.raises(PaymentFailed):  # the play mint paid it itself, so it is paid
        await alice.melt(invoice.bolt11, mint_url, "msat", "out")
    assert alice.balance_msat() == 9000


async def test_what_cannot_be_paid_is_refused_before_anything_moves(
    folder: Path, http: httpx.AsyncClient, mint_url: str, other_mint: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 10_000)
    bolt11 = await invoiced(folder, http, other_mint, 5000)
    with pytest.raises(FeeTooHigh):
        await alice.melt(bolt11, mint_url, "msat", "dear", max_fee=1)
    with pytest.raises(InsufficientFunds):
        await alice.melt(await invoiced(folder, http, other_mint, 9999), mint_url, "msat", "much")
    with pytest.raises(WrongUnit):
        await alice.melt(bolt11, mint_url, "usd", "unit")
    damaged = bolt11[:-1] + ("q" if bolt11[-1] != "q" else "p")
    for noise in ("", "lnbc", "lnbc1qqqqqq", damaged, "x" * 10_000, bolt11.replace("lnbc", "lnxx")):
        with pytest.raises(RequestUnreadable):
            await alice.melt(noise, mint_url, "msat", "noise")
    assert alice.balance_msat() == 10_000
    assert all(alice.outcome(name) is None for name in ("dear", "much", "unit", "noise"))


async def test_many_payments_at_once_spend_no_coin_twice(
    folder: Path, http: httpx.AsyncClient, mint_url: str, other_mint: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 65_535)
    invoices = [await invoiced(folder, http, other_mint, 4000 + i) for i in range(5)]
    done = await asyncio.gather(
        *(alice.melt(bolt11, mint_url, "msat", f"m{i}") for i, bolt11 in enumerate(invoices)), return_exceptions=True
    )
    paid = [one for one in done if not isinstance(one, BaseException)]
    assert all(isinstance(one, InsufficientFunds) for one in done if isinstance(one, BaseException))
    assert paid
    assert alice.balance_msat() == 65_535 - sum(one.paid_msat + one.fee_msat for one in paid)


async def test_a_stuck_payment_stays_open_until_it_is_decided(
    folder: Path, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pending for ever: neither paid nor failed, its coins are nobody's until the mint says."""
    monkeypatch.setattr(restoring, "GAP", 1)
    stuck = {"FAKEWALLET_PAY_INVOICE_STATE": "PENDING", "FAKEWALLET_PAYMENT_STATE": "PENDING"}
    with running_mint(folder / "mint", extra=stuck) as mint:
        alice = await funded(folder / "a.db", http, mint, 100_000)
        before = copied(folder / "a.db", folder / "before.db")
        bolt11 = await invoiced(folder, http, mint, 5, "sat")  # of another unit: this goes over Lightning
        for _ in range(2):
            with pytest.raises(MintUnavailable):
                await alice.melt(bolt11, mint, "msat", "pay")
        assert await alice.recover() == []
        operation = alice.outcome("pay")
        assert operation is not None
        assert operation.state == "open"
        reserved = sum(coin.amount for coin in operation.journal.inputs)
        assert alice.balance_msat() == 100_000 - reserved
        alice.close()

        # Restored from a copy that knows of the payment, it stays as open; one that does not know waits for its end.
        again = await Wallet.open(copied(folder / "a.db", folder / "since.db"), http)
        told = await again.restore()
        assert (told.lost_msat, again.balance_msat()) == (0, 100_000 - reserved - told.fee_msat)
        operation = again.outcome("pay")
        assert operation is not None
        assert operation.state == "open"
        again.close()
        again = await Wallet.open(before, http)
        with pytest.raises(MintUnavailable, match="not done yet"):
            await again.restore()
        again.close()


@pytest.mark.parametrize(("decided", "state"), [("SETTLED", "done"), ("FAILED", "failed")])
async def test_recover_finds_out_what_came_of_a_stuck_payment(
    decided: str, state: str, folder: Path, http: httpx.AsyncClient
) -> None:
    extra = {"FAKEWALLET_PAY_INVOICE_STATE": "PENDING", "FAKEWALLET_PAYMENT_STATE": decided}
    with running_mint(folder / "mint", extra=extra) as mint:
        alice = await funded(folder / "a.db", http, mint, 100_000)
        bolt11 = await invoiced(folder, http, mint, 5, "sat")
        with pytest.raises(MintUnavailable):
            await alice.melt(bolt11, mint, "msat", "pay")
        assert [(done.id, done.state) for done in await alice.recover()] == [("pay", state)]
        if state == "done":
            paid = await alice.melt(bolt11, mint, "msat", "pay")
            assert alice.balance_msat() == 100_000 - paid.paid_msat - paid.fee_msat
        else:
            assert alice.balance_msat() == 100_000
        await alice.send(alice.balance_msat() - 100, mint, "msat", "all-real")
        alice.close()


async def test_a_payment_that_fails_gives_its_coins_back(folder: Path, http: httpx.AsyncClient) -> None:
    extra = {"FAKEWALLET_PAY_INVOICE_STATE": "FAILED", "FAKEWALLET_PAYMENT_STATE": "FAILED"}
    with running_mint(folder / "mint", extra=extra) as mint:
        alice = await funded(folder / "a.db", http, mint, 100_000)
        bolt11 = await invoiced(folder, http, mint, 5, "sat")
        for _ in range(2):
            with pytest.raises(PaymentFailed):
                await alice.melt(bolt11, mint, "msat", "pay")
            assert alice.balance_msat() == 100_000
        await alice.send(99_000, mint, "msat", "all-real")
        alice.close()


@pytest.mark.parametrize("where", ["request", "reply"])
async def test_no_lost_exchange_pays_twice_or_loses_change(
    where: Where, folder: Path, http: httpx.AsyncClient, mint_url: str, other_mint: str
) -> None:
    """Lose exchange 1, 2, 3 … of a payment, with a crash each time, until one run passes untouched."""
    for n in itertools.count(1):
        place = folder / str(n)
        (await funded(place / "a.db", http, mint_url, 30_000)).close()
        bolt11 = await invoiced(place, http, other_mint, 5000)
        transport = LosesNth(n, where)
        async with httpx.AsyncClient(transport=transport) as faulty:
            pay = partial(Wallet.melt, bolt11=bolt11, mint_url=mint_url, unit="msat", operation_id="pay")
            paid = await retried(place / "a.db", faulty, pay)
        alice = await Wallet.open(place / "a.db", http)
        assert paid.paid_msat == 5000
        assert alice.balance_msat() == 30_000 - paid.paid_msat - paid.fee_msat
        await alice.send(20_000, mint_url, "msat", "change-is-real")
        alice.close()
        if not transport.struck:
            assert n > 4
            return


@pytest.mark.parametrize("where", ["request", "reply"])
async def test_recover_finishes_or_gives_up_a_payment_that_a_crash_left(
    where: Where, folder: Path, http: httpx.AsyncClient, mint_url: str, other_mint: str
) -> None:
    """The payment's own exchange is lost: before the mint saw it, the coins are free; after, it is paid."""
    for n in itertools.count(1):
        place = folder / str(n)
        (await funded(place / "a.db", http, mint_url, 30_000)).close()
        bolt11 = await invoiced(place, http, other_mint, 5000)
        transport = LosesNth(n, where)
        async with httpx.AsyncClient(transport=transport) as faulty:
            alice = await Wallet.open(place / "a.db", faulty)
            with suppress(MintUnavailable):
                await alice.melt(bolt11, mint_url, "msat", "pay")
            alice.close()
        alice = await Wallet.open(place / "a.db", http)
        await alice.recover()
        operation = alice.outcome("pay")
        if operation is None or operation.state == "failed":
            assert alice.balance_msat() == 30_000
        else:
            assert operation.state == "done"
            assert alice.balance_msat() == 30_000 - operation.journal.amount - operation.journal.fee
        assert await alice.recover() == []
        alice.close()
        if not transport.struck:
            return


async def test_a_request_that_reaches_the_mint_late_pays_nothing_twice(
    folder: Path, http: httpx.AsyncClient, mint_url: str, other_mint: str
) -> None:
    """Lost on its way, it may still arrive: so an unpaid quote that was never seen under way is asked for again."""
    (await funded(folder / "a.db", http, mint_url, 30_000)).close()
    bolt11 = await invoiced(folder, http, other_mint, 5000)
    late: list[httpx.Request] = []

    async def hold_back(request: httpx.Request) -> None:
        if request.url.path == "/v1/melt/bolt11":
            late.append(request)
            raise httpx.ConnectError("lost on the way there", request=request)

    async with httpx.AsyncClient(event_hooks={"request": [hold_back]}) as faulty:
        alice = await Wallet.open(folder / "a.db", faulty)
        with pytest.raises(MintUnavailable):
            await alice.melt(bolt11, mint_url, "msat", "pay")
        alice.close()
    alice = await Wallet.open(folder / "a.db", http)
    (done,) = await alice.recover()
    assert (done.id, done.state) == ("pay", "done"), "its coins are not free while it may be paid"
    left = alice.balance_msat()
    answer = await http.post(str(late[0].url), content=late[0].content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    await alice.send(left - 100, mint_url, "msat", "all-real")
    alice.close()
