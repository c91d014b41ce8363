"""A paid stream that has begun upstream: passed on as it comes, charged at its end, at an abort and at a timeout alike."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final, Literal

import msgspec

from node import sse
from node.errors import Refusal, Unsupported, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from node.metering.stream import StreamMeter, says_something
from node.metering.told import told_in_events, usage_event
from node.sse import DONE, Cutter, data_of, split
from node.tasks import Tasks, outlast
from node.upstream.base import UpstreamReply
from relays import payment
from relays.endpoints import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from relays.event import Event
from relays.receipt import Receipt, to_sse

log = logging.getLogger(__name__)

LAST_WRITE_S = 30.0
READ_ON_S = 2.0
"""How long the report of an answer that is whole is waited for when its caller has left."""

LINGER_S = 0.5
"""How long a server may take to end a stream whose last word it has said."""

Outcome = Literal["complete", "aborted", "interrupted"]
Begin = Callable[[], Awaitable[None]]
Write = Callable[[bytes], Awaitable[None]]
LastWords = Callable[[], Awaitable[bytes]]
"""What is said when the request is charged: comments."""
Finish = Callable[[Outcome], Awaitable[tuple[Receipt, Event]]]


MAX_HEAD_BYTES: Final = 8 * 1024 * 1024
"""Of a stream before its first word; an event that is longer is one."""


_TOO_LONG: Final = re.compile(
    r"context[ _](length|size|window)|prompt is too long|input token count .* exceeds", re.IGNORECASE
)
"""As OpenAI's servers, llama.cpp, vLLM, Anthropic's and Google's say it."""


class Begun(msgspec.Struct, frozen=True):
    """A reply that has begun to say something: what came so far, and what is to come."""

    reply: UpstreamReply
    first: bytes
    chunks: AsyncIterator[bytes]


async def up_to_the_first_word(chunks: AsyncIterator[bytes], endpoint: Endpoint) -> bytes:
    """The stream's bytes until something was said: comments and errors before it are no answer. Raises UpstreamError."""
    head, cutter = bytearray(), Cutter(MAX_HEAD_BYTES)
    async for chunk in chunks:
        head += chunk
        events = cutter.feed(chunk)
        if cutter.inside:  # a picture
            return bytes(head)
        if any(says_something(data_of(event), endpoint) for event in split(events)):
            return bytes(head)
        if len(head) > MAX_HEAD_BYTES:
            break
    if says_something(data_of(cutter.rest()), endpoint):  # it ended without a boundary
        return bytes(head)
    raise UpstreamUnreachable("the upstream streamed no answer")


class PaidStream:
    """`run` it once, or `abandon` it, in any case: its hold ends nowhere else."""

    def __init__(
        self,
        request_id: str,
        begun: Begun,
        meter: StreamMeter,
        finish: Finish,
        tasks: Tasks,
        *,
        endpoint: Endpoint,
        deadline: float,
        unseen: bool,
    ) -> None:
        """`unseen`: the model may do work that only its report tells of."""
        self._request_id = request_id
        self._begun = begun
        self._meter = meter
        self._finish = finish
        self._tasks = tasks
        self._endpoint = endpoint
        self._deadline = deadline
        self._unseen = unseen
        self._first = meter.feed(begun.first)

    async def run(self, begin: Begin, write: Write, last_words: LastWords) -> None:
        """Begin the response, write the stream, then its receipt, the last words, and what the stream itself ends with.
        Cancel it when the caller has gone."""
        failure: Refusal | None = None
        outcome: Outcome = "aborted"
        try:
            try:
                await begin()
                async with asyncio.timeout_at(self._deadline):
                    # A task of its own: each piece would wake it through all that waits for it otherwise.
                    await asyncio.create_task(self._relay(write))
                if self._meter.broken:
                    raise UpstreamUnreachable("the upstream broke off its stream with an error")
                outcome = "complete" if self._meter.ended else "interrupted"
            except (UpstreamError, TimeoutError) as error:
                outcome, failure = "interrupted", refusal_for(error)
        finally:
            if outcome == "aborted":
                await self.abandon()
        self._begun.reply.close()
        receipt, event = await self._finish(outcome)
        last = b"" if failure is None else sse_error(failure, self._request_id, self._endpoint)
        last += to_sse(event) + await last_words() + told_in_events(self._meter.kept_back, receipt, self._endpoint)
        if outcome == "complete" and self._meter.owes_usage:
            last += usage_event(receipt, self._endpoint, event.created_at)
        if outcome == "complete" and (self._meter.done or self._endpoint in (CHAT, COMPLETIONS)):
            last += DONE
        with suppress(TimeoutError):  # a caller that stopped reading
            async with asyncio.timeout(LAST_WRITE_S):
                await write(last)

    async def abandon(self) -> None:
        """The caller has left: charge what was streamed, or what its report says once that has come."""
        await outlast(self._tasks.start(self._end_unheard(), "a stream whose caller has left"))

    async def _end_unheard(self) -> None:
        try:
            await self._read_on()
        finally:
            self._begun.reply.close()
            await self._finish("aborted")

    async def _read_on(self) -> None:
        """Read what nobody hears: to the end where thoughts are told by the report alone, a moment longer where the
        answer is whole. Who leaves before the bill would have it for less."""
        if not (self._unseen or self._meter.ended):
            return
        soon = asyncio.get_running_loop().time() + READ_ON_S
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout_at(self._deadline if self._unseen else min(soon, self._deadline)):
                async for chunk in self._begun.reply.chunks():
                    self._meter.feed(chunk)
                    if self._meter.over:
                        break
                self._meter.finish()

    async def _relay(self, write: Write) -> None:
        if self._first:
            await write(self._first)
        while not self._meter.over and (chunk := await anext(self._begun.chunks, None)) is not None:
            if passed := self._meter.feed(chunk):
                await write(passed)
        if passed := self._meter.finish():
            await write(passed)
        if self._meter.over:
            await self._linger()

    async def _linger(self) -> None:
        """The stream is over: its connection can be used again if its server ends it soon. Nobody waits long for that."""
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await anext(self._begun.chunks, None) is not None:
                    pass


NO_ENDPOINT: Final = (405, 501)
"""Answers of a server that has not what was asked for; a 404 may as well be of a model that is gone."""


def refusal_for(error: UpstreamError | TimeoutError, endpoint: Endpoint = CHAT) -> Refusal:
    """What the caller is told of an upstream that did not deliver; the operator's own trouble stays with the operator."""
    free = "nothing was charged for what was not served"
    if isinstance(error, UpstreamTimeout | TimeoutError):
        return Refusal(504, payment.UPSTREAM_TIMEOUT, f"the model's server did not answer in time; {free}")
    if isinstance(error, Unsupported) or (isinstance(error, UpstreamRefused) and error.status in NO_ENDPOINT):
        return Refusal(400, payment.INVALID_REQUEST, f"this model is not served at this endpoint; {free}")
    if isinstance(error, UpstreamRefused):
        if error.status in (400, 413, 422):
            words = error.message or "no reason given"
            code = payment.CONTEXT_EXCEEDED if _TOO_LONG.search(words) else payment.UPSTREAM_REFUSED
            return Refusal(error.status, code, f"the model's server refused the request: {words}")
        if error.status == 404 and endpoint is not CHAT:  # which all have: without it the URL is wrong
            return Refusal(404, payment.NOT_FOUND, f"this model is not served at this endpoint; {free}")
        if error.status == 429:
            after = error.retry_after if (error.retry_after or "").isascii() else None
            headers = {"retry-after": after or "5"}
            return Refusal(429, payment.RATE_LIMITED, f"the model's server is busy: try again; {free}", headers=headers)
        log.warning("upstream answered %d", error.status)  # its words may hold the caller's
    return Refusal(502, payment.UPSTREAM_UNAVAILABLE, f"the model's server did not deliver: try another node; {free}")


def sse_error(refusal: Refusal, request_id: str, endpoint: Endpoint) -> bytes:
    """An error inside a stream that has begun, in the form that the SDKs of its language raise from."""
    error = {"message": refusal.message, "type": refusal.type, "code": refusal.code, "param": None}
    if endpoint is MESSAGES:
        error["type"] = refusal.anthropic_type
        return sse.write({"type": "error", "error": error, "request_id": request_id}, "error")
    if endpoint is RESPONSES:
        return sse.write({**error, "type": "error", "request_id": request_id}, "error")
    return sse.write({"error": error, "request_id": request_id})
