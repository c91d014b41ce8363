"""Who a key is and where it publishes: the profile (kind 0, NIP-01 and NIP-24) and the relay list (kind 10002, NIP-65)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from relays import kinds
from relays.event import Event, Signer

LIFETIME_S: Final = 30 * 86400
"""Who and where a key is outlasts its node's stops, and is forgotten (NIP-40) when that does not come back."""


def profile(signer: Signer, created_at: int, *, name: str, about: str, website: str) -> Event:
    """The profile of a program: `bot` says that nobody reads what is sent to it."""
    fields = {"name": name, "about": about, "website": website}
    content: dict[str, str | bool] = {field: text for field, text in fields.items() if text}
    content["bot"] = True
    text = msgspec.json.encode(content).decode()
    return signer.sign(kind=kinds.PROFILE, content=text, created_at=created_at, tags=[_expiration(created_at)])


def relay_list(signer: Signer, created_at: int, relays: Iterable[str]) -> Event:
    """Where the key writes and reads."""
    tags = [*([kinds.TAG_RELAY, url] for url in relays), _expiration(created_at)]
    return signer.sign(kind=kinds.RELAY_LIST, content="", created_at=created_at, tags=tags)


def _expiration(created_at: int) -> list[str]:
    return [kinds.TAG_EXPIRATION, str(created_at + LIFETIME_S)]
