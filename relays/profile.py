"""Who a key is and where it publishes: the profile (kind 0, NIP-01 and NIP-24) and the relay list (kind 10002, NIP-65)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from relays import kinds
from relays.event import Event, Signer


def profile(signer: Signer, created_at: int, *, name: str, about: str, website: str) -> Event:
    """The profile of a program: `bot` says that nobody reads what is sent to it."""
    fields = {"name": name, "about": about, "website": website}
    content: dict[str, str | bool] = {field: text for field, text in fields.items() if text}
    content["bot"] = True
    return signer.sign(kind=kinds.PROFILE, content=msgspec.json.encode(content).decode(), created_at=created_at)


def relay_list(signer: Signer, created_at: int, relays: Iterable[str]) -> Event:
    """Where the key writes and reads."""
    tags = [[kinds.TAG_RELAY, url] for url in relays]
    return signer.sign(kind=kinds.RELAY_LIST, content="", created_at=created_at, tags=tags)
