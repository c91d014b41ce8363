"""The wallet against a real mint: money in, out and back, once each, also when replies are lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from router_client.ecash.wallet import Wallet


async def funded(path: Path, http: httpx.AsyncClient, mint: str, amount: int, unit: str = "msat") -> Wallet:
    wallet = await Wallet.open(path, http)
    await wallet.invoice(amount, mint, unit, "fund")
    for _ in range(100):
        if await wallet.claim("fund") is not None:
            return wallet
        await asyncio.sleep(0.05)
    raise AssertionError("the mint did not see its own payment")


async def test_sends_and_receives_exactly(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 10_000)
    bob = await Wallet.open(folder / "b.db", http)
    sent = await alice.send(1234, mint_url, "msat", "to-bob")
    got = await bob.receive(sent.token, "from-alice")
    assert got.amount_msat >= 1234
    assert alice.balance_msat() + sent.amount_msat + sent.fee_msat == 10_000
    assert bob.balance_msat() == got.amount_msat == sent.amount_msat - got.fee_msat
