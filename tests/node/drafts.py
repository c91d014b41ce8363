"""Receipts as the completions saga drafts them, for tests of the books."""

from __future__ import annotations

from relays.pricing import ModelPrice, Usage
from relays.receipt import Receipt


def draft(request_id: str, hold_msat: int, cost_msat: int) -> Receipt:
    """What a request cost; the books fill in the balance."""
    return Receipt(
        request_id=request_id,
        model="m",
        usage=Usage(1, 1),
        metered="upstream",
        outcome="complete",
        price=ModelPrice(1, 1),
        hold_msat=hold_msat,
        cost_msat=cost_msat,
        balance_msat=0,
    )
