"""The paid request of any endpoint, from hold to receipt.

Transaction boundaries, each one commit of the ledger, none open across a network wait:

    hold      before anything is sent upstream: the most the request can cost
    void      nothing was served: upstream down, refused, or silent before its first byte; or the caller left a stream before
              it, whose prompt is short and whose model does nothing unseen
    post      something was served: the cost of what was used, never above the hold, together with the receipt

Between hold and post a crash leaves a pending hold, which expires (`Ledger.expire_orphans`, `Holding.expire`). A request
that is not streamed runs in a task of its own that no cancellation reaches, and so does the end of a stream: who leaves pays
what was made for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec

from node.errors import Refusal, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from node.holding import Holding
from node.ledger.ledger import Ledger
from node.metering.measure import Known, Measured
from node.metering.stream import StreamMeter
from node.metering.told import told_in_body
from node.metering.whole import is_answer, measured
from node.paid_stream import Begun, Outcome, PaidStream, refusal_for, up_to_the_first_word
from node.pulse import Pulse
from node.quote import Quote, known_of, upstream_request
from node.tasks import Tasks, outlast
from node.unseen import Unseen
from node.upstream.base import Source, Upstream, UpstreamReply
from node.upstream.fleet import Fleet
from relays.endpoints import COUNT_TOKENS, IMAGE_EDITS, IMAGES, TRANSCRIPTIONS, TRANSLATIONS
from relays.event import Event, Signer
from relays.pricing import Usage, cost, price_for
from relays.receipt import Receipt, encode
from router_client.errors import StorageError

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAY_NOT_STREAM: Final = (TRANSCRIPTIONS, TRANSLATIONS, IMAGES, IMAGE_EDITS)
FREE_TO_LEAVE_TOKENS: Final = 4096
"""Of a prompt, by its length, whose stream costs nothing if it is left before its first word."""
VOID_WAIT_S: Final = 2
"""A caller who is told that nothing was charged finds the money free, unless the books are away for longer than this."""
NOTED_FROM_S: Final = 3.0
"""A stream that is shorter is not noted: counting it would cost more than it is worth."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer and its receipt."""

    body: bytes
    content_type: str
    account: Receipt
    receipt: Event


class _Served(msgspec.Struct, frozen=True):
    """What an upstream gave, before it is charged."""

    quote: Quote
    source: Source
    body: bytes
    content_type: str


class _Running(msgspec.Struct, frozen=True):
    """A stream that has begun."""

    quote: Quote
    source: Source
    reply: UpstreamReply
    meter: StreamMeter
    used: Used
    since: float
    """By the loop's clock."""


Keep = Callable[[Answer], Awaitable[None]]
Used = Callable[[Usage], None]
"""Hears what a request used, when it ends."""


class Completions:
    """Serves paid requests."""

    def __init__(
        self,
        ledger: Ledger,
        holding: Holding,
        fleet: Fleet,
        signer: Signer,
        tasks: Tasks,
        pulse: Pulse,
        *,
        timeout_s: float,
        first_token_s: float,
    ) -> None:
        self._ledger = ledger
        self._holding = holding
        self._fleet = fleet
        self._signer = signer
        self._tasks = tasks
        self._pulse = pulse
        self._timeout_s = timeout_s
        self._first_token_s = first_token_s
        self._unseen = Unseen()
        self._streams: dict[str, _Running] = {}
        self._noted = False

    async def answer(self, request_id: str, quote: Quote, used: Used, keep: Keep | None = None) -> Answer:
        """Serve a held request that is not a stream, to its end also if the caller leaves; `keep` gets the answer once it is
        charged.

        Raises Refusal when no upstream delivers: then it is free.
        """
        return await outlast(self._tasks.start(self._answered(request_id, quote, used, keep), "answer"))

    async def _answered(self, request_id: str, quote: Quote, used: Used, keep: Keep | None) -> Answer:
        async with self._free_unless_served(request_id, quote):
            served = await self._fleet.serve(quote.sources, partial(self._ask, quote))
        return await self._end_whole(request_id, served, used, keep)

    async def open_stream(
        self, request_id: str, quote: Quote, used: Used, keep: Keep | None = None
    ) -> PaidStream | Answer:
        """Send a held streaming request and wait for its first bytes; until then a failure is free. A whole answer is one
        where the server knows no streams. Raises Refusal."""
        opening = self._tasks.start(self._opened(request_id, quote, used, keep), "open a stream")
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await outlast(self._tasks.start(self._left(opening, quote), "a stream left before its first word"))
            raise

    async def _opened(self, request_id: str, quote: Quote, used: Used, keep: Keep | None) -> PaidStream | Answer:
        asked_at = asyncio.get_running_loop().time()
        async with self._free_unless_served(request_id, quote):
            begun = await self._fleet.serve(quote.sources, partial(self._begin, quote))
        if isinstance(begun, _Served):
            return await self._end_whole(request_id, begun, used, keep)
        source, known, opened = begun
        since = asyncio.get_running_loop().time()
        self._pulse.began(since - asked_at)
        meter = StreamMeter(quote.ask.endpoint, known, hide_usage=not quote.ask.wants_usage)
        running = _Running(quote, source, opened.reply, meter, used, since)
        self._streams[request_id] = running
        return PaidStream(
            request_id,
            opened,
            meter,
            partial(self._finish, request_id, running),
            self._tasks,
            endpoint=quote.ask.endpoint,
            deadline=asked_at + self._timeout_s,
            unseen=self._unseen.may_be(quote.ask, (source,)),
        )

    async def _left(self, opening: asyncio.Task[PaidStream | Answer], quote: Quote) -> None:
        """The caller has left before the first word. That is free where little is read and only words are made: the upstream
        is let go. A long prompt is paid for there whoever leaves, and so it is here, once its first word has come."""
        if quote.likely.prompt_tokens <= FREE_TO_LEAVE_TOKENS and not self._unseen.may_be(quote.ask, quote.sources):
            opening.cancel()
        await asyncio.wait({opening})
        if opening.cancelled() or opening.exception() is not None:
            return
        if isinstance(stream := opening.result(), PaidStream):
            await stream.abandon()

    async def _ask(self, quote: Quote, upstream: Upstream, source: Source) -> _Served:
        """A whole answer of one upstream. Raises UpstreamError, also for a 200 that is no answer."""
        reply = await upstream.send(upstream_request(quote, source))
        try:
            body = await reply.read(MAX_ANSWER_BYTES)
        finally:
            reply.close()
        if not is_answer(body, reply.content_type, quote.ask.endpoint):
            raise UpstreamUnreachable("the upstream's answer is none")
        return _Served(quote, source, body, reply.content_type)

    async def _begin(self, quote: Quote, upstream: Upstream, source: Source) -> tuple[Source, Known, Begun] | _Served:
        """A stream of one upstream that has begun to say something. Raises UpstreamError."""
        reply: UpstreamReply | None = None
        known = known_of(quote.ask, source)
        if quote.ask.is_long:  # counted already: while it streams that would hold up others
            await asyncio.to_thread(known.count_prompt)
        try:
            async with asyncio.timeout(self._first_token_s):
                reply = await upstream.send(upstream_request(quote, source))
                if reply.content_type != "text/event-stream":
                    return await self._not_streamed(quote, source, reply)
                chunks = reply.chunks()
                begun = Begun(reply, await up_to_the_first_word(chunks, quote.ask.endpoint), chunks)
                reply.begun()
                return source, known, begun
        except BaseException as error:
            if reply is not None:
                reply.close()
            if isinstance(error, TimeoutError):
                raise UpstreamTimeout("the upstream did not begin its stream in time") from error
            raise

    async def _not_streamed(self, quote: Quote, source: Source, reply: UpstreamReply) -> _Served:
        """The whole answer of a server that passes over the wish for a stream, as OpenAI's does for some models."""
        if quote.ask.endpoint not in MAY_NOT_STREAM:
            raise UpstreamUnreachable("the upstream did not stream")
        body = await reply.read(MAX_ANSWER_BYTES)
        reply.close()
        if not is_answer(body, reply.content_type, quote.ask.endpoint):
            raise UpstreamUnreachable("the upstream's answer is none")
        return _Served(quote, source, body, reply.content_type)

    @asynccontextmanager
    async def _free_unless_served(self, request_id: str, quote: Quote) -> AsyncIterator[None]:
        """A block in which nothing was served yet: whatever ends it early voids the hold. Raises Refusal for upstreams."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except BaseException as error:
            voiding = self._tasks.start(self._holding.void(request_id), "void")
            if isinstance(error, UpstreamError | TimeoutError | Refusal):
                await asyncio.wait({voiding}, timeout=VOID_WAIT_S)
            if isinstance(error, UpstreamError | TimeoutError):
                refusal = refusal_for(error, quote.ask.endpoint)
                if refusal.status >= 429:  # below, the request itself was at fault
                    self._pulse.failed()
                raise refusal from error
            raise

    async def _end_whole(self, request_id: str, served: _Served, used: Used, keep: Keep | None) -> Answer:
        quote, source = served.quote, served.source
        measure = partial(_measured, served)
        told = await asyncio.to_thread(measure) if quote.ask.is_long else measure()
        self._unseen.hear(source, told.usage)
        self._pulse.served(quote.model.id)
        used(told.usage)
        receipt, event = await self._post(_draft(request_id, quote, source, told, "complete"))
        body = served.body
        if served.content_type == "application/json" and quote.ask.endpoint is not COUNT_TOKENS:
            body = told_in_body(body, receipt, quote.ask.endpoint)
        answer = Answer(body, served.content_type, receipt, event)
        if keep is not None:
            try:
                await keep(answer)
            except StorageError as error:  # it is charged and can be given: only a repetition will miss it
                log.error("the answer of %s is not kept: %s", request_id, error)
        return answer

    async def _finish(self, request_id: str, running: _Running, outcome: Outcome) -> tuple[Receipt, Event]:
        """Charge and sign, whatever happens to the caller meanwhile."""
        self._streams.pop(request_id, None)
        draft = _running_draft(request_id, running, outcome)
        self._unseen.hear(running.source, draft.usage)
        running.used(draft.usage)
        if outcome == "interrupted":
            self._pulse.failed()
        else:
            self._pulse.served(draft.model)
            self._pulse.streamed(draft.usage.completion_tokens, asyncio.get_running_loop().time() - running.since)
        return await asyncio.shield(self._tasks.start(self._post(draft), "post"))

    async def note_streams(self, older_s: float = NOTED_FROM_S) -> int:
        """Note what streams have come to that run for a while, for the sweep after a crash; returns how many.

        They are counted one by one: hundreds may run, and the loop serves them meanwhile.
        """
        drafts, now = [], asyncio.get_running_loop().time()
        for request_id, running in list(self._streams.items()):
            if request_id in self._streams and now - running.since >= older_s:
                drafts.append(_running_draft(request_id, running, "interrupted"))
                await asyncio.sleep(0)
        if drafts or self._noted:
            await self._ledger.note_progress(drafts)
        self._noted = bool(drafts)
        return len(drafts)

    async def _post(self, draft: Receipt) -> tuple[Receipt, Event]:
        due_msat = cost(draft.usage, draft.price)
        if due_msat > draft.cost_msat:
            # The upstream used more than a request of this size can: the caller owes the hold, the node bears the rest.
            log.warning("request %s cost %d msat, its hold was %d msat", draft.request_id, due_msat, draft.hold_msat)
        posted = await self._holding.post(draft)
        return posted.receipt, encode(posted.receipt, self._signer, posted.created_at)


def _measured(served: _Served) -> Measured:
    return measured(served.body, served.quote.ask.endpoint, known_of(served.quote.ask, served.source))


def _running_draft(request_id: str, running: _Running, outcome: Outcome) -> Receipt:
    """The receipt of a stream if it ended now."""
    used = running.meter.measured(running.reply.usage)
    return _draft(request_id, running.quote, running.source, used, outcome)


def _draft(request_id: str, quote: Quote, source: Source, used: Measured, outcome: Outcome) -> Receipt:
    """The receipt but for the balance, at the price of who served; the cost is never above the hold."""
    price = price_for(quote.ask.fields, quote.ask.endpoint, source.price)
    return Receipt(
        request_id=request_id,
        model=quote.model.id,
        usage=used.usage,
        metered=used.by,
        outcome=outcome,
        price=price,
        hold_msat=quote.hold_msat,
        cost_msat=min(cost(used.usage, price), quote.hold_msat),
        balance_msat=0,
    )
