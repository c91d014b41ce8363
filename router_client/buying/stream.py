"""A node's stream as its buyer reads it: the answer, its usage, and in comments receipt and change. Bounded throughout."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from typing import Any, Final

import msgspec

from relays import receipt as receipts
from relays.errors import InvalidEvent, InvalidJson
from relays.event import parse_event
from relays.jsontext import from_json
from relays.payment import CHANGE_SSE_PREFIX
from relays.usage import report_in, usage_of
from router_client.buying.completion import Completion
from router_client.buying.incoming import Incoming
from router_client.buying.reading import ChunkChoice, Piece

log = logging.getLogger(__name__)

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
MAX_STREAM_BYTES: Final = 256 * 1024 * 1024


class AnswerStream(Incoming):
    """Lines: events of the answer to pass on, and the receipt and the change in comments."""

    def __init__(self) -> None:
        super().__init__()
        self._tail = bytearray()
        self._received = 0

    def feed(self, chunk: bytes) -> None:
        """Take the complete lines so far."""
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
                return
            if (report := report_in(data.encode()) if '"usage"' in data else None) is not None:
                self.usage = usage_of(report) or self.usage
            self._take_data(data)

    @abstractmethod
    def _take_data(self, data: str) -> None:
        """An event of the answer."""

    def _say(self, text: str) -> None:
        """It is a piece of the answer."""
        self.first_at = self.first_at or time.monotonic()
        self.pieces += 1
        self.texts.append(text)


class ChatStream(AnswerStream):
    """Of OpenAI's chat completions."""

    def __init__(self) -> None:
        super().__init__()
        self._completion = Completion()

    @property
    def choices(self) -> tuple[dict[str, Any], ...]:
        return self._completion.choices()

    def _take_data(self, data: str) -> None:
        try:
            chunk = from_json(data, _Chunk)
        except InvalidJson:
            return
        if chunk.error is not None:
            self.error = str(chunk.error.get("message") if isinstance(chunk.error, dict) else chunk.error)
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
            self._completion.take(choice)
            if choice.says_something:
                self._say(choice.text)
        if chunk.choices:
            self._untold.append(Piece(data, chunk.choices, chunk.id if isinstance(chunk.id, str) else ""))


class _Chunk(msgspec.Struct):
    id: Any = None
    choices: list[ChunkChoice] = []
    error: Any = None
