"""The most that a request may cost, and the highest prices it may be served at: of what is announced, and again of what a
node really asks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from relays.pricing import ModelPrice

DEAREST_CACHE: Final = 2


class Ceiling(msgspec.Struct, frozen=True):
    """Limits of one request; None: no limit."""

    cost_msat: int | None = None
    """Of the whole request, whatever it uses: of what is held for it."""
    prices: Mapping[str, float] | None = None
    """`prompt` and `completion` in msat per million tokens, `request` in msat."""
    whose: str = "'max_price'"
    """Who set them, for people."""

    def exceeded(self, price: ModelPrice, hold_msat: int) -> str | None:
        """What is too much, for people."""
        return self.dearer(price) or self.costlier(hold_msat)

    def costlier(self, hold_msat: int) -> str | None:
        """The same of the whole alone."""
        if self.cost_msat is None or hold_msat <= self.cost_msat:
            return None
        return f"could cost {hold_msat} msat, more than the {self.cost_msat} msat allowed"

    def dearer(self, price: ModelPrice) -> str | None:
        """The same of the price alone."""
        if not self.prices:
            return None
        parts, limits = _parts(price), self.prices.items()
        return next((f"its price {name} is above {self.whose}" for name, limit in limits if parts[name] > limit), None)


def _parts(price: ModelPrice) -> dict[str, float]:
    """What is written is also what is thought; what is read can be dearer while it is written to a cache, twice at the most
    as Anthropic has it: no kind of token is a way around a limit."""
    return {
        "prompt": max(price.prompt_msat_per_mtok, price.cached, price.cache_write / DEAREST_CACHE),
        "completion": max(price.completion_msat_per_mtok, price.reasoning),
        "request": price.request_msat,
    }
