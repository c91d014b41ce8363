"""What a node's price is worth: the expected cost times factors for trust, failures, waits and load. Pure.

Each factor is 1 for the usual and larger for the worse, so a score reads as a price: a node of factor 1.3 must be that
much cheaper to be as good. What weighs how much is the profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from relays.announcement import ModelOffer
from relays.capacity import TYPICAL, Capacity
from relays.errors import MoneyError
from relays.pricing import cost
from router_client.discovery.trust import Trust
from router_client.preferences import Profile
from router_client.routing.health import USUAL_SPEED, USUAL_WAIT_S, Outlook

PLAIN_FACTOR: Final = 1.25
"""Of a node whose charge cannot be checked by a receipt."""
USUAL_TOKENS: Final = 256
"""Of the answer by which nodes are compared in speed."""
USUAL_S: Final = USUAL_WAIT_S + USUAL_TOKENS / USUAL_SPEED
LOAD_RISE: Final = 0.02
"""A node's factor for its load u is 1 + this x u / (1 - u), as Pura's prices rise: nothing at first, a wall at the end."""
FULL: Final = 0.995
LEAST_SERVED: Final = 0.05
CLEARNET_FACTOR: Final = 2.0
"""Where privacy is dear: of a node that sees where the request comes from."""
LAST, STOPS, FAILED = 1e6, 1e9, 1e12


class Weights(msgspec.Struct, frozen=True):
    """Exponents of the factors."""

    cost: float = 1.0
    trust: float = 1.0
    failures: float = 1.0
    time: float = 0.15
    load: float = 1.0
    private: float = 0.0


PROFILES: Final[Mapping[Profile, Weights]] = {
    "cheap": Weights(time=0.0),
    "balanced": Weights(failures=1.5),
    "fast": Weights(cost=0.5, failures=2.0, time=2.0, load=2.0),
    "best": Weights(cost=0.5, trust=2.0, failures=3.0, time=0.5),
    "private": Weights(trust=2.0, time=0.1, private=1.0),
}


class Factors(msgspec.Struct, frozen=True):
    """What a node's expected cost is multiplied with."""

    trust: float
    receipts: float
    failures: float
    time: float
    load: float
    private: float
    pause: float
    """Of a node that failed or was full a moment ago: it is asked when there is no other."""

    @property
    def product(self) -> float:
        return self.trust * self.receipts * self.failures * self.time * self.load * self.private * self.pause


def factors(outlook: Outlook, trust: Trust, profile: Profile, *, plain: bool = False, onion: bool = False) -> Factors:
    """Of a node, for whatever request."""
    weights = PROFILES[profile]
    seconds = outlook.wait_s + USUAL_TOKENS / max(outlook.speed, 0.001)
    load = min(outlook.load, FULL)
    return Factors(
        trust=trust.factor**weights.trust,
        receipts=PLAIN_FACTOR if plain else 1.0,
        failures=(1 / max(LEAST_SERVED, 1 - outlook.errors)) ** weights.failures,
        time=(seconds / USUAL_S) ** weights.time,
        load=(1 + LOAD_RISE * load / (1 - load)) ** weights.load,
        private=CLEARNET_FACTOR**weights.private if not onion else 1.0,
        pause=_pause(outlook),
    )


def _pause(outlook: Outlook) -> float:
    """Who is full is waited for; who failed, or says that it stops, is asked when there is nobody else."""
    if outlook.cools_s > 0:
        return FAILED
    if outlook.stops:
        return STOPS
    return LAST * (1 + outlook.full_s) if outlook.full_s > 0 else 1.0


def risen(told: Capacity | None, offer: ModelOffer) -> float:
    """How much dearer the model is now than it was announced; a fall counts once it is announced."""
    if told is None or told.price_msats is None or told.model != offer.id:
        return 1.0
    try:
        announced_msat = cost(TYPICAL, offer.price)
    except MoneyError:
        return 1.0
    return max(1.0, told.price_msats / announced_msat) if announced_msat else 1.0
