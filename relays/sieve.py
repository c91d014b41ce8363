"""Genuine events out of what relays send: cheap checks first, each event verified once, and patience that has an end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from relays.errors import InvalidEvent, RelayMisbehaves
from relays.event import Event, read_event, verify_event
from relays.filters import Filter, asked_for

MAX_PASSED: Final = 50_000
"""Ids that are remembered; an event that comes again after so many others is verified again."""
MAX_FALSE: Final = 100
"""Who sends more than this that is forged, broken or not asked for is not listened to."""
BURST_EVENTS: Final = 20_000
EVENTS_PER_S: Final = 100.0
BURST_CHARS: Final = 64 * 1024 * 1024
CHARS_PER_S: Final = 1024.0 * 1024
"""What one relay may send: what it has stored, then what comes about as it happens."""


class Sieve:
    """One question put to several relays: what passes is genuine, was asked for, and passes once."""

    def __init__(self, filters: Sequence[Filter], known: Callable[[str], bool] = lambda _: False) -> None:
        """`known` says of an id whether its event is at hand already: it is not wanted again."""
        self._filters = [_prepared(each) for each in filters]
        self._known = known
        self._passed: dict[str, None] = {}

    def take(self, raw: object) -> Event | None:
        """The event, or None for one that passed before. Raises InvalidEvent.

        An id is remembered once its event is verified, so that a forgery that comes first does not shut out the genuine one.
        """
        id_ = raw.get("id") if isinstance(raw, dict) else None
        if isinstance(id_, str) and (id_ in self._passed or self._known(id_)):
            return None
        event = read_event(raw)
        if not asked_for(event, self._filters):
            raise InvalidEvent("not what was asked for")
        verify_event(event)
        self._passed[event.id] = None
        if len(self._passed) > MAX_PASSED:
            del self._passed[next(iter(self._passed))]
        return event


def chars_of(raw: object) -> int:
    """How long the texts of an event are, whatever it is."""
    if not isinstance(raw, dict):
        return 0
    content, tags = raw.get("content"), raw.get("tags")
    length = len(content) if isinstance(content, str) else 0
    for tag in tags if isinstance(tags, list) else ():
        length += sum(len(text) for text in tag if isinstance(text, str)) if isinstance(tag, list) else 0
    return length


def _prepared(wanted: Filter) -> Filter:
    """The filter with its lists as sets: hundreds of authors are looked up for every event."""
    return {name: frozenset(value) if isinstance(value, list) else value for name, value in wanted.items()}


class Patience:
    """What one relay may still send before it is cut off."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._left: float = BURST_EVENTS
        self._chars_left: float = BURST_CHARS
        self._false = 0
        self._at = clock()

    def spend(self, chars: int = 0) -> None:
        """One event of so many characters came. Raises RelayMisbehaves when that is more than anybody has to say."""
        now = self._clock()
        passed_s, self._at = now - self._at, now
        self._left = min(BURST_EVENTS, self._left + passed_s * EVENTS_PER_S) - 1
        self._chars_left = min(BURST_CHARS, self._chars_left + passed_s * CHARS_PER_S) - chars
        if self._left < 0 or self._chars_left < 0:
            raise RelayMisbehaves(f"{self._url} sends more events than anybody has to say")

    def forgive(self) -> None:
        """Another connection: what was false on the last one is forgotten, not how much was sent."""
        self._false = 0

    def wrong(self) -> None:
        """It was not genuine, or not asked for. Raises RelayMisbehaves when that is no accident any more."""
        self._false += 1
        if self._false > MAX_FALSE:
            raise RelayMisbehaves(f"{self._url} sends forged events, or such as were not asked for")
