"""Which node serves: hard filters first, then the lowest expected cost, weighted by trust. Pure, and able to say why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from relays.announcement import ModelOffer
from relays.bounds import most_usage
from relays.errors import MoneyError
from relays.money import Msat, msat
from relays.pricing import Usage, cost
from router_client.complexity import Task, Tier
from router_client.discovery import Provider
from router_client.ecash.token import MSAT_PER_UNIT, normal_mint_url

AUTO = "auto"
"""The model name that leaves the choice of model to the router."""

PLAIN_FACTOR = 1.25
"""What a price is worth of a node whose charge cannot be checked by a receipt."""
MAX_LABEL = 60

TIER_SHARE: dict[Tier, tuple[float, float]] = {"cheap": (0.0, 1 / 3), "mid": (1 / 3, 2 / 3), "premium": (2 / 3, 1.0)}
"""With `auto`, the part of all models, ordered by price, from which a tier takes its model."""


class Purse(msgspec.Struct, frozen=True):
    """Coins of one mint and unit that can be paid with."""

    mint: str
    unit: str
    amount: int

    @property
    def amount_msat(self) -> int:
        return self.amount * MSAT_PER_UNIT[self.unit]


class Candidate(msgspec.Struct, frozen=True):
    """A node that fits, with what the request is expected to cost there and the most it can."""

    provider: Provider
    url: str
    offer: ModelOffer
    purse: Purse
    expected_msat: Msat
    hold_msat: Msat


class Choice(msgspec.Struct, frozen=True):
    """Candidates, best first, and why each other offer was left out."""

    candidates: tuple[Candidate, ...]
    rejected: Mapping[str, str]


def choose(
    body: Mapping[str, Any],
    task: Task,
    providers: Sequence[Provider],
    purses: Sequence[Purse],
    *,
    max_cost_msat: int | None = None,
    ignore: Collection[str] = (),
) -> Choice:
    """Rank the nodes for a request. `ignore` holds public keys that are not to be used."""
    candidates: list[Candidate] = []
    rejected: dict[str, str] = {}
    wanted = _models(str(body.get("model") or AUTO), task, providers)
    for provider in providers:
        label = provider.announcement.name[:MAX_LABEL] or provider.announcement.pubkey[:16]
        if (reason := _unusable(provider, ignore)) is not None:
            rejected[label] = reason
            continue
        for offer in provider.offers:
            outcome = _candidate(body, task, provider, offer, purses, wanted, max_cost_msat)
            if isinstance(outcome, Candidate):
                candidates.append(outcome)
            else:
                rejected[f"{label}: {offer.id}"] = outcome
    candidates.sort(key=_rank)
    return Choice(tuple(candidates), rejected)


def _rank(candidate: Candidate) -> tuple[float, int, str]:
    """The expected cost, weighted by how far the node is trusted; where nothing is known of any, the cost alone."""
    provider = candidate.provider
    weight = provider.trust.factor * (PLAIN_FACTOR if provider.is_plain else 1)
    return candidate.expected_msat * weight, candidate.hold_msat, provider.announcement.pubkey


def _unusable(provider: Provider, ignore: Collection[str]) -> str | None:
    if provider.announcement.pubkey in ignore:
        return "left out by request, or it failed just now"
    if provider.trust.refused:
        return "not trusted: " + "; ".join(provider.trust.reasons)
    if provider.url is None:
        return "does not answer under its announced key"
    if not provider.offers:
        return "announces no prices"
    return None


def _candidate(
    body: Mapping[str, Any],
    task: Task,
    provider: Provider,
    offer: ModelOffer,
    purses: Sequence[Purse],
    wanted: Collection[str],
    max_cost_msat: int | None,
) -> Candidate | str:
    """The candidate, or why there is none."""
    assert provider.url is not None
    if offer.id not in wanted:
        return "not the model that is wanted"
    if task.prompt_tokens >= offer.limits.context_length:
        return f"its context of {offer.limits.context_length} tokens is too short"
    try:
        likely = Usage(task.prompt_tokens, min(task.completion_tokens, offer.limits.max_output_tokens))
        expected_msat = cost(likely, offer.price)
        hold_msat = cost(most_usage({**body, "model": offer.id}, offer.limits, offer.price), offer.price)
        hold_msat = msat(max(hold_msat, provider.least_msat(offer.id)))
    except MoneyError:
        return "its price is beyond all bitcoin"
    if max_cost_msat is not None and hold_msat > max_cost_msat:
        return f"could cost {hold_msat} msat, more than the {max_cost_msat} msat allowed"
    accepted = {normal_mint_url(mint) for mint in provider.announcement.mints}
    fitting = [purse for purse in purses if purse.mint in accepted]
    if not fitting:
        return "takes ecash of none of our mints"
    # Smaller units leave less behind in rounding; among equals the fuller purse.
    purse = min(fitting, key=lambda purse: (purse.amount_msat < hold_msat, MSAT_PER_UNIT[purse.unit], -purse.amount))
    if purse.amount_msat < hold_msat:
        return f"could cost {hold_msat} msat, the wallet holds {purse.amount_msat} msat of a mint it takes"
    return Candidate(provider, provider.url, offer, purse, expected_msat, hold_msat)


def _models(model: str, task: Task, providers: Sequence[Provider]) -> set[str]:
    """The models that will do: the one named, or for `auto` those in the tier's part of the price list."""
    if model != AUTO:
        return {model}
    prices: dict[str, int] = {}
    for provider in providers:
        for offer in () if provider.url is None or provider.trust.refused else provider.offers:
            rate = offer.price.prompt_msat_per_mtok + offer.price.completion_msat_per_mtok
            prices[offer.id] = min(rate, prices.get(offer.id, rate))
    ordered = sorted(prices, key=lambda id_: (prices[id_], id_))
    low, high = TIER_SHARE[task.tier]
    first = min(int(low * len(ordered)), max(0, len(ordered) - 1))
    return set(ordered[first : max(first + 1, round(high * len(ordered)))])
