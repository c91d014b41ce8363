"""One model's sellers, column by column, so that a thousand are scored in a fraction of a millisecond. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from relays.announcement import ModelOffer
from relays.pricing import TOKENS_PER_PRICE

USUAL_MIX: Final = (3, 1)
"""Tokens read and written, by which models are ordered in price."""


class Stall:
    """The sellers are places in a market's list of nodes; none sells a model twice."""

    def __init__(self) -> None:
        self.sellers: list[int] = []
        self.offers: list[ModelOffer] = []
        self.read: list[float] = []
        self.written: list[float] = []
        self.flat: list[float] = []
        """Msat per token and per request, that with one more, so that among the free too the weight counts. For an estimate:
        what is held and charged is computed in whole msat."""
        self.context: list[int] = []
        self.keys: Counter[str] = Counter()
        """How many of the sellers have each public key."""
        self._rows: dict[int, int] = {}
        self._rate: float | None = None

    def copy(self) -> Stall:
        """Another with the same sellers."""
        other = Stall()
        for column in ("sellers", "offers", "read", "written", "flat", "context", "keys", "_rows"):
            setattr(other, column, getattr(self, column).copy())
        return other

    def put(self, seller: int, key: str, offer: ModelOffer) -> None:
        """One seller more; of several offers of one model its first counts."""
        if seller in self._rows:
            return
        price = offer.price
        self._rows[seller] = len(self.sellers)
        self.sellers.append(seller)
        self.offers.append(offer)
        self.read.append(price.prompt_msat_per_mtok / TOKENS_PER_PRICE)
        self.written.append(price.completion_msat_per_mtok / TOKENS_PER_PRICE)
        self.flat.append(float(price.request_msat + 1))
        self.context.append(offer.limits.context_length)
        self.keys[key] += 1
        self._rate = None

    def drop(self, seller: int, key: str) -> None:
        """One seller less, if it was one: the last row takes its place."""
        row = self._rows.pop(seller, None)
        if row is None:
            return
        columns: tuple[list[Any], ...] = self.sellers, self.offers, self.read, self.written, self.flat, self.context
        for column in columns:
            last = column.pop()
            if row < len(column):
                column[row] = last
        if row < len(self.sellers):
            self._rows[self.sellers[row]] = row
        self.keys -= Counter((key,))
        self._rate = None

    def rename(self, seller: int, other: int) -> None:
        """The same seller at another place."""
        row = self._rows.pop(seller, None)
        if row is not None:
            self._rows[other] = row
            self.sellers[row] = other

    @property
    def rate(self) -> float:
        """By which the model is ordered: the median of its sellers, so that one liar moves none."""
        if self._rate is None:
            rates = (USUAL_MIX[0] * r + USUAL_MIX[1] * w for r, w in zip(self.read, self.written, strict=True))
            self._rate = statistics.median(rates)
        return self._rate

    def scores(
        self, read: int, written: int, weights: Sequence[float], exponent: float, longest: int | None = None
    ) -> list[float]:
        """For each seller its expected msat to that power, times its weight; infinite where the prompt is too long, or the
        longest of several that are read apart."""
        longest = read if longest is None else longest
        rows = zip(self.read, self.written, self.flat, map(weights.__getitem__, self.sellers), strict=True)
        a, b = float(read), float(written)  # the interpreter multiplies floats with floats at twice the speed
        if exponent == 1:
            scores = [(a * r + b * w + flat) * weight for r, w, flat, weight in rows]
        else:
            scores = [(a * r + b * w + flat) ** exponent * weight for r, w, flat, weight in rows]
        if min(self.context) > longest:
            return scores
        return [
            score if context > longest else float("inf") for score, context in zip(scores, self.context, strict=True)
        ]
