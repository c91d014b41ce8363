"""A paid stream that has begun upstream: passed on as it comes, charged at its end, at an abort and at a timeout alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Literal

import msgspec

from node.errors import Refusal, UpstreamError, UpstreamRefused, UpstreamTimeout
from node.metering import DONE, Measured, StreamMeter
from node.upstream.base import UpstreamReply
from relays import payment
from relays.event import Event
from relays.receipt import Receipt, to_sse

log = logging.getLogger(__name__)

LAST_WRITE_S = 30.0

Outcome = Literal["complete", "aborted", "interrupted"]
Begin = Callable[[], Awaitable[None]]
Write = Callable[[bytes], Awaitable[None]]
LastWords = Callable[[], Awaitable[bytes]]
"""What is said when the request is charged: comments."""
Finish = Callable[[Measured, Outcome], Awaitable[tuple[Receipt, Event]]]


class PaidStream:
    """`run` it once, in any case: its hold ends nowhere else."""

    def __init__(
        self,
        request_id: str,
        reply: UpstreamReply,
        first: bytes,
        chunks: AsyncIterator[bytes],
        meter: StreamMeter,
        finish: Finish,
        deadline: float,
    ) -> None:
        self._request_id = request_id
        self._reply = reply
        self._first = first
        self._chunks = chunks
        self._meter = meter
        self._finish = finish
        self._deadline = deadline

    async def run(self, begin: Begin, write: Write, last_words: LastWords) -> None:
        """Begin the response, write the stream, then its receipt, the last words and `[DONE]`. Cancel it when the caller has
        gone."""
        failure: Refusal | None = None
        outcome: Outcome = "aborted"
        try:
            try:
                await begin()
                async with asyncio.timeout_at(self._deadline):
                    await self._relay(write)
                outcome = "interrupted" if self._meter.broken else "complete"
            except (UpstreamError, TimeoutError) as error:
                outcome, failure = "interrupted", refusal_for(error)
        finally:
            self._reply.close()
            _, event = await self._finish(self._meter.measured(), outcome)
        last = to_sse(event) + await last_words()
        if failure is not None:
            last = sse_error(failure, self._request_id) + last
        elif outcome == "complete":
            last += DONE
        with suppress(TimeoutError):  # a caller that stopped reading
            async with asyncio.timeout(LAST_WRITE_S):
                await write(last)

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
            after = error.retry_after if (error.retry_after or "").isascii() else None
            headers = {"retry-after": after or "5"}
            return Refusal(429, payment.RATE_LIMITED, f"the model's server is busy: try again; {free}", headers=headers)
        log.warning("upstream answered %d", error.status)  # its words may hold the caller's
    return Refusal(502, payment.UPSTREAM_UNAVAILABLE, f"the model's server did not deliver: try another node; {free}")


def sse_error(refusal: Refusal, request_id: str) -> bytes:
    """An error inside a stream that has begun, in the form OpenAI's SDKs raise from."""
    error = {"message": refusal.message, "type": refusal.type, "code": refusal.code, "param": None}
    return b"data: " + msgspec.json.encode({"error": error, "request_id": request_id}) + b"\n\n"
