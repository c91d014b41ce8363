"""What takes part in a choice: purses to pay from, nodes that fit, and the circumstances."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

import msgspec

from relays.announcement import ModelOffer
from relays.money import MAX_MSAT, Msat
from router_client.discovery.directory import Provider
from router_client.ecash.token import MSAT_PER_UNIT
from router_client.errors import BadRequest
from router_client.preferences import EXPLORE
from router_client.routing.health import Healths
from router_client.routing.scoring import Factors

MAX_LABEL: Final = 60


class Purse(msgspec.Struct, frozen=True):
    """Coins of one mint and unit that can be paid with."""

    mint: str
    unit: str
    amount: int
    fee_ppk: int = 0
    """What the mint takes for a thousand coins (NUT-02), in the unit."""

    @property
    def amount_msat(self) -> int:
        return self.amount * MSAT_PER_UNIT[self.unit]

    def fee_msat(self, amount_msat: int) -> int:
        """About what paying so much and taking in the change costs: coins are powers of two."""
        coins = 2 * max(1, amount_msat // MSAT_PER_UNIT[self.unit]).bit_length()
        return -(-coins * self.fee_ppk // 1000) * MSAT_PER_UNIT[self.unit]


class Candidate(msgspec.Struct, frozen=True):
    """A node that fits, with what the request is expected to cost there and the most it can."""

    provider: Provider
    url: str
    offer: ModelOffer
    purse: Purse
    expected_msat: Msat
    hold_msat: Msat
    factors: Factors | None = None
    score: float = 0.0
    pause_s: float = 0.0
    """It was full a moment ago, and is best left alone for so long."""

    @property
    def label(self) -> str:
        """The node, for people."""
        return self.provider.announcement.name[:MAX_LABEL] or self.provider.npub[:16]


class Circumstances(msgspec.Struct, kw_only=True):
    """What a choice goes by beside the request and the nodes."""

    healths: Healths = msgspec.field(default_factory=Healths)
    rng: random.Random | None = None
    """None: no chance, the lowest score is first."""
    explore: float = EXPLORE
    """The share of choices that tries a node which was never measured."""
    sessions: Mapping[str, str] = msgspec.field(default_factory=dict)
    """The public key of the node that served a session last."""
    msat_per_usd: float | None = None
    auto_prices: Mapping[str, float] | None = None
    """The most that is paid where the router chooses the model and the request names no limit: see `Ceiling.prices`."""

    @property
    def rate(self) -> float:
        """Msat per USD. Raises BadRequest where no price of bitcoin is known."""
        if self.msat_per_usd is None:
            raise BadRequest(
                "a limit in USD needs the price of bitcoin, and none is known here: tell it (--btc-usd, SATROUTE_BTC_USD), "
                "or name the limit in sats"
            )
        return self.msat_per_usd

    def in_msat(self, usd: float) -> int:
        """Raises BadRequest where no price of bitcoin is known, and for more than there is."""
        if not 0 <= (limit_msat := usd * self.rate) <= MAX_MSAT:
            raise BadRequest("a limit in USD is from 0 to what all bitcoin is worth")
        return int(limit_msat)
