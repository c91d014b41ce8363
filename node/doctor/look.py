"""All of it, at once, each part with a deadline."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final

import httpx

from node.config import Settings
from node.doctor import machine, reach, shop
from node.doctor.finding import Finding, note
from node.doctor.tor import way_out
from relays.event import Signer
from relays.routes import Purpose
from router_client.disk.storage import is_held
from router_client.net.outside import client_for

DEADLINE_S: Final = 10.0
"""Of each question that is asked of somebody."""
ONION_S: Final = 60.0
"""Tor takes its time for a service that it has not met."""


async def examine(settings: Settings, deadline_s: float = DEADLINE_S) -> list[Finding]:
    """What is right and wrong with a configuration, in the order in which to put it right."""
    signer = _signer(settings)
    async with AsyncExitStack() as stack:
        settings, of_tor = await way_out(settings, stack, deadline_s)
        found = await _examine(settings, signer, deadline_s)
    return [*of_tor, *found]


async def _examine(settings: Settings, signer: Signer, deadline_s: float) -> list[Finding]:
    routes = settings.routes
    async with (
        client_for(Purpose.MINTS, routes) as at_mints,
        client_for(Purpose.PRICES, routes) as at_prices,
        client_for(Purpose.ADDRESSES, routes) as at_addresses,
        client_for(Purpose.NODES, routes) as at_nodes,
    ):
        mints = asyncio.gather(*(shop.mint(settings, url, at_mints, deadline_s) for url in settings.cashu_mints))
        runs = is_held(settings.lock_path)
        relays = asyncio.gather(
            *(reach.relay(url, signer, deadline_s, routes, is_announced=runs) for url in settings.relays)
        )
        found = await asyncio.gather(
            machine.data(settings),
            machine.books(settings),
            machine.clock(settings, at_mints, deadline_s),
            mints,
            _sold(settings, at_prices, deadline_s),
            shop.payout(settings, at_addresses),
            relays,
            reach.public_url(settings, signer.npub, at_nodes, deadline_s),
            reach.onion(settings, signer.npub, at_nodes, ONION_S),
        )
    silent = [] if settings.relays else [note("relay", "none: the node is not announced", "name some in RELAYS")]
    return [*(finding for each in found for finding in each), *silent]


async def _sold(settings: Settings, at_prices: httpx.AsyncClient, deadline_s: float) -> list[Finding]:
    found, lists = await shop.upstreams(settings, deadline_s)
    return [*found, *await shop.price(settings, lists, at_prices)]


def _signer(settings: Settings) -> Signer:
    """The node's key; where there is none yet, one for this look alone: the first start makes it."""
    if settings.nsec.get_secret_value() or (settings.data_dir / "nsec").exists():
        return settings.signer()
    return Signer.generate()
