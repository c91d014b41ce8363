"""The composition root: one node put together from its settings, and taken apart in order."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from node.announcer import Announcer
from node.cash import Cash
from node.completions import Completions
from node.config import Settings
from node.credentials import Credentials
from node.deposits import Deposits, MintRule
from node.errors import UpstreamError
from node.front import open_front
from node.gauge import Gauge
from node.holding import Holding
from node.invoices import Invoices
from node.jobs import schedule
from node.l402 import L402
from node.ledger.ledger import Ledger
from node.lightning import Cashier
from node.limits import RateLimits
from node.node import Node
from node.payouts import PayoutRule, Payouts
from node.proofs import Proofs
from node.pulse import Pulse
from node.readiness import Readiness
from node.redemptions import Redemptions
from node.refunds import Refunds
from node.replay import Replays
from node.shop.lease import LEASE_S, socket_path
from node.shop.listing import Listing
from node.shop.tariffs import Utilisation
from node.tasks import Tasks
from node.till import SHOP, Till
from node.upstream.fleet import Fleet
from relays.event import Signer
from relays.money import from_sat
from relays.pool import RelayPool
from relays.routes import Purpose
from router_client.discovery.directory import Directory
from router_client.disk.storage import exclusive
from router_client.ecash.wallet import Wallet
from router_client.net.outside import client_for

log = logging.getLogger(__name__)

DRAIN_S = 20
STOP_S = 5
MINTS_S = 5
"""The start waits no longer for mints; the jobs ask again."""


@asynccontextmanager
async def open_node(settings: Settings, *, with_counters: bool = False) -> AsyncIterator[Node]:
    """A running node: what a crash left is finished first, then its jobs run until the block ends. `with_counters`, other
    processes sell by its prices."""
    signer, tasks = settings.signer(), Tasks()
    # Two processes on one ledger would free each other's holds as a dead one's.
    with exclusive(settings.lock_path):
        settings.check_whole()
        if with_counters:  # those of a till that crashed may charge by what that one told until now
            await asyncio.sleep(LEASE_S)
        async with _running(settings, signer, tasks) as node, AsyncExitStack() as stack:
            if with_counters:
                await stack.enter_async_context(node.till.open(socket_path(settings.data_dir, SHOP)))
            yield node


def limits_of(settings: Settings) -> RateLimits:
    """Of one process."""
    return RateLimits(settings.max_requests_per_key, settings.requests_per_minute, settings.tokens_per_minute)


def completions_of(
    settings: Settings, ledger: Ledger, holding: Holding, fleet: Fleet, signer: Signer, tasks: Tasks, pulse: Pulse
) -> Completions:
    """Paid requests of one process."""
    return Completions(
        ledger,
        holding,
        fleet,
        signer,
        tasks,
        pulse,
        timeout_s=settings.request_timeout_s,
        first_token_s=settings.upstream_first_token_timeout_s,
    )


@asynccontextmanager
async def _running(settings: Settings, signer: Signer, tasks: Tasks) -> AsyncIterator[Node]:
    routes, allow_local = settings.routes, settings.allow_local_addresses
    async with (
        client_for(Purpose.MINTS, routes) as mints,
        client_for(Purpose.PRICES, routes) as prices,
        client_for(Purpose.ADDRESSES, routes) as addresses,
        RelayPool(settings.relays, signer, routes) as pool,
    ):
        front = await open_front(settings, prices, tasks)
        fleet, catalogue = front.fleet, front.catalogue
        ledger = await _open_ledger(settings, fleet)
        wallet = await Wallet.open(settings.wallet_path, mints, stock=settings.change_stock)
        unit = settings.primary_mint_unit
        mint_rule = MintRule(settings.cashu_mints, settings.swap_foreign_mints, unit, allow_local, routes)
        deposits = Deposits(ledger, wallet, tasks, mint_rule)
        cashier = Cashier(wallet, addresses, allow_local=allow_local, routes=routes)
        redemptions = Redemptions(ledger, wallet)
        refunds = Refunds(ledger, wallet, cashier, redemptions, tasks, settings.cashu_mints)
        cash = Cash(ledger, wallet, deposits, refunds, settings.cashu_mints)
        limits, fixed, pulse = limits_of(settings), settings.fixed_btc_usd, Pulse()
        holding = Holding(ledger, tasks, settings.request_timeout_s)
        till = Till(catalogue, lambda: front.btc_price.known_until if fixed is None else math.inf, pulse.hear)
        gauge = Gauge(settings, signer.pubkey, catalogue, pulse, lambda: limits.in_flight + till.running)
        directory = Directory(pool, addresses, probing=False)
        announcer = Announcer(
            settings, signer, catalogue, pool, gauge, lambda: cash.lock, lambda: pulse.asked, board=directory.board
        )
        invoices = Invoices(ledger, wallet, settings.cashu_mints[0], unit, signer.secret_for("invoices"))
        l402 = L402(signer, ledger, invoices, tasks, is_offered=settings.l402)
        rule = PayoutRule(settings.receive_ln_address, from_sat(settings.minimum_payout), settings.cashu_mints)
        node = Node(
            settings=settings,
            signer=signer,
            ledger=ledger,
            wallet=wallet,
            fleet=fleet,
            btc_price=front.btc_price,
            catalogue=catalogue,
            till=till,
            listing=Listing(catalogue, settings.name),
            deposits=deposits,
            refunds=refunds,
            cash=cash,
            invoices=invoices,
            l402=l402,
            redemptions=redemptions,
            payouts=Payouts(ledger, wallet, cashier, rule),
            replays=Replays(ledger),
            credentials=Credentials(ledger, deposits, l402),
            holding=holding,
            completions=completions_of(settings, ledger, holding, fleet, signer, tasks, pulse),
            limits=limits,
            utilisation=Utilisation(settings.utilisation_capacity),
            announcer=announcer,
            proofs=Proofs(signer, settings.announced_urls),
            directory=directory,
            readiness=Readiness(ledger, wallet, fleet, catalogue, settings.cashu_mints, routes, settings.folders),
        )
        async with _at_work(node, tasks):
            yield node


@asynccontextmanager
async def _at_work(node: Node, tasks: Tasks) -> AsyncIterator[None]:
    """Its jobs run, and all of it is closed afterwards."""
    scheduler = schedule(node)
    try:
        await _settle_the_past(node)
        scheduler.start()
        async with _listening(node, tasks):
            yield
    finally:
        await node.announcer.withdraw()  # first: who looks for a node finds it no longer
        if scheduler.running:
            scheduler.shutdown(wait=False)
        await end(tasks)
        await node.fleet.close()
        node.wallet.close()
        await node.ledger.close()


async def _open_ledger(settings: Settings, fleet: Fleet) -> Ledger:
    """Raises StorageError where there are no books to be had; then nothing stays open."""
    try:
        return await Ledger.open(settings.ledger_url, instance=settings.instance())
    except BaseException:
        await fleet.close()
        raise


async def end(tasks: Tasks) -> None:
    """What runs has ended, or is stopped while the books are open: what was streamed is charged."""
    if late := await tasks.drain(DRAIN_S):
        log.error("%d tasks did not end and are stopped; their journals finish them at the next start", late)
    await tasks.stop(STOP_S)


@asynccontextmanager
async def _listening(node: Node, tasks: Tasks) -> AsyncIterator[None]:
    """Follow what others announce, until the block ends; silent relays must not keep the node from starting.

    Nobody is probed: it is not for a server to knock at addresses of strangers, which could be of its own network.
    """

    async def listen() -> None:
        async with node.directory.live():
            await asyncio.Event().wait()

    listening = tasks.start(listen(), "listen to relays") if node.settings.relays else None
    try:
        yield
    finally:
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def _settle_the_past(node: Node) -> None:
    """End what an earlier process held and prove the sums before serving; the jobs finish its deposits and refunds, since
    a mint that is silent now must not keep the node from starting."""
    if orphans := await node.ledger.expire_orphans():
        log.warning("ended %d holds that an earlier run left", orphans)
    await node.ledger.audit()
    with suppress(TimeoutError):
        async with asyncio.timeout(MINTS_S):
            await node.cash.pin_mints()
    try:
        node.catalogue.update(await node.fleet.models())
    except UpstreamError as error:
        log.warning("no models yet: %s", error)
    await node.refresh_btc()
