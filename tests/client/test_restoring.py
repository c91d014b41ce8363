"""A wallet from an old backup: no counter twice, no coin in two hands, and nothing lost that its mint still knows of."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from router_client.ecash import restoring
from router_client.ecash.restoring import LEAP
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable, TokenRefused, TokenSpent
from tests.client.purses import copied, funded, until_claimed
from tests.conftest import DEAD_MINT

FUND = 100_000
FEES = 60
"""A few swaps of many coins."""


@pytest.fixture(autouse=True)
def _small_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real mint looks each counter up, which takes its time."""
    monkeypatch.setattr(restoring, "GAP", 3)


def secrets_of(path: Path, state: str) -> set[str]:
    with closing(sqlite3.connect(path)) as conn:
        return {secret for (secret,) in conn.execute("SELECT secret FROM coins WHERE state = ?", (state,))}


def counters(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as conn:
        return dict(conn.execute("SELECT keyset, next FROM counters"))


async def test_what_happened_since_the_backup_is_found_at_the_mint(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    wallet = await funded(folder / "wallet.db", http, mint_url, FUND)
    other = await funded(folder / "other.db", http, mint_url, FUND)
    backup = copied(folder / "wallet.db", folder / "backup.db")

    gone = (await wallet.send(30_000, mint_url, "msat", "spent since")).token
    await other.receive(gone, "redeemed")
    came = (await other.send(20_000, mint_url, "msat", "theirs")).token
    await wallet.receive(came, "came since")
    holds_msat = wallet.balance_msat()
    wallet.close()

    restored = await Wallet.open(backup, http)
    before_msat = restored.balance_msat()
    told = await restored.restore()
    assert holds_msat - FEES <= restored.balance_msat() <= holds_msat, "all that the wallet held when it was lost"
    assert told.found_msat >= 20_000 - FEES
    assert told.gone_msat >= 30_000
    assert told.lost_msat == before_msat - restored.balance_msat() - told.fee_msat
    sent = await restored.send(restored.balance_msat() - FEES, mint_url, "msat", "all of it")
    await other.receive(sent.token, "all of it")
    with pytest.raises(TokenSpent):
        await restored.receive(came, "once more")
    restored.close()
    other.close()


async def test_a_coin_that_was_handed_out_since_is_not_handed_out_again(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """It left without its mint, who cannot tell; so the restored wallet has none that the copy had."""
    wallet = await funded(folder / "wallet.db", http, mint_url, FUND)
    backup = copied(folder / "wallet.db", folder / "backup.db")
    out = decode((await wallet.send(32_768, mint_url, "msat", "fits", "inside")).token)
    assert {coin.secret for coin in out.proofs} <= secrets_of(backup, "unspent"), "the mint was not asked"
    known = secrets_of(folder / "wallet.db", "unspent") | secrets_of(folder / "wallet.db", "sent")
    wallet.close()
    restored = await Wallet.open(backup, http)
    told = await restored.restore()
    assert not known & secrets_of(backup, "unspent")
    assert restored.balance_msat() == FUND - told.fee_msat - told.lost_msat
    assert told.lost_msat == 0
    restored.close()


async def test_counters_go_on_where_none_was_taken_however_often_it_is_restored(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    wallet = await funded(folder / "wallet.db", http, mint_url, FUND)
    wallet.close()
    first, second = (copied(folder / "wallet.db", folder / f"{name}.db") for name in ("first", "second"))
    restored = await Wallet.open(first, http)
    await restored.restore()
    balance_msat = restored.balance_msat()
    restored.close()
    # The same backup again: what the first restore did is at the mint, beyond the leap.
    restored = await Wallet.open(second, http)
    told = await restored.restore()
    assert balance_msat - FEES <= restored.balance_msat() <= balance_msat
    assert told.found_msat == balance_msat
    restored.close()
    used = {keyset: at for keyset, at in counters(folder / "wallet.db").items() if at}
    once, twice = counters(first), counters(second)
    assert all(LEAP <= once[keyset] < 2 * LEAP <= twice[keyset] < 3 * LEAP for keyset in used)


async def test_an_operation_that_was_open_then_is_finished_with_the_same_token(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    wallet = await funded(folder / "wallet.db", http, mint_url, FUND)
    async with httpx.AsyncClient(transport=httpx.MockTransport(_away)) as dead:
        cut_off = await Wallet.open(folder / "wallet.db", dead)
        with pytest.raises(MintUnavailable):
            await cut_off.send(777, mint_url, "msat", "refund")
        cut_off.close()
    backup = copied(folder / "wallet.db", folder / "backup.db")
    token = (await wallet.send(777, mint_url, "msat", "refund")).token
    wallet.close()
    restored = await Wallet.open(backup, http)
    await restored.restore()
    again = await restored.send(777, mint_url, "msat", "refund")
    assert again.token == token
    assert await restored.is_spent(token) is False, "whoever has it, has it"
    restored.close()


async def test_locked_coins_that_were_redeemed_since_count_once(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """The copy takes them for coins that wait; what they were redeemed for is found at the mint."""
    payer = await funded(folder / "payer.db", http, mint_url, FUND)
    wallet = await funded(folder / "wallet.db", http, mint_url, 1000)
    await wallet.pin(mint_url)
    for name in ("redeemed since", "not redeemed"):
        token = (await payer.send(20_000, mint_url, "msat", name, lock=wallet.lock_key)).token
        await wallet.accept_locked(token, name)
        if name == "redeemed since":
            backup = copied(folder / "wallet.db", folder / "backup.db")
            await wallet.redeem_locked()
    wallet.close()
    restored = await Wallet.open(backup, http)
    assert restored.locked_msat() >= 20_000 - FEES
    told = await restored.restore()
    assert restored.locked_msat() == 0
    assert 21_000 - FEES <= restored.balance_msat() <= 21_000
    assert told.lost_msat <= FEES
    await restored.accept_locked(token, "came in since, and is good")
    assert restored.locked_msat() >= 20_000 - FEES
    await restored.redeem_locked()
    restored.close()
    payer.close()


async def test_a_mint_that_is_gone_stops_the_restore_unless_its_coins_are_given_up(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    wallet = await funded(folder / "wallet.db", http, mint_url, FUND)
    await wallet.move_mint(mint_url, DEAD_MINT)
    with pytest.raises(MintUnavailable):
        await wallet.restore()
    told = await wallet.restore(without=[DEAD_MINT])
    assert wallet.balance_msat() == 0
    assert told.lost_msat == FUND
    assert max(counters(folder / "wallet.db").values()) >= LEAP
    wallet.close()


async def test_a_copy_that_was_only_put_back_does_not_take_what_it_has_for_what_it_is_given(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """It asks for signatures that its mint has made, of the same amounts, for another token."""
    payer = await funded(folder / "payer.db", http, mint_url, FUND)
    (await funded(folder / "wallet.db", http, mint_url, 1000)).close()
    backup = copied(folder / "wallet.db", folder / "backup.db")
    wallet = await Wallet.open(folder / "wallet.db", http)
    await wallet.receive((await payer.send(2000, mint_url, "msat", "since")).token, "since")
    wallet.close()
    back = await Wallet.open(backup, http)
    token = (await payer.send(2000, mint_url, "msat", "now")).token
    with pytest.raises(TokenRefused, match="already signed"):
        await back.receive(token, "now")
    assert (back.balance_msat(), await payer.is_spent(token)) == (1000, False)
    assert (await back.receive(token, "now")).amount_msat == 2000, "with counters that nobody has taken"
    assert await payer.is_spent(token) is True
    payer.close()
    back.close()


async def test_nor_does_it_lose_what_an_invoice_of_its_own_brought(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    (await funded(folder / "wallet.db", http, mint_url, 1000)).close()
    backup = copied(folder / "wallet.db", folder / "backup.db")
    wallet = await Wallet.open(folder / "wallet.db", http)
    await wallet.invoice(500, mint_url, "msat", "since")
    await until_claimed(wallet, "since")
    wallet.close()
    back = await Wallet.open(backup, http)
    await back.invoice(500, mint_url, "msat", "now")
    with pytest.raises(MintUnavailable, match="claim it again"):
        await until_claimed(back, "now")
    assert (await until_claimed(back, "now")).amount_msat == 500
    opened = back.outcome("now")
    assert opened is not None
    told = (await http.get(f"{mint_url}/v1/mint/quote/bolt11/{opened.journal.quote}")).json()
    assert told["state"] == "ISSUED"
    back.close()


def _away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("away", request=request)
