"""The price of bitcoin in USD: what several sources agree on. One that is wild, silent or silly moves nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from statistics import median
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import httpx
import msgspec

from relays.errors import InvalidJson
from relays.jsontext import from_json
from router_client.net.fetch import FetchFailed, fetch
from router_client.preferences import LEAST_BTC_USD, MOST_BTC_USD

log = logging.getLogger(__name__)

KNOWN_SOURCES: Final = MappingProxyType(
    {
        "kraken": "https://api.kraken.com/0/public/Ticker?pair=XBTUSD#/result/XXBTZUSD/c/0",
        "coinbase": "https://api.coinbase.com/v2/prices/BTC-USD/spot#/data/amount",
        "coingecko": "https://api.coingecko.com/api/v3/simple/price?ids=bitcoin&vs_currencies=usd#/bitcoin/usd",
    }
)
"""By name: where to ask, and as a JSON pointer (RFC 6901) where in the answer it stands."""
AGREEMENT: Final = Decimal("0.05")
"""Prices this near to the middle one, as a part of it, agree with it."""
STEP: Final = Decimal("0.005")
"""A price that moved by less is not taken over: every change of price is announced."""


class PriceSource(msgspec.Struct, frozen=True):
    """Where the price can be had."""

    url: str
    pointer: tuple[str, ...]

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or self.url


def source_from(text: str) -> PriceSource:
    """A source by its name, or by an URL whose fragment is a JSON pointer. Raises ValueError."""
    url, _, pointer = KNOWN_SOURCES.get(text, text).partition("#")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname or not pointer.startswith("/"):
        raise ValueError(
            f"{text!r} is none of {', '.join(KNOWN_SOURCES)}, nor a URL with a JSON pointer: https://…#/data/price"
        )
    steps = tuple(unquote(step).replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/"))
    return PriceSource(url, steps)


def price_in(body: bytes, pointer: Sequence[str]) -> Decimal:
    """The price in an answer. Raises ValueError."""
    try:
        found: Any = from_json(body)
        for step in pointer:
            found = found[int(step)] if isinstance(found, list) else found[step]
        if not isinstance(found, str | int | float) or isinstance(found, bool):
            raise ValueError("no price where it should stand")
        usd = Decimal(str(found))
    except (InvalidJson, LookupError, TypeError, ValueError, InvalidOperation) as error:
        raise ValueError("no price where it should stand") from error
    if not (usd.is_finite() and LEAST_BTC_USD <= usd <= MOST_BTC_USD):
        raise ValueError("a price that cannot be")
    return usd


def agreed(prices: Sequence[Decimal], asked: int) -> Decimal | None:
    """The median of those that answered, if more than half of those that were asked are near it."""
    if not prices:
        return None
    middle = Decimal(median(prices))
    near = sum(abs(price - middle) <= AGREEMENT * middle for price in prices)
    return middle if 2 * near > asked else None


class BtcPrice:
    """The price as it was last agreed on. `refresh` asks; `usd` is None when that was too long ago."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        sources: Sequence[PriceSource],
        *,
        timeout_s: float,
        max_age_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._sources = sources
        self._timeout_s = timeout_s
        self._max_age_s = max_age_s
        self._clock = clock
        self._latest: Decimal | None = None
        self._confirmed_at = 0.0

    @property
    def latest(self) -> Decimal | None:
        """However old."""
        return self._latest

    @property
    def known_until(self) -> float:
        """When it will be too old, unless it is confirmed before."""
        return self._confirmed_at + self._max_age_s if self._latest is not None else 0.0

    @property
    def usd(self) -> Decimal | None:
        """None when it is not known, or older than its limit."""
        return self._latest if self._clock() - self._confirmed_at <= self._max_age_s else None

    async def refresh(self) -> bool:
        """Ask all sources at once; True when another price is in use from now on."""
        asked = await asyncio.gather(*(self._ask(source) for source in self._sources))
        price = agreed([usd for usd in asked if usd is not None], len(self._sources))
        if price is None:
            log.warning("the price of bitcoin: too few of %d sources agree", len(self._sources))
            return False
        self._confirmed_at = self._clock()
        if self._latest is not None and abs(price - self._latest) < STEP * self._latest:
            return False
        self._latest = price
        return True

    async def _ask(self, source: PriceSource) -> Decimal | None:
        try:
            reply = await fetch(self._http, "GET", source.url, deadline_s=self._timeout_s)
            if not reply.is_success:
                raise ValueError(f"status {reply.status}")
            return price_in(reply.body, source.pointer)
        except (FetchFailed, ValueError) as error:
            log.warning("the price of bitcoin at %s: %s", source.host, error)
            return None
