"""Money out: what a caller paid in and did not use leaves again, as a Cashu token or to a Lightning address, once.

Boundaries, each committed before the next begins:

    1. ledger   a hold on the balance and the refund's intent
    2. wallet   the journal of a send or a melt; the exchange with the mint, if the coins do not fit; the token
    3. ledger   the hold posted, the token kept with the refund
    4. the answer: the token, and any earlier one that its owner may not have

Asked again, it answers the same until money comes in or is released; then it makes the next refund, and tells of the one
before beside it. A token is no longer told of when its mint calls it spent, or its owner says that it has arrived.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from node.errors import NodeFault, Refusal
from node.ledger.ledger import Ledger
from node.ledger.model import Key, Refund
from node.lightning import Cashier
from node.redemptions import Redemptions
from node.tasks import Tasks
from relays import payment
from relays.money import Msat, ceil_div
from router_client.ecash.token import MSAT_PER_UNIT, to_msat
from router_client.ecash.wallet import Wallet
from router_client.errors import ClientError, InsufficientFunds, MintUnavailable, WalletError
from router_client.paying.lnurl import looks_like_address

log = logging.getLogger(__name__)

MOST_EARLIER: Final = 8
"""Tokens that are told of again."""
NOT_MADE: Final = "the refund could not be made; the balance is as it was: try again later"
MOST_TRIES: Final = 3
"""Of one refund, when others take the coins that it was planned with."""


class Answer(msgspec.Struct, frozen=True):
    """A refund, and earlier ones whose answer may have been lost."""

    refund: Refund
    earlier: tuple[Refund, ...] = ()


class Refunds:
    """Pays balances out."""

    def __init__(
        self,
        ledger: Ledger,
        wallet: Wallet,
        cashier: Cashier,
        redemptions: Redemptions,
        tasks: Tasks,
        mints: tuple[str, ...],
    ) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._cashier = cashier
        self._redemptions = redemptions
        self._tasks = tasks
        self._mints = mints
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def refund(self, key: Key, recipient: str = "", received: str = "") -> Answer:
        """The whole refundable balance of the key's account, as a token or to the Lightning address `recipient`.

        `received` names an earlier refund that has arrived. Raises Refusal: 400 no address, 403 nothing to refund or not the
        account's owner, 409 requests hold the balance, 502 the address does not take it, 503 mint away: ask again.
        """
        check_owner(key)
        if recipient and not looks_like_address(recipient):
            raise Refusal(400, payment.INVALID_REQUEST, "not a Lightning address: expected name@domain")
        account = key.account
        work = self._one_at_a_time(account, recipient, received)
        return await asyncio.shield(self._tasks.start(work, "refund"))

    async def recover(self) -> int:
        """Finish refunds that a crash or a silent mint left open; returns how many are done now."""
        done = 0
        for refund in await self._ledger.open_refunds():
            try:
                async with self._turn(refund.account):
                    if not await self._ledger.is_refund_open(refund.id):
                        continue  # it was made, or given up, while we waited for our turn
                    await self._finish(refund)
                done += 1
            except (NodeFault, ClientError) as error:  # one refund's trouble is not the others'
                log.warning("refund %s waits: %s", refund.id, error)
        return done

    async def _one_at_a_time(self, account: int, recipient: str, received: str) -> Answer:
        async with self._turn(account):
            if received:
                await self._ledger.receive_refund(received, account)
            earlier = await self._still_out(account)
            refund = await self._begin(account, recipient, earlier)
            return Answer(refund, tuple(other for other in earlier if other.id != refund.id))

    async def _still_out(self, account: int) -> list[Refund]:
        """Earlier tokens that are not spent, as far as their mint says; what is spent has arrived."""
        out = []
        for refund in await self._ledger.unreceived_refunds(account, MOST_EARLIER):
            try:
                arrived = await self._wallet.is_spent(refund.token)
            except WalletError as error:
                log.warning("refund %s is told of again: %s", refund.id, error)
                arrived = False
            if arrived:
                await self._ledger.receive_refund(refund.id, account)
            else:
                out.append(refund)
        return out

    def _turn(self, account: int) -> asyncio.Lock:
        """One refund of an account at a time: one that is given up must not be finished by another caller meanwhile."""
        return self._turns.setdefault(account, asyncio.Lock())

    async def _begin(self, account: int, recipient: str, earlier: list[Refund]) -> Refund:
        for _ in range(MOST_TRIES):
            wish = await self._wish(account, recipient)
            begun = await self._ledger.begin_refund(wish)
            if not isinstance(begun, Refund):
                if earlier:
                    return earlier[0]
                raise await self._nothing(account, wish.unit)
            try:
                return await self._finish(begun)
            except _CoinsGone:
                log.info("refund %s is planned anew: its coins went elsewhere meanwhile", begun.id)
        raise _ask_again(NOT_MADE)

    async def _wish(self, account: int, recipient: str) -> Refund:
        mint, unit, most_msat = await self._source(account)
        return Refund(
            id=f"refund_{secrets.token_hex(12)}",
            account=account,
            state="open",
            mint=mint,
            unit=unit,
            amount_msat=most_msat,
            fee_msat=0,
            token="",
            recipient=recipient,
            instance=self._ledger.instance,
        )

    async def _nothing(self, account: int, unit: str) -> Refusal:
        state = await self._ledger.account(account)
        if state.held_msat or state.refundable_msat >= MSAT_PER_UNIT[unit]:  # it may have been freed a moment ago
            return Refusal(
                409,
                payment.BALANCE_HELD,
                "running requests hold the balance: ask again when they are done",
                headers={"retry-after": "2"},
            )
        return Refusal(
            403,
            payment.NOT_REFUNDABLE,
            "there is nothing to refund: granted credit is not paid out, nor is less than a whole coin",
            details={"available_msat": state.available_msat},
        )

    async def _finish(self, refund: Refund) -> Refund:
        if refund.state == "done":
            return refund
        if not self._ledger.is_mine(refund.instance):
            raise _ask_again("another process of this node makes this refund: ask for it again later")
        try:
            return await (self._pay(refund) if refund.recipient else self._send(refund))
        except MintUnavailable as error:
            raise _ask_again("the mint does not answer: ask for the refund again later, it is made once") from error
        except WalletError as error:
            made = self._wallet.outcome(refund.id)
            if made is not None and made.state != "failed":
                # It was paid or may be: this refund is never given up.
                log.error("refund %s is stuck: %s", refund.id, error)
                raise _ask_again("the mint gave a wrong answer; the refund goes on when it is well again") from error
            await self._ledger.fail_refund(refund.id)
            raise self._given_up(refund, error) from error
        except Refusal:
            await self._ledger.fail_refund(refund.id)
            raise

    async def _send(self, refund: Refund) -> Refund:
        amount = refund.amount_msat // MSAT_PER_UNIT[refund.unit]
        sent = await self._wallet.send(amount, refund.mint, refund.unit, refund.id, fees="inside")
        return await self._ledger.finish_refund(refund.id, token=sent.token, fee_msat=sent.fee_msat)

    async def _pay(self, refund: Refund) -> Refund:
        """To a Lightning address, whatever is left after the fees; what the fees do not need stays on the balance."""
        if self._wallet.outcome(refund.id) is None:
            await self._redemptions.part(refund.amount_msat // MSAT_PER_UNIT[refund.unit], refund.mint, refund.unit)
        paid = await self._cashier.pay(refund.recipient, Msat(refund.amount_msat), refund.mint, refund.unit, refund.id)
        return await self._ledger.finish_refund(
            refund.id, paid_msat=paid.paid_msat + paid.fee_msat, fee_msat=paid.fee_msat
        )

    def _given_up(self, refund: Refund, error: WalletError) -> Refusal:
        if isinstance(error, InsufficientFunds):
            held_msat = self._wallet.balances().get((refund.mint, refund.unit), 0) * MSAT_PER_UNIT[refund.unit]
            if held_msat >= refund.amount_msat:
                return Refusal(403, payment.NOT_REFUNDABLE, "the balance is less than the mint's fee")
            return _CoinsGone()
        log.error("refund %s of %d msat failed: %s", refund.id, refund.amount_msat, error)
        return _ask_again(NOT_MADE)

    async def _source(self, account: int) -> tuple[str, str, int]:
        """Where the refund comes from, and how much of it at most: the mint and unit of the latest deposit if they hold it
        all, else others that do, else those that hold most: then the rest is the next refund's."""
        preferred = await self._ledger.refund_source(account)
        if preferred is None:
            raise Refusal(403, payment.NOT_REFUNDABLE, "there is nothing to refund: granted credit is not paid out")
        wanted_msat = (await self._ledger.account(account)).refundable_msat
        wanted = ceil_div(wanted_msat, MSAT_PER_UNIT[preferred[1]])
        if preferred[0] in self._mints and self._wallet.holds(wanted, *preferred):
            return *preferred, wanted_msat
        # What came in locked is redeemed when it is needed, and coins that are away come back.
        await self._redemptions.run()
        held = self._held()
        if held.get(preferred, 0) >= wanted_msat or not held:
            return *preferred, wanted_msat
        best = max(held, key=lambda source: (held[source], source))
        return *best, min(held[best], wanted_msat)

    def _held(self) -> dict[tuple[str, str], int]:
        """Coins that refunds can be made of, in msat by (mint, unit)."""
        balances = self._wallet.balances()
        return {source: to_msat(amount, source[1]) for source, amount in balances.items() if source[0] in self._mints}


class _CoinsGone(Refusal):
    """The wallet holds less than when the refund was planned: given up, to be planned anew."""

    def __init__(self) -> None:
        again = _ask_again(NOT_MADE)
        super().__init__(again.status, again.code, again.message, headers=again.headers)


def check_owner(key: Key) -> None:
    """Raise Refusal 403 unless the key may move its account's money: neither made by another key, nor closed."""
    if key.revoked:
        raise Refusal(403, payment.UNKNOWN_CREDENTIAL, "this key was revoked: ask who gave it to you")
    if key.parent is not None:
        raise Refusal(
            403, payment.NOT_ALLOWED, "this key only spends: ask whoever made it, who can move the account's money"
        )


def _ask_again(message: str) -> Refusal:
    return Refusal(503, payment.MINT_UNAVAILABLE, message, headers={"retry-after": "10"})
