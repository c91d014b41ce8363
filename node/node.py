"""One node: the parts that serve, by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from node.announcer import Announcer
from node.cash import Cash
from node.completions import Completions
from node.config import Settings
from node.credentials import Credentials
from node.deposits import Deposits
from node.errors import LedgerError
from node.holding import Holding
from node.invoices import Invoices
from node.l402 import L402
from node.ledger.ledger import Ledger
from node.limits import RateLimits
from node.payouts import Payouts
from node.proofs import Proofs
from node.readiness import Readiness
from node.redemptions import Redemptions
from node.refunds import Refunds
from node.replay import Replays
from node.shop.catalogue import Catalogue
from node.shop.listing import Listing
from node.shop.tariffs import Utilisation, factor_of
from node.till import Till
from node.upstream.fleet import Fleet
from relays.event import Signer
from router_client.discovery.directory import Directory
from router_client.ecash.token import to_msat
from router_client.ecash.wallet import Wallet
from router_client.spending.btc import BtcPrice

log = logging.getLogger(__name__)


AUDIT_LOOKS = 3
"""Coins that left in the very moment of a look are booked at the next."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one node consists of."""

    settings: Settings
    signer: Signer
    ledger: Ledger
    wallet: Wallet
    fleet: Fleet
    btc_price: BtcPrice
    catalogue: Catalogue
    till: Till
    listing: Listing
    deposits: Deposits
    refunds: Refunds
    cash: Cash
    invoices: Invoices
    l402: L402
    redemptions: Redemptions
    payouts: Payouts
    replays: Replays
    credentials: Credentials
    holding: Holding
    completions: Completions
    limits: RateLimits
    utilisation: Utilisation
    announcer: Announcer
    proofs: Proofs
    directory: Directory
    readiness: Readiness

    async def refresh_models(self) -> None:
        """Take over the upstream's list of models; announce it when the offer changed. Raises UpstreamError."""
        lists = await self.fleet.models()
        chosen = await asyncio.to_thread(self.catalogue.chosen)  # once: it may be edited while it is shown to counters

        async def put(shop: Catalogue) -> bool:
            return await asyncio.to_thread(shop.put, lists, chosen)  # thousands of models take a while

        if await self.till.change(put):
            log.info("%d models for sale", len(self.catalogue))
            if self.btc_price.latest is None:
                await self.refresh_btc()
            await self.announcer.publish_changes()

    async def refresh_btc(self) -> None:
        """Ask what bitcoin costs, if anything is priced in USD; announce the new prices if it has moved."""
        if self.settings.fixed_btc_usd is not None or not self.catalogue.needs_btc:
            return
        # With counters the price of before is told until the change is made, however old it is.
        was_open = self.catalogue.tariffs.btc_is_known or self.till.has_counters
        if await self.btc_price.refresh() and self.btc_price.latest is not None:
            usd = self.btc_price.latest
            log.info("a bitcoin costs %s USD", usd)

            async def put(shop: Catalogue) -> bool:
                shop.tariffs.put_btc(usd, was_open=was_open)
                return True

            await self.till.change(put)
            await self.announcer.publish_changes()

    async def look_how_busy(self) -> None:
        """Make prices follow how busy the node is, if the operator wants that; announce them when they have changed."""
        settings = self.settings
        if not settings.utilisation_gamma:
            return
        running = self.limits.in_flight + self.till.running
        busy = self.utilisation.seen(running)
        factor = factor_of(busy, settings.utilisation_gamma, settings.price_floor, settings.price_ceiling)

        async def put(shop: Catalogue) -> bool:
            return shop.tariffs.put_factor(factor)

        if await self.till.change(put):
            log.info("prices are times %s: %d requests run", factor, running)
            await self.announcer.publish_changes()

    async def look_at_mints(self) -> None:
        """Learn the mints' keys; announce it when locked ecash can be taken from now on."""
        if await self.cash.pin_mints():
            await self.announcer.publish_changes()

    async def audit(self) -> None:
        """Prove the books, and that this process's wallet holds what they say came in. Raises LedgerError.

        Money moves meanwhile: what came is asked before the look at the wallet, what left after it, so that it can only
        seem to hold more. What cannot be told is logged.
        """
        await self.ledger.audit()
        for _ in range(AUDIT_LOOKS):
            async with self.redemptions.booked():
                # Coins that foreign mints' tokens left there are in no book: they must not make up for what is missing.
                mints = {*self.settings.cashu_mints, *await self.ledger.mints()}
                before = await self.ledger.due()
                holds_msat = self.wallet.holdings(mints).all_msat
                after = await self.ledger.due()
            due_msat, gone_msat = before.came_msat - after.left_msat, self._gone_msat(after.leaving)
            if holds_msat + gone_msat >= due_msat:
                if gone_msat:
                    log.info("audit: %d msat have left the wallet and are not booked yet", gone_msat)
                if after.untold_msat:
                    log.info(
                        "audit: whose %d msat of mints' fees are, among the processes, is not told", after.untold_msat
                    )
                return
        raise LedgerError(f"the wallet holds {holds_msat} msat, {due_msat - gone_msat} msat came in")

    def _gone_msat(self, leaving: Iterable[str]) -> int:
        """What of refunds and payouts that are not booked has left: of those that the mint keeps waiting, or that were not
        begun, the coins are still here."""
        made = [self.wallet.outcome(id_) for id_ in leaving]
        done = [each for each in made if each is not None and each.state == "done"]
        return sum(to_msat(each.journal.amount + each.journal.fee, each.unit) for each in done)
