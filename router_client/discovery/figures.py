"""How busy nodes say they are (kind 31900): of each address the newest for as long as it holds, with a bound. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from relays import kinds
from relays.capacity import Capacity, decode
from relays.errors import InvalidCapacity
from relays.event import Event

MAX_FIGURES: Final = 20_000
MAX_OF_ONE_AUTHOR: Final = 16
"""Of who writes to more addresses, the eldest go."""


class _Figure(msgspec.Struct, frozen=True):
    id: str
    capacity: Capacity


class Figures:
    """By the address of the capacity event."""

    def __init__(self) -> None:
        self._found: dict[str, _Figure] = {}
        self._by_author: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def put(self, event: Event, now: int, protected: Collection[str] = ()) -> bool:
        """Take in a verified event; whether it is news. The keys in `protected` do not make room for others."""
        try:
            figure = _Figure(event.id, decode(event, now=now))
        except InvalidCapacity:
            return False
        address = event.address()
        elder = self._found.pop(address, None)
        if elder is not None and (elder.capacity.created_at, event.id) >= (figure.capacity.created_at, elder.id):
            self._found[address] = elder
            return False
        self._found[address] = figure
        if elder is None:
            self._by_author.setdefault(event.pubkey, []).append(address)
        self._make_room(event.pubkey, protected)
        return address in self._found

    def of(self, pubkey: str, identifier: str, now: int) -> Capacity | None:
        """The capacity of an announced node, unless it is stale."""
        figure = self._found.get(f"{kinds.CAPACITY}:{pubkey}:{identifier}")
        return None if figure is None or figure.capacity.expires_at <= now else figure.capacity

    def drop(self, address: str, until: int) -> bool:
        """What stands at the address up to that date is deleted; whether anything was."""
        figure = self._found.get(address)
        if figure is None or figure.capacity.created_at > until:
            return False
        self._forget(address)
        return True

    def drop_id(self, pubkey: str, event_id: str) -> bool:
        """The author's event with that id is deleted; whether it is here."""
        gone = [address for address in self._by_author.get(pubkey, ()) if self._found[address].id == event_id]
        for address in gone:
            self._forget(address)
        return bool(gone)

    def _make_room(self, author: str, protected: Collection[str]) -> None:
        mine = self._by_author[author]
        while len(mine) > MAX_OF_ONE_AUTHOR:
            self._forget(min(mine, key=lambda address: self._found[address].capacity.created_at))
        while len(self._found) > MAX_FIGURES:  # first who has said nothing for longest
            open_to_all = (a for a, each in self._found.items() if each.capacity.pubkey not in protected)
            self._forget(next(open_to_all, next(iter(self._found))))

    def _forget(self, address: str) -> None:
        pubkey = self._found.pop(address).capacity.pubkey
        self._by_author[pubkey].remove(address)
        if not self._by_author[pubkey]:
            del self._by_author[pubkey]
