"""The holds of this process's requests: made before anything is sent upstream, ended by a post or a void.

Books that are away for a while must neither make free what was served nor keep what was not: an end is insisted on. What
nobody ended is freed when its time is over; whether a request still runs is asked of this process, not of the clock on the
wall, which may jump.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from node.errors import Refusal
from node.ledger.ledger import Ledger
from node.ledger.model import DuplicateHold, Held, HoldOutcome, Insufficient, Key, KeyClosed, LimitReached, Posted
from node.quote import Quote
from node.tasks import Tasks
from relays import payment
from relays.receipt import Receipt
from router_client.errors import StorageError

T = TypeVar("T")

log = logging.getLogger(__name__)

OURS: Final = ":"
"""Ends the fingerprint of a named request; what follows tells one attempt from another."""
AGAIN_S: Final = (0.2, 1, 3, 10, 30, 60, 120)
"""Pauses between attempts to book a request's end."""
MARGIN_S: Final = 120
"""A hold outlives its request's deadline by this, so that it never expires under a request that runs."""


class Holding:
    """Makes and ends holds. `timeout_s` is the longest that a request runs."""

    def __init__(self, ledger: Ledger, tasks: Tasks, timeout_s: float) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._lifetime_s = timeout_s + MARGIN_S
        self._running: dict[str, float] = {}
        """Requests on hold, and when their time is over by the loop's clock."""

    async def hold(self, key: Key, request_id: str, quote: Quote, fingerprint: str = "") -> DuplicateHold | None:
        """Reserve the most the request can cost; what is known of an earlier request of that id, if there is one.

        Raises Refusal 402 with what is missing, 403 for what the key may not do.
        """
        if not key.may_use(quote.model.id):
            raise Refusal(
                403, payment.NOT_ALLOWED, f"this key may not use {quote.model.id}: its list of models is fixed"
            )
        if fingerprint:  # another may hold under the same name: ours is told from it
            fingerprint = f"{fingerprint}{OURS}{secrets.token_hex(4)}"
        holding = self._ledger.hold(key, request_id, quote.hold_msat, self._lifetime_s, fingerprint)
        try:
            outcome = await holding
        except (asyncio.CancelledError, StorageError):
            self._tasks.start(self._void_after(holding, request_id, fingerprint), "void")
            raise
        if isinstance(outcome, Insufficient):
            raise _insufficient(quote, outcome.available_msat)
        if isinstance(outcome, LimitReached | KeyClosed):
            raise _beyond(quote, outcome)
        if isinstance(outcome, DuplicateHold):
            return DuplicateHold(outcome.state, outcome.fingerprint.partition(OURS)[0])
        self._running[request_id] = asyncio.get_running_loop().time() + self._lifetime_s
        return None

    async def post(self, draft: Receipt) -> Posted:
        """Charge what was served and keep the receipt."""
        return await self._insist(partial(self._ledger.post, draft), draft.request_id)

    async def void(self, request_id: str, fingerprint: str | None = None) -> bool:
        """Nothing was served: the hold is free. See `Ledger.void`."""
        return await self._insist(partial(self._ledger.void, request_id, fingerprint), request_id)

    async def expire(self) -> int:
        """End the holds whose time is over, but for those of requests that run; returns how many there were."""
        now = asyncio.get_running_loop().time()
        self._running = {request_id: until for request_id, until in self._running.items() if until > now}
        return await self._ledger.expire_holds(self._running.keys())

    async def _void_after(self, holding: asyncio.Future[HoldOutcome], request_id: str, fingerprint: str) -> None:
        """Free a hold that nobody waits for any more: one that was made, or may have been, but never another's."""
        await asyncio.wait([holding])
        unknown = holding.cancelled() or holding.exception() is not None
        if unknown or isinstance(holding.result(), Held):
            await self.void(request_id, fingerprint)

    async def _insist(self, end: Callable[[], Awaitable[T]], request_id: str) -> T:
        try:
            for pause_s in AGAIN_S:
                try:
                    return await end()
                except StorageError as error:
                    if self._tasks.stopping:
                        raise
                    log.warning("the end of request %s is booked again in %g s: %s", request_id, pause_s, error)
                    await asyncio.sleep(pause_s)
            return await end()
        finally:
            self._running.pop(request_id, None)


def _beyond(quote: Quote, outcome: LimitReached | KeyClosed) -> Refusal:
    if isinstance(outcome, KeyClosed):
        return Refusal(
            403, payment.UNKNOWN_CREDENTIAL, f"this key is {outcome.reason}: ask whoever made it for another"
        )
    which = "today" if outcome.limit == "daily" else "in all"
    return Refusal(
        403,
        payment.LIMIT_REACHED,
        f"this request can cost up to {quote.hold_msat} msat, and this key may spend {outcome.left_msat} msat more {which}: "
        "ask for less with 'max_tokens', or whoever made the key for another",
        details={"amount_required_msat": quote.hold_msat, "left_msat": outcome.left_msat, "limit": outcome.limit},
    )


def _insufficient(quote: Quote, available_msat: int) -> Refusal:
    missing_msat = quote.hold_msat - available_msat
    return Refusal(
        402,
        payment.INSUFFICIENT_BALANCE,
        f"this request can cost up to {quote.hold_msat} msat and {available_msat} msat are available: top up "
        f"{missing_msat} msat, or ask for less with 'max_tokens' (unused money is free again at once)",
        details={"amount_required_msat": quote.hold_msat, "available_msat": available_msat, "model": quote.model.id},
    )
