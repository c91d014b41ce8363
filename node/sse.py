"""Server-sent events as bytes: cut at their boundaries, read, written (WHATWG HTML, server-sent events). Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

BOUNDARY: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
DONE: Final = b"data: [DONE]\n\n"


class Event(msgspec.Struct, frozen=True):
    """One event: its name, empty if it has none, and its data."""

    name: str
    data: bytes


class EventReader:
    """Events out of chunks that are cut anywhere. Comments and events without data are left out."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete now."""
        whole, self._tail = cut(self._tail + chunk)
        return [event for event in map(read, split(whole)) if event is not None]

    def finish(self) -> list[Event]:
        """What was left without a boundary at the end of the stream."""
        last, self._tail = read(self._tail), b""
        return [] if last is None else [last]

    @property
    def waiting(self) -> int:
        """How many bytes of an unfinished event are kept."""
        return len(self._tail)


def cut(data: bytes) -> tuple[bytes, bytes]:
    """The complete events, and what is left."""
    end = 0
    for boundary in BOUNDARY.finditer(data):
        end = boundary.end()
    return data[:end], data[end:]


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
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
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
