"""Streams: events go on untouched at their boundaries, but for those kept back until the request is charged.

Kept back are `[DONE]`, so that the receipt can come before it; the usage event of a caller who did not ask for it, for
good; an error, whose words may tell of the operator's account; and the event with the last report and what follows it, so
that it can tell the cost. When nobody reports usage, what was streamed is counted.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final

import msgspec

from node.metering.frame import Frame
from node.metering.measure import IMAGE_TOKENS, Known, Measured, measure
from node.metering.private import public_event, without_nulls, without_usage
from node.metering.saying import Choice, reports_writing
from node.metering.skimmed import Skimmed
from node.metering.texts import texts_of
from node.metering.written import Written
from node.sse import Cutter, data_of, read, split
from relays import usage as reports
from relays.endpoints import CHAT, COMPLETIONS, IMAGE_EDITS, IMAGES, Endpoint
from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.pricing import Usage

MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""An event longer than this is passed on in pieces: its type and its report are read, its text is counted. No more is kept
back."""
_WATCHED: Final = (b"[DONE]", b'"error"', b"event: error", b"event:error")
_WATCHED_BY_TYPE: Final = (
    *(b'image"', b'.completed"', b'.incomplete"', b'"message_delta"', b'"message_stop"', b'text.done"', b'audio.done"'),
    *_WATCHED,
)
"""Where events have types."""
_FINISHED: Final = re.compile(rb'"finish_reason"\s{0,16}:\s{0,16}"[^"]')
_SPREAD: Final = re.compile(rb"(?<![^\r\n])data:[^\r\n]*(?:\r\n|\n|\r)data:")
"""Data on several lines."""
_LAST: Final = (
    "message_delta",
    "response.completed",
    "response.incomplete",
    "transcript.text.done",
    "speech.audio.done",
)
_IMAGE_MADE: Final = ("image_generation.completed", "image_edit.completed")
_IMAGE_BEGUN: Final = ("image_generation.partial_image", "image_edit.partial_image")
_FAILED: Final = ("error", "response.failed")
_OVER: Final = ("message_stop", "response.completed", "response.incomplete")
"""Nothing comes after them."""
_SILENT: Final = (
    *("ping", "message_start", "message_stop", "response.created", "response.queued", "response.in_progress"),
)
"""Events around an answer."""


class _Head(msgspec.Struct):
    """The top of an event's data."""

    type: str | None = None
    object: msgspec.Raw = reports.NULL
    error: msgspec.Raw = reports.NULL
    usage: msgspec.Raw = reports.NULL
    choices: list[msgspec.Raw] | None = None


def says_something(data: bytes, endpoint: Endpoint) -> bool:
    """Whether an event is part of an answer: until one came, a failure is free."""
    head = _head(data)
    if head is None or _failed(head):
        return False
    if endpoint in (CHAT, COMPLETIONS):
        return any(_choice(raw).says_something for raw in head.choices or ()) or reports_writing(data)
    return head.type is not None and head.type not in (*_SILENT, *_FAILED)


class StreamMeter:
    """One stream: `feed` it what comes, send what it gives, `finish` it; then it has `measured` and what was `kept_back`."""

    def __init__(self, endpoint: Endpoint, known: Known, *, hide_usage: bool) -> None:
        self._plain = endpoint in (CHAT, COMPLETIONS)
        """Its chunks have choices, and a usage event of their own."""
        self._draws = endpoint in (IMAGES, IMAGE_EDITS)
        """It makes pictures, and writes nothing."""
        self._known = known
        self._hide_usage = hide_usage
        self._cutter = Cutter(MAX_HELD_BYTES)
        self._frame = Frame()
        self._skimmed: Skimmed | None = None
        """Of the event that passes in pieces."""
        self._report: reports.Report | None = None
        self._so_far: reports.Report | None = None
        """Told beside a piece of the answer: of one choice of several it may be, and of what came before it."""
        self._is_stale = False
        """Whether more was said since."""
        self._finished = 0
        self._images_made = 0
        self._images_begun = False
        self.written = Written()
        self.kept_back: list[bytes] = []
        """Events that come when the request is charged."""
        self._kept_back_bytes = 0
        self.broken = False
        """The upstream said in its stream that it failed: the caller is told so in our words."""
        self.done = False
        """The upstream said `[DONE]`."""
        self.ended = False
        """Something said that the answer is whole."""
        self.over = False
        """Nothing more will come, whether or not the connection is closed."""

    @property
    def owes_usage(self) -> bool:
        """Whether the caller asked for an event with the usage, and there is none."""
        return self._plain and not self._hide_usage and not any(b'"usage"' in event for event in self.kept_back)

    def feed(self, chunk: bytes) -> bytes:
        """The complete events so far, less what is kept back."""
        if (passed := self._frame.passed(chunk)) is not None and not self._cutter.waiting:
            self._keep(chunk)
            return passed
        events = self._cutter.feed(chunk)
        if not events:
            return b""
        return self._skim(events) if self._skimmed or self._cutter.inside else self._pass(events)

    def finish(self) -> bytes:
        """What was left without a boundary at the end of the stream."""
        tail = self._cutter.rest()
        if self._skimmed is not None:
            return self._skim(tail, ends=True)
        return self._pass(tail) if tail.strip() else b""

    def measured(self, beside: Usage | None = None) -> Measured:
        """The usage as reported, if that can be true; else counted from what was streamed. `beside` was reported outside of
        the stream, as far as it has come."""
        reported = None if self._report is None else reports.usage_of(self._report)
        so_far = beside if self._so_far is None else reports.usage_of(self._so_far)
        told = self._report or self._so_far
        is_sum, is_more = told is not None and told.is_sum, False
        if reported is None and so_far is not None:
            reported = so_far if is_sum or self._is_final() else self._at_least_written(so_far)
            is_more = reported is not so_far
        images = self._images_made or int(self._images_begun)
        written = self.written.tokens
        if self._draws:
            written = partial(int, images * IMAGE_TOKENS if self._known.estimate else 0)
        used = measure(reported, self._known, written, images, is_sum=is_sum)
        return Measured(used.usage, "counted") if is_more else used

    def _is_final(self) -> bool:
        """Whether what was told beside a piece of the answer is of all of it."""
        return self._so_far is not None and self.ended and not self._is_stale and self._known.choices == 1

    def _at_least_written(self, so_far: Usage) -> Usage:
        counted, most = self.written.tokens(), self._known.most
        if most is not None:  # by another vocabulary than the model's more may be counted than can be
            counted = min(counted, most.completion_tokens)
        if counted <= so_far.completion_tokens:
            return so_far
        return msgspec.structs.replace(so_far, completion_tokens=counted)

    def _pass(self, events: bytes) -> bytes:
        """Look at complete events: the plain case costs a few searches and no parsing."""
        told = self._plain and (self._report is not None or self._so_far is not None)
        if not (self.kept_back or told or _is_watched(events, _WATCHED if self._plain else _WATCHED_BY_TYPE)):
            is_an_end = self._look_for_an_end(events)
            self._keep(events)
            passed = without_nulls(events) if self._hide_usage and b'"usage"' in events else events
            if not is_an_end:
                self._frame.learn(events, passed)
            return passed
        self._frame.forget()
        return b"".join([self._look(event) for event in split(events)])

    def _skim(self, events: bytes, *, ends: bool = False) -> bytes:
        """A piece of an event that is too long to be held, and what follows it."""
        skimmed = self._skimmed = self._skimmed or Skimmed()
        inside = self._cutter.inside and not ends
        first, *more = [events] if inside else split(events) or [b""]
        skimmed.feed(first)
        self._keep(first)
        released, self.kept_back, self._kept_back_bytes = b"".join(self.kept_back), [], 0
        if inside:
            return released + first
        self._skimmed = None
        if not self._plain:  # whose pieces may come with reports of one choice alone
            self._count(skimmed.data, _head(skimmed.data) or _Head())
        return released + first + (self._pass(b"".join(more)) if more else b"")

    def _look(self, event: bytes) -> bytes:
        """What is passed on of an event, and of those kept back before it."""
        data = data_of(event)
        if data.strip() == b"[DONE]":
            self.done = self.ended = self.over = True
            return b""
        head = _head(data) or _Head()
        if head.type in _FAILED or _failed(head) or _is_named_error(event):
            self.broken = True
            self._take_report(data, head)
            return b""
        self._look_for_an_end(data)
        last = self._count(data, head)
        if last and self._plain and self._hide_usage:
            return b""
        self._keep(event)
        if self._belongs_to_the_end(head, last=last):
            released = b"" if head.type not in _IMAGE_MADE else self._released()
            self.kept_back.append(event)
            self._kept_back_bytes += len(event)
            return released
        return self._released() + self._shown(event)  # what was kept back was not the last after all

    def _belongs_to_the_end(self, head: _Head, *, last: bool) -> bool:
        if last:
            return True
        follows = self.kept_back and not head.choices and head.type not in _IMAGE_BEGUN
        return bool(follows) and self._kept_back_bytes < MAX_HELD_BYTES

    def _released(self) -> bytes:
        released = b"".join(self.kept_back)
        self.kept_back, self._kept_back_bytes = [], 0
        return released

    def _shown(self, event: bytes) -> bytes:
        """An event without what is not for the caller."""
        if b'"usage"' not in event:
            return event
        return without_usage(event) if self._plain and self._hide_usage else public_event(event)

    def _look_for_an_end(self, data: bytes) -> bool:
        """Whether a choice may have ended."""
        if not self._plain or self.ended or not _says(data, b'"finish_reason"'):
            return False
        self._finished += len(_FINISHED.findall(data))
        self.ended = self._finished >= self._known.choices
        return True

    def _keep(self, events: bytes) -> None:
        if not self._draws:
            self.written.keep(events)

    def _count(self, data: bytes, head: _Head) -> bool:
        """Take in what an event tells; whether it may be the last."""
        self._images_made += head.type in _IMAGE_MADE
        self._images_begun |= head.type in _IMAGE_BEGUN
        self._take_report(data, head)
        last = head.type in (*_LAST, *_IMAGE_MADE) or (
            self._plain and not head.choices and bytes(head.usage) != b"null"
        )
        self.ended |= last
        self.over |= head.type in _OVER
        return last

    def _take_report(self, data: bytes, head: _Head) -> None:
        report = reports.report_in(data) if b'"usage"' in data else None
        if self._plain and head.choices and report is not None and reports.usage_of(report) is not None:
            self._so_far, self._report, self._is_stale = report, None, False
            return
        if self._plain and head.choices and (self._report or self._so_far) and any(texts_of(data)):
            self._so_far, self._report, self._is_stale = self._report or self._so_far, None, True
            return
        if report is None:
            return
        if head.type == "message_start":  # it tells of the first token written, whatever comes after
            report = msgspec.structs.replace(report, output_tokens=None)
        together = reports.merged(self._report, report)
        if reports.usage_of(together) is not None:
            self._report = together


def _is_watched(events: bytes, words: tuple[bytes, ...]) -> bool:
    """Whether events may hold what is looked at: a report, an end, an error, a picture; or data on several lines."""
    for word in words:
        if word in events:
            return True
    if _says(events, b'"usage"'):
        return True
    # Most events are one line, and another follows after an empty one.
    lines = b"\r" in events or events.count(b"\ndata:") != events.count(b"\n\ndata:")
    return lines and _SPREAD.search(events) is not None


def _says(events: bytes, field: bytes) -> bool:
    """Whether a field may be more than null somewhere: OpenAI's streams have most of theirs in every event."""
    return (many := events.count(field)) > 0 and many != events.count(field + b":null") + events.count(
        field + b": null"
    )


def _failed(head: _Head) -> bool:
    """Whether an event says that the answer failed, for itself or in one of its choices."""
    if bytes(head.error) != b"null" or bytes(head.object) == b'"error"':  # as vLLM and SGLang say it
        return True
    return any(b'"error"' in bytes(raw) and _choice(raw).failed for raw in head.choices or ())


def _is_named_error(event: bytes) -> bool:
    """Whether its name says so, whatever its data is."""
    told = read(event)
    return told is not None and told.name == "error"


def _choice(raw: msgspec.Raw) -> Choice:
    try:
        return from_json(bytes(raw), Choice)
    except InvalidJson:
        return Choice()


def _head(data: bytes) -> _Head | None:
    try:
        return from_json(data, _Head)
    except InvalidJson:
        return None
