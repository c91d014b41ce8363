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
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Literal

import msgspec

from node.errors import Refusal, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from node.ledger.ledger import Ledger
from node.ledger.model import DuplicateHold, Insufficient, Posted
from node.metering import DONE, Measured, StreamMeter, usage_of_body
from node.quote import Quote, upstream_body
from node.tasks import Tasks
from node.upstream.base import Upstream, UpstreamReply
from relays import payment, receipt
from relays.event import Event, Signer
from relays.pricing import cost
from relays.receipt import Receipt

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
HOLD_MARGIN_S: Final = 120
"""A hold outlives its request's deadline by this, so that it never expires under a request that runs."""

Outcome = Literal["complete", "aborted", "interrupted"]
Write = Callable[[bytes], Awaitable[None]]


class Answer(msgspec.Struct, frozen=True):
    """A whole answer and its receipt."""

    body: bytes
    content_type: str
    receipt: Event
    cost_msat: int
    balance_msat: int


class Completions:
    """Serves paid chat requests."""

    def __init__(self, ledger: Ledger, upstream: Upstream, signer: Signer, tasks: Tasks, timeout_s: float) -> None:
        self._ledger = ledger
        self._upstream = upstream
        self._signer = signer
        self._tasks = tasks
        self._timeout_s = timeout_s

    async def hold(self, account: int, request_id: str, quote: Quote) -> None:
        """Reserve the most the request can cost. Raises Refusal 402 with what is missing, 409 for an id in use."""
        lifetime_s = self._timeout_s + HOLD_MARGIN_S
        # Shielded: a caller that leaves now must not leave a hold that nobody knows of.
        holding = self._tasks.start(self._ledger.hold(account, request_id, quote.hold_msat, lifetime_s), "hold")
        try:
            outcome = await asyncio.shield(holding)
        except asyncio.CancelledError:
            self._tasks.start(self._void_after(holding, request_id), "void")
            raise
        if isinstance(outcome, Insufficient):
            raise _insufficient(quote, outcome.available_msat)
        if isinstance(outcome, DuplicateHold):
            raise Refusal(409, payment.INVALID_REQUEST, "a request of that id was made before")

    async def answer(self, request_id: str, quote: Quote) -> Answer:
        """Serve a held request that is not a stream. Raises Refusal when the upstream does not deliver: then it is free."""
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._upstream.chat(upstream_body(quote))
                try:
                    body = await reply.read(MAX_ANSWER_BYTES)
                finally:
                    reply.close()
            _check_answer(body)
        except (UpstreamError, TimeoutError) as error:
            await self._void(request_id)
            raise refusal_for(error) from error
        except asyncio.CancelledError:
            self._tasks.start(self._void(request_id), "void")
            raise
        measured = usage_of_body(body, quote.likely_prompt_tokens)
        posted, event = await self._finish(request_id, quote, measured, "complete")
        return Answer(body, "application/json", event, posted.receipt.cost_msat, posted.receipt.balance_msat)

    async def open_stream(self, request_id: str, quote: Quote) -> PaidStream:
        """Send a held streaming request and wait for its first bytes; until then a failure is free. Raises Refusal."""
        reply: UpstreamReply | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._upstream.chat(upstream_body(quote))
                if reply.content_type != "text/event-stream":
                    _check_answer(await reply.read(MAX_ANSWER_BYTES))
                    raise UpstreamUnreachable("the upstream did not stream")
                chunks = reply.chunks()
                first = await anext(chunks, b"")
                if not first:
                    raise UpstreamUnreachable("the upstream sent an empty stream")
        except BaseException as error:
            if reply is not None:
                reply.close()
            voiding = self._tasks.start(self._void(request_id), "void")
            if isinstance(error, UpstreamError | TimeoutError):
                await asyncio.shield(voiding)
                raise refusal_for(error) from error
            raise
        return PaidStream(self, request_id, quote, reply, first, chunks)

    async def finish_stream(
        self, request_id: str, quote: Quote, measured: Measured, outcome: Outcome
    ) -> tuple[Posted, Event]:
        """Charge a stream and sign its receipt, whatever happens to the caller meanwhile."""
        return await self._finish(request_id, quote, measured, outcome)

    @property
    def timeout_s(self) -> float:
        return self._timeout_s

    async def _finish(
        self, request_id: str, quote: Quote, measured: Measured, outcome: Outcome
    ) -> tuple[Posted, Event]:
        return await asyncio.shield(self._tasks.start(self._post(request_id, quote, measured, outcome), "post"))

    async def _post(self, request_id: str, quote: Quote, measured: Measured, outcome: Outcome) -> tuple[Posted, Event]:
        due_msat = cost(measured.usage, quote.model.price)
        if due_msat > quote.hold_msat:
            # The upstream used more than a request of this size can: the caller owes the hold, the node bears the rest.
            log.warning("request %s cost %d msat, its hold was %d msat", request_id, due_msat, quote.hold_msat)
        draft = Receipt(
            request_id=request_id,
            model=quote.model.id,
            usage=measured.usage,
            metered=measured.by,
            outcome=outcome,
            price=quote.model.price,
            hold_msat=quote.hold_msat,
            cost_msat=min(due_msat, quote.hold_msat),
            balance_msat=0,
        )
        posted = await self._ledger.post(draft)
        return posted, receipt.encode(posted.receipt, self._signer, posted.created_at)

    async def _void(self, request_id: str) -> None:
        await asyncio.shield(self._tasks.start(self._ledger.void(request_id), "void"))

    async def _void_after(self, holding: asyncio.Task[Any], request_id: str) -> None:
        await asyncio.wait([holding])
        await self._ledger.void(request_id)


class PaidStream:
    """A stream that has begun. `run` it once: it charges at its end, at an abort and at a timeout alike."""

    def __init__(
        self,
        completions: Completions,
        request_id: str,
        quote: Quote,
        reply: UpstreamReply,
        first: bytes,
        chunks: AsyncIterator[bytes],
    ) -> None:
        self._completions = completions
        self._request_id = request_id
        self._quote = quote
        self._reply = reply
        self._first = first
        self._chunks = chunks
        self._meter = StreamMeter(hide_usage=not quote.wants_usage, likely_prompt_tokens=quote.likely_prompt_tokens)

    async def run(self, write: Write) -> None:
        """Write the stream, then its receipt and `[DONE]`. Cancel it when the caller has gone."""
        failure: Refusal | None = None
        outcome: Outcome = "aborted"
        try:
            try:
                async with asyncio.timeout(self._completions.timeout_s):
                    await self._relay(write)
                outcome = "complete"
            except (UpstreamError, TimeoutError) as error:
                outcome, failure = "interrupted", refusal_for(error)
        finally:
            self._reply.close()
            posting = self._completions.finish_stream(self._request_id, self._quote, self._meter.measured(), outcome)
            _, event = await posting
        if failure is not None:
            await write(sse_error(failure, self._request_id) + receipt.to_sse(event))
        else:
            await write(receipt.to_sse(event) + DONE)

    async def _relay(self, write: Write) -> None:
        if passed := self._meter.feed(self._first):
            await write(passed)
        async for chunk in self._chunks:
            if passed := self._meter.feed(chunk):
                await write(passed)
        if passed := self._meter.finish():
            await write(passed)


def refusal_for(error: UpstreamError | TimeoutError) -> Refusal:
    """What the caller is told of an upstream that did not deliver; the operator's own trouble stays with the operator."""
    free = "nothing was charged for what was not served"
    if isinstance(error, UpstreamTimeout | TimeoutError):
        return Refusal(504, payment.UPSTREAM_TIMEOUT, f"the model's server did not answer in time; {free}")
    if isinstance(error, UpstreamRefused):
        if error.status in (400, 413, 422):
            words = error.message or "no reason given"
            return Refusal(error.status, payment.UPSTREAM_REFUSED, f"the model's server refused the request: {words}")
        if error.status == 429:
            headers = {"retry-after": error.retry_after or "5"}
            return Refusal(429, payment.RATE_LIMITED, f"the model's server is busy: try again; {free}", headers=headers)
        log.warning("upstream answered %d: %s", error.status, error.message)
    return Refusal(502, payment.UPSTREAM_UNAVAILABLE, f"the model's server did not deliver: try another node; {free}")


def sse_error(refusal: Refusal, request_id: str) -> bytes:
    """An error inside a stream that has begun, in the form OpenAI's SDKs raise from."""
    error = {"message": refusal.message, "type": refusal.type, "code": refusal.code, "param": None}
    return b"data: " + msgspec.json.encode({"error": error, "request_id": request_id}) + b"\n\n"


class _Head(msgspec.Struct):
    error: msgspec.Raw | None = None
    choices: list[msgspec.Raw] | None = None


def _check_answer(body: bytes) -> None:
    """Raise UpstreamUnreachable for a 200 that is no completion: an error in disguise is not charged."""
    try:
        head = msgspec.json.decode(body, type=_Head)
    except msgspec.MsgspecError as error:
        raise UpstreamUnreachable("the upstream's answer is not JSON") from error
    if head.choices is None:
        raise UpstreamUnreachable("the upstream's answer is no completion")


def _insufficient(quote: Quote, available_msat: int) -> Refusal:
    missing_msat = quote.hold_msat - available_msat
    return Refusal(
        402,
        payment.INSUFFICIENT_BALANCE,
        f"this request can cost up to {quote.hold_msat} msat and {available_msat} msat are available: top up "
        f"{missing_msat} msat, or ask for less with 'max_tokens' (unused money is free again at once)",
        details={"amount_required_msat": quote.hold_msat, "available_msat": available_msat, "model": quote.model.id},
    )
