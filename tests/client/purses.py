"""Wallets with money in them, and coins with any secret, signed by a real mint."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

import httpx
import msgspec

from router_client.disk.storage import Database
from router_client.ecash.crypto import BlindSecret, blind
from router_client.ecash.keyring import Keyring
from router_client.ecash.mint import BlindedMessage
from router_client.ecash.outcomes import Received
from router_client.ecash.outputs import unblinded
from router_client.ecash.token import Token, decode
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable

T = TypeVar("T")


async def funded(path: Path, http: httpx.AsyncClient, mint: str, amount: int, unit: str = "msat") -> Wallet:
    wallet = await Wallet.open(path, http)
    await wallet.invoice(amount, mint, unit, "fund")
    await until_claimed(wallet, "fund")
    return wallet


def copied(path: Path, to: Path) -> Path:
    """A wallet's file as a backup has it."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
    return to


async def until_claimed(wallet: Wallet, operation: str) -> Received:
    for _ in range(200):
        if (received := await wallet.claim(operation)) is not None:
            return received
        await asyncio.sleep(0.05)
    raise AssertionError("the mint did not see its own payment")


async def retried(path: Path, http: httpx.AsyncClient, work: Callable[[Wallet], Awaitable[T]]) -> T:
    """Do `work` on a wallet that is reopened, as after a crash, whenever the mint did not answer."""
    for _ in range(8):
        wallet = await Wallet.open(path, http)
        try:
            return await work(wallet)
        except MintUnavailable:
            continue
        finally:
            wallet.close()
    raise AssertionError("the mint never answered")


async def signed_for(
    secrets: Sequence[str], folder: Path, http: httpx.AsyncClient, mint: str, amount: int = 64
) -> Token:
    """A token of coins over `amount` each with exactly these secrets, signed by the mint, with good DLEQ proofs."""
    folder.mkdir(parents=True, exist_ok=True)
    payer = await funded(folder / "payer.db", http, mint, 2 * amount * len(secrets))
    paid = decode((await payer.send(amount * len(secrets), mint, "msat", "raw", fees="on_top")).token)
    payer.close()
    db = Database(folder / "keys.db")
    (await Wallet.open(folder / "keys.db", http)).close()
    keys = await Keyring(db, http, lambda: 0.0).mint(mint)
    keyset = keys.active("msat")
    fee = -(-len(paid.proofs) * 100 // 1000)
    rest = paid.amount - fee - amount * len(secrets)
    amounts = [amount] * len(secrets) + [1] * rest
    texts = [*secrets, *(f"rest {i} {folder}" for i in range(rest))]
    hidden = [BlindSecret(text, token_hex(32)) for text in texts]
    outputs = [BlindedMessage(size, keyset.id, blind(one)) for size, one in zip(amounts, hidden, strict=True)]
    ordered = sorted(range(len(outputs)), key=lambda i: amounts[i])
    signatures = await keys.client.swap(paid.proofs, [outputs[i] for i in ordered])
    proofs = unblinded(keys.keys(keyset.id), [outputs[i] for i in ordered], [hidden[i] for i in ordered], signatures)
    db.close()
    wanted = tuple(proof for proof in proofs if proof.secret in secrets)
    return Token(mint, "msat", wanted)


def changed(token: Token, index: int, **fields: object) -> Token:
    """The token with one coin changed."""
    proofs = list(token.proofs)
    proofs[index] = msgspec.structs.replace(proofs[index], **fields)
    return msgspec.structs.replace(token, proofs=tuple(proofs))


def _unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route", request=request)


def offline() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(_unreachable))


async def seller(folder: Path, http: httpx.AsyncClient, mint_url: str, stock: int = 0) -> Wallet:
    """A wallet that has seen the mint once."""
    wallet = await Wallet.open(folder / "seller.db", http, stock=stock)
    assert await wallet.pin(mint_url)
    return wallet
