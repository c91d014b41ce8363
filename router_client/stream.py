"""A node's stream as its buyer reads it: text and usage, and in comments its receipt and the change. Bounded throughout."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from relays import receipt as receipts
from relays.errors import InvalidEvent, InvalidJson
from relays.event import Event, parse_event
from relays.jsontext import from_json
from relays.payment import CHANGE_SSE_PREFIX
from relays.pricing import Usage
from relays.usage import report_in, usage_of
from router_client.ecash.token import looks_like_token
from router_client.errors import NodeError

log = logging.getLogger(__name__)

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
MAX_STREAM_BYTES: Final = 256 * 1024 * 1024
MAX_CHANGES: Final = 8
"""A node gives one token; more than so many are not read."""

OnText = Callable[[str], None]


class AnswerStream:
    """What a node streams: text to pass on, its own usage, and the receipt in an SSE comment."""

    def __init__(self, on_text: OnText | None) -> None:
        self._on_text = on_text
        self.request_id = ""
        self.texts: list[str] = []
        self.usage: Usage | None = None
        self.receipt: Event | None = None
        self.changes: list[str] = []
        """Tokens that the node gave back, as it gave them."""
        self.done = False
        """Whether its end was said."""
        self.error: str | None = None
        self._tail = b""
        self._received = 0

    def feed(self, chunk: bytes) -> None:
        """Take the complete lines so far. Raises NodeError for a line without end."""
        self._received += len(chunk)
        if self._received > MAX_STREAM_BYTES:
            raise NodeError("the stream has no end")
        *lines, self._tail = (self._tail + chunk).split(b"\n")
        if len(self._tail) > MAX_LINE_BYTES:
            raise NodeError("the stream has a line without end")
        for line in lines:
            self.take(line.decode(errors="replace").rstrip("\r"))

    def take(self, line: str) -> None:
        if line.startswith(receipts.SSE_PREFIX):
            try:
                self.receipt = parse_event(line.removeprefix(receipts.SSE_PREFIX))
            except InvalidEvent as error:
                log.warning("the receipt cannot be read: %s", error)
        elif line.startswith(CHANGE_SSE_PREFIX):
            self.give_change(line.removeprefix(CHANGE_SSE_PREFIX))
        elif line.startswith("data:"):
            data = line[5:].strip()
            if data == "[DONE]":
                self.done = True
            else:
                self._take_data(data)

    def give_change(self, text: str) -> None:
        """What an `X-Cashu` header or comment says; what is no token, such as a 402's request for one, is passed over."""
        if looks_like_token(text.strip()):
            self.changes = [*self.changes, text.strip()][-MAX_CHANGES:]  # the node's own comes last

    def _take_data(self, data: str) -> None:
        try:
            chunk = from_json(data, _Chunk)
        except InvalidJson:
            return
        if chunk.error is not None:
            self.error = str(chunk.error.get("message") if isinstance(chunk.error, dict) else chunk.error)
        if (report := report_in(data.encode()) if '"usage"' in data else None) is not None:
            self.usage = usage_of(report) or self.usage
        for choice in chunk.choices:
            if choice.delta is not None and choice.delta.content:
                self.texts.append(choice.delta.content)
                self._tell(choice.delta.content)

    def _tell(self, text: str) -> None:
        if self._on_text is not None:
            try:
                self._on_text(text)
            except Exception as error:  # whatever the caller's code raises, it is handed back to the caller
                raise ReaderFailed(error) from error


class ReaderFailed(Exception):
    """The caller's own `on_text` raised: that is the caller's to hear, and says nothing of the node."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Delta(msgspec.Struct):
    content: str | None = None


class _ChunkChoice(msgspec.Struct):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_ChunkChoice] = []
    error: Any = None
