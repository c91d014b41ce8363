"""Payouts: the node's own earnings to the operator's Lightning address, once they are worth it. Never users' balances.

Boundaries, each committed before the next begins:

    1. ledger   a hold on the earnings and the payout's intent
    2. wallet   the payment's journal; the payment through the mint
    3. ledger   the hold posted for what was paid with its fees, the rest free again

Coins of a mint that callers' balances came from are left there for their refunds. A balance that came from several mints
counts with one of them, and what was earned of granted credit is no money that came in: so never more is paid out than all
mints together have brought beyond all that callers could ask back.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

import msgspec

from node.errors import Refusal
from node.ledger.ledger import Ledger
from node.ledger.model import Payout
from node.lightning import Cashier
from relays.money import Msat
from router_client.ecash.token import MSAT_PER_UNIT, to_msat
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable, WalletError

log = logging.getLogger(__name__)


class PayoutRule(msgspec.Struct, frozen=True):
    """Where earnings go, and from which sum on; without an address they stay in the wallet."""

    address: str
    threshold_msat: Msat
    mints: tuple[str, ...]
    """Whose coins are paid out."""


class Payouts:
    """Pays earnings out."""

    def __init__(
        self,
        ledger: Ledger,
        wallet: Wallet,
        cashier: Cashier,
        rule: PayoutRule,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._cashier = cashier
        self._rule = rule
        self._clock = clock

    async def run(self) -> Payout | None:
        """Go on with a payout that is open, or begin one if the earnings reach the threshold; returns what was paid.

        Raises StorageError and LedgerError; a payment that does not go through is logged, and tried at the next run.
        """
        for payout in await self._ledger.open_payouts():
            return await self._finish(payout)
        if not self._rule.address:
            return None
        earned_msat = (await self._ledger.earnings()).available_msat
        source = await self._source()
        if source is None:
            return None
        (mint, unit), own_msat = source
        amount_msat = min(earned_msat, own_msat, await self._ledger.free_msat())
        amount_msat -= amount_msat % MSAT_PER_UNIT[unit]
        if amount_msat <= 0 or amount_msat < self._rule.threshold_msat:
            return None
        wish = Payout(
            id=f"payout_{secrets.token_hex(12)}",
            state="open",
            mint=mint,
            unit=unit,
            amount_msat=amount_msat,
            fee_msat=0,
            recipient=self._rule.address,
            instance=self._ledger.instance,
            created_at=int(self._clock()),
        )
        return await self._finish(await self._ledger.begin_payout(wish))

    async def _finish(self, payout: Payout) -> Payout | None:
        try:
            paid = await self._cashier.pay(
                payout.recipient, Msat(payout.amount_msat), payout.mint, payout.unit, payout.id
            )
        except MintUnavailable as error:
            log.warning("payout %s waits: %s", payout.id, error)
            return None
        except (Refusal, WalletError) as error:
            made = self._wallet.outcome(payout.id)
            if made is not None and made.state != "failed":
                log.error("payout %s is stuck: %s", payout.id, error)
                return None
            await self._ledger.fail_payout(payout.id)
            log.warning("payout of %d msat was not made: %s", payout.amount_msat, error)
            return None
        paid_msat = paid.paid_msat + paid.fee_msat
        await self._ledger.finish_payout(payout.id, paid_msat, paid.fee_msat)
        log.info("paid out %d msat, fees %d msat", paid.paid_msat, paid.fee_msat)
        return msgspec.structs.replace(payout, state="done", amount_msat=paid_msat, fee_msat=paid.fee_msat)

    async def _source(self) -> tuple[tuple[str, str], int] | None:
        """The mint and unit whose coins are most of all the node's own, and how much of them is."""
        owed = await self._ledger.owed()
        own = {
            source: to_msat(amount, source[1]) - owed.get(source, 0)
            for source, amount in self._wallet.balances().items()
            if source[0] in self._rule.mints
        }
        return max(own.items(), key=lambda item: (item[1], item[0])) if own else None
