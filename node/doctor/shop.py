"""What is sold, and for what: mints, upstreams, prices."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import httpx

from node.config import Settings
from node.doctor.finding import Finding, note, ok, wrong
from node.errors import UpstreamError, UpstreamRefused
from node.shop.catalogue import Catalogue
from node.shop.tariffs import Tariffs
from node.tasks import Tasks
from node.upstream.kind import Surroundings
from node.upstream.kinds import known_kinds
from node.upstream.spec import Timeouts, UpstreamSpec
from relays.errors import NoTor
from relays.money import from_sat
from relays.routes import Purpose
from router_client.buying.shop import look
from router_client.ecash.mint import MintClient
from router_client.ecash.token import MSAT_PER_UNIT
from router_client.errors import AddressUnavailable, MintMisbehaved, NodeError, RequestUnreadable, WalletError
from router_client.net.outside import client_for
from router_client.paying.lnurl import address_invoice
from router_client.spending.btc import BtcPrice, source_from

Lists = Mapping[str, list[Mapping[str, Any]]]

NUT_STATES, NUT_RESTORE, NUT_LOCKS, NUT_DLEQ = 7, 9, 11, 12
MOST_KEYSETS: Final = 20


async def mint(settings: Settings, url: str, http: httpx.AsyncClient, deadline_s: float) -> Finding:
    """Whether it answers, has a keyset to take coins of with keys that fit its name, and what it can."""
    client, unit = MintClient(url, http), settings.primary_mint_unit
    try:
        async with asyncio.timeout(deadline_s):
            listed = [each for each in await client.keysets() if each.active and each.unit in MSAT_PER_UNIT]
            for keyset in listed[:MOST_KEYSETS]:
                await client.with_keys(keyset)
            recovers = await client.supports(NUT_STATES, NUT_RESTORE)
            locks = await client.supports(NUT_LOCKS, NUT_DLEQ)
    except MintMisbehaved as error:
        return wrong("mint", f"{url}: {error}", "trust it with nothing: take it out of CASHU_MINTS")
    except (WalletError, TimeoutError) as error:
        words = str(error) or f"no answer within {deadline_s:g} s"
        return wrong("mint", f"{url}: {words}", "check the URL in CASHU_MINTS, or name another mint")
    units = sorted({keyset.unit for keyset in listed})
    if not units or (url == settings.cashu_mints[0] and unit not in units):
        has = ", ".join(units) or "neither sat nor msat"
        return wrong(
            "mint", f"{url}: it has {has}, not {unit}", "set PRIMARY_MINT_UNIT to what it has, or name another mint"
        )
    if not recovers:
        return note("mint", f"{url}: it cannot restore (NUT-07, NUT-09)", "an old backup could not be used with it")
    quick = "" if locks else "; it knows no locked tokens, so each payment waits for it"
    return ok("mint", f"{url}: keys valid, units {', '.join(units)}{quick}")


async def upstreams(settings: Settings, deadline_s: float) -> tuple[list[Finding], Lists]:
    """Whether each gives its list of models; the lists of those that do, by name."""
    specs = settings.upstreams()
    lists = await asyncio.gather(*(_listed(settings, spec, deadline_s) for spec in specs))
    found = [each for each in lists if isinstance(each, Finding)]
    good = {spec.name: each for spec, each in zip(specs, lists, strict=True) if not isinstance(each, Finding)}
    return [*found, *(ok("upstream", f"{name}: it lists {len(each)} models") for name, each in good.items())], good


async def _listed(settings: Settings, spec: UpstreamSpec, deadline_s: float) -> list[Mapping[str, Any]] | Finding:
    kind = known_kinds()[spec.kind]
    timeouts = Timeouts(settings.upstream_connect_timeout_s, deadline_s, deadline_s)
    surroundings = Surroundings(timeouts, Tasks(), settings.data_dir, settings.routes)
    try:
        async with asyncio.timeout(deadline_s):
            if kind.has_wallet:  # its wallet is the running node's
                async with client_for(Purpose.UPSTREAMS, surroundings.routes_to(spec)) as http:
                    return list((await look(http, spec.base_url)).listed)
            upstream = await kind.open(spec, surroundings)
            try:
                return await upstream.models()
            finally:
                await upstream.close()
    except UpstreamRefused as error:
        return wrong("upstream", f"{spec.name}: it answers {error.status}", error.remedy)
    except (UpstreamError, NodeError, NoTor, TimeoutError) as error:
        words = str(error) or f"no answer within {deadline_s:g} s"
        return wrong(
            "upstream", f"{spec.name}: {words}", "start it, or check its URL (UPSTREAM_BASE_URL, UPSTREAMS_PATH)"
        )


async def price(settings: Settings, lists: Lists, http: httpx.AsyncClient) -> list[Finding]:
    """Whether what is listed has a price, and where that is in USD, whether bitcoin has one."""
    if not lists:
        return [note("price", "not looked at: no upstream gives a list")]
    catalogue = Catalogue(settings, settings.upstreams(), Tariffs(settings.fixed_btc_usd))
    await asyncio.to_thread(catalogue.update, lists)
    if not len(catalogue):
        remedy = "set FIXED_PER_1K_INPUT_TOKENS and FIXED_PER_1K_OUTPUT_TOKENS, or name a list in MODELS_PATH"
        if settings.models_path is not None:
            remedy = "compare the names in MODELS_PATH with the upstreams' lists, and look whether each has a price"
        return [wrong("price", "no model that is listed has a price", remedy)]
    sold = f"{len(catalogue)} models have a price"
    if settings.fixed_btc_usd is not None or not catalogue.needs_btc:
        return [ok("price", sold)]
    sources = [source_from(text) for text in settings.btc_price_sources]
    asked = BtcPrice(http, sources, timeout_s=settings.btc_price_timeout_s, max_age_s=settings.btc_price_max_age_s)
    await asked.refresh()
    if asked.usd is None:
        remedy = "check that this machine reaches them (BTC_PRICE_SOURCES), or set FIXED_BTC_USD"
        return [wrong("price", f"too few of {len(sources)} sources agree on the price of bitcoin", remedy)]
    return [ok("price", f"{sold}; a bitcoin costs {asked.usd} USD")]


async def payout(settings: Settings, http: httpx.AsyncClient) -> list[Finding]:
    """Whether the address for the earnings gives an invoice, which is not paid; nothing without one."""
    address, least_msat = settings.receive_ln_address, from_sat(settings.minimum_payout)
    if not address:
        return []
    local, routes = settings.allow_local_addresses, settings.routes
    try:
        await address_invoice(address, least_msat, http, allow_local=local, routes=routes)
    except (AddressUnavailable, RequestUnreadable) as error:
        return [note("payout", f"{address}: {error}", "check RECEIVE_LN_ADDRESS: earnings stay at the mint meanwhile")]
    return [ok("payout", f"{address} takes {settings.minimum_payout} sats")]
