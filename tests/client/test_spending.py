"""Coins of sizes that serve: a stock of small ones, and not more of them than a mint takes at once."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from pathlib import Path

import httpx
import msgspec
import pytest

from router_client.ecash import minting, store
from router_client.ecash.coins import MOST_INPUTS
from router_client.ecash.mint import MintClient
from router_client.ecash.stock import targets
from router_client.ecash.token import Proof
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable, TokenRefused
from tests.client.faults import LosesNth, Where
from tests.client.mints import running_mint
from tests.client.purses import funded, until_claimed

COIN = 2**18
AIM = 20
MOST_FEE_MSAT = 100


def sizes(wallet: Wallet, mint_url: str) -> dict[int, int]:
    return wallet._db.read(lambda conn: store.held(conn, mint_url, "msat"))


async def all_restocked(wallet: Wallet) -> int:
    for swaps in range(50):
        if not await wallet.restock(MOST_FEE_MSAT):
            return swaps
    raise AssertionError("it never ends")


async def test_a_stock_is_made_of_large_coins_and_then_left_alone(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    (await funded(folder / "w.db", http, mint_url, COIN)).close()
    wallet = await Wallet.open(folder / "w.db", http, stock=AIM)
    assert wallet.lacks_stock()
    assert await wallet.restock(0) == 0, "not for that price"
    assert await all_restocked(wallet) > 1
    assert not wallet.lacks_stock()
    held = sizes(wallet, mint_url)
    wanted = targets(COIN, AIM)
    assert wanted[1] == wanted[256] == AIM > wanted[4096] > 1
    assert all(target / 2 <= held[size] <= 2 * target for size, target in wanted.items()), held
    fees_msat = -sum(swap.saved_msat for swap in wallet.redemptions())
    assert fees_msat == len(wallet.redemptions()), "a coin's fee is one msat, rounded up"
    assert wallet.holdings().all_msat == COIN - fees_msat

    async with httpx.AsyncClient(transport=LosesNth(1, "request")) as nowhere:
        wallet.close()
        wallet = await Wallet.open(folder / "w.db", nowhere, stock=AIM)
        for number in range(AIM // 4):
            await wallet.send(1023, mint_url, "msat", f"change {number}", fees="inside")  # asks no mint
    wallet.close()


async def test_a_silent_mint_is_not_given_one_coin_after_another(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """What is on its way there cannot be spent meanwhile."""
    (await funded(folder / "w.db", http, mint_url, 2 * COIN - 1)).close()

    async def silent(request: httpx.Request) -> None:
        if request.url.path == "/v1/swap":
            raise httpx.ConnectError("no answer", request=request)

    now = 1_800_000_000.0
    async with httpx.AsyncClient(event_hooks={"request": [silent]}) as faulty:
        wallet = await Wallet.open(folder / "w.db", faulty, stock=AIM, clock=lambda: now)
        for _ in range(4):
            assert await wallet.restock(MOST_FEE_MSAT) == 0
            assert wallet.holdings().away_msat == COIN, "the largest coin"
            assert not wallet.lacks_stock(), "it is left alone for a while"
            now += 3600
        wallet.close()
    wallet = await Wallet.open(folder / "w.db", http, stock=AIM, clock=lambda: now)
    assert wallet.lacks_stock()
    assert await wallet.restock(0) == 1, "what was begun is gone on with"
    assert len(wallet.redemptions()) == 1
    wallet.close()


async def test_a_mint_without_a_fee_needs_no_budget(folder: Path, http: httpx.AsyncClient) -> None:
    with running_mint(folder / "mint", input_fee_ppk=0) as mint:
        (await funded(folder / "w.db", http, mint, COIN)).close()
        wallet = await Wallet.open(folder / "w.db", http, stock=AIM)
        swaps = 0
        while await wallet.restock(0):
            swaps += 1
        assert swaps > 1
        assert not wallet.lacks_stock()
        assert wallet.balance_msat() == COIN
        wallet.close()


async def test_a_surplus_of_one_size_is_made_larger(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    (await funded(folder / "w.db", http, mint_url, 4 * COIN)).close()
    wallet = await Wallet.open(folder / "w.db", http, stock=10 * AIM)
    await all_restocked(wallet)
    wallet.close()
    wallet = await Wallet.open(folder / "w.db", http, stock=1)
    before = wallet.holdings().all_msat
    assert max(sizes(wallet, mint_url).values()) > 100
    await all_restocked(wallet)
    assert max(sizes(wallet, mint_url).values()) < 110
    fees_msat = -sum(swap.saved_msat for swap in wallet.redemptions()) - (4 * COIN - before)
    assert wallet.holdings().all_msat == before - fees_msat
    wallet.close()


async def test_more_coins_than_a_mint_takes_at_once_are_merged_before_they_are_sent(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """All that a wallet has, in many small coins, as one token."""
    (await funded(folder / "w.db", http, mint_url, 2 * COIN)).close()
    wallet = await Wallet.open(folder / "w.db", http, stock=5 * AIM)
    await all_restocked(wallet)
    assert sum(sizes(wallet, mint_url).values()) > 2 * MOST_INPUTS
    wallet.close()
    asked: list[int] = []

    async def count(request: httpx.Request) -> None:
        if request.url.path == "/v1/swap":
            asked.append(len(msgspec.json.decode(request.content)["inputs"]))

    async with httpx.AsyncClient(event_hooks={"request": [count]}, timeout=60) as counting:
        wallet = await Wallet.open(folder / "w.db", counting)
        before_msat, swaps = wallet.balance_msat(), len(wallet.redemptions())
        sent = await wallet.send(before_msat - 200, mint_url, "msat", "all", fees="inside")
        assert len(asked) > 1
        assert max(asked) <= MOST_INPUTS
        merged = wallet.redemptions()[swaps:]
        fees_msat = sent.fee_msat - sum(swap.saved_msat for swap in merged)
        assert sent.amount_msat + fees_msat + wallet.balance_msat() == before_msat
        other = await Wallet.open(folder / "other.db", counting)
        await other.receive(sent.token, "in")
        wallet.close()
        other.close()


async def test_coins_that_are_not_worth_their_fee_are_neither_merged_nor_paid_with(
    folder: Path, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A msat a coin: each change has one of a msat, and after hundreds of payments the large ones could not be spent."""
    with running_mint(folder / "mint", input_fee_ppk=1000) as mint:
        wallet = await funded(folder / "w.db", http, mint, 4096)

        async def have(size: int) -> None:
            with monkeypatch.context() as alike:
                alike.setattr(minting, "split", lambda amount: (size,) * (amount // size))
                await wallet.invoice(size * (MOST_INPUTS + 50), mint, "msat", f"coins of {size}")
                await until_claimed(wallet, f"coins of {size}")

        await have(1)
        sent = await wallet.send(2000, mint, "msat", "one large coin", lock=wallet.lock_key)
        assert sent.fee_msat == 1
        await have(16)
        sent = await wallet.send(6300, mint, "msat", "and all of the others that are worth it", fees="inside")
        assert sent.amount_msat + sent.fee_msat == 6300
        (merge,) = wallet.redemptions()
        assert merge.fee_msat == MOST_INPUTS
        assert sizes(wallet, mint)[1] >= MOST_INPUTS
        wallet.close()


async def test_a_mint_is_asked_about_many_coins_in_parts(http: httpx.AsyncClient, mint_url: str) -> None:
    """nutshell takes a thousand."""
    client = MintClient(mint_url, http)
    (keyset, *_) = await client.keysets()
    coins = [Proof(keyset.id, 1, secrets.token_hex(32), "02" + "11" * 32) for _ in range(1001)]
    assert await client.spent(coins) == set()


@pytest.mark.parametrize("where", ["request", "reply"])
async def test_no_lost_exchange_loses_or_makes_money(
    where: Where, folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Lose exchange 1, 2, 3 … of making a stock, with a crash each time, until none is."""
    for n in itertools.count(1):
        path = folder / f"{n}.db"
        (await funded(path, http, mint_url, 2**14)).close()
        transport = LosesNth(n, where)
        async with httpx.AsyncClient(transport=transport) as faulty:
            for _ in range(3):
                wallet = await Wallet.open(path, faulty, stock=2)
                try:
                    await wallet.recover()
                    assert wallet.holdings().all_msat == 2**14 + sum(s.saved_msat for s in wallet.redemptions())
                    await wallet.restock(MOST_FEE_MSAT)
                except MintUnavailable:
                    assert wallet.holdings().away_msat or not wallet.redemptions()
                    assert wallet.holdings().all_msat == 2**14 + sum(s.saved_msat for s in wallet.redemptions())
                finally:
                    wallet.close()
        wallet = await Wallet.open(path, http)
        assert wallet.redemptions()
        assert wallet.balance_msat() == 2**14 + sum(swap.saved_msat for swap in wallet.redemptions())
        await wallet.send(2**13, mint_url, "msat", "spendable")
        wallet.close()
        if not transport.struck:
            assert n > 1
            return


async def test_who_waits_for_change_shares_a_swap(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    (await funded(folder / "w.db", http, mint_url, COIN)).close()
    swaps = 0

    async def count(request: httpx.Request) -> None:
        nonlocal swaps
        swaps += request.url.path == "/v1/swap"

    async with httpx.AsyncClient(event_hooks={"request": [count]}, timeout=60) as counted:
        wallet = await Wallet.open(folder / "w.db", counted, stock=AIM)
        sends = (wallet.send(127, mint_url, "msat", f"change {n}", fees="inside") for n in range(AIM))
        sent = await asyncio.gather(*sends)
        assert sum(each.amount_msat + each.fee_msat for each in sent) == 127 * AIM
        assert wallet.balance_msat() == COIN - 127 * AIM
        assert 1 < swaps <= AIM // 4
    wallet.close()


async def test_a_stock_that_is_not_low_is_left_alone_while_another_is_filled(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    for unit, amount in (("msat", COIN), ("sat", COIN)):
        wallet = await Wallet.open(folder / "w.db", http)
        await wallet.invoice(amount, mint_url, unit, unit)
        await until_claimed(wallet, unit)
        wallet.close()
    wallet = await Wallet.open(folder / "w.db", http, stock=AIM)
    while await wallet.restock(10**6):
        pass
    before = len(wallet.redemptions())
    await wallet.send(1, mint_url, "sat", "one", fees="inside")
    assert not wallet.lacks_stock(), "one is gone"
    for number in range(AIM // 2 + 1):
        await wallet.send(1023, mint_url, "msat", f"small {number}", fees="inside")
    assert wallet.lacks_stock()
    while await wallet.restock(10**6):
        pass
    swapped = [swap.unit for swap in wallet.redemptions()[before:]]
    assert swapped == ["msat"] * len(swapped)
    held = sizes(wallet, mint_url)
    worth = sum(size * count for size, count in held.items())
    assert all(held[size] >= target for size, target in targets(worth, AIM).items()), "filled, not half filled"
    wallet.close()


async def test_many_coins_are_not_handed_out_where_a_larger_one_spares_them(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Who looks for coins that fit does not see the larger ones: the mint is asked, who knows nothing of these."""
    wallet = await funded(folder / "w.db", http, mint_url, 1)
    (keyset, *_) = [each for each in await MintClient(mint_url, http).keysets() if each.unit == "msat" and each.active]
    amounts = [*[1 << bit for bit in range(7)] * 8, COIN]
    coins = [Proof(keyset.id, amount, secrets.token_hex(32), "02" + "11" * 32) for amount in amounts]
    source = wallet.outcome("fund")
    assert source is not None
    await wallet._db.run(lambda conn: store.add_coins(conn, source, coins, "unspent"))
    with pytest.raises(TokenRefused):
        await wallet.send(1010, mint_url, "msat", "56 coins with their fees")
    assert (await wallet.send(127, mint_url, "msat", "few", fees="inside")).amount_msat == 127
    wallet.close()
