"""The models for sale, each with its price of the moment.

Prices in msat are made when they are asked for, at the tariff of that moment. A model without a price is not sold.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import reduce
from typing import Any, Final

import msgspec

from node.config import Settings
from node.errors import Refusal
from node.shop.goods import BROKEN, Goods, Stock, all_goods, read_models_file
from node.shop.listprice import Tariff
from node.shop.tariffs import HOLDS_S, History, Tariffs
from node.upstream.base import Source
from node.upstream.spec import UpstreamSpec
from relays import payment
from relays.announcement import ModelOffer
from relays.bounds import ModelLimits
from relays.pictures import rule_of_all
from relays.pricing import ModelPrice, Usage, ceiling, cost, floor

log = logging.getLogger(__name__)

CLOSED_RETRY_S: Final = 60
Chosen = Mapping[str, Mapping[str, Any]]
"""The models file, by the models' names."""


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
    endpoints: tuple[str, ...] | None
    features: tuple[str, ...] | None
    sources: tuple[Source, ...]

    @property
    def offer(self) -> ModelOffer:
        return ModelOffer(
            self.id,
            self.limits,
            self.price,
            self.input_modalities,
            self.output_modalities,
            self.endpoints,
            self.features,
        )


class Shown(msgspec.Struct, frozen=True):
    """All that prices are made of, for another process of this machine to charge by: times are of `time.monotonic`, which is
    one clock for all of them."""

    goods: dict[str, Goods]
    before: dict[str, tuple[tuple[float, Goods], ...]]
    btc: History[Decimal | None]
    factor: History[Decimal]


class Catalogue:
    """What is for sale now. `update` puts a new list in place at once."""

    def __init__(
        self,
        settings: Settings,
        specs: Sequence[UpstreamSpec],
        tariffs: Tariffs,
        clock: Callable[[], float] = time.monotonic,
        holds_s: float = HOLDS_S,
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
        self._holds_s = holds_s
        self._version = 0

    def update(self, lists: Mapping[str, Iterable[Mapping[str, Any]]]) -> bool:
        """Take over the upstreams' lists, by their names, and the models file over them; True when the offer changed."""
        return self.put(lists, self.chosen())

    def chosen(self) -> Chosen | None:
        """What the models file says now."""
        path = self._settings.models_path
        return None if path is None else read_models_file(path)

    def put(self, lists: Mapping[str, Iterable[Mapping[str, Any]]], chosen: Chosen | None) -> bool:
        """The same with what the models file said."""
        if (lists, chosen) == self._read:
            return False
        self._read = (lists, chosen)
        goods = all_goods(self._specs, lists, chosen, self._settings)
        changed = [each.offered for each in goods.values()] != [each.offered for each in self._goods.values()]
        self._before = self._still_held(goods)
        self._goods, self._priced = goods, {}
        self._version += 1
        return changed

    @property
    def shown(self) -> Shown:
        """What is charged by now."""
        return Shown(self._goods, self._before, *self.tariffs.histories)

    def follow(self, shown: Shown) -> None:
        """Charge by what another catalogue shows. Others may look meanwhile: they see the old or the new of each part."""
        self._before = shown.before
        self._goods, self._priced = shown.goods, {}
        self.tariffs.follow(shown.btc, shown.factor)

    def ahead(self) -> Catalogue:
        """A copy to try a change on: what the change takes the place of holds there for as long as the copy is shown."""
        tariffs = Tariffs(None, clock=self._clock, holds_s=math.inf)
        copy = Catalogue(self._settings, self._specs, tariffs, self._clock, math.inf)
        copy.follow(self.shown)
        copy._read = self._read
        return copy

    def holds_s(self, model_id: str) -> int:
        """How long the price of a model holds at least, in whole seconds."""
        now = self._clock()
        ends = [until - now for until, _ in self._before.get(model_id, ()) if until > now]
        return int(min((*ends, self.tariffs.holds_s)))

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
        held |= {id_: before for id_, before in self._before.items() if id_ not in self._goods}
        for id_, each in self._goods.items():
            before = tuple(old for old in self._before.get(id_, ()) if old[0] > now)
            if id_ not in goods or goods[id_].offered != each.offered:
                before = (*before, (now + self._holds_s, each))
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
    """The model as it was told before an update, in whatever makes a request cheaper."""
    earlier = _model(before, tariff)
    told = {} if earlier is None else {(each.upstream, each.model): each for each in earlier.sources}
    sources = [_lower(source, told.get((source.upstream, source.model), source)) for source in model.sources]
    price = reduce(ceiling, (source.price for source in sources))
    return msgspec.structs.replace(model, sources=tuple(sources), price=price, limits=_widest(sources))


def _lower(source: Source, before: Source) -> Source:
    limits = ModelLimits(
        min(source.limits.context_length, before.limits.context_length),
        min(source.limits.max_output_tokens, before.limits.max_output_tokens),
        source.limits.pictures,
    )
    return msgspec.structs.replace(source, price=floor(source.price, before.price), limits=limits)


def _widest(sources: Sequence[Source]) -> ModelLimits:
    limits = [source.limits for source in sources]
    return ModelLimits(
        max(each.context_length for each in limits),
        max(each.max_output_tokens for each in limits),
        rule_of_all(each.pictures for each in limits),
    )


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
    except BROKEN as error:
        if tariff.btc_usd is not None or not goods.in_usd:
            log.warning("model %s is not sold: %s", goods.id, error)
        return None
    return Model(
        id=goods.id,
        name=goods.name,
        description=goods.description,
        created=goods.created,
        limits=_widest(sources),
        price=reduce(ceiling, (source.price for source in sources)),
        input_modalities=goods.input_modalities,
        output_modalities=goods.output_modalities,
        endpoints=goods.endpoints,
        features=goods.features,
        sources=sources,
    )


def _source(stock: Stock, tariff: Tariff) -> Source:
    price = stock.price.at(tariff)
    cost(Usage(stock.limits.context_length, stock.limits.context_length), price)  # not beyond all bitcoin
    return Source(
        upstream=stock.upstream,
        model=stock.model,
        limits=stock.limits,
        price=price,
        known_context=stock.known_context,
        thinks=stock.thinks,
        draws_unpriced=stock.draws_unpriced,
    )
