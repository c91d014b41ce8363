"""What a subscription asks for (NIP-01), and whether an event is that: relays send what they like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relays.event import Event

Filter = dict[str, Any]
"""A NIP-01 filter, such as `{"kinds": [38421], "#m": ["gpt-4o"]}`."""


def matches(event: Event, wanted: Filter) -> bool:
    """Whether the event passes the filter: every field of it, and of each field one value."""
    for name, value in wanted.items():
        if name == "kinds":
            fits = event.kind in value
        elif name == "authors":
            fits = event.pubkey in value
        elif name == "ids":
            fits = event.id in value
        elif name == "since":
            fits = event.created_at >= value
        elif name == "until":
            fits = event.created_at <= value
        elif name.startswith("#"):
            fits = not set(event.values(name[1:])).isdisjoint(value)
        else:
            fits = True  # `limit` says how many, not which
        if not fits:
            return False
    return True


def asked_for(event: Event, filters: Sequence[Filter]) -> bool:
    """Whether one of the filters wants the event."""
    return any(matches(event, wanted) for wanted in filters)
