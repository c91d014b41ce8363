"""Metering: from the bytes of an answer to the tokens it used. Pure; bytes pass through as they are.

A stream is cut at event boundaries only: complete events go on untouched, except for `[DONE]`, which is kept back so that
the receipt can come before it, and the usage event of a caller who did not ask for it. When nobody reports usage, what
was streamed is counted.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.pricing import Usage

DONE: Final = b"data: [DONE]\n\n"
MAX_TOKENS: Final = 100_000_000
"""A usage beyond this is no usage."""
MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""An event longer than this is passed on in pieces, and counted instead of read."""
MAX_KEPT_BYTES: Final = 256 * 1024
"""Events are kept for counting up to here, then counted and let go."""
BYTES_PER_TOKEN: Final = 4

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")

Metered = Literal["upstream", "counted"]


class Measured(msgspec.Struct, frozen=True):
    """Tokens used, and who counted them."""

    usage: Usage
    by: Metered


class _Reported(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0


class _WithUsage(msgspec.Struct):
    usage: _Reported | None = None
    choices: list[msgspec.Raw] = []


def usage_of_body(body: bytes, likely_prompt_tokens: int) -> Measured:
    """The usage of a whole JSON answer; counted from its text where it reports none that can be true."""
    try:
        reported = _usable(from_json(body, _WithUsage).usage)
    except InvalidJson:
        reported = None
    written = _count_text(_texts_of(body))
    if reported is not None and (reported.completion_tokens or not written):
        return Measured(reported, "upstream")
    return Measured(Usage(likely_prompt_tokens, written), "counted")


class StreamMeter:
    """One stream. `feed` it what comes, send what it gives back, `finish` it, then ask for `measured`."""

    def __init__(self, *, hide_usage: bool, likely_prompt_tokens: int) -> None:
        self._hide_usage = hide_usage
        self._likely_prompt_tokens = likely_prompt_tokens
        self._tail = b""
        self._reported: Usage | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._counted_tokens = 0
        self.broken = False
        """The upstream said in its stream that it failed."""

    def feed(self, chunk: bytes) -> bytes:
        """The complete events so far, less what is kept back."""
        data = self._tail + chunk if self._tail else chunk
        cut = 0
        for boundary in _BOUNDARY.finditer(data):
            cut = boundary.end()
        if cut == 0 and len(data) > MAX_HELD_BYTES:
            cut = len(data)
        self._tail = data[cut:]
        return self._pass(data[:cut]) if cut else b""

    def finish(self) -> bytes:
        """What was left without a boundary at the end of the stream."""
        tail, self._tail = self._tail, b""
        return self._pass(tail) if tail.strip() else b""

    def measured(self) -> Measured:
        """The usage as reported, if that can be true; else counted from what was streamed."""
        if self._reported is not None and (self._reported.completion_tokens or not self._written()):
            return Measured(self._reported, "upstream")
        return Measured(Usage(self._likely_prompt_tokens, self._written()), "counted")

    def _pass(self, events: bytes) -> bytes:
        """Look at complete events: the plain case costs three searches and no parsing."""
        if b'"usage"' not in events and b"[DONE]" not in events and b'"error"' not in events:
            self._keep(events)
            return events
        passed = []
        for event in _split_events(events):
            if _data(event).strip() == b"[DONE]":
                continue
            if b'"error"' in event and _says_error(event):
                self.broken = True
            if b'"usage"' in event and self._take_usage(event) and self._hide_usage:
                continue
            self._keep(event)
            passed.append(event)
        return b"".join(passed)

    def _take_usage(self, event: bytes) -> bool:
        """Note a reported usage; True when the event carries nothing else."""
        try:
            answer = from_json(_data(event), _WithUsage)
        except InvalidJson:
            return False
        if answer.usage is None:
            return False
        self._reported = _usable(answer.usage) or self._reported
        return not answer.choices

    def _keep(self, events: bytes) -> None:
        self._kept.append(events)
        self._kept_bytes += len(events)
        if self._kept_bytes > MAX_KEPT_BYTES:
            self._count()

    def _count(self) -> None:
        for events in self._kept:
            for event in _split_events(events):
                self._counted_tokens += _count_text(_texts_of(_data(event)))
        self._kept, self._kept_bytes = [], 0

    def _written(self) -> int:
        self._count()
        return self._counted_tokens


class _WithError(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"null")


def _says_error(event: bytes) -> bool:
    try:
        return bytes(from_json(_data(event), _WithError).error) != b"null"
    except InvalidJson:
        return False


def _usable(reported: _Reported | None) -> Usage | None:
    """A reported usage, unless it cannot be true."""
    if reported is None:
        return None
    if not (0 <= reported.prompt_tokens <= MAX_TOKENS and 0 <= reported.completion_tokens <= MAX_TOKENS):
        return None
    return Usage(reported.prompt_tokens, reported.completion_tokens)


def _split_events(events: bytes) -> list[bytes]:
    """Events with their boundaries."""
    parts, start = [], 0
    for boundary in _BOUNDARY.finditer(events):
        parts.append(events[start : boundary.end()])
        start = boundary.end()
    if start < len(events):
        parts.append(events[start:])
    return parts


def _data(event: bytes) -> bytes:
    """The `data:` of an event, its lines joined as the SSE standard says."""
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(line[1:] if line.startswith(b" ") else line for line in lines)


def _texts_of(data: bytes) -> list[str]:
    """Everything a model wrote in an answer or a chunk of one: text, reasoning, tool calls."""
    if not data.startswith((b"{", b" {")):
        return []
    try:
        answer = from_json(data)
    except InvalidJson:
        return [data.decode(errors="replace")]  # not understood is not free: counted by its bytes
    choices = answer.get("choices") if isinstance(answer, dict) else None
    texts: list[str] = []
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            _collect(choice.get("delta") or choice.get("message") or choice.get("text"), texts)
    return texts


def _collect(part: Any, texts: list[str]) -> None:
    """Strings anywhere inside, except the role."""
    if isinstance(part, str):
        texts.append(part)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name not in ("role", "type", "id", "index"):
                _collect(value, texts)
    elif isinstance(part, list):
        for value in part:
            _collect(value, texts)


def _count_text(texts: list[str]) -> int:
    """Tokens of text: one per four bytes, and at least one per piece, since servers stream a token or more at a time."""
    return sum(max(1, -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)) for text in texts if text)
