"""What every translation can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from relays.pricing import Usage


class StreamTranslation(Protocol):
    """One stream on its way back to the caller, cut into chunks anywhere."""

    @property
    def usage(self) -> Usage | None:
        """What the upstream has reported so far."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """The caller's events for what has come so far; may be empty. Raises UpstreamUnreachable for what is no stream."""
        ...

    def finish(self) -> bytes:
        """The caller's last events, once the upstream's stream has ended in whatever way."""
        ...


class Translation(Protocol):
    """Between one language of callers and one of upstreams."""

    def request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request in the upstream's language; the caller's is not changed. Raises Refusal 400 for what it cannot say."""
        ...

    def answer(self, body: bytes) -> bytes:
        """The upstream's whole answer in the caller's language. Raises UpstreamUnreachable for what is no answer."""
        ...

    def stream(self) -> StreamTranslation:
        """For one streamed answer."""
        ...
