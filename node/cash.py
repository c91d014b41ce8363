"""Requests that bring their own money: a token in `X-Cashu`, the change on the answer (NUT-24).

The token opens an account of its own, so the request is held, charged and refunded like any other, and whoever has the
token can fetch what is left of it for as long as it takes: nothing depends on the caller staying to the end.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from node.deposits import Deposits, refusal_for
from node.errors import NodeFault, Refusal
from node.ledger.ledger import Ledger
from node.ledger.model import Key, Refund
from node.quote import Quote
from node.refunds import Refunds
from relays import payment
from relays.money import to_sat_ceil
from router_client.ecash.coins import swap_fee
from router_client.ecash.request import PaymentRequest, encode_a, locked_to
from router_client.ecash.token import looks_like_token, token_hash
from router_client.ecash.wallet import Wallet
from router_client.errors import ClientError, WalletError

log = logging.getLogger(__name__)

CHANGE_DEADLINE_S: Final = 10.0
"""An answer does not wait longer for its change, which is then fetched by `GET /v1/change/{request_id}`."""
UNIT: Final = "sat"
FEE_COINS: Final = 16
"""A payer that does not add the mint's fee is asked for enough to cover that of so many coins."""


class Cash:
    """Money with the request, change with the answer."""

    def __init__(
        self, ledger: Ledger, wallet: Wallet, deposits: Deposits, refunds: Refunds, mints: tuple[str, ...]
    ) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._deposits = deposits
        self._refunds = refunds
        self._mints = mints
        self._lock: str | None = None
        self._fee_ppk: dict[str, int] = {}

    @property
    def lock(self) -> str | None:
        """The public key that tokens may be locked to, once a mint is known that honours locks."""
        return self._lock

    async def pin_mints(self) -> bool:
        """Learn the mints' keys, so that locked tokens of theirs are accepted without asking; a silent one is left out.

        Returns whether locks are honoured now and were not before.
        """
        before = self._lock
        for mint in self._mints:
            try:
                if await self._wallet.pin(mint):
                    self._lock = self._wallet.lock_key
                self._fee_ppk[mint] = await self._wallet.fee_ppk(mint, UNIT)
            except WalletError as error:
                log.warning("mint %s: %s", mint, error)
        return self._lock != before

    async def payer(self, text: str, quote: Quote, *, repeated: bool = False) -> Key:
        """The key of the account that the token opens, with at least the quote's hold on it, unless the request may be
        `repeated` and have its answer already.

        Raises Refusal: 402 for a token that is worth less, before it is touched; else what `Deposits` raises.
        """
        token = self._deposits.read(text)
        key = await self._ledger.key_of(token_hash(text))
        if key is not None:
            return key if repeated else await self._known(key, quote)
        try:
            fee_msat = (await self._wallet.fees(token)).this_msat if token.mint in self._mints else 0
        except WalletError as error:
            raise refusal_for(error) from error
        if token.amount_msat - fee_msat < quote.hold_msat:
            raise _too_little(quote, token.amount_msat, fee_msat)
        await self._deposits.open_account(text, token=token)
        opened = await self._ledger.key_of(token_hash(text))
        assert opened is not None
        return opened

    async def change(self, key: Key) -> Refund | None:
        """What is left of the token; None when nothing is, or when it takes too long and has to be fetched later: also while
        a request runs, since change that is not all of it would pass for it."""
        try:
            async with asyncio.timeout(CHANGE_DEADLINE_S):
                if await self._ledger.is_running(key.account):
                    return None
                refund = (await self._refunds.refund(key)).refund
                return refund if refund.token else None  # one to a Lightning address may be under way
        except (NodeFault, ClientError, TimeoutError) as error:
            if not isinstance(error, Refusal) or error.status >= 500:
                log.warning("the change of account %d is not ready: %s", key.account, error)
            return None

    async def fetch_change(self, request_id: str, token: str) -> Refund:
        """The change of a request, for whoever has the token that paid for it. Raises Refusal 401, 404, 409 or 503."""
        key = await self._ledger.key_of(token_hash(token)) if looks_like_token(token) else None
        if key is None:
            raise Refusal(401, payment.UNKNOWN_CREDENTIAL, "send the token that paid, as X-Cashu or as the bearer")
        if await self._ledger.account_of_request(request_id) != key.account:
            raise Refusal(404, payment.NOT_FOUND, "this token did not pay for a request of that id")
        if await self._ledger.is_running(key.account):
            raise Refusal(
                409,
                payment.BALANCE_HELD,
                "the request still runs: ask for its change when it is done",
                headers={"retry-after": "2"},
            )
        try:
            return (await self._refunds.refund(key)).refund
        except Refusal as error:
            if error.code == payment.NOT_REFUNDABLE:
                raise Refusal(404, payment.NOT_FOUND, "there is no change: nothing is left, or it was spent") from error
            raise

    def challenge(self, quote: Quote) -> str:
        """What is asked for, as the `X-Cashu` header of a 402: `creqA…` (NUT-18), locked where locks are honoured."""
        fee = swap_fee([max(self._fee_ppk.values(), default=0)] * FEE_COINS)
        return encode_a(
            PaymentRequest(
                amount=to_sat_ceil(quote.hold_msat) + fee,
                unit=UNIT,
                single_use=True,
                mints=self._mints,
                description=f"up to {quote.hold_msat} msat for {quote.model.id}; the rest comes back",
                lock=None if self._lock is None else locked_to(self._lock),
            )
        )

    async def _known(self, key: Key, quote: Quote) -> Key:
        """A token that paid before: good for what is left of it."""
        account = await self._ledger.account(key.account)
        if account.available_msat + account.held_msat < quote.hold_msat:
            raise Refusal(
                409,
                payment.TOKEN_SPENT,
                "this token paid for an earlier request; GET /v1/change/{request_id} has what is left of it",
                headers={"x-should-retry": "false"},
            )
        return key


def _too_little(quote: Quote, face_msat: int, fee_msat: int) -> Refusal:
    return Refusal(
        402,
        payment.INSUFFICIENT_BALANCE,
        f"this request can cost up to {quote.hold_msat} msat, the token is worth {face_msat} msat less the mint's fee of "
        f"{fee_msat} msat: it was not touched; send more (the rest comes back), or ask for less with 'max_tokens'",
        details={
            "amount_required_msat": quote.hold_msat,
            "available_msat": face_msat - fee_msat,
            "model": quote.model.id,
        },
    )
