"""What every kind of upstream can do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol


class UpstreamReply(Protocol):
    """A reply whose head has come with status 200. Close it in every case."""

    content_type: str

    async def read(self, limit: int) -> bytes:
        """The whole body, up to `limit` bytes. Raises UpstreamError."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises UpstreamUnreachable or UpstreamTimeout when it breaks off."""
        ...

    def close(self) -> None:
        """Let go of it; a body not read to its end is cut off at the upstream."""
        ...


class Upstream(Protocol):
    """A server with models."""

    async def models(self) -> list[Mapping[str, Any]]:
        """Its list of models, as it gives it. Raises UpstreamError."""
        ...

    async def chat(self, body: bytes) -> UpstreamReply:
        """Send a chat completion request. Raises UpstreamRefused, UpstreamUnreachable or UpstreamTimeout."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...
