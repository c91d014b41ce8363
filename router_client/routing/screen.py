"""The hard filters, and the score of what passes them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from relays.announcement import ModelOffer
from relays.bounds import most_usage
from relays.endpoints import CHAT, Endpoint
from relays.errors import MoneyError
from relays.money import msat
from relays.payment import CASHU_HEADER
from relays.pricing import Usage, cost
from relays.prompt import Prompt, read_prompt
from relays.routes import host_of, is_onion
from router_client.complexity import Task
from router_client.difficulty.needs import lacks
from router_client.discovery.directory import Provider
from router_client.ecash.token import MSAT_PER_UNIT, normal_mint_url
from router_client.routing.candidates import Candidate, Circumstances, Purse
from router_client.routing.ceiling import Ceiling
from router_client.routing.health import Outlook
from router_client.routing.market import Market
from router_client.routing.reasons import OfLength, OfMoney, OfRequest, Reason
from router_client.routing.scoring import PROFILES, Factors, factors, risen
from router_client.routing.wishes import Wishes

STUCK: Final = 1.5
"""A session stays with its node until that scores so many times the best."""
RESERVED: Final = 0.0001
"""What a held msat costs, while it cannot be used."""
AUTO_MAX: Final = "the most that 'auto' pays (auto_max_sats, --auto-max): name the model, or a 'max_price'"
SLOW_FACTOR: Final = 2.0
"""Of a node that is slower than was wished."""


class Screen:
    """What one request lets through."""

    def __init__(
        self,
        body: Mapping[str, Any],
        task: Task,
        market: Market,
        purses: Sequence[Purse],
        wishes: Wishes,
        given: Circumstances,
        max_cost_msat: int | None,
        ignore: Collection[str],
        endpoint: Endpoint = CHAT,
    ) -> None:
        """Raises BadRequest for a limit in USD where no price of bitcoin is known."""
        self._body = body
        self._task = task
        self._market = market
        self._purses = purses
        self._wishes = wishes
        self._given = given
        self._endpoint = endpoint
        self._prompt: Prompt = read_prompt(body, endpoint)
        self._ceiling = ceiling_of(wishes, given, max_cost_msat)
        self._only = self._places(wishes.only) if wishes.only else None
        self._ignored = self._places(wishes.ignore) | self._places(tuple(ignore))

    def unusable(self, place: int, provider: Provider) -> str | None:
        if place in self._ignored or (self._only is not None and place not in self._only):
            return "left out by request, or it failed just now"
        if provider.trust.refused:
            return "not trusted: " + "; ".join(provider.trust.reasons)
        if provider.url is None:
            return "does not answer under its announced key"
        return None if provider.offers else "announces no prices"

    def candidate(self, place: int, offer: ModelOffer) -> Candidate | str:
        """The candidate, or why there is none."""
        provider = self._market.providers[place]
        if (reason := self._out(place, provider, offer)) is not None:
            return reason
        assert provider.url is not None
        try:
            written = min(self._task.completion_tokens, offer.limits.max_output_tokens)
            expected_msat = cost(Usage(self._task.prompt_tokens, written), offer.price)
            body = {**self._body, "model": offer.id}
            most = most_usage(body, offer.limits, offer.price, self._endpoint, prompt=self._prompt)
            hold_msat = msat(max(cost(most, offer.price), provider.least_msat(offer.id)))
        except MoneyError:
            return OfRequest("its price is beyond all bitcoin")
        if (reason := self._ceiling.costlier(hold_msat)) is not None:
            return OfRequest(reason)
        purse = self._purse(provider, hold_msat)
        if isinstance(purse, str):
            return purse
        price_msat = expected_msat * risen(provider.capacity, offer) + purse.fee_msat(hold_msat) + RESERVED * hold_msat
        outlook = self._outlook(provider)
        own, score = self._scored(provider, outlook, price_msat)
        return Candidate(provider, provider.url, offer, purse, expected_msat, hold_msat, own, score, outlook.full_s)

    def _out(self, place: int, provider: Provider, offer: ModelOffer) -> str | None:
        """Why this offer is out of the question, before its price is looked at."""
        if place in self._ignored or (self._only is not None and place not in self._only):
            return "left out by request, or it failed just now"
        if self._wishes.regions and (where := provider.announcement.region) not in self._wishes.regions:
            return OfRequest("does not say where it stands" if where is None else f"says that it stands in {where}")
        if self._wishes.onion and not (provider.url and _is_at_an_onion(provider.url)):
            return OfRequest("is not at an onion address, or answered at another first")
        if not self._is_served(provider, offer):
            return OfRequest(f"is not sold at /v1{self._endpoint.path}")
        if self._task.read_at_once >= offer.limits.context_length:
            return OfLength(f"its context of {offer.limits.context_length} tokens is too short")
        if (reason := lacks(offer, self._task.needs, strict=self._wishes.require_parameters)) is not None:
            return OfRequest(reason)
        most_ms = self._wishes.max_latency_ms
        if most_ms is not None and (wait_ms := self._outlook(provider).wait_s * 1000) > most_ms:
            return Reason(f"its first word takes {wait_ms:.0f} ms, more than allowed")
        reason = self._ceiling.dearer(offer.price)
        return None if reason is None else OfRequest(reason)

    def _is_served(self, provider: Provider, offer: ModelOffer) -> bool:
        """As it is announced; where that says nothing a quote tells, which plain nodes do not give: they sell chat."""
        if offer.endpoints is None:
            return self._endpoint is CHAT or not provider.is_plain
        return self._endpoint.name in offer.endpoints

    def _purse(self, provider: Provider, hold_msat: int) -> Purse | str:
        if not _takes_tokens(provider):
            return OfRequest("takes no token with a request (X-Cashu)")
        accepted = {normal_mint_url(mint) for mint in provider.announcement.mints}
        fitting = [purse for purse in self._purses if purse.mint in accepted]
        if not fitting:
            return OfMoney("takes ecash of none of our mints")
        # Smaller units leave less behind in rounding; among equals the fuller purse.
        purse = min(fitting, key=lambda each: (each.amount_msat < hold_msat, MSAT_PER_UNIT[each.unit], -each.amount))
        if purse.amount_msat < hold_msat:
            return OfMoney(f"could cost {hold_msat} msat, the wallet holds {purse.amount_msat} msat of a mint it takes")
        return purse

    def _scored(self, provider: Provider, outlook: Outlook, price_msat: float) -> tuple[Factors, float]:
        own = self._factors(provider, outlook)
        if self._wishes.sort == "throughput":
            return own, 1 / max(outlook.speed, 0.001)
        if self._wishes.sort == "latency":
            return own, outlook.wait_s
        if self._wishes.sort == "price":
            return own, price_msat
        score = float((price_msat + 1) ** PROFILES[self._wishes.profile].cost * own.product)
        if self._wishes.session and self._given.sessions.get(self._wishes.session) == provider.announcement.pubkey:
            score /= STUCK
        return own, score * self._preferred(outlook)

    def _preferred(self, outlook: Outlook) -> float:
        """Above 1 where a node is slower than was wished."""
        wishes, factor = self._wishes, 1.0
        if wishes.preferred_min_throughput is not None and outlook.speed < wishes.preferred_min_throughput:
            factor *= SLOW_FACTOR
        if wishes.preferred_max_latency_s is not None and outlook.wait_s > wishes.preferred_max_latency_s:
            factor *= SLOW_FACTOR
        return factor

    def weights(self) -> list[float]:
        """A weight for each node, by which it is sorted before anything is looked at closely."""
        wishes, given = self._wishes, self._given
        mints = frozenset(purse.mint for purse in self._purses)

        def weigh(provider: Provider) -> float:
            theirs = (normal_mint_url(mint) for mint in provider.announcement.mints)
            if not _takes_tokens(provider) or mints.isdisjoint(theirs):
                return float("inf")  # there is nothing to pay it with
            outlook = self._outlook(provider)
            if wishes.sort == "throughput":
                return 1 / max(outlook.speed, 0.001)
            if wishes.sort == "latency":
                return outlook.wait_s
            return 1.0 if wishes.sort == "price" else self._factors(provider, outlook).product

        key = (wishes.profile, wishes.sort, mints)
        return self._market.weights(key, given.healths, weigh, given.healths.now())

    def _factors(self, provider: Provider, outlook: Outlook) -> Factors:
        profile, onion = self._wishes.profile, provider.url is not None and _is_at_an_onion(provider.url)
        return factors(outlook, provider.trust, profile, plain=provider.is_plain, onion=onion)

    def _outlook(self, provider: Provider) -> Outlook:
        return self._given.healths.outlook(provider.announcement.pubkey, provider.capacity)

    def _places(self, names: Sequence[str]) -> set[int]:
        return {place for places in self._market.named(names) for place in places}


def _takes_tokens(provider: Provider) -> bool:
    """As we pay. A node that does not say how it is paid may."""
    payments = provider.announcement.payments
    return payments is None or CASHU_HEADER in payments


@lru_cache(maxsize=16_384)
def _is_at_an_onion(url: str) -> bool:
    return is_onion(host_of(url))


def ceiling_of(wishes: Wishes, given: Circumstances, max_cost_msat: int | None) -> Ceiling:
    """The limits of a request. Raises BadRequest for one in USD where no price of bitcoin is known."""
    most_usd, wish = wishes.max_cost_usd, wishes.max_price
    limits = (max_cost_msat, wishes.max_cost_msat, None if most_usd is None else given.in_msat(most_usd))
    cost_msat = min((limit for limit in limits if limit is not None), default=None)
    usual = given.auto_prices or {} if wishes.auto else {}
    if wish is None:
        return Ceiling(cost_msat, usual, AUTO_MAX)
    prices = {"prompt": wish.prompt, "completion": wish.completion, "request": wish.request}
    return Ceiling(cost_msat, {**usual, **{name: given.rate * usd for name, usd in prices.items() if usd is not None}})
