"""A receipt as it lies in the row of its hold: what that row says already (who, how much) is not written twice, for every
request writes one and commits are measured in pages."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from relays.pricing import ModelPrice, Usage
from relays.receipt import Receipt


class _Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A JSON list."""

    model: str
    usage: Usage
    metered: Literal["upstream", "counted"]
    outcome: Literal["complete", "aborted", "interrupted"]
    price: ModelPrice
    balance_msat: int


_WHOLE: Final = "{"
"""Books of earlier versions have the whole receipt, a JSON object, and keep it: what has ended is not rewritten."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Entry).decode


def entry(receipt: Receipt) -> str:
    """The text to be kept."""
    return _encode(
        _Entry(receipt.model, receipt.usage, receipt.metered, receipt.outcome, receipt.price, receipt.balance_msat)
    ).decode()


def receipt_of(text: str, request_id: str, hold_msat: int, cost_msat: int) -> Receipt:
    """The receipt that was kept in a hold of that id and amount, posted at that cost."""
    if text.startswith(_WHOLE):
        return msgspec.json.decode(text, type=Receipt)
    kept = _decode(text)
    return Receipt(
        request_id=request_id,
        model=kept.model,
        usage=kept.usage,
        metered=kept.metered,
        outcome=kept.outcome,
        price=kept.price,
        hold_msat=hold_msat,
        cost_msat=cost_msat,
        balance_msat=kept.balance_msat,
    )
