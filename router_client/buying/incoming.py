"""What a node sends for its money, in whatever form: the answer, its usage, and beside it receipt and change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from relays.event import Event
from relays.payment import CASHU_HEADER, REQUEST_ID_HEADER
from relays.pricing import Usage
from router_client.buying.reading import Head, Piece, Reader, ReaderFailed
from router_client.ecash.token import looks_like_token
from router_client.errors import NodeBrokeOff, NodeError, NodeUnavailable

MAX_ID_CHARS: Final = 200
MAX_CHANGES: Final = 8
"""A node gives one token; more than so many are not read."""


class Incoming(ABC):
    """`begin` it with the head, `feed` it what comes, and `end` it."""

    def __init__(self) -> None:
        self.request_id = ""
        self.texts: list[str] = []
        self.pieces = 0
        """How many said something."""
        self.usage: Usage | None = None
        self.receipt: Event | None = None
        self.changes: list[str] = []
        """Tokens that the node gave back, as it gave them."""
        self.first_at: float | None = None
        """When its first word came, by the monotonic clock."""
        self.finish_reason = ""
        self.done = False
        """Whether its end was said."""
        self.error: str | None = None
        self.body: dict[str, Any] | None = None
        """The answer in its endpoint's own form, where that has no choices."""
        self._untold: list[Piece] = []
        self._told = False

    @property
    def choices(self) -> tuple[dict[str, Any], ...]:
        """In the form of OpenAI's chat, where the endpoint has them."""
        return ()

    def begin(self, headers: Mapping[str, str]) -> None:
        """Take the head; names of headers are in lower case."""
        self.request_id = headers.get(REQUEST_ID_HEADER, "")[:MAX_ID_CHARS]
        self.give_change(headers.get(CASHU_HEADER, ""))

    @abstractmethod
    def feed(self, chunk: bytes) -> None:
        """Take what has come. Raises NodeBrokeOff for what has no end, NodeUnavailable before the first word."""

    def end(self) -> None:  # noqa: B027 - what streams says its own end
        """Nothing more comes. Raises as `feed`, for what is no answer."""

    def give_change(self, text: str) -> None:
        """What an `X-Cashu` header or comment says; what is no token, such as a 402's request for one, is passed over."""
        if looks_like_token(text.strip()):
            self.changes = [*self.changes, text.strip()][-MAX_CHANGES:]  # the node's own comes last

    async def tell(self, reader: Reader, head: Head) -> None:
        """Tell a reader what has come since the last time. Raises ReaderFailed.

        Nothing is told before the node has said something: until then another can serve.
        """
        if not self.pieces:
            return
        untold, self._untold = self._untold, []
        try:
            if not self._told:
                self._told = True
                await reader.begin(msgspec.structs.replace(head, request_id=self.request_id))
            for piece in untold:
                await reader.read(piece)
        except Exception as error:  # whatever the caller's code raises, it is handed back to the caller
            raise ReaderFailed(error) from error

    def _broken(self, why: str) -> NodeError:
        return NodeBrokeOff(why) if self.pieces else NodeUnavailable(why)
