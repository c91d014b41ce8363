"""Streams: events go on untouched at their boundaries, but for those kept back until the request is charged.

Kept back are `[DONE]`, so that the receipt can come before it; the usage event of a caller who did not ask for it, for
good; and the event with the last report and what follows it, so that it can tell the cost. When nobody reports usage,
what was streamed is counted.
"""

from __future__ import annotations

from typing import Final

import msgspec

from node.metering.measure import Known, Measured, measure
from node.metering.texts import texts_of
from node.metering.tokens import count
from node.sse import BOUNDARY, data_of, split
from relays import usage as reports
from relays.endpoints import CHAT, COMPLETIONS, Endpoint
from relays.errors import InvalidJson
from relays.jsontext import from_json

MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""An event longer than this is passed on in pieces, and counted instead of read."""
MAX_KEPT_BYTES: Final = 256 * 1024
"""Events are kept for counting up to here, then counted and let go."""
MAX_COUNTED_CHARS: Final = 4096
"""Text is counted in pieces that do not depend on how the stream was cut."""
_WATCHED: Final = (b'"usage"', b"[DONE]", b'"error"', b'.completed"')
_LAST: Final = (
    "message_delta",
    "response.completed",
    "response.incomplete",
    "transcript.text.done",
    "speech.audio.done",
)
_IMAGE_MADE: Final = ("image_generation.completed", "image_edit.completed")
_FAILED: Final = ("error", "response.failed")
_SILENT: Final = ("ping", "message_start", "response.created", "response.queued", "response.in_progress")
"""Events before an answer begins."""


class _Head(msgspec.Struct):
    """The top of an event's data."""

    type: str | None = None
    error: msgspec.Raw = reports.NULL
    usage: msgspec.Raw = reports.NULL
    choices: list[msgspec.Raw] | None = None


def says_something(data: bytes, endpoint: Endpoint) -> bool:
    """Whether an event is part of an answer: until one came, a failure is free."""
    head = _head(data)
    if head is None or bytes(head.error) != b"null":
        return False
    if endpoint in (CHAT, COMPLETIONS):
        return bool(head.choices)
    return head.type is not None and head.type not in (*_SILENT, *_FAILED)


class StreamMeter:
    """One stream: `feed` it what comes, send what it gives, `finish` it; then it has `measured` and what was `kept_back`."""

    def __init__(self, endpoint: Endpoint, known: Known, *, hide_usage: bool) -> None:
        self._plain = endpoint in (CHAT, COMPLETIONS)
        """Its chunks have choices, and a usage event of their own."""
        self._known = known
        self._hide_usage = hide_usage
        self._tail = b""
        self._report: reports.Report | None = None
        self._images = 0
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._text: list[str] = []
        self._text_chars = 0
        self._counted_tokens = 0
        self.kept_back: list[bytes] = []
        """Events that come when the request is charged."""
        self.broken = False
        """The upstream said in its stream that it failed."""
        self.done = False
        """The upstream said `[DONE]`."""

    def feed(self, chunk: bytes) -> bytes:
        """The complete events so far, less what is kept back."""
        data = self._tail + chunk if self._tail else chunk
        end = 0
        for boundary in BOUNDARY.finditer(data):
            end = boundary.end()
        if end == 0 and len(data) > MAX_HELD_BYTES:
            end = len(data)
        self._tail = data[end:]
        return self._pass(data[:end]) if end else b""

    def finish(self) -> bytes:
        """What was left without a boundary at the end of the stream."""
        tail, self._tail = self._tail, b""
        return self._pass(tail) if tail.strip() else b""

    def measured(self) -> Measured:
        """The usage as reported, if that can be true; else counted from what was streamed."""
        reported = None if self._report is None else reports.usage_of(self._report)
        return measure(reported, self._known, self._written, self._images)

    def _pass(self, events: bytes) -> bytes:
        """Look at complete events: the plain case costs a few searches and no parsing."""
        if not self.kept_back and not any(word in events for word in _WATCHED):
            self._keep(events)
            return events
        return b"".join([event for event in split(events) if self._passes(event)])

    def _passes(self, event: bytes) -> bool:
        data = data_of(event)
        if data.strip() == b"[DONE]":
            self.done = True
            return False
        head = _head(data)
        if head is None:
            self._keep(event)
            return not self.kept_back or self._keeps_back(event)
        if head.type in _FAILED or bytes(head.error) != b"null":
            self.broken = True
        if head.type in _IMAGE_MADE:
            self._images += 1
        self._take_report(data, head.type)
        only_usage = self._plain and not head.choices and bytes(head.usage) != b"null"
        if only_usage and self._hide_usage:
            return False
        self._keep(event)
        if only_usage or head.type in _LAST or self.kept_back:
            return self._keeps_back(event)
        return True

    def _keeps_back(self, event: bytes) -> bool:
        self.kept_back.append(event)
        return False

    def _take_report(self, data: bytes, kind: str | None) -> None:
        report = reports.report_in(data) if b'"usage"' in data else None
        if report is not None:
            if kind == "message_start":  # it tells of the first token written, whatever comes after
                report = msgspec.structs.replace(report, output_tokens=None)
            together = reports.merged(self._report, report)
            if reports.usage_of(together) is not None:
                self._report = together

    def _keep(self, events: bytes) -> None:
        self._kept.append(events)
        self._kept_bytes += len(events)
        if self._kept_bytes > MAX_KEPT_BYTES:
            self._count()

    def _count(self) -> None:
        for events in self._kept:
            for event in split(events):
                for text in texts_of(data_of(event)):
                    self._text.append(text)
                    self._text_chars += len(text)
                    if self._text_chars > MAX_COUNTED_CHARS:
                        self._count_text()
        self._kept, self._kept_bytes = [], 0

    def _count_text(self) -> None:
        self._counted_tokens += count("".join(self._text))
        self._text, self._text_chars = [], 0

    def _written(self) -> int:
        self._count()
        return self._counted_tokens + (count("".join(self._text)) if self._text else 0)


def _head(data: bytes) -> _Head | None:
    try:
        return from_json(data, _Head)
    except InvalidJson:
        return None
