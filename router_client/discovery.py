"""Which nodes there are: genuine announcements from relays, the newest of each, that answer under their own name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import httpx
import msgspec

from relays import kinds
from relays.announcement import Announcement, decode
from relays.errors import InvalidAnnouncement, InvalidJson
from relays.event import Event, npub
from relays.jsontext import from_json
from relays.pool import RelayPool
from router_client.fetch import FetchFailed, fetch

log = logging.getLogger(__name__)

TTL_S = 300.0
PROBE_DEADLINE_S = 5.0
MAX_PROBES_AT_ONCE = 32


class Provider(msgspec.Struct, frozen=True):
    """An announced node. `url` is one that answered under the announced key; None while none did."""

    announcement: Announcement
    url: str | None

    @property
    def npub(self) -> str:
        return npub(self.announcement.pubkey)


class Directory:
    """The nodes known from a pool of relays, looked up again when they are older than their time to live."""

    def __init__(self, pool: RelayPool, http: httpx.AsyncClient, clock: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._http = http
        self._clock = clock
        self._providers: tuple[Provider, ...] = ()
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self.failures: dict[str, str] = {}
        """Why a relay gave nothing, by URL, as of the last look."""

    async def providers(self, *, fresh: bool = False) -> tuple[Provider, ...]:
        """All announced nodes with their liveness; from memory within the time to live unless `fresh`."""
        async with self._reading:
            if fresh or self._read_at < self._clock() - TTL_S:
                await self._read()
        return self._providers

    def forget(self, pubkey: str) -> None:
        """A node that failed is not alive until it is looked up again."""
        self._providers = tuple(
            msgspec.structs.replace(p, url=None) if p.announcement.pubkey == pubkey else p for p in self._providers
        )

    async def _read(self) -> None:
        found = await self._pool.query({"kinds": [kinds.PROVIDER_ANNOUNCEMENT]})
        authors = sorted({event.pubkey for event in found.events})
        deleted = await self._pool.query({"kinds": [kinds.DELETION], "authors": authors}) if authors else None
        self.failures = found.failures
        announcements = current(found.events, deleted.events if deleted else (), now=int(self._clock()))
        slots = asyncio.Semaphore(MAX_PROBES_AT_ONCE)

        async def probed(announcement: Announcement) -> Provider:
            async with slots:
                return Provider(announcement, await self._living_url(announcement))

        self._providers = tuple(await asyncio.gather(*(probed(announcement) for announcement in announcements)))
        self._read_at = self._clock()

    async def _living_url(self, announcement: Announcement) -> str | None:
        """The first of its URLs that answers `/v1/info` with the announced key."""
        answers = await asyncio.gather(*(self._answers_as(url, announcement.pubkey) for url in announcement.urls))
        return next((base for base in answers if base is not None), None)

    async def _answers_as(self, url: str, pubkey: str) -> str | None:
        """The base of `url` if a node of that key answers there."""
        base = url.rstrip("/").removesuffix("/v1")
        try:
            reply = await fetch(self._http, "GET", f"{base}/v1/info", deadline_s=PROBE_DEADLINE_S)
            info = from_json(reply.body, dict[str, object])
        except (FetchFailed, InvalidJson):
            return None
        if info.get("npub") == npub(pubkey):
            return base
        log.info("%s does not answer as %s", base, npub(pubkey))
        return None


def current(events: Iterable[Event], deletions: Iterable[Event], *, now: int) -> list[Announcement]:
    """The announcements in force: per address the newest, unless it is deleted, expired, dated ahead or unreadable.

    An equal date is decided by the lower id (NIP-01). A newer event that is invalid does not bring an older one back.
    """
    newest: dict[str, Event] = {}
    for event in events:
        if event.kind != kinds.PROVIDER_ANNOUNCEMENT:
            continue
        elder = newest.get(event.address())
        if elder is None or (event.created_at, elder.id) > (elder.created_at, event.id):
            newest[event.address()] = event
    withdrawn = list(deletions)
    announcements = []
    for event in newest.values():
        if any(_deletes(deletion, event) for deletion in withdrawn):
            continue
        try:
            announcements.append(decode(event, now=now))
        except InvalidAnnouncement as error:
            log.debug("announcement %s is left out: %s", event.id, error)
    return announcements


def _deletes(deletion: Event, event: Event) -> bool:
    """NIP-09: by the same author; an address is deleted up to the deletion's date."""
    if deletion.kind != kinds.DELETION or deletion.pubkey != event.pubkey:
        return False
    if event.id in deletion.values("e"):
        return True
    return event.address() in deletion.values("a") and event.created_at <= deletion.created_at
