"""The models for sale: read from the upstreams' lists and the models file, each with limits and a price.

Prices in msat are made when they are asked for, at the tariff of that moment. A model without a price is not sold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from functools import reduce
from pathlib import Path
from typing import Any, Final

import msgspec

from node.config import Settings
from node.errors import BadSettings, Refusal
from node.shop.listprice import ListPrice, MsatPrice, Tariff, UsdPrice, read_usd
from node.shop.tariffs import HOLDS_S, Tariffs
from node.upstream.base import Source
from node.upstream.spec import UpstreamSpec
from relays import payment
from relays.announcement import ModelOffer
from relays.bounds import ModelLimits
from relays.errors import InvalidJson, MoneyError
from relays.jsontext import from_json
from relays.money import MSAT_PER_SAT
from relays.pricing import TOKENS_PER_PRICE, ModelPrice, Usage, at_most, ceiling, cost

log = logging.getLogger(__name__)

CONTEXT_FIELDS: Final = ("context_length", "max_model_len", "context_window")
"""Where OpenRouter, vLLM and Groq say how long a context may be; llama.cpp has `meta.n_ctx`."""
CLOSED_RETRY_S: Final = 60
NODE_PRICE: Final = "node_pricing"
"""Where an entry has the price of a node that is resold."""
THE_OPERATORS: Final = ("msat_pricing", NODE_PRICE, "markup", "upstreams", "upstream_id")
"""Fields that count in the models file alone."""
MOST_MARKUP: Final = 1000
_BROKEN: Final = (MoneyError, ArithmeticError, ValueError, TypeError, AttributeError)


class Stock(msgspec.Struct, frozen=True, kw_only=True):
    """A model at one upstream: what it is called there, what it can, and what it costs by the list."""

    upstream: str
    model: str
    limits: ModelLimits
    known_context: bool
    price: ListPrice


class Goods(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it is stocked, without a price of the day."""

    id: str
    name: str
    description: str
    created: int
    input_modalities: tuple[str, ...]
    output_modalities: tuple[str, ...]
    stocks: tuple[Stock, ...]

    @property
    def in_usd(self) -> bool:
        return any(isinstance(stock.price, UsdPrice) for stock in self.stocks)

    @property
    def offered(self) -> tuple[object, ...]:
        """What of it an announcement depends on."""
        return (self.id, self.stocks)


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
    output_modalities: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def offer(self) -> ModelOffer:
        return ModelOffer(self.id, self.limits, self.price)


class Catalogue:
    """What is for sale now. `update` puts a new list in place at once."""

    def __init__(
        self,
        settings: Settings,
        specs: Sequence[UpstreamSpec],
        tariffs: Tariffs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._specs = specs
        self.tariffs = tariffs
        self._read: object = None
        """The lists as they were read last."""
        self._goods: dict[str, Goods] = {}
        self._priced: dict[str, tuple[Goods, Tariff, Model]] = {}
        """Made of what, and at which tariff: requests are quoted in several threads while lists change in another."""
        self._before: dict[str, tuple[tuple[float, Goods], ...]] = {}
        """What a model was before updates, and until when its price still holds."""
        self._clock = clock
        self._version = 0

    def update(self, lists: Mapping[str, Iterable[Mapping[str, Any]]]) -> bool:
        """Take over the upstreams' lists, by their names, and the models file over them; True when the offer changed."""
        path = self._settings.models_path
        chosen = None if path is None else read_models_file(path)
        if (lists, chosen) == self._read:
            return False
        self._read = (lists, chosen)
        goods: dict[str, Goods] = {}
        alone = len(self._specs) == 1
        for spec in self._specs:
            for id_, raw in _offered(spec, lists.get(spec.name), chosen, alone=alone).items():
                try:
                    found = goods_from(id_, raw, spec, self._settings)
                except _BROKEN as error:
                    log.warning("model %s of %s is not sold: %s", id_, spec.name, error)
                else:
                    goods[id_] = _joined(goods[id_], found) if id_ in goods else found
        changed = [each.offered for each in goods.values()] != [each.offered for each in self._goods.values()]
        self._before = self._still_held(goods)
        self._goods, self._priced = goods, {}
        self._version += 1
        return changed

    @property
    def state(self) -> tuple[object, ...]:
        """Another one whenever a list of prices would be."""
        return (self._version, self.tariffs.announced, self.tariffs.btc_is_known)

    @property
    def needs_btc(self) -> bool:
        """Whether anything has its price in USD."""
        return any(goods.in_usd for goods in self._goods.values())

    def __len__(self) -> int:
        return len(self._goods)

    def all(self) -> tuple[Model, ...]:
        """All with a price, as they are announced; of many this takes a while."""
        tariff = self.tariffs.announced
        return tuple(model for goods in self._goods.values() if (model := _model(goods, tariff)) is not None)

    def announced(self, model_id: str) -> Model:
        """One model, as it is announced. Raises Refusal 404 or 503."""
        goods = self._find(model_id)
        return _model(goods, self.tariffs.announced) or _closed(goods)

    def is_open(self, model: Model) -> bool:
        """Whether it is sold at this moment."""
        goods = self._goods.get(model.id)
        return goods is not None and (self.tariffs.btc_is_known or not goods.in_usd)

    def get(self, model_id: str) -> Model:
        """The model of that name at the tariff in force. Raises Refusal 404, or 503 when bitcoin's price is not known."""
        goods, tariff = self._find(model_id), self.tariffs.now
        if goods.in_usd and not self.tariffs.btc_is_known:
            _closed(goods)
        found = self._priced.get(model_id)
        if found is not None and found[0] is goods and found[1] == tariff:
            return found[2]
        model = _model(goods, tariff) or _closed(goods)
        now = self._clock()
        if told := [earlier for until, earlier in self._before.get(model_id, ()) if until > now]:
            return reduce(lambda cheapest, earlier: _still(cheapest, earlier, tariff), told, model)
        self._priced[model_id] = (goods, tariff, model)
        return model

    def _still_held(self, goods: Mapping[str, Goods]) -> dict[str, tuple[tuple[float, Goods], ...]]:
        """What still holds once these are the goods."""
        now = self._clock()
        held: dict[str, tuple[tuple[float, Goods], ...]] = {}
        for id_, each in self._goods.items():
            before = tuple(old for old in self._before.get(id_, ()) if old[0] > now)
            if id_ in goods and goods[id_].offered != each.offered:
                before = (*before, (now + HOLDS_S, each))
            if before:
                held[id_] = before
        return held

    def _find(self, model_id: str) -> Goods:
        try:
            return self._goods[model_id]
        except KeyError:
            raise Refusal(
                404,
                payment.UNKNOWN_MODEL,
                f"the model {model_id[:100]!r} is not sold here; GET /v1/models lists those that are",
            ) from None


def _still(model: Model, before: Goods, tariff: Tariff) -> Model:
    """The model at the prices that were told before an update, where they are lower."""
    earlier = _model(before, tariff)
    told = {} if earlier is None else {(each.upstream, each.model): each.price for each in earlier.sources}
    sources = []
    for source in model.sources:
        price = told.get((source.upstream, source.model), source.price)
        sources.append(msgspec.structs.replace(source, price=price) if at_most(price, source.price) else source)
    price = reduce(ceiling, (source.price for source in sources))
    return msgspec.structs.replace(model, sources=tuple(sources), price=price)


def _closed(goods: Goods) -> Model:
    raise Refusal(
        503,
        payment.NO_PRICE,
        f"{goods.id} is priced in USD and the price of bitcoin is not known at the moment: try again in a minute, "
        "or another node; nothing was charged",
        headers={"retry-after": str(CLOSED_RETRY_S)},
    )


def _model(goods: Goods, tariff: Tariff) -> Model | None:
    """At a tariff; None where it has no price there."""
    try:
        sources = tuple(_source(stock, tariff) for stock in goods.stocks)
    except _BROKEN as error:
        if tariff.btc_usd is not None or not goods.in_usd:
            log.warning("model %s is not sold: %s", goods.id, error)
        return None
    limits = [source.limits for source in sources]
    return Model(
        id=goods.id,
        name=goods.name,
        description=goods.description,
        created=goods.created,
        limits=ModelLimits(max(each.context_length for each in limits), max(each.max_output_tokens for each in limits)),
        price=reduce(ceiling, (source.price for source in sources)),
        input_modalities=goods.input_modalities,
        output_modalities=goods.output_modalities,
        sources=sources,
    )


def _source(stock: Stock, tariff: Tariff) -> Source:
    price = stock.price.at(tariff)
    cost(Usage(stock.limits.context_length, stock.limits.context_length), price)  # not beyond all bitcoin
    return Source(stock.upstream, stock.model, stock.limits, price, stock.known_context)


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
    there = {str(raw["id"]): _listed(raw, spec) for raw in listed or () if raw.get("id") and spec.sells(str(raw["id"]))}
    ours = {spec.prefix + id_: {**raw, "upstream_id": id_} for id_, raw in there.items()}
    ours |= {name: {**there.get(id_, {}), "upstream_id": id_} for name, id_ in spec.aliases.items()}
    if chosen is None:
        return ours
    # The file's word is taken for a server that stands alone, or gives no list.
    return {
        id_: {"upstream_id": id_, **ours.get(_there(id_, raw, spec), {}), **raw}
        for id_, raw in chosen.items()
        if raw.get("enabled", True)
        and spec.name in raw.get("upstreams", (spec.name,))
        and (_there(id_, raw, spec) in ours or ((alone or listed is None) and spec.sells(_there(id_, raw, spec))))
    }


def _listed(raw: Mapping[str, Any], spec: UpstreamSpec) -> dict[str, Any]:
    """An entry of a list, without what is the operator's to say. That of a node that sells for msat has a price in msat."""
    entry = {name: part for name, part in raw.items() if name not in THE_OPERATORS}
    return entry | ({NODE_PRICE: raw.get("msat_pricing")} if spec.kind == "satroute" else {})


def _there(id_: str, raw: Mapping[str, Any], spec: UpstreamSpec) -> str:
    """What the list calls an entry of the models file, which may give it another name."""
    return spec.prefix + str(raw["upstream_id"]) if "upstream_id" in raw else id_


def _joined(first: Goods, second: Goods) -> Goods:
    """One model at several upstreams."""
    return msgspec.structs.replace(
        first,
        input_modalities=tuple(dict.fromkeys((*first.input_modalities, *second.input_modalities))),
        output_modalities=tuple(dict.fromkeys((*first.output_modalities, *second.output_modalities))),
        stocks=(*first.stocks, *second.stocks),
    )


def goods_from(id_: str, raw: Mapping[str, Any], spec: UpstreamSpec, settings: Settings) -> Goods:
    """A model from an entry of an upstream's list or of the models file. Raises ValueError when it has no price."""
    told = _context_length(raw)
    context = told or settings.default_context_length
    top = raw.get("top_provider") or {}
    longest = int(top.get("max_completion_tokens") or raw.get("max_output_tokens") or context)
    architecture = raw.get("architecture") or {}
    written = tuple(str(kind) for kind in architecture.get("output_modalities") or ("text",))
    stock = Stock(
        upstream=spec.name,
        model=str(raw.get("upstream_id") or id_),
        limits=ModelLimits(context, min(longest, context)),
        known_context=told is not None,
        price=list_price(raw, settings, spec, makes_images="image" in written),
    )
    return Goods(
        id=id_,
        name=str(raw.get("name") or id_),
        description=str(raw.get("description") or ""),
        created=int(raw.get("created") or 0),
        input_modalities=tuple(str(kind) for kind in architecture.get("input_modalities") or ("text",)),
        output_modalities=written,
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


def _context_length(raw: Mapping[str, Any]) -> int | None:
    for field in CONTEXT_FIELDS:
        if isinstance(raw.get(field), int) and raw[field] > 0:
            return int(raw[field])
    meta = raw.get("meta")
    return int(meta["n_ctx"]) if isinstance(meta, dict) and isinstance(meta.get("n_ctx"), int) else None


def _ceil(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_CEILING))
