"""What a dollar is in msat, by what several sources said of bitcoin not long ago. They are asked when somebody needs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Final

import httpx
import msgspec

from relays.money import MSAT_PER_BTC
from router_client.discovery.shelf import Shelf
from router_client.errors import BadSetting
from router_client.preferences import Preferences
from router_client.spending.btc import KNOWN_SOURCES, BtcPrice, source_from

MAX_AGE_S: Final = 900.0
"""An older price is none."""
FRESH_S: Final = 300.0
"""A younger one is not asked for again."""
PAUSE_S: Final = 30.0
"""After an attempt, whatever came of it."""
TIMEOUT_S: Final = 5.0
FACT, ABOUT = "btc", "usd"


class Known(msgspec.Struct, frozen=True):
    """A price in USD, as text, and when it was agreed on."""

    usd: str
    at: float


class Rate:
    """The price, kept on the shelf from one run to the next."""

    def __init__(
        self,
        preferences: Preferences,
        http: httpx.AsyncClient | None = None,
        shelf: Shelf | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without `http` nobody is asked. Raises BadSetting for a source that is none."""
        self._fixed_usd = preferences.btc_usd
        self.is_kept = bool(preferences.btc_sources)
        """It is wanted all the time, since sources are named."""
        self._shelf = shelf
        self._clock = clock
        self._btc: BtcPrice | None = None
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self._known = None if shelf is None else shelf.facts(FACT, Known).get(ABOUT)
        try:
            sources = [source_from(text) for text in _named(preferences)]
        except ValueError as error:
            raise BadSetting(str(error)) from error
        if http is not None and sources and self._fixed_usd is None:
            self._btc = BtcPrice(http, sources, timeout_s=TIMEOUT_S, max_age_s=MAX_AGE_S, clock=clock)

    @property
    def msat_per_usd(self) -> float | None:
        """None where no price is known that is young enough."""
        if self._fixed_usd is not None:
            return MSAT_PER_BTC / self._fixed_usd
        if self._known is None or not self._is_younger(MAX_AGE_S):
            return None
        return float(MSAT_PER_BTC / Decimal(self._known.usd))

    @property
    def asks(self) -> bool:
        """Whether there is anybody to ask."""
        return self._btc is not None

    async def look(self) -> None:
        """Ask, unless it is known, or was asked for a moment ago."""
        async with self._asking:
            now = self._clock()
            if self._btc is None or self._is_younger(FRESH_S) or 0 <= now - self._asked_at < PAUSE_S:
                return
            self._asked_at = now
            await self._btc.refresh()
            if self._btc.latest is None:
                return
            self._known = Known(str(self._btc.latest), self._btc.known_until - MAX_AGE_S)
            if self._shelf is not None:
                await self._shelf.state(FACT, {ABOUT: self._known})

    def _is_younger(self, seconds: float) -> bool:
        """A clock that was set back tells nothing of age."""
        return self._known is not None and 0 <= self._clock() - self._known.at <= seconds


def _named(preferences: Preferences) -> tuple[str, ...]:
    return tuple(KNOWN_SOURCES) if preferences.btc_sources is None else preferences.btc_sources
