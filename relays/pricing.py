"""Prices and the one function that turns usage into money.

The node charges with `cost`, the client verifies with the same `cost`: there is no second formula to disagree with.
"""

from __future__ import annotations

import msgspec

from relays.money import Msat, ceil_div, msat

TOKENS_PER_PRICE = 1_000_000
"""Token prices are whole msat per this many tokens: exact integers down to a thousandth of a sat per million."""


class ModelPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model costs, in whole msat: per million tokens read and written, and per request."""

    prompt_msat_per_mtok: int
    completion_msat_per_mtok: int
    request_msat: int = 0

    def __post_init__(self) -> None:
        msat(self.prompt_msat_per_mtok)
        msat(self.completion_msat_per_mtok)
        msat(self.request_msat)


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens a request used. Never negative."""

    prompt_tokens: int
    completion_tokens: int

    def __post_init__(self) -> None:
        if self.prompt_tokens < 0 or self.completion_tokens < 0:
            raise ValueError(f"token counts are not negative: {self}")


def cost(usage: Usage, price: ModelPrice) -> Msat:
    """What `usage` costs at `price`, in msat, rounded up once over the whole request.

    Raises MoneyError when the result is beyond all bitcoin.
    """
    tokens_msat = ceil_div(
        usage.prompt_tokens * price.prompt_msat_per_mtok + usage.completion_tokens * price.completion_msat_per_mtok,
        TOKENS_PER_PRICE,
    )
    return msat(tokens_msat + price.request_msat)
