"""Money out: what a caller paid in and did not use becomes a Cashu token again, once.

Boundaries, each committed before the next begins:

    1. ledger   a hold on the balance and the refund's intent
    2. wallet   the send's journal; the swap at the mint, if the coins do not fit; the token
    3. ledger   the hold posted, the token kept with the refund
    4. the answer, the same however often it is asked for until money comes in again
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from weakref import WeakValueDictionary

from node.errors import NodeFault, Refusal
from node.ledger.ledger import Ledger
from node.ledger.model import NothingToRefund, Refund
from node.tasks import Tasks
from relays import payment
from router_client.ecash.token import MSAT_PER_UNIT
from router_client.ecash.wallet import Wallet
from router_client.errors import ClientError, InsufficientFunds, MintUnavailable, WalletError

log = logging.getLogger(__name__)


class Refunds:
    """Pays balances out."""

    def __init__(self, ledger: Ledger, wallet: Wallet, tasks: Tasks) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._tasks = tasks
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def refund(self, account: int) -> Refund:
        """The whole refundable balance as a token. Raises Refusal 403 nothing to refund, 503 mint away: ask again."""
        return await asyncio.shield(self._tasks.start(self._one_at_a_time(account), "refund"))

    async def recover(self) -> int:
        """Finish refunds that a crash or a silent mint left open; returns how many are done now."""
        done = 0
        for refund in await self._ledger.open_refunds():
            try:
                async with self._turn(refund.account):
                    await self._finish(refund)
                done += 1
            except (NodeFault, ClientError) as error:  # one refund's trouble is not the others'
                log.warning("refund %s waits: %s", refund.id, error)
        return done

    async def _one_at_a_time(self, account: int) -> Refund:
        async with self._turn(account):
            return await self._begin(account)

    def _turn(self, account: int) -> asyncio.Lock:
        """One refund of an account at a time: one that is given up must not be finished by another caller meanwhile."""
        return self._turns.setdefault(account, asyncio.Lock())

    async def _begin(self, account: int) -> Refund:
        mint, unit = await self._source(account)
        wish = Refund(
            id=f"refund_{secrets.token_hex(12)}",
            account=account,
            state="open",
            mint=mint,
            unit=unit,
            amount_msat=0,
            fee_msat=0,
            token="",
            instance=self._ledger.instance,
        )
        begun = await self._ledger.begin_refund(wish)
        if isinstance(begun, NothingToRefund):
            if (await self._ledger.account(account)).held_msat:
                raise Refusal(
                    409,
                    payment.BALANCE_HELD,
                    "running requests hold the balance: ask again when they are done",
                    headers={"retry-after": "2"},
                )
            raise Refusal(
                403,
                payment.NOT_REFUNDABLE,
                "there is nothing to refund: granted credit is not paid out, nor is less than a whole coin",
                details={"available_msat": begun.available_msat},
            )
        return await self._finish(begun)

    async def _finish(self, refund: Refund) -> Refund:
        if refund.state == "done":
            return refund
        amount = refund.amount_msat // MSAT_PER_UNIT[refund.unit]
        try:
            sent = await self._wallet.send(amount, refund.mint, refund.unit, refund.id, fees="inside")
        except MintUnavailable as error:
            raise Refusal(
                503,
                payment.MINT_UNAVAILABLE,
                "the mint does not answer: ask for the refund again later, it is made once",
                headers={"retry-after": "10"},
            ) from error
        except WalletError as error:
            made = self._wallet.outcome(refund.id)
            if made is not None and made.state != "failed":
                # A token was made or may be: this refund is never given up.
                log.error("refund %s is stuck: %s", refund.id, error)
                raise Refusal(
                    503,
                    payment.MINT_UNAVAILABLE,
                    "the mint gave a wrong answer; the refund goes on when it is well again",
                ) from error
            await self._ledger.fail_refund(refund.id)
            log.error("refund %s of %d msat failed: %s", refund.id, refund.amount_msat, error)
            held = self._wallet.balances().get((refund.mint, refund.unit), 0)
            if isinstance(error, InsufficientFunds) and held >= amount:
                raise Refusal(403, payment.NOT_REFUNDABLE, "the balance is less than the mint's fee") from error
            raise Refusal(
                503, payment.MINT_UNAVAILABLE, "the refund could not be made; the balance is as it was: try again later"
            ) from error
        return await self._ledger.finish_refund(refund.id, token=sent.token, fee_msat=sent.fee_msat)

    async def _source(self, account: int) -> tuple[str, str]:
        """Where the refund comes from: the mint and unit of the latest deposit, or another that holds enough."""
        preferred = await self._ledger.refund_source(account)
        if preferred is None:
            raise Refusal(403, payment.NOT_REFUNDABLE, "there is nothing to refund: granted credit is not paid out")
        wanted_msat = (await self._ledger.account(account)).refundable_msat
        balances = self._wallet.balances()
        for (mint, unit), amount in sorted(balances.items(), key=lambda item: item[0] != preferred):
            if amount * MSAT_PER_UNIT[unit] >= wanted_msat:
                return mint, unit
        return preferred
