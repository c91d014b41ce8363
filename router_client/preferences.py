"""What a user settles once for all requests; a request can overrule it by its own wishes."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, Literal

import msgspec

from relays.money import MSAT_PER_SAT
from router_client.errors import BadSetting

Profile = Literal["cheap", "balanced", "fast", "best", "private"]
LEAST_BTC_USD, MOST_BTC_USD = Decimal(1), Decimal(10) ** 9
"""What is outside is no price of a bitcoin in USD."""
EXPLORE: Final = 0.05
"""Of the choices, the share that tries what is not known."""
MOST_EXPLORED: Final = 0.5
AUTO_MAX_SATS: Final = 150_000
"""For a million tokens written. Of 3,220 list prices of chat models 99.1% are below it while a bitcoin costs 100,000 USD,
and 98.2% at half of that; above are a few reasoners, for those who ask for them by name, and mistakes (docs/routing.md)."""
READ_PARTS: Final = 5
"""A token read costs a fifth of one written, as a rule,"""
REQUEST_PARTS: Final = 1000
"""and a request as much as a thousand of those, at the most."""


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are routed that say nothing themselves."""

    profile: Profile = "balanced"
    onion: bool = False
    """Whether nodes at onion addresses alone are asked: others do not even hear of us."""
    seed: int | None = None
    """With one, the same requests among the same nodes are routed the same way."""
    learning: bool = True
    """Whether outcomes change which tier is asked."""
    explore: float = EXPLORE
    """The share of choices, from 0 to 0.5, that tries a cheaper tier, or a node that was never measured."""
    auto_max_sats: int = AUTO_MAX_SATS
    """The most that is paid for a million tokens written where the router chooses the model; a fifth of it for those read, a
    thousandth for a request. 0: no limit."""
    btc_usd: float | None = None
    """USD per bitcoin; None: `btc_sources` are asked."""
    btc_sources: tuple[str, ...] | None = None
    """Names, or URLs with a JSON pointer; more than half must agree. An empty one: limits in USD are refused. None: the
    usual ones, when a limit in USD needs it; who names some is told costs in USD as well."""

    def __post_init__(self) -> None:
        """Raises BadSetting."""
        if not 0 <= self.explore <= MOST_EXPLORED:
            raise BadSetting(f"the share that is explored is from 0 to {MOST_EXPLORED}, not {self.explore}")
        if self.auto_max_sats < 0:
            raise BadSetting("the most that 'auto' pays is not below 0; 0 lifts it")
        if self.btc_usd is not None and not float(LEAST_BTC_USD) <= self.btc_usd <= float(MOST_BTC_USD):
            raise BadSetting(f"the price of bitcoin is from {LEAST_BTC_USD} to {MOST_BTC_USD} USD")

    @property
    def auto_prices(self) -> dict[str, float] | None:
        """The same in msat: per million tokens (`prompt`, `completion`), and per `request`."""
        if not self.auto_max_sats:
            return None
        most = float(self.auto_max_sats * MSAT_PER_SAT)
        return {"prompt": most / READ_PARTS, "completion": most, "request": most / REQUEST_PARTS}


USUAL: Final = Preferences()
"""What holds where nothing is settled."""
