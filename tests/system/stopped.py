"""The files of a node that does not run, looked at as its next start finds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from node.ledger.ledger import Ledger
from router_client.ecash.wallet import Wallet


@asynccontextmanager
async def opened(data: Path, http: httpx.AsyncClient) -> AsyncIterator[tuple[Ledger, Wallet]]:
    """Its books and its wallet."""
    ledger = await Ledger.open(f"sqlite:///{data / 'ledger.db'}")
    wallet = await Wallet.open(data / "wallet.db", http)
    try:
        yield ledger, wallet
    finally:
        wallet.close()
        await ledger.close()


def holds_what_came_in(wallet: Wallet, came_in_msat: int) -> None:
    """The wallet has what the books say, but for swaps that the node may not have booked yet: its next start does."""
    untold = wallet.redemptions()
    cost_msat = sum(each.lost_msat + max(0, -each.saved_msat) for each in untold)
    brought_msat = sum(max(0, each.saved_msat) for each in untold)
    assert -cost_msat <= wallet.holdings().all_msat - came_in_msat <= brought_msat
