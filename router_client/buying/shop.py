"""One node as it describes itself: what it sells, and on which terms a call is served."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Final

import httpx
import msgspec

from relays import receipt as receipts
from relays.announcement import ModelOffer
from relays.bounds import ModelLimits, largest_usage, most_usage
from relays.endpoints import Endpoint
from relays.errors import InvalidJson, InvalidKey, MoneyError
from relays.event import Event, pubkey_of
from relays.jsontext import from_json
from relays.pricing import ModelPrice, Usage, cost, price_for
from relays.receipt import Receipt
from router_client.errors import NodeUnavailable
from router_client.net.fetch import FetchFailed, fetch

log = logging.getLogger(__name__)

LOOK_DEADLINE_S: Final = 20.0
MAX_LIST_BYTES: Final = 32 * 1024 * 1024
"""Five thousand models take four megabytes."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What one call was agreed to cost: at most `hold_msat`, for at most so much usage of each kind."""

    pubkey: str
    model: str
    price: ModelPrice
    hold_msat: int
    most: Usage

    def check(self, event: Event, request_id: str) -> Receipt:
        """The receipt, if it keeps to the terms. Raises InvalidReceipt.

        More usage than can be is said in the log alone: a node passes on what its own upstream reports, which long templates
        or hidden thoughts make more than the request shows. It costs the hold, as does the most that can be.
        """
        receipt = receipts.verify(
            event,
            pubkey=self.pubkey,
            request_id=request_id,
            model=self.model,
            price=self.price,
            hold_msat=self.hold_msat,
            most=receipts.decode(event).usage,
        )
        if not receipt.usage.within(self.most):
            log.warning("%s says that %s used %s, which cannot be", self.model, request_id, receipt.usage)
        return receipt


class Shop(msgspec.Struct, frozen=True):
    """One node, as it describes itself."""

    url: str
    pubkey: str
    mints: tuple[str, ...]
    lock: str | None
    offers: Mapping[str, ModelOffer]
    listed: tuple[Mapping[str, Any], ...]
    """The list of models as the node gives it."""

    def terms(self, endpoint: Endpoint, fields: Mapping[str, Any], audio_ms: int) -> Terms:
        """Of a call of `fields["model"]`. Raises NodeUnavailable for what is not sold, or could cost more than there is."""
        offer = self.offers.get(str(fields.get("model")))
        if offer is None:
            raise NodeUnavailable(f"{self.url} does not sell that model any more")
        price = price_for(fields, endpoint, offer.price)
        try:
            hold_msat = cost(most_usage(fields, offer.limits, price, endpoint, audio_ms=audio_ms), price)
        except MoneyError as error:
            raise NodeUnavailable(f"{self.url} asks for more than there is") from error
        return Terms(
            pubkey=self.pubkey,
            model=offer.id,
            price=price,
            hold_msat=hold_msat,
            most=largest_usage(fields, offer.limits, endpoint, audio_ms=audio_ms),
        )


class _Info(msgspec.Struct):
    npub: str
    mints: tuple[str, ...]
    lock: Annotated[str, msgspec.Meta(pattern="^0[23][0-9a-f]{64}$")] | None = None


class _Top(msgspec.Struct):
    max_completion_tokens: int | None = None


class _Model(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    context_length: int
    msat_pricing: ModelPrice
    top_provider: _Top | None = None
    picture_rule: str = ""


async def look(http: httpx.AsyncClient, url: str) -> Shop:
    """What a node says of itself and sells. Raises NodeUnavailable; models without a price in msat are left out."""
    base = url.rstrip("/").removesuffix("/v1")
    try:
        info_reply = await fetch(http, "GET", f"{base}/v1/info", deadline_s=LOOK_DEADLINE_S)
        models_reply = await fetch(
            http, "GET", f"{base}/v1/models", deadline_s=LOOK_DEADLINE_S, most_bytes=MAX_LIST_BYTES
        )
        info = from_json(info_reply.body, _Info)
        listed = from_json(models_reply.body, dict[str, Any]).get("data")
        pubkey = pubkey_of(info.npub)
    except (FetchFailed, InvalidJson, InvalidKey) as error:
        raise NodeUnavailable(f"{base} does not describe itself: {error}") from error
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    offers = {offer.id: offer for offer in map(_offer, entries) if offer is not None}
    return Shop(base, pubkey, info.mints, info.lock, offers, tuple(e for e in entries if _offer(e) is not None))


def _offer(entry: Mapping[str, Any]) -> ModelOffer | None:
    try:
        model = msgspec.convert(entry, type=_Model)
        longest = model.top_provider.max_completion_tokens if model.top_provider else None
        return ModelOffer(
            model.id,
            ModelLimits(model.context_length, longest or model.context_length, model.picture_rule[:40]),
            model.msat_pricing,
        )
    except (msgspec.ValidationError, ValueError):
        return None
