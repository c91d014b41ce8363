"""Who reads an answer while it comes: what is told to them, and what becomes of their own errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from relays.money import Msat
from router_client.complexity import Tier

OnText = Callable[[str], None]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an answer when its first word comes."""

    model: str
    tier: Tier
    node: str
    """The node's npub."""
    node_name: str
    request_id: str = ""
    """The node's name for the request; it may give none."""
    hold_msat: Msat
    """The most it can cost."""


class ChunkChoice(msgspec.Struct):
    """What a chunk says of one of the answers that were asked for."""

    index: int = 0
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        content = (self.delta or {}).get("content")
        return content if isinstance(content, str) else ""

    @property
    def says_something(self) -> bool:
        """Beside whose turn it is."""
        return any(value for name, value in (self.delta or {}).items() if name != "role")


class Piece(msgspec.Struct, frozen=True):
    """One chunk of a streamed chat completion (OpenAI's `chat.completion.chunk`), or one event of a response."""

    data: str
    """As the node wrote it: a line of JSON."""
    choices: list[ChunkChoice] = []
    """Of a chunk."""
    id: str = ""
    """The same in all chunks of an answer."""
    event: str = ""
    """The type of an event."""
    said: str = ""
    """The text that an event adds."""
    is_last: bool = False
    """Whether the event says the whole answer again."""

    @property
    def text(self) -> str:
        return self.said + "".join(choice.text for choice in self.choices)


class Reader:
    """Does nothing with what it is told. What its methods raise ends the purchase: the node keeps what it may for what it
    sent, the rest comes back, and who asked for the answer gets the error."""

    left: asyncio.Event | None = None
    """Set when nobody wants the answer any more: the purchase ends with NodeOutrun at once, as it does by an error."""

    hears: bool = True
    """Whether it does anything with what it is told: then no other node can begin anew when one breaks off."""

    async def begin(self, head: Head) -> None:
        """A node has said its first word."""

    async def read(self, piece: Piece) -> None:
        """What the node says, piece by piece. The next is not read from its connection before this returns."""


class Nobody(Reader):
    """The whole answer is wanted, at its end."""

    hears = False


class TextReader(Reader):
    """Hands on the text alone."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text

    async def read(self, piece: Piece) -> None:
        if text := piece.text:
            self._on_text(text)


class ReaderFailed(Exception):
    """The reader's own error: that is who asked's to hear, and says nothing of the node."""

    out_msat: int = 0
    """Of the money that was sent, what has not come back."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
