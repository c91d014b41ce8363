"""Quotes (`POST /v1/quote`): what a node says a request would cost, before any payment; read by both sides."""

from __future__ import annotations

from typing import Annotated

import msgspec

from relays.money import MAX_MSAT
from relays.pricing import ModelPrice, Usage

Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_MSAT)]


class QuoteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a request would hold, and is expected to cost."""

    object: str = "quote"
    model: str
    endpoint: str
    """Where the request would be sent, such as `/v1/chat/completions`."""
    hold_msat: Amount
    """The most that it can cost: what is held if it comes while the quote is valid, or less."""
    expected_msat: Amount
    expected_usage: Usage
    price: ModelPrice
    """What it is charged at, or less."""
    valid_s: Annotated[int, msgspec.Meta(ge=0)]
