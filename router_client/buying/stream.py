"""A node's stream as its buyer reads it: the answer, its usage, and in comments receipt and change. Bounded throughout."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import msgspec

from relays import receipt as receipts
from relays.errors import InvalidEvent, InvalidJson
from relays.event import Event, parse_event
from relays.jsontext import from_json
from relays.payment import CHANGE_SSE_PREFIX
from relays.pricing import Usage
from relays.usage import report_in, usage_of
from router_client.buying.completion import Completion
from router_client.buying.reading import ChunkChoice, Head, Piece, Reader, ReaderFailed
from router_client.ecash.token import looks_like_token
from router_client.errors import NodeBrokeOff, NodeError, NodeUnavailable

log = logging.getLogger(__name__)

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
MAX_STREAM_BYTES: Final = 256 * 1024 * 1024
MAX_CHANGES: Final = 8
"""A node gives one token; more than so many are not read."""


class AnswerStream:
    """What a node streams: an answer to pass on, its own usage, and the receipt in an SSE comment."""

    def __init__(self) -> None:
        self.request_id = ""
        self.texts: list[str] = []
        self.completion = Completion()
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
        self._untold: list[Piece] = []
        self._told = False
        self._tail = bytearray()
        self._received = 0

    def feed(self, chunk: bytes) -> None:
        """Take the complete lines so far. Raises NodeBrokeOff for what has no end, NodeUnavailable before the first word."""
        self._received += len(chunk)
        if self._received > MAX_STREAM_BYTES:
            raise self._broken("the stream has no end")
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._tail += line
            self.take(self._tail.decode(errors="replace").rstrip("\r"))
            self._tail.clear()
        self._tail += rest
        if len(self._tail) > MAX_LINE_BYTES:
            raise self._broken("the stream has a line without end")

    def _broken(self, why: str) -> NodeError:
        return NodeBrokeOff(why) if self.pieces else NodeUnavailable(why)

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
            self.finish_reason = choice.finish_reason or self.finish_reason
            self.completion.take(choice)
            if choice.says_something:
                self.first_at = self.first_at or time.monotonic()
                self.pieces += 1
                self.texts.append(choice.text)
        if chunk.choices:
            self._untold.append(Piece(data, chunk.choices, chunk.id if isinstance(chunk.id, str) else ""))

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


class _Chunk(msgspec.Struct):
    id: Any = None
    choices: list[ChunkChoice] = []
    error: Any = None
