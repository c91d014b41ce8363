"""Whom an author follows (NIP-02, kind 3)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from relays import kinds
from relays.announcement import MAX_CLOCK_SKEW_S
from relays.event import Event

MAX_CONTACTS: Final = 1000
"""Of a longer list the rest is not read."""
_KEY: Final = re.compile(r"[0-9a-f]{64}")


def contacts(events: Iterable[Event], *, now: int) -> dict[str, tuple[str, ...]]:
    """Each author's newest list out of verified events."""
    latest: dict[str, Event] = {}
    for event in events:
        if event.kind != kinds.CONTACTS or event.created_at > now + MAX_CLOCK_SKEW_S:
            continue
        elder = latest.get(event.pubkey)
        if elder is None or (event.created_at, elder.id) > (elder.created_at, event.id):
            latest[event.pubkey] = event
    return {author: _keys(event) for author, event in latest.items()}


def _keys(event: Event) -> tuple[str, ...]:
    keys = dict.fromkeys(key for key in event.values("p")[: 2 * MAX_CONTACTS] if _KEY.fullmatch(key))
    return tuple(keys)[:MAX_CONTACTS]
