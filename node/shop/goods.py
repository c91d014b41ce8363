"""What is stocked: of the upstreams' lists and the models file that which is to be sold, with limits and a list price."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from node.config import Settings
from node.errors import BadSettings
from node.shop.listprice import ListPrice, MsatPrice, UsdPrice, read_usd
from node.upstream.spec import UpstreamSpec
from relays.bounds import ModelLimits
from relays.endpoints import ENDPOINTS
from relays.errors import InvalidJson, MoneyError
from relays.jsontext import from_json
from relays.money import MSAT_PER_SAT
from relays.pictures import rule_for
from relays.pricing import TOKENS_PER_PRICE, ModelPrice

log = logging.getLogger(__name__)

CONTEXT_FIELDS: Final = ("context_length", "max_model_len", "context_window", "max_context_length")
"""Where OpenRouter, vLLM, Groq and Mistral say how long a context may be; llama.cpp has `meta.n_ctx`."""
NODE_PRICE: Final = "node_pricing"
"""Where an entry has the price of a node that is resold."""
THE_OPERATORS: Final = ("msat_pricing", NODE_PRICE, "markup", "upstreams", "upstream_id", "picture_rule")
"""Fields that count in the models file alone."""
ENDPOINT_NAMES: Final = tuple(endpoint.name for endpoint in ENDPOINTS)
FEATURES: Final = ("tools", "vision", "json", "reasoning")
_TOLD_BY: Final = {"tools": ("tools",), "json": ("response_format", "structured_outputs")}
MOST_MARKUP: Final = 1000
MOST_NAME_CHARS: Final = 200
MOST_TOLD: Final = 5
"""So many names stand in a line of the log."""
BROKEN: Final = (MoneyError, ArithmeticError, ValueError, TypeError, AttributeError)
"""What a stranger's list can make of an entry that is read."""


class Stock(msgspec.Struct, frozen=True, kw_only=True):
    """A model at one upstream: what it is called there, what it can, and what it costs by the list."""

    upstream: str
    model: str
    limits: ModelLimits
    known_context: bool
    price: ListPrice
    thinks: bool = False
    draws_unpriced: bool = False


class Goods(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it is stocked, without a price of the day."""

    id: str
    name: str
    description: str
    created: int
    input_modalities: tuple[str, ...]
    output_modalities: tuple[str, ...]
    endpoints: tuple[str, ...] | None = None
    """Where it is served; None where no list says."""
    features: tuple[str, ...] | None = None
    """Which of `FEATURES` it has; None where no list says."""
    stocks: tuple[Stock, ...]

    @property
    def in_usd(self) -> bool:
        return any(isinstance(stock.price, UsdPrice) for stock in self.stocks)

    @property
    def offered(self) -> tuple[object, ...]:
        """What of it an announcement depends on."""
        known = (self.input_modalities, self.output_modalities, self.endpoints, self.features)
        return (self.id, known, self.stocks)


def all_goods(
    specs: Sequence[UpstreamSpec],
    lists: Mapping[str, Iterable[Mapping[str, Any]]],
    chosen: Mapping[str, Mapping[str, Any]] | None,
    settings: Settings,
) -> dict[str, Goods]:
    """What all upstreams have, and the models file (`chosen`) says of it, by our names."""
    goods: dict[str, Goods] = {}
    offered: set[str] = set()
    for spec in specs:
        for id_, raw in _offered(spec, lists.get(spec.name), chosen).items():
            offered.add(id_)
            try:
                found = goods_from(id_, raw, spec, settings)
            except BROKEN as error:
                log.warning("model %s of %s is not sold: %s", id_, spec.name, error)
            else:
                goods[id_] = _joined(goods[id_], found) if id_ in goods else found
    if lists:
        _tell_of_the_missing(chosen or {}, offered)
    return goods


def _tell_of_the_missing(chosen: Mapping[str, Mapping[str, Any]], offered: Collection[str]) -> None:
    """What of the models file nobody has: by a slip in its name, it may be."""
    missing = [
        str(raw.get("upstream_id", id_))[:MOST_NAME_CHARS]
        for id_, raw in chosen.items()
        if raw.get("enabled", True) and id_ not in offered
    ]
    if missing:
        more = f" and {len(missing) - MOST_TOLD} more" if len(missing) > MOST_TOLD else ""
        told = ", ".join(missing[:MOST_TOLD])
        log.warning("of the models file is not sold what no upstream lists: %s%s", told, more)


def read_models_file(path: Path) -> dict[str, dict[str, Any]]:
    """Models by id from a file in OpenRouter's form (`{"data": […]}`, `{"models": […]}` or a list). Raises BadSettings."""
    try:
        raw = from_json(path.read_bytes())
        entries = raw if isinstance(raw, list) else raw.get("data") or raw.get("models")
        chosen = {str(entry["id"]): entry for entry in entries}
    except (OSError, InvalidJson, KeyError, TypeError, AttributeError) as error:
        raise BadSettings([f"MODELS_PATH: {path} is not a list of models in OpenRouter's form"]) from error
    if wrong := [f"MODELS_PATH: {id_[:100]}: {problem}" for id_, raw in chosen.items() if (problem := _wrong(raw))]:
        raise BadSettings(wrong)
    return chosen


def _wrong(raw: Mapping[str, Any]) -> str:
    """What is wrong with an entry of the models file that would otherwise pass for something else."""
    for field in ("enabled", "thinks"):
        if type(raw.get(field, True)) is not bool:
            return f"'{field}' is true or false"
    upstreams = raw.get("upstreams", [])
    if not isinstance(upstreams, list) or not all(isinstance(name, str) for name in upstreams):
        return "'upstreams' is a list of names"
    for field in CONTEXT_FIELDS:
        if raw.get(field) is not None and (type(raw[field]) is not int or raw[field] < 1):
            return f"'{field}' is a whole number from 1"
    return ""


def _offered(
    spec: UpstreamSpec,
    listed: Iterable[Mapping[str, Any]] | None,
    chosen: Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, dict[str, Any]]:
    """What of an upstream's list is to be sold, by our names; `upstream_id` has the upstream's own."""
    there = {str(raw["id"]): _listed(raw, spec) for raw in listed or () if raw.get("id") and spec.sells(str(raw["id"]))}
    ours = {spec.prefix + id_: {**raw, "upstream_id": id_} for id_, raw in there.items()}
    ours |= {
        name: {**there.get(id_, {}), "upstream_id": id_}
        for name, id_ in spec.aliases.items()
        if id_ in there or listed is None
    }
    if chosen is None:
        return ours
    # The file's word is taken for a server that gives no list.
    return {
        id_: {"upstream_id": id_, **ours.get(_there(id_, raw, spec), {}), **raw}
        for id_, raw in chosen.items()
        if raw.get("enabled", True)
        and spec.name in raw.get("upstreams", (spec.name,))
        and (_there(id_, raw, spec) in ours or (listed is None and spec.sells(_there(id_, raw, spec))))
    }


def _listed(raw: Mapping[str, Any], spec: UpstreamSpec) -> dict[str, Any]:
    """An entry of a list, without what is the operator's to say. That of a node that sells for msat has a price in msat."""
    entry = {name: part for name, part in raw.items() if name not in THE_OPERATORS}
    if spec.kind == "satroute":
        entry |= {NODE_PRICE: raw.get("msat_pricing"), "picture_rule": raw.get("picture_rule")}
    return entry


def _there(id_: str, raw: Mapping[str, Any], spec: UpstreamSpec) -> str:
    """What the list calls an entry of the models file, which may give it another name."""
    return spec.prefix + str(raw["upstream_id"]) if "upstream_id" in raw else id_


def _joined(first: Goods, second: Goods) -> Goods:
    """One model at several upstreams: served wherever one of them serves it, with the features that all of them have."""
    endpoints = None if first.endpoints is None or second.endpoints is None else (*first.endpoints, *second.endpoints)
    features = None if first.features is None or second.features is None else first.features
    return msgspec.structs.replace(
        first,
        input_modalities=tuple(dict.fromkeys((*first.input_modalities, *second.input_modalities))),
        output_modalities=tuple(dict.fromkeys((*first.output_modalities, *second.output_modalities))),
        endpoints=None if endpoints is None else tuple(dict.fromkeys(endpoints)),
        features=None if features is None else tuple(each for each in features if each in (second.features or ())),
        stocks=(*first.stocks, *second.stocks),
    )


def goods_from(id_: str, raw: Mapping[str, Any], spec: UpstreamSpec, settings: Settings) -> Goods:
    """A model from an entry of an upstream's list or of the models file. Raises ValueError when it has no price."""
    if not id_.isprintable() or len(id_) > MOST_NAME_CHARS:
        raise ValueError("its name is no text of a line")
    told = _context_length(raw)
    context = told or settings.default_context_length
    top = raw.get("top_provider") or {}
    answer = top.get("max_completion_tokens") or raw.get("max_output_tokens") or raw.get("max_completion_tokens")
    longest = int(answer or context)
    architecture = raw.get("architecture") or {}
    reads = tuple(str(kind) for kind in architecture.get("input_modalities") or ("text",))
    written = tuple(str(kind) for kind in architecture.get("output_modalities") or ("text",))
    there = str(raw.get("upstream_id") or id_)
    price = list_price(raw, settings, spec, makes_images="image" in written)
    stock = Stock(
        upstream=spec.name,
        model=there,
        limits=ModelLimits(context, min(longest, context), str(raw.get("picture_rule") or rule_for(there))),
        known_context=told is not None,
        price=price,
        thinks=_thinks(raw),
        # A price in msat is the operator's own word for whatever the model makes.
        draws_unpriced=isinstance(price, UsdPrice) and {"text", "image"} <= set(written),
    )
    return Goods(
        id=id_,
        name=str(raw.get("name") or id_),
        description=str(raw.get("description") or ""),
        created=int(raw.get("created") or 0),
        input_modalities=reads,
        output_modalities=written,
        endpoints=_named(raw, "endpoints", ENDPOINT_NAMES) or None,
        features=_features(raw, reads),
        stocks=(stock,),
    )


def list_price(raw: Mapping[str, Any], settings: Settings, spec: UpstreamSpec, *, makes_images: bool) -> ListPrice:
    """The price by the list: `msat_pricing` of the entry, or set outright for all models, or in USD with the markup, which
    an entry of the models file may say for itself. Raises ValueError."""
    markup = Decimal(str(raw["markup"])) if "markup" in raw else spec.markup or settings.markup
    if not (markup.is_finite() and 0 < markup <= MOST_MARKUP):
        raise ValueError(f"its markup is no factor up to {MOST_MARKUP}")
    if "msat_pricing" in raw:
        return MsatPrice(msgspec.convert(raw["msat_pricing"], type=ModelPrice))
    if NODE_PRICE in raw:
        return MsatPrice(msgspec.convert(raw[NODE_PRICE], type=ModelPrice), markup)
    request_msat = settings.fixed_cost_per_request * MSAT_PER_SAT
    per_1k = (settings.fixed_per_1k_input_tokens, settings.fixed_per_1k_output_tokens)
    if per_1k[0] is not None and per_1k[1] is not None:
        scale = MSAT_PER_SAT * (TOKENS_PER_PRICE // 1000)
        return MsatPrice(ModelPrice(_ceil(per_1k[0] * scale), _ceil(per_1k[1] * scale), _ceil(request_msat)))
    return read_usd(raw.get("pricing") or {}, makes_images=makes_images, markup=markup, request_msat=request_msat)


def _thinks(raw: Mapping[str, Any]) -> bool:
    """Whether a model may think before it writes: as its entry says (`thinks`), by what OpenRouter
    lets it be told, or since its thoughts have a price."""
    told, pricing, ours = raw.get("supported_parameters"), raw.get("pricing"), raw.get("msat_pricing")
    return (
        raw.get("thinks") is True
        or (isinstance(told, list) and "reasoning" in told)
        or (isinstance(pricing, Mapping) and pricing.get("internal_reasoning") not in (None, "0", 0))
        or (isinstance(ours, Mapping) and ours.get("reasoning_msat_per_mtok") is not None)
    )


def _features(raw: Mapping[str, Any], reads: tuple[str, ...]) -> tuple[str, ...] | None:
    """As its entry says (`features`), or by what OpenRouter lets it be told and what it reads."""
    told = raw.get("supported_parameters")
    if (named := _named(raw, "features", FEATURES)) is not None or not isinstance(told, list):
        return named
    found = {"vision": "image" in reads, "reasoning": _thinks(raw)}
    found |= {feature: any(name in told for name in names) for feature, names in _TOLD_BY.items()}
    return tuple(feature for feature in FEATURES if found[feature])


def _named(raw: Mapping[str, Any], field: str, known: tuple[str, ...]) -> tuple[str, ...] | None:
    """Those of a list of names that are known here; None where there is no such list."""
    listed = raw.get(field)
    return tuple(name for name in known if name in listed) if isinstance(listed, list) else None


def _context_length(raw: Mapping[str, Any]) -> int | None:
    for field in CONTEXT_FIELDS:
        if isinstance(raw.get(field), int) and raw[field] > 0:
            return int(raw[field])
    meta = raw.get("meta")
    return int(meta["n_ctx"]) if isinstance(meta, dict) and isinstance(meta.get("n_ctx"), int) else None


def _ceil(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_CEILING))
