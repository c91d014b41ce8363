"""What a node sells, put together from its settings: upstreams, the price of bitcoin, and the catalogue of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import msgspec

from node.config import Settings
from node.shop.catalogue import Catalogue
from node.shop.tariffs import Tariffs
from node.tasks import Tasks
from node.upstream.fleet import Fleet
from node.upstream.kind import Surroundings
from node.upstream.kinds import known_kinds
from node.upstream.spec import Timeouts, UpstreamSpec
from relays.routes import Purpose
from router_client.net.outside import client_for
from router_client.spending.btc import BtcPrice, source_from


class Front(msgspec.Struct, frozen=True):
    """A catalogue is empty until it is given the fleet's lists."""

    fleet: Fleet
    btc_price: BtcPrice
    catalogue: Catalogue

    async def look(self) -> None:
        """Read what there is to sell, and what a bitcoin costs if that matters. Raises UpstreamError."""
        self.catalogue.update(await self.fleet.models())
        if self.catalogue.needs_btc and not self.catalogue.tariffs.btc_is_known and await self.btc_price.refresh():
            assert self.btc_price.latest is not None
            self.catalogue.tariffs.put_btc(self.btc_price.latest)


async def open_fleet(settings: Settings, specs: Sequence[UpstreamSpec], tasks: Tasks) -> Fleet:
    """The upstreams, open. Raises StorageError for a wallet that cannot be."""
    timeouts = Timeouts(
        settings.upstream_connect_timeout_s, settings.upstream_answer_timeout_s, settings.upstream_idle_timeout_s
    )
    surroundings, kinds = Surroundings(timeouts, tasks, settings.data_dir, settings.routes), known_kinds()
    return Fleet([await kinds[spec.kind].open(spec, surroundings) for spec in specs])


async def open_front(settings: Settings, http: httpx.AsyncClient, tasks: Tasks) -> Front:
    """Its fleet is to be closed. Raises StorageError for an upstream's wallet that cannot be opened."""
    specs = settings.upstreams()
    fleet = await open_fleet(settings, specs, tasks)
    btc_price = BtcPrice(
        http,
        [source_from(text) for text in settings.btc_price_sources],
        timeout_s=settings.btc_price_timeout_s,
        max_age_s=settings.btc_price_max_age_s,
    )
    fixed = settings.fixed_btc_usd
    tariffs = Tariffs(fixed, lambda: fixed is not None or btc_price.usd is not None)
    return Front(fleet, btc_price, Catalogue(settings, specs, tariffs))


@asynccontextmanager
async def looked_at(settings: Settings) -> AsyncIterator[Front]:
    """Without a node behind it: what would be sold at this moment. Raises UpstreamError."""
    tasks = Tasks()
    async with client_for(Purpose.PRICES, settings.routes) as http:
        front = await open_front(settings, http, tasks)
        try:
            await front.look()
            yield front
        finally:
            await tasks.drain(settings.upstream_connect_timeout_s)
            await front.fleet.close()
