"""What every kind of upstream can do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from relays.bounds import ModelLimits
from relays.endpoints import Endpoint
from relays.pricing import ModelPrice, Usage

UNKNOWN_THERE: Final = (404, 405, 501)
"""Answers of a server that has not the endpoint, or no longer the model."""


class Source(msgspec.Struct, frozen=True):
    """A model at an upstream: what it is called there, what it can, and what we ask for it."""

    upstream: str
    model: str
    limits: ModelLimits
    price: ModelPrice
    known_context: bool = True
    """Whether the context window was told, by the upstream or by the operator."""
    thinks: bool = False
    """Whether the list says that it may think before it writes."""
    draws_unpriced: bool = False
    """Whether its answers may hold pictures whose tokens cost what no price tells: far more than those of text."""


class UpstreamRequest(msgspec.Struct, frozen=True):
    """A call as it is to be made: its fields, and the same as bytes for an upstream that speaks the caller's language."""

    endpoint: Endpoint
    fields: Mapping[str, Any]
    body: bytes
    content_type: str
    stream: bool
    most_audio_ms: int = 0
    """At most how long a sound in it is."""
    headers: Mapping[str, str] = MappingProxyType({})
    """Of the caller's, for servers that speak the caller's language."""


class UpstreamReply(Protocol):
    """A reply whose head has come with status 200. Close it in every case."""

    content_type: str

    @property
    def usage(self) -> Usage | None:
        """What was reported beside a stream, as far as it has come; None where all reports are in the stream."""
        ...

    async def read(self, limit: int) -> bytes:
        """The whole body, up to `limit` bytes. Raises UpstreamError."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises UpstreamUnreachable or UpstreamTimeout when it breaks off."""
        ...

    def begun(self) -> None:
        """The stream has said its first word: from now on its silences are limited; until then whoever waits for it does
        that."""
        ...

    def close(self) -> None:
        """Let go of it; a body not read to its end is cut off at the upstream."""
        ...


class Upstream(Protocol):
    """A server with models."""

    name: str

    async def models(self) -> list[Mapping[str, Any]]:
        """Its list of models, as it gives it or in OpenAI's form. Raises UpstreamError."""
        ...

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Make a call; the answer comes in the language of its endpoint. Raises UpstreamRefused, UpstreamUnreachable or
        UpstreamTimeout, Unsupported for an endpoint that this server has not, Refusal for what it cannot be told."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...
