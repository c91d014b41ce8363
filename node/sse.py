"""Server-sent events as bytes: cut at their boundaries, read, written (WHATWG HTML, server-sent events). Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

BOUNDARY: Final = re.compile(rb"\r\n\r\n|\r\n\n|\n\r\n|\n\n|\r\r|\r?\n\r(?=[^\n])")
"""Two line ends, each any of three. The last of them, of two kinds, is one only when the next byte says so."""
BOM: Final = b"\xef\xbb\xbf"
"""A stream may begin with it."""
MOST_EDGE: Final = 3
"""A boundary is at most four bytes: so many may have come in the chunk before."""
DONE: Final = b"data: [DONE]\n\n"


class Event(msgspec.Struct, frozen=True):
    """One event: its name, empty if it has none, and its data."""

    name: str
    data: bytes


class Cutter:
    """Complete events out of chunks that are cut anywhere; an event of more than `longest` bytes comes in pieces."""

    def __init__(self, longest: int | None = None) -> None:
        self._longest = longest
        self._pieces: list[bytes] = []
        self._size = 0
        self._edge = b""
        self.inside = False
        """Whether what was given last ends within an event, whose next piece is to come."""

    @property
    def waiting(self) -> int:
        """How many bytes of an unfinished event are kept."""
        return self._size

    def feed(self, chunk: bytes) -> bytes:
        """The events that are complete now; each byte is looked at once, however small the chunks are."""
        if chunk.endswith(b"\n\n"):  # as most do
            self.inside = False
            return self._all(chunk)
        probe = self._edge + chunk
        end = 0
        for boundary in BOUNDARY.finditer(probe):
            end = boundary.end()
        inside = not end and self._longest is not None and self._size + len(chunk) > self._longest
        if inside:
            end = len(probe.rstrip(b"\r\n"))  # what stands there may be half a boundary
        if not end or (inside and end <= len(self._edge)):
            self._pieces.append(chunk)
            self._size += len(chunk)
            self._edge = probe[-MOST_EDGE:]
            return b""
        self.inside = inside
        cut_at = end - len(self._edge)  # what lies in the edge alone was no boundary before
        whole = b"".join((*self._pieces, chunk[:cut_at]))
        self._keep(chunk[cut_at:])
        return whole

    def _all(self, chunk: bytes) -> bytes:
        if not self._pieces:
            return chunk
        whole = b"".join((*self._pieces, chunk))
        self._keep(b"")
        return whole

    def rest(self) -> bytes:
        """What was left without a boundary at the end of the stream."""
        left = b"".join(self._pieces)
        self._keep(b"")
        return left

    def _keep(self, left: bytes) -> None:
        self._pieces = [left] if left else []
        self._size = len(left)
        self._edge = left[-MOST_EDGE:]


class EventReader:
    """Events out of chunks that are cut anywhere. Comments and events without data are left out."""

    def __init__(self) -> None:
        self._cutter = Cutter()

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete now."""
        return [event for event in map(read, split(self._cutter.feed(chunk))) if event is not None]

    def finish(self) -> list[Event]:
        """What was left without a boundary at the end of the stream."""
        last = read(self._cutter.rest())
        return [] if last is None else [last]

    @property
    def waiting(self) -> int:
        """How many bytes of an unfinished event are kept."""
        return self._cutter.waiting


def split(events: bytes) -> list[bytes]:
    """Events with their boundaries."""
    parts, start = [], 0
    for boundary in BOUNDARY.finditer(events):
        parts.append(events[start : boundary.end()])
        start = boundary.end()
    if start < len(events):
        parts.append(events[start:])
    return parts


def data_of(event: bytes) -> bytes:
    """The `data:` of an event, its lines joined as the standard says."""
    lines = [line[5:] for line in event.removeprefix(BOM).splitlines() if line.startswith(b"data:")]
    return b"\n".join(line[1:] if line.startswith(b" ") else line for line in lines)


def read(event: bytes) -> Event | None:
    """One event, or None for a comment or one without data."""
    data = data_of(event)
    if not data:
        return None
    names = [line[6:].strip() for line in event.splitlines() if line.startswith(b"event:")]
    return Event(names[-1].decode(errors="replace") if names else "", data)


def write(data: Any, name: str = "") -> bytes:
    """An event with JSON data."""
    head = f"event: {name}\n" if name else ""
    return head.encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"
