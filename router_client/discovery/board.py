"""What is announced: of each address the newest that is genuine, however stale, doubled, hostile or many the events are.

Pure: verified events in, announcements with their pages and capacities out, with a bound on everything that is kept.
Sources: NIP-01 (addressable events), NIP-09 (deletion), NIP-40 (expiration), RIP-02 (announcements), docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, TypeVar

import msgspec

from relays import announcement, kinds, pages
from relays.announcement import MAX_CLOCK_SKEW_S, Announcement
from relays.capacity import Capacity
from relays.errors import InvalidAnnouncement
from relays.event import Event
from relays.pages import Page
from router_client.discovery.figures import Figures

K = TypeVar("K")
V = TypeVar("V")

MAX_NOTICES: Final = 20_000
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of all announcements together; one of a few models takes two KiB."""
MAX_OF_ONE_AUTHOR: Final = 128
MAX_BYTES_OF_ONE_AUTHOR: Final = 4 * 1024 * 1024
"""Who writes to more addresses, or more, loses the eldest of them."""
MAX_DELETED: Final = 20_000
MAX_DELETED_AT_ONCE: Final = 100
"""Of one deletion's tags no more are read."""


class Notice(msgspec.Struct, frozen=True):
    """What is known of one address."""

    address: str
    id: str
    pubkey: str
    created_at: int
    size: int
    said: Announcement | Page | None
    """None for an event that announces nothing, or nothing any more: it still keeps its elders from coming back."""
    event: Event | None = None
    """Until it is kept on disk."""

    def replaces(self, elder: Notice | None) -> bool:
        """Newer; of equal dates the lower id (NIP-01)."""
        return elder is None or (self.created_at, elder.id) > (elder.created_at, self.id)


class Board:
    """Announcements by address, and what was deleted."""

    def __init__(self) -> None:
        self._notices: dict[str, Notice] = {}
        self._by_author: dict[str, list[str]] = {}
        self._ids: set[str] = set()
        self._bytes = 0
        self._deleted_ids: dict[tuple[str, str], None] = {}
        self._deleted_until: dict[str, int] = {}
        self._protected: Collection[str] = ()
        self._figures = Figures()
        self.changed: set[str] = set()
        """Addresses that are not yet on disk as they are here."""

    def __len__(self) -> int:
        return len(self._notices)

    @property
    def bytes(self) -> int:
        return self._bytes

    def protect(self, pubkeys: Collection[str]) -> None:
        """These do not make room for others: they have answered, or the user trusts them."""
        self._protected = pubkeys

    def knows(self, event_id: str) -> bool:
        """Whether the event is here as the newest of its address."""
        return event_id in self._ids

    def put(self, event: Event, now: int) -> bool:
        """Take in a verified event; whether anything changed. Dates from the future are refused, whatever it is."""
        if event.created_at > now + MAX_CLOCK_SKEW_S:
            return False
        if event.kind == kinds.DELETION:
            return self._delete(event)
        if event.kind == kinds.CAPACITY:
            deleted = (event.pubkey, event.id) in self._deleted_ids or event.created_at <= self.withdrawn_at(
                event.address()
            )
            return not deleted and self._figures.put(event, now, self._protected)
        if event.kind != kinds.PROVIDER_ANNOUNCEMENT:
            return False
        return self.keep(self._read(event, now))

    def keep(self, notice: Notice) -> bool:
        """Take in what was read before, unless a newer one is here; whether anything changed."""
        elder = self._notices.get(notice.address)
        if not notice.replaces(elder):
            return False
        if elder is not None:
            self._drop(elder)
        else:
            mine = self._by_author.setdefault(notice.pubkey, [])
            mine.append(notice.address)
        self._notices[notice.address] = notice
        self._ids.add(notice.id)
        self._bytes += notice.size
        self.changed.add(notice.address)
        self._make_room(notice.pubkey)
        return True

    def written(self) -> list[Notice | str]:
        """What changed since the last time, each notice or the address that has none now; from now on it is on disk, and its
        events are not kept here as well."""
        changed: list[Notice | str] = []
        for address in self.changed:
            notice = self._notices.get(address)
            changed.append(address if notice is None else notice)
            if notice is not None and notice.event is not None:
                self._notices[address] = msgspec.structs.replace(notice, event=None)
        self.changed.clear()
        return changed

    def announcements(self, now: int) -> list[Announcement]:
        """Those in force, neither deleted nor expired, each with what is here of its pages."""
        found: list[Announcement] = []
        for notice in self._notices.values():
            said = notice.said
            if isinstance(said, Announcement) and _lasts(said, now):
                found.append(self._whole(said, now) if said.pages else said)
        return found

    def capacity(self, pubkey: str, identifier: str, now: int) -> Capacity | None:
        """What an announced node says of itself, if it has said so in the last minutes."""
        return self._figures.of(pubkey, identifier, now)

    def withdrawn_at(self, address: str) -> int:
        """The date up to which what stands at the address is deleted; -1 if it is not."""
        return self._deleted_until.get(address, -1)

    def _whole(self, said: Announcement, now: int) -> Announcement:
        theirs = (self._notices[address].said for address in self._by_author[said.pubkey])
        mine = [each for each in theirs if isinstance(each, Page) and _lasts(each, now)]
        return pages.with_pages(said, mine) if mine else said

    def _read(self, event: Event, now: int) -> Notice:
        address = event.address()
        said: Announcement | Page | None = None
        deleted = (event.pubkey, event.id) in self._deleted_ids
        if not deleted and event.created_at > self.withdrawn_at(address):
            try:
                read = announcement.decode if event.values(kinds.TAG_URL) else pages.decode
                said = read(event, now=now)
            except InvalidAnnouncement:
                said = None
        size = 0 if said is None else len(event.content) + sum(len(text) for tag in event.tags for text in tag)
        kept = None if said is None else event
        return Notice(address, event.id, event.pubkey, event.created_at, size, said, kept)

    def _delete(self, event: Event) -> bool:
        """NIP-09: by the same author; an address up to the deletion's date. Also of what is yet to come."""
        changed = False
        for id_ in event.values("e")[:MAX_DELETED_AT_ONCE]:
            self._deleted_ids[event.pubkey, id_] = None
            changed |= self._figures.drop_id(event.pubkey, id_)
            if id_ in self._ids:
                gone = [a for a in self._by_author.get(event.pubkey, ()) if self._notices[a].id == id_]
                for address in gone:
                    changed |= self._take_down(address)
        for address in event.values("a")[:MAX_DELETED_AT_ONCE]:
            if address.split(":")[1:2] != [event.pubkey]:
                continue
            until = max(event.created_at, self._deleted_until.pop(address, 0))
            self._deleted_until[address] = until
            changed |= self._figures.drop(address, until)
            notice = self._notices.get(address)
            if notice is not None and notice.created_at <= until:
                changed |= self._take_down(address)
        _shorten(self._deleted_ids)
        _shorten(self._deleted_until)
        return changed

    def _take_down(self, address: str) -> bool:
        notice = self._notices[address]
        if notice.said is None:
            return False
        self._bytes -= notice.size
        self._notices[address] = msgspec.structs.replace(notice, said=None, event=None, size=0)
        self.changed.add(address)
        return True

    def _make_room(self, author: str) -> None:
        """Nobody takes more than their share, and all together no more than there is room for. Of one author the eldest
        goes, a page before its announcement; of all, who has been here longest of those that are not protected."""
        mine = self._by_author[author]
        while len(mine) > MAX_OF_ONE_AUTHOR or (
            len(mine) > 1 and sum(self._notices[address].size for address in mine) > MAX_BYTES_OF_ONE_AUTHOR
        ):
            self._forget(min(mine, key=self._worth))
        while len(self._notices) > MAX_NOTICES or self._bytes > MAX_BYTES:
            open_to_all = (a for a, notice in self._notices.items() if notice.pubkey not in self._protected)
            self._forget(next(open_to_all, next(iter(self._notices))))

    def _worth(self, address: str) -> tuple[int, bool]:
        notice = self._notices[address]
        return notice.created_at, isinstance(notice.said, Announcement)

    def _forget(self, address: str) -> None:
        notice = self._notices.pop(address)
        self._drop(notice)
        self.changed.add(address)
        mine = self._by_author[notice.pubkey]
        mine.remove(address)
        if not mine:
            del self._by_author[notice.pubkey]

    def _drop(self, notice: Notice) -> None:
        self._ids.discard(notice.id)
        self._bytes -= notice.size


def _lasts(said: Announcement | Page, now: int) -> bool:
    return said.expires_at is None or said.expires_at > now


def _shorten(table: dict[K, V]) -> None:
    while len(table) > MAX_DELETED:
        del table[next(iter(table))]
