"""Replies that are not passed on as they came: translated to the caller's language, or given by the node itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec

from node.metering.tokens import count_prompt
from node.translation.base import StreamTranslation, Translation
from node.upstream.base import UpstreamReply, UpstreamRequest
from relays.pricing import Usage

LONG_BODY_BYTES: Final = 64 * 1024


class TranslatedReply:
    """A reply of an upstream that speaks another language."""

    def __init__(self, reply: UpstreamReply, translation: Translation) -> None:
        self._reply = reply
        self._translation = translation
        self._stream = translation.stream()
        self.content_type = reply.content_type

    @property
    def usage(self) -> Usage | None:
        return self._stream.usage

    async def read(self, limit: int) -> bytes:
        return self._translation.answer(await self._reply.read(limit))

    async def chunks(self) -> AsyncIterator[bytes]:
        stream = self._stream
        async for chunk in self._reply.chunks():
            if passed := stream.feed(chunk):
                yield passed
        if passed := stream.finish():
            yield passed

    def begun(self) -> None:
        self._reply.begun()

    def close(self) -> None:
        self._reply.close()


class GivenReply:
    """An answer that no upstream was asked for."""

    content_type = "application/json"
    usage = None

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self._body = msgspec.json.encode(answer)

    async def read(self, limit: int) -> bytes:
        return self._body

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body

    def begun(self) -> None:
        """It is all there."""

    def close(self) -> None:
        """Nothing is held."""


async def counted(request: UpstreamRequest) -> GivenReply:
    """The answer to `count_tokens` where the upstream cannot count; a long text is counted beside the loop."""
    if len(request.body) <= LONG_BODY_BYTES:
        tokens = count_prompt(request.fields, request.endpoint, exact=True)
    else:
        tokens = await asyncio.to_thread(count_prompt, request.fields, request.endpoint, exact=True)
    return GivenReply({"input_tokens": tokens})


class Chained:
    """Two translations one after the other: from the caller's language to a middle one, and on to the upstream's."""

    def __init__(self, first: Translation, second: Translation) -> None:
        self._first = first
        self._second = second

    def request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._second.request(self._first.request(body))

    def answer(self, body: bytes) -> bytes:
        return self._first.answer(self._second.answer(body))

    def stream(self) -> StreamTranslation:
        return _ChainedStream(self._first.stream(), self._second.stream())


class _ChainedStream:
    def __init__(self, first: StreamTranslation, second: StreamTranslation) -> None:
        self._first = first
        self._second = second

    @property
    def usage(self) -> Usage | None:
        return self._second.usage

    def feed(self, chunk: bytes) -> bytes:
        return self._first.feed(self._second.feed(chunk))

    def finish(self) -> bytes:
        return self._first.feed(self._second.finish()) + self._first.finish()
