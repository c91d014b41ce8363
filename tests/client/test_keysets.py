"""Keysets that a real mint rotates, and forgets: coins of old ones stay money, and keep no other coin from being spent."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import pytest

from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import free_port
from router_client.ecash.mint import Keyset, MintClient
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from router_client.errors import TokenRefused
from tests.client.purses import funded, until_claimed

NEXT = """["m/0'/0'/1'", "m/0'/1'/1'"]"""


class Rotated:
    """A mint with new keysets, a wallet with coins of its old ones, and a seller who has not looked since."""

    def __init__(self, url: str, wallet: Wallet, seller: Wallet, old: set[str]) -> None:
        self.url, self.wallet, self.seller, self.old = url, wallet, seller, old

    def forget_the_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The mint lists them no more."""
        everything = MintClient.keysets

        async def listed(client: MintClient) -> list[Keyset]:
            return [keyset for keyset in await everything(client) if keyset.id not in self.old]

        monkeypatch.setattr(MintClient, "keysets", listed)
        self.wallet._keyring.forget(self.url)


@pytest.fixture
async def rotated(folder: Path, http: httpx.AsyncClient) -> AsyncIterator[Rotated]:
    port = free_port()
    mint, url = start_mint(folder / "mint", port=port, input_fee_ppk=100)
    try:
        wait_mint(mint, url)
        wallet = await funded(folder / "w.db", http, url, 5000)
        seller = await Wallet.open(folder / "seller.db", http)
        assert await seller.pin(url)
        old = {keyset["id"] for keyset in (await http.get(f"{url}/v1/keysets")).json()["keysets"]}
        mint.stop()
        with closing(sqlite3.connect(folder / "mint" / "db" / "mint.sqlite3")) as books, books:
            assert books.execute("UPDATE keysets SET active = FALSE").rowcount == len(old)
        mint, _ = start_mint(folder / "mint", port=port, input_fee_ppk=100, extra={"MINT_DERIVATION_PATH_LIST": NEXT})
        wait_mint(mint, url)
        yield Rotated(url, wallet, seller, old)
        seller.close()
        wallet.close()
    finally:
        mint.stop()


async def test_coins_of_a_keyset_that_its_mint_lists_no_more_are_spent_like_others(
    rotated: Rotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallet, mint = rotated.wallet, rotated.url
    rotated.forget_the_old(monkeypatch)
    await wallet.invoice(500, mint, "msat", "more")
    await until_claimed(wallet, "more")
    for amount, left in ((4096, 1404), (1001, 403)):
        sent = await wallet.send(amount, mint, "msat", f"{amount}", fees="inside")
        assert {coin.id for coin in decode(sent.token).proofs}.isdisjoint(rotated.old), (
            "its receiver could not check it"
        )
        assert sent.amount_msat + sent.fee_msat == amount
        assert wallet.balance_msat() == left


async def test_locked_coins_of_a_keyset_that_its_mint_lists_no_more_are_not_taken_unasked(
    rotated: Rotated, folder: Path, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a wallet that starts while the mint is away."""
    wallet, mint, seller = rotated.wallet, rotated.url, rotated.seller
    seller._keyring.forget(mint)
    await seller.pin(mint)
    token = (await wallet.send(64, mint, "msat", "locked", lock=seller.lock_key)).token
    assert (await seller.accept_locked(token, "active")).amount_msat >= 64
    rotated.old = {coin.id for coin in decode(token).proofs}
    later = (await wallet.send(64, mint, "msat", "later", lock=seller.lock_key)).token
    rotated.forget_the_old(monkeypatch)
    seller._keyring.forget(mint)
    await seller.pin(mint)
    again = await Wallet.open(folder / "seller.db", http)
    with pytest.raises(TokenRefused, match="no active keyset"):
        await again.accept_locked(later, "gone")
    again.close()


async def test_a_good_token_is_taken_by_who_has_not_heard_of_the_new_keysets(rotated: Rotated) -> None:
    """The mint's no is about what it should sign, not about the token."""
    token = (await rotated.wallet.send(8, rotated.url, "msat", "a coin of before", fees="inside")).token
    coins = decode(token)
    assert {coin.id for coin in coins.proofs} <= rotated.old
    received = await rotated.seller.receive(token, "first try")
    assert received.amount_msat + received.fee_msat == coins.amount
    assert await rotated.seller.receive(token, "first try") == received


async def test_a_bad_token_stays_one(rotated: Rotated) -> None:
    coins = decode((await rotated.wallet.send(8, rotated.url, "msat", "a coin of before", fees="inside")).token)
    forged = msgspec.structs.replace(coins.proofs[0], secret="not what was signed")
    bad = msgspec.structs.replace(coins, proofs=(forged, *coins.proofs[1:]))
    for _ in range(2):
        with pytest.raises(TokenRefused):
            await rotated.seller.receive(bad, "bad")
    assert rotated.seller.balance_msat() == 0
