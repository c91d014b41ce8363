"""Requests to delete events of one's own (NIP-09)."""

from __future__ import annotations

from collections.abc import Iterable

from relays import kinds
from relays.event import Event, Signer


def deletion(events: Iterable[Event], signer: Signer, created_at: int) -> Event:
    """One request for all of them: by their ids, and by their addresses for every version up to `created_at`."""
    taken_back = tuple(events)
    tags = [tag for event in taken_back for tag in (["e", event.id], ["a", event.address()])]
    tags += [["k", str(kind)] for kind in dict.fromkeys(event.kind for event in taken_back)]
    return signer.sign(kind=kinds.DELETION, content="", created_at=created_at, tags=tags)
