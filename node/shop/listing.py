"""The price list as clients read it: `/v1/models` in OpenRouter's form with sats and msat beside (RIP-05), `/v1/pricing`
with USD and sats side by side (Loop Gateway), as bytes that are made once for all who ask."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from node.shop.catalogue import Catalogue, Model
from relays.money import MSAT_PER_BTC, MSAT_PER_SAT
from relays.pricing import MS_PER_HOUR, TOKENS_PER_PRICE, ModelPrice, Usage, cost, dearest

MODELS: Final = "models"
PRICING: Final = "pricing"


class Page(msgspec.Struct, frozen=True):
    """An answer, and the tag that is the same as long as it is."""

    body: bytes
    etag: str


class Listing:
    """Pages of the catalogue, made beside the loop and kept until something changes."""

    def __init__(self, catalogue: Catalogue, owner: str) -> None:
        self._catalogue = catalogue
        self._owner = owner
        self._pages: dict[str, tuple[object, asyncio.Future[Page]]] = {}

    async def models(self) -> Page:
        """`/v1/models`."""
        return await self._page(MODELS, self._models)

    async def pricing(self) -> Page:
        """`/v1/pricing`."""
        return await self._page(PRICING, self._pricing)

    def one(self, model_id: str) -> dict[str, Any]:
        """`/v1/models/{id}`. Raises Refusal 404 or 503."""
        model = self._catalogue.announced(model_id)
        return model_object(model, self._owner, self._catalogue.tariffs.btc_usd, is_open=self._catalogue.is_open(model))

    async def _page(self, name: str, make: Callable[[], Any]) -> Page:
        state = self._catalogue.state
        kept = self._pages.get(name)
        if kept is None or kept[0] != state or (kept[1].done() and kept[1].exception() is not None):
            making = asyncio.ensure_future(self._made(name, make, state))
            self._pages[name] = kept = (state, making)
        return await asyncio.shield(kept[1])

    async def _made(self, name: str, make: Callable[[], Any], state: object) -> Page:
        page = await asyncio.to_thread(_written, make)
        if self._catalogue.state != state:  # it may show what came meanwhile, or half of it
            self._pages.pop(name, None)
        return page

    def _models(self) -> dict[str, Any]:
        catalogue = self._catalogue
        btc_usd = catalogue.tariffs.btc_usd
        data = [
            model_object(model, self._owner, btc_usd, is_open=catalogue.is_open(model)) for model in catalogue.all()
        ]
        return {"object": "list", "data": data}

    def _pricing(self) -> dict[str, Any]:
        catalogue, btc_usd = self._catalogue, self._catalogue.tariffs.btc_usd
        return {
            "btc_usd": None if btc_usd is None else str(btc_usd),
            "price_factor": str(catalogue.tariffs.announced.factor),
            "models": [
                {"model": model.id, "usd": usd_prices(model.price, btc_usd), "sats": sats_prices(model.price)}
                | {"msat": model.price, "enabled": catalogue.is_open(model)}
                for model in catalogue.all()
            ],
        }


def _written(make: Callable[[], Any]) -> Page:
    body = msgspec.json.encode(make())
    return Page(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def sats_prices(price: ModelPrice) -> dict[str, float]:
    """A price in sats, for people: numbers as the peers have them; the exact price is in msat."""
    return {name: float(msat / MSAT_PER_SAT) for name, msat in _by_piece(price).items()}


def usd_prices(price: ModelPrice, btc_usd: Decimal | None) -> dict[str, str] | None:
    """A price in USD, as OpenRouter writes it; None where bitcoin has no price."""
    if btc_usd is None:
        return None
    return {name: f"{msat * btc_usd / MSAT_PER_BTC:.12f}" for name, msat in _by_piece(price).items()}


def _by_piece(price: ModelPrice) -> Mapping[str, Decimal]:
    """Msat per token, request, image, second, character and search, by OpenRouter's names where it has one; what costs
    nothing is told by its three usual names alone."""
    per_token = {
        "prompt": price.prompt_msat_per_mtok,
        "completion": price.completion_msat_per_mtok,
        "internal_reasoning": price.reasoning_msat_per_mtok,
        "input_cache_read": price.cached_msat_per_mtok,
        "input_cache_write": price.cache_write_msat_per_mtok,
        "audio": price.audio_msat_per_mtok,
        "audio_output": price.speech_msat_per_mtok,
        "character": price.characters_msat_per_mchar or None,
    }
    prices = {name: Decimal(part) / TOKENS_PER_PRICE for name, part in per_token.items() if part is not None}
    prices["request"] = Decimal(price.request_msat)
    if price.largest_image_msat:
        prices["image"] = Decimal(price.largest_image_msat)
    if price.search_msat:
        prices["web_search"] = Decimal(price.search_msat)
    if price.audio_msat_per_hour:
        prices["audio_second"] = Decimal(price.audio_msat_per_hour) * 1000 / MS_PER_HOUR
    return prices


def model_object(model: Model, owner: str, btc_usd: Decimal | None, *, is_open: bool = True) -> dict[str, Any]:
    """A model in OpenRouter's form, with sats beside (RIP-05) and the exact msat."""
    price, limits = model.price, model.limits
    largest_prompt = max(0, limits.context_length - limits.max_output_tokens)
    image = msgspec.structs.replace(price, image_msat=price.largest_image_msat, image_sizes=())
    images = 1 if "image" in model.output_modalities or price.largest_image_msat else 0

    def most(prompt_tokens: int, completion_tokens: int, images: int = 0) -> float:
        return cost(dearest(Usage(prompt_tokens, completion_tokens, images=images), image), image) / MSAT_PER_SAT

    maxima = {
        "max_prompt_cost": most(limits.context_length, 0),
        "max_completion_cost": most(0, limits.max_output_tokens, images),
        "max_cost": most(largest_prompt, limits.max_output_tokens, images),
    }
    known = {"endpoints": model.endpoints, "features": model.features}
    return {name: names for name, names in known.items() if names is not None} | {
        "id": model.id,
        "object": "model",
        "name": model.name,
        "created": model.created,
        "owned_by": owner,
        "description": model.description,
        "context_length": limits.context_length,
        "architecture": {
            "modality": f"{'+'.join(model.input_modalities)}->{'+'.join(model.output_modalities)}",
            "input_modalities": model.input_modalities,
            "output_modalities": model.output_modalities,
            "tokenizer": "Other",
            "instruct_type": None,
        },
        "pricing": usd_prices(price, btc_usd),
        "sats_pricing": sats_prices(price) | maxima,
        "msat_pricing": price,
        "picture_rule": limits.pictures,
        "thinks": any(source.thinks for source in model.sources),
        "per_request_limits": None,
        "top_provider": {
            "context_length": limits.context_length,
            "max_completion_tokens": limits.max_output_tokens,
            "is_moderated": False,
        },
        "enabled": is_open,
    }
