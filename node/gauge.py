"""What the node's capacity is at the moment, and whether that is news."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from node.config import Settings
from node.errors import Refusal
from node.pulse import Pulse
from node.shop.catalogue import Catalogue
from relays.capacity import STALE_S, TYPICAL, Capacity, State
from relays.errors import MoneyError
from relays.pricing import cost

NEWS: Final = 5
"""A fifth of a figure is."""
_LEAST: Final = {"latency_ms": 20, "tokens_per_s": 2, "error_rate_bps": 50, "price_msats": 1}
"""Less is none, however small the figure."""


class Gauge:
    """Reads the node's figures."""

    def __init__(
        self, settings: Settings, pubkey: str, catalogue: Catalogue, pulse: Pulse, in_flight: Callable[[], int]
    ) -> None:
        self._most = settings.utilisation_capacity
        self._pubkey = pubkey
        self._catalogue = catalogue
        self._pulse = pulse
        self._in_flight = in_flight

    def read(self, identifier: str, model: str, state: State, at: int) -> Capacity:
        """The figures of now; the price is that of `model`."""
        in_flight, pulse = self._in_flight(), self._pulse
        return Capacity(
            pubkey=self._pubkey,
            identifier=identifier,
            capacity=max(0, self._most - in_flight) if state == "serving" else 0,
            max_concurrent=self._most,
            in_flight=in_flight,
            latency_ms=pulse.latency_ms,
            tokens_per_s=pulse.tokens_per_s,
            error_rate_bps=pulse.error_rate_bps,
            model=model,
            price_msats=self._price_msats(model),
            state=state,
            created_at=at,
            expires_at=at + STALE_S,
        )

    def _price_msats(self, model: str) -> int | None:
        try:
            return cost(TYPICAL, self._catalogue.announced(model).price)
        except (Refusal, MoneyError):
            return None


def is_news(before: Capacity, now: Capacity) -> bool:
    """Whether any figure has changed by a fifth. Of requests, a tenth of what fits is the least: each comes and goes."""
    if (before.state, before.model, before.max_concurrent) != (now.state, now.model, now.max_concurrent):
        return True
    requests = max(2, now.max_concurrent // 10)
    least = {**_LEAST, "capacity": requests, "in_flight": requests}
    return any(_moved(getattr(before, name), getattr(now, name), step) for name, step in least.items())


def _moved(before: int | None, now: int | None, least: int) -> bool:
    if before is None or now is None:
        return before is not now
    return abs(now - before) >= least and abs(now - before) * NEWS >= before
