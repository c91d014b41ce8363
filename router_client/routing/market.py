"""The offers of all nodes, sorted so that a thousand of them are weighed in less than a millisecond, and kept so when nodes
come, change and go. Pure: what has not changed is shared with the market of before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from relays.announcement import ModelOffer
from relays.endpoints import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from relays.errors import InvalidKey, MoneyError
from relays.event import pubkey_of
from relays.pricing import Usage, cost
from router_client.complexity import Tier
from router_client.discovery.directory import Provider
from router_client.routing.ceiling import Ceiling
from router_client.routing.health import Healths
from router_client.routing.stall import Stall

TIER_SHARE: Final[dict[Tier, tuple[float, float]]] = {
    "cheap": (0.0, 1 / 3),
    "mid": (1 / 3, 2 / 3),
    "premium": (2 / 3, 1.0),
}
"""With `auto`, the part of all models, ordered by price, from which a tier takes its model."""
WRITTEN: Final = frozenset(endpoint.name for endpoint in (CHAT, COMPLETIONS, RESPONSES, MESSAGES))
"""Where models write text."""
FRESH_S: Final = 30.0
"""Weights that nobody asked for since are all computed anew."""
AT_A_TIME: Final = 16
OWN_MODELS: Final = 2
KEY_CHARS: Final = 64
MOST_WEIGHTS: Final = 32
"""Kept for so many kinds of choices."""


class _Weights:
    """One weight a node, and of when they are."""

    def __init__(self, values: list[float], changes: int) -> None:
        self.values = values
        self.changes = changes
        self.at = 0.0
        self.stale: set[int] = set()
        """Places whose nodes are not those that were weighed."""
        self._next = 0

    def after(self, stale: set[int], count: int) -> _Weights:
        """For another market, of so many nodes."""
        other = _Weights(self.values[:count], self.changes)
        other.values += [0.0] * (count - len(other.values))
        other.at, other.stale = self.at, {place for place in self.stale | stale if place < count}
        return other

    def due(self) -> list[int]:
        """The places that must be weighed anew, and the few whose turn it is."""
        first = self._next if self._next < len(self.values) else 0
        self._next = min(len(self.values), first + AT_A_TIME)
        due, self.stale = [*self.stale, *range(first, self._next)], set()
        return due


class Market:
    """What is for sale. It holds for these nodes as they are; a next one is made when they change."""

    def __init__(
        self,
        providers: Iterable[Provider] = (),
        before: Market | None = None,
        auto_prices: Mapping[str, float] | None = None,
    ) -> None:
        """With `before`, what is the same there is not looked at again. `auto_prices` are those above which the router takes
        no model of its own accord (see `Ceiling.prices`); those of `before` go on."""
        self._auto: Ceiling = Ceiling(prices=auto_prices) if before is None else before._auto
        self.providers: list[Provider] = [] if before is None else before.providers.copy()
        """In an order of its own."""
        self.stalls: dict[str, Stall] = {} if before is None else before.stalls.copy()
        self._ladder: list[str] | None = None
        self._places: dict[str, list[int]] = {} if before is None else before._places.copy()
        self._names: dict[str, list[int]] | None = None
        self._at: dict[tuple[str, str, tuple[str, ...]], int] = {} if before is None else before._at.copy()
        self._mine: set[str] = set()
        """The stalls that are not shared with a market of before."""
        self._stale: set[int] = set()
        self._change(providers)
        kept, count = [] if before is None else [*before._weights.items()], len(self.providers)
        self._weights: dict[object, _Weights] = {
            key: known.after(self._stale, count) for key, known in kept[-MOST_WEIGHTS:]
        }
        if before is not None and not self._mine:
            self._ladder = before._ladder

    def _change(self, providers: Iterable[Provider]) -> None:
        now = {_name_of(provider): provider for provider in providers}
        for name in [name for name in self._at if name not in now]:
            self._remove(self._at.pop(name))
        for name, provider in now.items():
            place = self._at.get(name)
            if place is None:
                self._at[name] = place = len(self.providers)
                self.providers.append(provider)
                key = provider.announcement.pubkey
                self._places[key] = [*self._places.get(key, ()), place]
            elif (elder := self.providers[place]) is provider:
                continue
            else:
                self.providers[place] = provider
                if _sold(elder) == _sold(provider):
                    self._stale.add(place)
                    continue
                self._clear(place, elder)
            self._stale.add(place)
            for offer in _sold(provider):
                self._stall(offer.id).put(place, provider.announcement.pubkey, offer)

    def _remove(self, place: int) -> None:
        """The last node takes the place of one that is gone."""
        gone, last = self.providers[place], len(self.providers) - 1
        self._clear(place, gone)
        self._replace(gone.announcement.pubkey, place, None)
        moved = self.providers.pop()
        if place == last:
            return
        self.providers[place] = moved
        self._at[_name_of(moved)] = place
        self._replace(moved.announcement.pubkey, last, place)
        self._stale.add(place)
        for offer in _sold(moved):
            self._stall(offer.id).rename(last, place)

    def _clear(self, place: int, provider: Provider) -> None:
        for offer in _sold(provider):
            stall = self._stall(offer.id)
            stall.drop(place, provider.announcement.pubkey)
            if not stall.sellers:
                del self.stalls[offer.id]

    def _replace(self, key: str, place: int, other: int | None) -> None:
        places = [each for each in self._places[key] if each != place] + ([] if other is None else [other])
        if places:
            self._places[key] = places
        else:
            del self._places[key]

    def _stall(self, model: str) -> Stall:
        """One that may be changed."""
        if model not in self._mine or model not in self.stalls:
            self._mine.add(model)
            self.stalls[model] = self.stalls[model].copy() if model in self.stalls else Stall()
        return self.stalls[model]

    @property
    def ladder(self) -> list[str]:
        """The models that write text, cheapest first; each by the median of its sellers, so that one liar moves none."""
        if self._ladder is None:
            rates = {model: stall.rate for model, stall in self._rungs()}
            self._ladder = sorted(rates, key=lambda model: (rates[model], model))
        return self._ladder

    def _rungs(self) -> list[tuple[str, Stall]]:
        """The models that count. Where some are sold by several keys, one key adds no more than a few of its own: who
        invents models shall not make the tiers."""
        texts = {model: stall for model, stall in self.stalls.items() if _writes(stall.offers[0])}
        payable = {model: stall for model, stall in texts.items() if self._is_payable(stall)}
        texts = payable or texts
        if all(len(stall.keys) == 1 for stall in texts.values()):
            return list(texts.items())
        own: Counter[str] = Counter()
        rungs = []
        for model, stall in sorted(texts.items(), key=lambda each: each[1].read[0] + each[1].written[0]):
            if len(stall.keys) == 1:
                (key,) = stall.keys
                own[key] += 1
                if own[key] > OWN_MODELS:
                    continue
            rungs.append((model, stall))
        return rungs

    def _is_payable(self, stall: Stall) -> bool:
        return any(self._auto.dearer(offer.price) is None for offer in stall.offers)

    def models_of(self, tier: Tier) -> list[str]:
        """The models that a tier takes its model from: at least one, if any is sold."""
        ladder = self.ladder
        low, high = TIER_SHARE[tier]
        first = min(int(low * len(ladder)), max(0, len(ladder) - 1))
        return ladder[first : max(first + 1, round(high * len(ladder)))]

    def tier_of(self, model: str) -> Tier:
        """The lowest tier that takes the model; the highest for one that is not sold here."""
        return next((tier for tier in TIER_SHARE if model in self.models_of(tier)), "premium")

    def writes(self, model: str) -> bool:
        """Whether a model that is sold here writes text: others are of no tier."""
        return _writes(self.stalls[model].offers[0])

    def strongest_msat(self, usage: Usage) -> int:
        """What the usage costs at the cheapest node that sells the strongest model, taken to be the dearest."""
        offers = self.stalls[self.ladder[-1]].offers if self.ladder else []
        return min((msat for offer in offers if (msat := _priced(usage, offer)) is not None), default=0)

    def weights(self, key: object, healths: Healths, weigh: Callable[[Provider], float], now: float) -> list[float]:
        """A weight for each node, kept for whoever asks with the same key. Those of nodes whose health has changed are
        computed anew, and a few others each time, since what is old counts less."""
        known = self._weights.get(key)
        changed = None
        if known is not None and 0 <= now - known.at < FRESH_S:
            changed = healths.changed_since(known.changes)
        if known is None or changed is None:
            known = self._weights[key] = _Weights([weigh(provider) for provider in self.providers], healths.changes)
        else:
            for place in (*known.due(), *(place for node in changed for place in self._places.get(node, ()))):
                known.values[place] = weigh(self.providers[place])
        known.changes, known.at = healths.changes, now
        return known.values

    def named(self, names: Sequence[str]) -> list[list[int]]:
        """For each name, npub or public key, the places of the nodes it means. What is a key is never taken for a name:
        anybody may call himself by another's."""
        return [self._of_key(name) if _is_key(name) else self._called(name.lower()) for name in names]

    def _of_key(self, key: str) -> list[int]:
        try:
            return self._places.get(pubkey_of(key), [])
        except InvalidKey:
            return []

    def _called(self, name: str) -> list[int]:
        if self._names is None:
            self._names = {}
            for place, provider in enumerate(self.providers):
                self._names.setdefault(provider.announcement.name.lower(), []).append(place)
        return self._names.get(name, [])


def _name_of(provider: Provider) -> tuple[str, str, tuple[str, ...]]:
    """What makes it the same node in two markets."""
    announced = provider.announcement
    return announced.pubkey, announced.identifier, announced.urls


def _sold(provider: Provider) -> tuple[ModelOffer, ...]:
    """What can be bought there now."""
    return () if provider.url is None or provider.trust.refused else provider.offers


def _writes(offer: ModelOffer) -> bool:
    """Whether it writes text, where it is asked for any: a model of embeddings reads alone."""
    served = offer.endpoints is None or not WRITTEN.isdisjoint(offer.endpoints)
    return served and "text" in offer.output


def _priced(usage: Usage, offer: ModelOffer) -> int | None:
    """None for a price at which it cannot be sold."""
    try:
        return cost(usage, offer.price)
    except MoneyError:
        return None


def _is_key(name: str) -> bool:
    return name.startswith("npub1") or (len(name) == KEY_CHARS and all(char in "0123456789abcdef" for char in name))
