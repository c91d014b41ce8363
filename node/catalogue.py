"""The models for sale: read from the upstream's list and the models file, each with limits and a price in msat.

A model without a price is not sold: a missing price is never zero.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import msgspec

from node.config import Settings
from node.errors import BadSettings, Refusal
from node.upstream.base import Source
from node.upstream.spec import UpstreamSpec
from relays import payment
from relays.announcement import ModelOffer
from relays.bounds import ModelLimits
from relays.errors import InvalidJson, MoneyError
from relays.jsontext import from_json
from relays.money import MSAT_PER_SAT
from relays.pricing import TOKENS_PER_PRICE, ModelPrice, Usage, ceiling, cost

log = logging.getLogger(__name__)

SAT_PER_BTC = 100_000_000
CONTEXT_FIELDS = ("context_length", "max_model_len", "context_window")
"""Where OpenRouter, vLLM and Groq say how long a context may be; llama.cpp has `meta.n_ctx`."""


_USD_KINDS = {
    "input_cache_read": "cached_msat_per_mtok",
    "input_cache_write": "cache_write_msat_per_mtok",
    "internal_reasoning": "reasoning_msat_per_mtok",
}
"""OpenRouter's prices of kinds of tokens, and ours for each."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model for sale."""

    id: str
    name: str
    description: str
    created: int
    limits: ModelLimits
    """The widest of its sources."""
    price: ModelPrice
    """What no source is above."""
    input_modalities: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def offer(self) -> ModelOffer:
        return ModelOffer(self.id, self.limits, self.price)


class Catalogue:
    """What is for sale now. `update` puts a new list in place at once."""

    def __init__(self, settings: Settings, specs: Sequence[UpstreamSpec]) -> None:
        self._settings = settings
        self._specs = specs
        self._models: dict[str, Model] = {}

    def update(self, lists: Mapping[str, Iterable[Mapping[str, Any]]]) -> bool:
        """Take over the upstreams' lists, by their names, and the models file over them; True when the offer changed."""
        path = self._settings.models_path
        chosen = None if path is None else read_models_file(path)
        models: dict[str, Model] = {}
        alone = len(self._specs) == 1
        for spec in self._specs:
            for id_, raw in _offered(spec, lists.get(spec.name), chosen, alone=alone).items():
                try:
                    found = model_from(id_, raw, spec, self._settings)
                except (MoneyError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
                    log.warning("model %s of %s is not sold: %s", id_, spec.name, error)
                else:
                    models[id_] = _joined(models[id_], found) if id_ in models else found
        changed = [model.offer for model in models.values()] != [model.offer for model in self._models.values()]
        self._models = models
        return changed

    def all(self) -> tuple[Model, ...]:
        return tuple(self._models.values())

    def get(self, model_id: str) -> Model:
        """The model of that name. Raises Refusal 404."""
        try:
            return self._models[model_id]
        except KeyError:
            raise Refusal(
                404,
                payment.UNKNOWN_MODEL,
                f"the model {model_id[:100]!r} is not sold here; GET /v1/models lists those that are",
            ) from None


def read_models_file(path: Path) -> dict[str, dict[str, Any]]:
    """Models by id from a file in OpenRouter's form (`{"data": […]}`, `{"models": […]}` or a list). Raises BadSettings."""
    try:
        raw = from_json(path.read_bytes())
        entries = raw if isinstance(raw, list) else raw.get("data") or raw.get("models")
        return {str(entry["id"]): entry for entry in entries}
    except (OSError, InvalidJson, KeyError, TypeError, AttributeError) as error:
        raise BadSettings([f"MODELS_PATH: {path} is not a list of models in OpenRouter's form"]) from error


def _offered(
    spec: UpstreamSpec,
    listed: Iterable[Mapping[str, Any]] | None,
    chosen: Mapping[str, Mapping[str, Any]] | None,
    *,
    alone: bool,
) -> dict[str, dict[str, Any]]:
    """What of an upstream's list is to be sold, by our names; `upstream_id` has the upstream's own."""
    # A price in msat is the operator's own word, or that of a node that sells for msat.
    left_out = () if spec.kind == "satroute" else ("msat_pricing",)
    there = {
        str(raw["id"]): {name: part for name, part in raw.items() if name not in left_out}
        for raw in listed or ()
        if raw.get("id") and spec.sells(str(raw["id"]))
    }
    ours = {spec.prefix + id_: {**raw, "upstream_id": id_} for id_, raw in there.items()}
    ours |= {name: {**there.get(id_, {}), "upstream_id": id_} for name, id_ in spec.aliases.items()}
    if chosen is None:
        return ours
    # The file's word is taken for a server that stands alone, or gives no list.
    return {
        id_: {"upstream_id": id_, **ours.get(id_, {}), **raw}
        for id_, raw in chosen.items()
        if raw.get("enabled", True) and (id_ in ours or ((alone or listed is None) and spec.sells(id_)))
    }


def _joined(first: Model, second: Model) -> Model:
    """One model at several upstreams."""
    limits = ModelLimits(
        max(first.limits.context_length, second.limits.context_length),
        max(first.limits.max_output_tokens, second.limits.max_output_tokens),
    )
    return msgspec.structs.replace(
        first,
        limits=limits,
        price=ceiling(first.price, second.price),
        input_modalities=tuple(dict.fromkeys((*first.input_modalities, *second.input_modalities))),
        sources=(*first.sources, *second.sources),
    )


def model_from(id_: str, raw: Mapping[str, Any], spec: UpstreamSpec, settings: Settings) -> Model:
    """A model from an entry of the upstream's list or of the models file. Raises ValueError when it has no price."""
    told = _context_length(raw)
    context = told or settings.default_context_length
    top = raw.get("top_provider") or {}
    longest = int(top.get("max_completion_tokens") or raw.get("max_output_tokens") or context)
    architecture = raw.get("architecture") or {}
    limits = ModelLimits(context, min(longest, context))
    price = price_from(raw, settings, spec.markup or settings.markup)
    cost(Usage(context, context), price)  # what is beyond all bitcoin is not sold
    return Model(
        id=id_,
        name=str(raw.get("name") or id_),
        description=str(raw.get("description") or ""),
        created=int(raw.get("created") or 0),
        limits=limits,
        price=price,
        input_modalities=tuple(str(kind) for kind in architecture.get("input_modalities") or ("text",)),
        sources=(Source(spec.name, str(raw.get("upstream_id") or id_), limits, price, told is not None),),
    )


def price_from(raw: Mapping[str, Any], settings: Settings, markup: Decimal) -> ModelPrice:
    """The price: `msat_pricing` of the entry, or set outright for all models, or from its USD price with the markup."""
    if "msat_pricing" in raw:
        return msgspec.convert(raw["msat_pricing"], type=ModelPrice)
    request_msat = _ceil(settings.fixed_cost_per_request * MSAT_PER_SAT)
    per_1k = (settings.fixed_per_1k_input_tokens, settings.fixed_per_1k_output_tokens)
    if per_1k[0] is not None and per_1k[1] is not None:
        scale = MSAT_PER_SAT * (TOKENS_PER_PRICE // 1000)
        return ModelPrice(_ceil(per_1k[0] * scale), _ceil(per_1k[1] * scale), request_msat)
    usd = raw.get("pricing") or {}
    if "prompt" not in usd or "completion" not in usd:
        raise ValueError("it has no price")
    if settings.fixed_btc_usd is None:
        raise ValueError("its price is in USD and FIXED_BTC_USD is not set")
    msat_per_usd = Decimal(SAT_PER_BTC * MSAT_PER_SAT) / settings.fixed_btc_usd * markup
    prices = {part: Decimal(str(usd.get(part) or 0)) for part in ("prompt", "completion", "request", *_USD_KINDS)}
    if min(prices.values()) < 0:
        raise ValueError("its price is not fixed")  # OpenRouter's -1: depends on where it is routed
    return ModelPrice(
        _ceil(prices["prompt"] * TOKENS_PER_PRICE * msat_per_usd),
        _ceil(prices["completion"] * TOKENS_PER_PRICE * msat_per_usd),
        _ceil(prices["request"] * msat_per_usd) + request_msat,
        **{
            field: _ceil(prices[part] * TOKENS_PER_PRICE * msat_per_usd)
            for part, field in _USD_KINDS.items()
            if prices[part]
        },
    )


def model_object(model: Model, settings: Settings) -> dict[str, Any]:
    """The model for `/v1/models`, in OpenRouter's form with sats beside (RIP-05) and the exact msat."""
    price, limits = model.price, model.limits
    largest_prompt = max(0, limits.context_length - limits.max_output_tokens)
    most = cost(Usage(largest_prompt, limits.max_output_tokens), price)
    per_token = {
        "prompt": Decimal(price.prompt_msat_per_mtok) / TOKENS_PER_PRICE / MSAT_PER_SAT,
        "completion": Decimal(price.completion_msat_per_mtok) / TOKENS_PER_PRICE / MSAT_PER_SAT,
        "request": Decimal(price.request_msat) / MSAT_PER_SAT,
    }
    maxima = {
        "max_prompt_cost": Decimal(cost(Usage(limits.context_length, 0), price)) / MSAT_PER_SAT,
        "max_completion_cost": Decimal(cost(Usage(0, limits.max_output_tokens), price)) / MSAT_PER_SAT,
        "max_cost": Decimal(most) / MSAT_PER_SAT,
    }
    return {
        "id": model.id,
        "object": "model",
        "name": model.name,
        "created": model.created,
        "owned_by": settings.name,
        "description": model.description,
        "context_length": limits.context_length,
        "architecture": {
            "modality": f"{'+'.join(model.input_modalities)}->text",
            "input_modalities": model.input_modalities,
            "output_modalities": ["text"],
            "tokenizer": "Other",
            "instruct_type": None,
        },
        "pricing": _usd(per_token, settings),
        # Numbers for display, as the peers have them; the exact price is in msat_pricing.
        "sats_pricing": {name: float(sats) for name, sats in (per_token | maxima).items()},
        "msat_pricing": price,
        "per_request_limits": None,
        "top_provider": {
            "context_length": limits.context_length,
            "max_completion_tokens": limits.max_output_tokens,
            "is_moderated": False,
        },
        "enabled": True,
    }


def _usd(sats: Mapping[str, Decimal], settings: Settings) -> dict[str, str] | None:
    if settings.fixed_btc_usd is None:
        return None
    return {name: f"{value * settings.fixed_btc_usd / SAT_PER_BTC:.12f}" for name, value in sats.items()}


def _context_length(raw: Mapping[str, Any]) -> int | None:
    for field in CONTEXT_FIELDS:
        if isinstance(raw.get(field), int) and raw[field] > 0:
            return int(raw[field])
    meta = raw.get("meta")
    return int(meta["n_ctx"]) if isinstance(meta, dict) and isinstance(meta.get("n_ctx"), int) else None


def _ceil(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_CEILING))
