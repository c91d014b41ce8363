"""Tokens locked to a seller's key: taken without the mint, once, and change for them out of the stock."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from router_client.ecash.coins import swap_fee
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    InsufficientFunds,
    TokenRefused,
    TokenSpent,
)
from tests.client.purses import funded, offline, seller
from tests.conftest import MINT_FEE_PPK


async def test_a_locked_token_is_money_without_a_call_to_the_mint(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    first = await seller(folder, http, mint_url)
    key = first.lock_key
    first.close()
    alice = await funded(folder / "a.db", http, mint_url, 10_000)
    sent = await alice.send(1234, mint_url, "msat", "pay", lock=key)
    token = decode(sent.token)
    async with offline() as nowhere:
        bob = await Wallet.open(folder / "seller.db", nowhere)
        assert bob.lock_key == key
        assert bob.is_locked_here(token)
        got = await bob.accept_locked(sent.token, "take")
        assert got.fee_msat == swap_fee([MINT_FEE_PPK] * len(token.proofs))
        assert got.amount_msat + got.fee_msat == sent.amount_msat >= 1234
        assert bob.balance_msat() == 0
        assert bob.locked_msat() == got.amount_msat
        assert await bob.accept_locked(sent.token, "take") == got
        with pytest.raises(TokenSpent):
            await bob.accept_locked(sent.token, "again")
        assert bob.locked_msat() == got.amount_msat
        assert await bob.redeem_locked() == []
        bob.close()
    assert alice.balance_msat() + sent.amount_msat + sent.fee_msat == 10_000


async def test_locked_tokens_are_redeemed_together_for_less_than_each_alone(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob = await seller(folder, http, mint_url, stock=3)
    alice = await funded(folder / "a.db", http, mint_url, 50_000)
    sent = [await alice.send(1000, mint_url, "msat", f"p{i}", lock=bob.lock_key, most_coins=3) for i in range(6)]
    assert all(len(decode(one.token).proofs) <= 3 for one in sent)
    got = [await bob.accept_locked(one.token, f"t{i}") for i, one in enumerate(sent)]
    credited = sum(one.amount_msat for one in got)
    assert bob.locked_msat() == credited
    (done,) = await bob.redeem_locked()
    assert done.credited_msat == credited
    assert done.lost_msat == 0
    assert done.amount_msat + done.fee_msat == sum(one.amount_msat for one in sent)
    assert done.saved_msat == sum(one.fee_msat for one in got) - done.fee_msat > 0
    assert (bob.holdings().spendable_msat, bob.holdings().locked_msat) == (done.amount_msat, 0)
    assert bob.redemptions() == [done]
    assert await bob.redeem_locked() == []
    with pytest.raises(TokenSpent):
        await bob.accept_locked(sent[0].token, "later")
    await bob.send(done.amount_msat // 2, mint_url, "msat", "spendable", fees="inside")


async def test_change_comes_out_of_the_stock_without_the_mint(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob = await seller(folder, http, mint_url, stock=4)
    alice = await funded(folder / "a.db", http, mint_url, 50_000)
    sent = await alice.send(40_000, mint_url, "msat", "p", lock=bob.lock_key)
    await bob.accept_locked(sent.token, "t")
    await bob.redeem_locked()
    bob.close()
    async with offline() as nowhere:
        bob = await Wallet.open(folder / "seller.db", nowhere, stock=4)
        for index, amount in enumerate((1, 77, 500, 1023)):
            change = await bob.send(amount, mint_url, "msat", f"c{index}", fees="inside")
            assert (change.amount_msat, change.fee_msat) == (amount, 0)


async def test_batches_are_bounded(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    sent = await alice.send(4095, mint_url, "msat", "p", lock=bob.lock_key, fees="inside")
    await bob.accept_locked(sent.token, "t")
    batches = []
    while done := await bob.redeem_locked(most=5):
        batches += done
    assert len(batches) == -(-len(decode(sent.token).proofs) // 5)
    assert sum(one.amount_msat + one.fee_msat for one in batches) == sent.amount_msat
    assert sum(one.credited_msat + one.saved_msat for one in batches) == bob.balance_msat()


async def test_a_locked_token_can_come_through_the_mint_too_but_not_both_ways(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """The way for a keyset that is no longer active: the ordinary receive signs for what is locked to the wallet."""
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    one, two = [(await alice.send(900, mint_url, "msat", n, lock=bob.lock_key)).token for n in ("one", "two")]
    got = await bob.receive(one, "online")
    assert bob.balance_msat() == got.amount_msat
    with pytest.raises(TokenSpent):
        await bob.accept_locked(one, "offline")
    await bob.accept_locked(two, "offline")
    with pytest.raises(TokenSpent):
        await bob.receive(two, "online-2")
    assert await bob.receive(one, "online") == got


async def test_nobody_else_can_take_a_locked_token_nor_its_sender_back(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    sent = await alice.send(900, mint_url, "msat", "pay", lock=bob.lock_key)
    with pytest.raises(TokenRefused, match="only the receiver"):
        await alice.reclaim("pay")
    carol = await Wallet.open(folder / "c.db", http)
    with pytest.raises(TokenRefused):
        await carol.receive(sent.token, "steal")
    with pytest.raises(TokenRefused, match="another key"):
        await carol.accept_locked(sent.token, "steal-2")
    assert (await alice.send(900, mint_url, "msat", "own", lock=alice.lock_key)).amount_msat
    assert (await alice.reclaim("own")).amount_msat >= 900
    with pytest.raises(TokenRefused, match="no public key"):
        await alice.send(900, mint_url, "msat", "bad", lock="02" + "ff" * 32)


async def test_fewer_coins_only_as_far_as_the_money_goes(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 2048)
    sent = await alice.send(2043, mint_url, "msat", "tight", lock=alice.lock_key, most_coins=1)
    assert sent.amount_msat <= 2047
    with pytest.raises(InsufficientFunds):
        await alice.send(2043, mint_url, "msat", "none", lock=alice.lock_key, most_coins=1)
