"""The paid request, from hold to receipt.

Transaction boundaries, each one commit of the ledger, none open across a network wait:

    hold      before anything is sent upstream: the most the request can cost
    void      nothing was served: upstream down, refused, or silent before its first byte; or the caller left before it
    post      something was served: the cost of what was used, never above the hold, together with the receipt

Between hold and post a crash leaves a pending hold, which expires (`Ledger.expire_orphans`, `expire_holds`). The end of a
request runs in a task of its own that no cancellation reaches.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import msgspec

from node.errors import Refusal, UpstreamError, UpstreamUnreachable
from node.ledger.ledger import Ledger
from node.ledger.model import DuplicateHold, Held, HoldOutcome, Insufficient, Key, KeyClosed, LimitReached
from node.metering import Measured, StreamMeter, usage_of_body
from node.paid_stream import Outcome, PaidStream, refusal_for
from node.quote import Quote, upstream_body
from node.tasks import Tasks
from node.upstream.base import Upstream
from relays import payment
from relays.errors import InvalidJson
from relays.event import Event, Signer
from relays.jsontext import from_json
from relays.pricing import cost
from relays.receipt import Receipt, encode
from router_client.errors import StorageError

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
OURS: Final = ":"
"""Ends the fingerprint of a named request; what follows tells one attempt from another."""
AGAIN_S: Final = (0.2, 1, 3, 10, 30, 60, 120)
"""Pauses between attempts to book a request's end."""
VOID_WAIT_S: Final = 2
"""A caller who is told that nothing was charged finds the money free, unless the books are away for longer than this."""
HOLD_MARGIN_S: Final = 120
"""A hold outlives its request's deadline by this, so that it never expires under a request that runs."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer and its receipt."""

    body: bytes
    receipt: Event
    cost_msat: int
    balance_msat: int


Keep = Callable[[Answer], Awaitable[None]]


class Completions:
    """Serves paid chat requests."""

    def __init__(self, ledger: Ledger, upstream: Upstream, signer: Signer, tasks: Tasks, timeout_s: float) -> None:
        self._ledger = ledger
        self._upstream = upstream
        self._signer = signer
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._streams: dict[str, tuple[Quote, StreamMeter]] = {}
        self._noted = False

    async def hold(self, key: Key, request_id: str, quote: Quote, fingerprint: str = "") -> DuplicateHold | None:
        """Reserve the most the request can cost; what is known of an earlier request of that id, if there is one.

        Raises Refusal 402 with what is missing, 403 for what the key may not do.
        """
        if not key.may_use(quote.model.id):
            raise Refusal(
                403, payment.NOT_ALLOWED, f"this key may not use {quote.model.id}: its list of models is fixed"
            )
        lifetime_s = self._timeout_s + HOLD_MARGIN_S
        if fingerprint:  # another may hold under the same name: ours is told from it
            fingerprint = f"{fingerprint}{OURS}{secrets.token_hex(4)}"
        # Shielded: a caller that leaves now must not leave a hold that nobody knows of.
        holding = self._tasks.start(
            self._ledger.hold(key, request_id, quote.hold_msat, lifetime_s, fingerprint), "hold"
        )
        try:
            outcome = await asyncio.shield(holding)
        except (asyncio.CancelledError, StorageError):
            self._tasks.start(self._void_after(holding, request_id, fingerprint), "void")
            raise
        if isinstance(outcome, Insufficient):
            raise _insufficient(quote, outcome.available_msat)
        if isinstance(outcome, LimitReached | KeyClosed):
            raise _beyond(quote, outcome)
        if isinstance(outcome, DuplicateHold):
            return DuplicateHold(outcome.state, outcome.fingerprint.partition(OURS)[0])
        return None

    async def answer(self, request_id: str, quote: Quote, keep: Keep | None = None) -> Answer:
        """Serve a held request that is not a stream; `keep` gets the answer once it is charged, also if the caller has left.

        Raises Refusal when the upstream does not deliver: then it is free.
        """
        async with self._free_unless_served(request_id):
            reply = await self._upstream.chat(upstream_body(quote))
            try:
                body = await reply.read(MAX_ANSWER_BYTES)
            finally:
                reply.close()
            _check_answer(body)
            measured = usage_of_body(body, quote.likely_prompt_tokens)
        ending = self._tasks.start(self._end_whole(request_id, quote, body, measured, keep), "post")
        return await asyncio.shield(ending)

    async def open_stream(self, request_id: str, quote: Quote) -> PaidStream:
        """Send a held streaming request and wait for its first bytes; until then a failure is free. Raises Refusal."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        async with self._free_unless_served(request_id):
            reply = await self._upstream.chat(upstream_body(quote))
            try:
                if reply.content_type != "text/event-stream":
                    _check_answer(await reply.read(MAX_ANSWER_BYTES))
                    raise UpstreamUnreachable("the upstream did not stream")
                chunks = reply.chunks()
                first = await _up_to_the_first_choice(chunks)
            except BaseException:
                reply.close()
                raise
        meter = StreamMeter(hide_usage=not quote.wants_usage, likely_prompt_tokens=quote.likely_prompt_tokens)
        finish = partial(self._finish, request_id, quote)
        self._streams[request_id] = (quote, meter)
        return PaidStream(request_id, reply, first, chunks, meter, finish, deadline)

    @asynccontextmanager
    async def _free_unless_served(self, request_id: str) -> AsyncIterator[None]:
        """A block in which nothing was served yet: whatever ends it early voids the hold. Raises Refusal for upstreams."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except BaseException as error:
            voiding = self._tasks.start(self._void(request_id), "void")
            if isinstance(error, UpstreamError | TimeoutError):
                await asyncio.wait({voiding}, timeout=VOID_WAIT_S)
                raise refusal_for(error) from error
            raise

    async def _end_whole(
        self, request_id: str, quote: Quote, body: bytes, measured: Measured, keep: Keep | None
    ) -> Answer:
        receipt, event = await self._post(request_id, quote, measured, "complete")
        answer = Answer(body, event, receipt.cost_msat, receipt.balance_msat)
        if keep is not None:
            try:
                await keep(answer)
            except StorageError as error:  # it is charged and can be given: only a repetition will miss it
                log.error("the answer of %s is not kept: %s", request_id, error)
        return answer

    async def _finish(
        self, request_id: str, quote: Quote, measured: Measured, outcome: Outcome
    ) -> tuple[Receipt, Event]:
        """Charge and sign, whatever happens to the caller meanwhile."""
        self._streams.pop(request_id, None)
        return await asyncio.shield(self._tasks.start(self._post(request_id, quote, measured, outcome), "post"))

    async def note_streams(self) -> int:
        """Note what running streams have come to, for the sweep after a crash; returns how many run."""
        drafts = [
            _draft(request_id, quote, meter.measured(), "interrupted")
            for request_id, (quote, meter) in self._streams.items()
        ]
        if drafts or self._noted:
            await self._ledger.note_progress(drafts)
        self._noted = bool(drafts)
        return len(drafts)

    async def _post(self, request_id: str, quote: Quote, measured: Measured, outcome: Outcome) -> tuple[Receipt, Event]:
        due_msat = cost(measured.usage, quote.model.price)
        if due_msat > quote.hold_msat:
            # The upstream used more than a request of this size can: the caller owes the hold, the node bears the rest.
            log.warning("request %s cost %d msat, its hold was %d msat", request_id, due_msat, quote.hold_msat)
        draft = _draft(request_id, quote, measured, outcome)
        posted = await self._insist(partial(self._ledger.post, draft), draft.request_id)
        return posted.receipt, encode(posted.receipt, self._signer, posted.created_at)

    async def _void(self, request_id: str, fingerprint: str | None = None) -> bool:
        return await self._insist(partial(self._ledger.void, request_id, fingerprint), request_id)

    async def _void_after(self, holding: asyncio.Task[HoldOutcome], request_id: str, fingerprint: str) -> None:
        """Free a hold that nobody waits for any more: one that was made, or may have been, but never another's."""
        await asyncio.wait([holding])
        unknown = holding.cancelled() or holding.exception() is not None
        if unknown or isinstance(holding.result(), Held):
            await self._void(request_id, fingerprint)

    async def _insist(self, end: Callable[[], Awaitable[T]], request_id: str) -> T:
        """End a hold. Books that are away for a while must neither make free what was served nor keep what was not."""
        for pause_s in AGAIN_S:
            try:
                return await end()
            except StorageError as error:
                log.warning("the end of request %s is booked again in %g s: %s", request_id, pause_s, error)
                await asyncio.sleep(pause_s)
        return await end()


def _draft(request_id: str, quote: Quote, measured: Measured, outcome: Outcome) -> Receipt:
    """The receipt but for the balance; the cost is never above the hold."""
    return Receipt(
        request_id=request_id,
        model=quote.model.id,
        usage=measured.usage,
        metered=measured.by,
        outcome=outcome,
        price=quote.model.price,
        hold_msat=quote.hold_msat,
        cost_msat=min(cost(measured.usage, quote.model.price), quote.hold_msat),
        balance_msat=0,
    )


async def _up_to_the_first_choice(chunks: AsyncIterator[bytes]) -> bytes:
    """The stream's bytes until something was said: comments and errors before it are no answer. Raises UpstreamError."""
    head, scanned = bytearray(), 0
    async for chunk in chunks:
        searched = len(head)
        head += chunk
        while (end := head.find(b"\n", max(scanned, searched))) != -1:
            line, scanned = bytes(head[scanned:end]), end + 1
            if line.startswith(b"data:") and b'"choices"' in line and _says_something(line[5:]):
                return bytes(head)
        if len(head) > MAX_HEAD_BYTES:
            break
    raise UpstreamUnreachable("the upstream streamed no answer")


class _Head(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"null")
    choices: list[msgspec.Raw] | None = None


def _says_something(data: bytes) -> bool:
    """Whether an answer or a chunk of one holds a choice, and no error."""
    try:
        head = from_json(data, _Head)
    except InvalidJson:
        return False
    return bool(head.choices) and bytes(head.error) == b"null"


def _check_answer(body: bytes) -> None:
    """Raise UpstreamUnreachable for a 200 that is no completion: an error in disguise is not charged."""
    if not _says_something(body):
        raise UpstreamUnreachable("the upstream's answer is no completion")


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
