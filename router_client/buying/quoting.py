"""A node's quote for a request, before anything is paid: prices move, and announcements are minutes old."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import msgspec

from relays.bounds import most_usage
from relays.endpoints import CHAT, Endpoint
from relays.errors import InvalidJson, MoneyError
from relays.jsontext import shaped
from relays.money import ceil_div
from relays.pricing import ModelPrice, SizePrice, at_most, cost
from relays.quote import QuoteAnswer
from router_client.discovery.directory import Provider
from router_client.errors import NodeError, NodeRaised, NodeRefused, NodeTooDear, NodeUnavailable
from router_client.net.nodeapi import call
from router_client.routing.candidates import Candidate
from router_client.routing.ceiling import Ceiling

MOST_RISE_PERCENT: Final = 25
"""A node that asks for more than it announced, by more than this, is passed over for the next."""
NO_QUOTES: Final = (404, 405)
"""Answers of a node that gives none: its announcement counts."""


class Asked(msgspec.Struct, frozen=True):
    """What one node answered who was asked what a request costs there."""

    name: str
    npub: str
    model: str
    quote: QuoteAnswer | None
    problem: str = ""


async def ask_all(http: httpx.AsyncClient, providers: Sequence[Provider], request: Mapping[str, Any]) -> list[Asked]:
    """The quotes of those that announce the request's model, cheapest first; at last those that give none."""
    model = str(request.get("model"))
    sellers = [
        provider
        for provider in providers
        if provider.url is not None
        and not provider.is_plain
        and not provider.trust.refused
        and any(offer.id == model for offer in provider.offers)
    ]
    asked = await asyncio.gather(*(_ask(http, provider, model, request) for provider in sellers))
    return sorted(asked, key=lambda each: (each.quote is None, each.quote and each.quote.expected_msat, each.npub))


async def _ask(http: httpx.AsyncClient, provider: Provider, model: str, request: Mapping[str, Any]) -> Asked:
    quote, problem = None, ""
    try:
        quote = await _quote(http, provider.url or "", request)
    except NodeError as error:
        problem = str(error)
    return Asked(provider.announcement.name, provider.npub, model, quote, problem)


async def _quote(
    http: httpx.AsyncClient, url: str, request: Mapping[str, Any], endpoint: Endpoint = CHAT
) -> QuoteAnswer:
    """Raises NodeUnavailable or NodeRefused."""
    where = f"{url}/v1/quote" if endpoint is CHAT else f"{url}/v1/quote?endpoint={endpoint.name}"
    answer = await call(http, "POST", where, {"Content-Type": "application/json"}, dict(request))
    try:
        return shaped(answer, QuoteAnswer)
    except InvalidJson as error:
        raise NodeUnavailable(f"{url} gives a quote that cannot be read") from error


def most_quoted_msat(hold_msat: int) -> int:
    """The highest hold that is paid where that was reckoned with by the announcement."""
    return hold_msat * (100 + MOST_RISE_PERCENT) // 100


def _risen(price: ModelPrice) -> ModelPrice:
    """The highest price that an announced one may have become, in every part."""

    def risen(part: int) -> int:
        return ceil_div(part * (100 + MOST_RISE_PERCENT), 100)

    parts = {name: risen(part) for name, part in msgspec.structs.asdict(price).items() if isinstance(part, int)}
    sizes = tuple(SizePrice(each.size, risen(each.msat), each.quality) for each in price.image_sizes)
    return msgspec.structs.replace(price, **parts, image_sizes=sizes)


async def quoted(
    http: httpx.AsyncClient,
    candidate: Candidate,
    request: Mapping[str, Any],
    ceiling: Ceiling,
    endpoint: Endpoint = CHAT,
) -> Candidate:
    """The candidate at the price and hold that it quotes. Raises NodeUnavailable, and as NodeTooDear where that is above the
    ceiling, as NodeRaised where it is far above what was announced; NodeRefused when the node will not serve the request."""
    if candidate.provider.is_plain:
        return candidate
    try:
        quote = await _quote(http, candidate.url, request, endpoint)
    except NodeRefused as error:
        if error.status in NO_QUOTES and error.code != "model_not_found":
            return candidate
        raise
    try:
        most_msat = cost(most_usage(request, candidate.offer.limits, quote.price, endpoint), quote.price)
        is_risen = not at_most(quote.price, _risen(candidate.offer.price))
    except MoneyError as error:
        raise NodeRaised(f"{candidate.url} asks for more than there is") from error
    if quote.hold_msat > most_msat:
        raise NodeRaised(f"it would hold {quote.hold_msat} msat, its price makes {most_msat} msat at most")
    if quote.hold_msat > most_quoted_msat(candidate.hold_msat):
        raise NodeRaised(f"it asks for {quote.hold_msat} msat, by its announcement it was {candidate.hold_msat} msat")
    if is_risen:  # a low hold does not make up for it: what is used costs more
        raise NodeRaised(f"its prices are more than {MOST_RISE_PERCENT}% above what it announced")
    if (reason := ceiling.exceeded(quote.price, quote.hold_msat)) is not None:
        raise NodeTooDear(f"it asks for more than it announced: {reason}")
    offer = msgspec.structs.replace(candidate.offer, price=quote.price)
    return msgspec.structs.replace(
        candidate,
        offer=offer,
        hold_msat=quote.hold_msat,
        expected_msat=min(quote.hold_msat, quote.expected_msat),
    )
