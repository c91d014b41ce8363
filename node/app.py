"""The composition root: one node put together from its settings, and taken apart in order."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from node.announcer import Announcer
from node.catalogue import Catalogue
from node.completions import Completions
from node.config import Settings
from node.credentials import Credentials
from node.deposits import Deposits
from node.errors import UpstreamError
from node.jobs import schedule
from node.ledger.ledger import Ledger
from node.node import Node
from node.refunds import Refunds
from node.tasks import Tasks
from node.upstream.openai import OpenAIUpstream
from relays.event import Signer
from relays.pool import RelayPool
from router_client.ecash.wallet import Wallet
from router_client.storage import exclusive

log = logging.getLogger(__name__)

DRAIN_S = 20


@asynccontextmanager
async def open_node(settings: Settings) -> AsyncIterator[Node]:
    """A running node: what a crash left is finished first, then its jobs run until the block ends."""
    signer, tasks = settings.signer(), Tasks()
    # Two processes on one ledger would free each other's holds as a dead one's.
    with exclusive(settings.lock_path):
        async with _running(settings, signer, tasks) as node:
            yield node


@asynccontextmanager
async def _running(settings: Settings, signer: Signer, tasks: Tasks) -> AsyncIterator[Node]:
    async with httpx.AsyncClient() as http, RelayPool(settings.relays, signer) as pool:
        upstream = OpenAIUpstream(
            settings.upstream_base_url,
            settings.upstream_api_key.get_secret_value(),
            connect_timeout_s=settings.upstream_connect_timeout_s,
            idle_timeout_s=settings.upstream_idle_timeout_s,
        )
        ledger = await Ledger.open(settings.ledger_url, instance=settings.instance())
        wallet = await Wallet.open(settings.wallet_path, http)
        catalogue = Catalogue(settings)
        deposits = Deposits(ledger, wallet, tasks, settings.cashu_mints)
        node = Node(
            settings=settings,
            signer=signer,
            ledger=ledger,
            wallet=wallet,
            upstream=upstream,
            catalogue=catalogue,
            deposits=deposits,
            refunds=Refunds(ledger, wallet, tasks),
            credentials=Credentials(ledger, deposits),
            completions=Completions(ledger, upstream, signer, tasks, settings.request_timeout_s),
            announcer=Announcer(settings, signer, catalogue, pool),
        )
        scheduler = schedule(node)
        try:
            await _settle_the_past(node)
            scheduler.start()
            yield node
            await node.announcer.withdraw()
        finally:
            if scheduler.running:
                scheduler.shutdown(wait=False)
            if late := await tasks.drain(DRAIN_S):
                log.error("%d tasks did not end; their journals finish them at the next start", late)
            await upstream.close()
            wallet.close()
            await ledger.close()


async def _settle_the_past(node: Node) -> None:
    """Free what an earlier process held and prove the sums before serving; the jobs finish its deposits and refunds, since
    a mint that is silent now must not keep the node from starting."""
    if orphans := await node.ledger.expire_orphans():
        log.warning("freed %d holds that an earlier run left", orphans)
    await node.ledger.audit()
    try:
        node.catalogue.update(await node.upstream.models())
    except UpstreamError as error:
        log.warning("no models yet: %s", error)
