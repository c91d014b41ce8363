"""Which nodes are there: each is asked at its addresses whether it answers, and whether it holds the announced key.

A node says its key at `GET /v1/info`; one that can, proves it by signing a number of ours. Failures cool down, so that the
dead and the hostile cost little however many they are.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import httpx
import msgspec

from relays import proof
from relays.announcement import Announcement
from relays.errors import InvalidEvent, InvalidJson
from relays.event import npub, parse_event
from relays.jsontext import from_json
from relays.routes import DIRECT, Purpose, Routes, host_of
from router_client.discovery.plain import Listed, listed
from router_client.net.fetch import FetchFailed, fetch

log = logging.getLogger(__name__)

PROBE_DEADLINE_S = 5.0
TOR_DEADLINE_S = 15.0
"""Where Tor has to find the way first."""
LOOK_DEADLINE_S = 20.0
"""For all of them together; who had no turn has one at the next look."""
SOON_S, TOR_SOON_S = 2.0, 8.0
"""The same for a request, from when a node is known to be alive: who is slower has been asked before, or will be."""
MAX_AT_ONCE = 32
MAX_PER_LOOK = 256
LIVING_S = 300.0
"""Who answered is asked again after this."""
COOL_MIN_S, COOL_MAX_S = 60.0, 3600.0
MAX_LIST_BYTES: Final = 4 * 1024 * 1024
MAX_LISTED = 50_000
"""Models of all plain nodes together."""
BUSY: Final = (429, 503)
"""Answers of a node that can prove its key, but not at the moment."""


class Found(msgspec.Struct, frozen=True):
    """What a node did when it was asked."""

    urls: tuple[str, ...]
    """Where it was asked; others, announced later, are worth another try at once."""
    url: str | None
    """Where it answered under its key."""
    at: float
    proven: bool = False
    """By a signature; otherwise it was only said."""
    can_prove: bool = False
    """It has proven its key before: who now has no proof to give is not that node."""
    latency_ms: int | None = None
    failures: int = 0
    """In a row."""
    listed: tuple[Listed, ...] | None = None
    """What a node sells that announces no prices."""


class _Answer(msgspec.Struct, frozen=True):
    base: str
    proven: bool
    latency_ms: int


class Prober:
    """Asks nodes, and remembers what came of it."""

    def __init__(
        self, http: httpx.AsyncClient, clock: Callable[[], float] = time.time, routes: Routes = DIRECT
    ) -> None:
        """`routes` are those of `http`."""
        self._http = http
        self._clock = clock
        self._routes = routes
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self.found: dict[str, Found] = {}
        """By the address of the announcement, `pubkey:identifier`."""

    async def look(self, announcements: Sequence[Announcement], *, again: bool = False, soon: bool = False) -> set[str]:
        """Ask those that are due, the first of the sequence first; with `again` also those that cool down. With `soon`, a
        crowd of silent ones is not waited for. Returns who was asked."""
        due = [each for each in announcements if again or self._is_due(each)][:MAX_PER_LOOK]
        asked: set[str] = set()
        clock, soon_s = asyncio.get_running_loop().time, TOR_SOON_S if self._routes.socks else SOON_S

        async def one(announcement: Announcement) -> None:
            place = place_of(announcement)
            self.found[place] = await self._ask(announcement)
            asked.add(place)
            if soon and self.found[place].url is not None and not limit.expired():
                limit.reschedule(min(until, clock() + soon_s))

        is_any_alive = any(found.url is not None for found in self.found.values())
        until = clock() + (soon_s if soon and is_any_alive else LOOK_DEADLINE_S)
        try:
            async with asyncio.timeout_at(until) as limit:
                await asyncio.gather(*(one(each) for each in due))
        except TimeoutError:
            log.info("%d of %d nodes were asked in time", len(asked), len(due))
        self._make_room([place_of(each) for each in due])
        return asked

    def _make_room(self, places: Sequence[str]) -> None:
        """Lists have a bound together: the last of these places go without."""
        listed = sum(len(found.listed or ()) for found in self.found.values())
        for place in reversed(places):
            if listed <= MAX_LISTED:
                return
            if (found := self.found.get(place)) is not None and found.listed:
                listed -= len(found.listed)
                self.found[place] = msgspec.structs.replace(found, listed=())

    def failed(self, pubkey: str) -> None:
        """Whoever holds the key did not serve: it is asked again when it has cooled down."""
        for place, found in self.found.items():
            if place.startswith(f"{pubkey}:"):
                self.found[place] = self._failure(found.urls, found)

    def retain(self, places: Collection[str]) -> None:
        """Forget all others."""
        self.found = {place: found for place, found in self.found.items() if place in places}

    def _is_due(self, announcement: Announcement) -> bool:
        found = self.found.get(place_of(announcement))
        if found is None or found.urls != announcement.urls or found.at > self._clock():
            return True
        cool_s = min(COOL_MAX_S, COOL_MIN_S * 2.0 ** min(found.failures - 1, 10)) if found.failures else LIVING_S
        return found.at + cool_s <= self._clock()

    def _failure(self, urls: tuple[str, ...], before: Found | None) -> Found:
        failures, can_prove = (before.failures, before.can_prove) if before else (0, False)
        return Found(urls, None, self._clock(), can_prove=can_prove, failures=1 + failures)

    async def _ask(self, announcement: Announcement) -> Found:
        """The first of its URLs, in their order, that answers under the announced key; onions are asked if no other does,
        or where nothing goes but through Tor, first."""
        before = self.found.get(place_of(announcement))
        can_prove = before is not None and before.can_prove
        for urls in self._routes.in_order(announcement.urls):
            answers = await asyncio.gather(*(self._answers_as(url, announcement.pubkey, can_prove) for url in urls))
            answer = next((each for each in answers if each is not None), None)
            if answer is not None:
                sold = None if announcement.models is not None else await self._listed(answer.base)
                return Found(
                    announcement.urls,
                    answer.base,
                    self._clock(),
                    answer.proven,
                    can_prove or answer.proven,
                    answer.latency_ms,
                    listed=sold,
                )
        return self._failure(announcement.urls, before)

    async def _answers_as(self, url: str, pubkey: str, can_prove: bool) -> _Answer | None:
        """The base of `url` if a node of that key answers there."""
        base = url.rstrip("/").removesuffix("/v1")
        deadline_s = self._deadline_s(base)
        try:
            async with self._slots:
                began = time.monotonic()
                reply = await fetch(self._http, "GET", f"{base}/v1/info", deadline_s=deadline_s)
                latency_ms = round((time.monotonic() - began) * 1000)
                if from_json(reply.body, dict[str, object]).get("npub") != npub(pubkey):
                    log.info("%s does not answer as %s", base, npub(pubkey))
                    return None
                return _Answer(base, await self._proves(base, pubkey, can_prove), latency_ms)
        except (FetchFailed, InvalidJson):
            return None
        except InvalidEvent as error:
            log.info("%s does not prove that it is %s: %s", base, npub(pubkey), error)
            return None

    async def _proves(self, base: str, pubkey: str, can_prove: bool) -> bool:
        """True for a proof that holds, False from a node that has none to give: its word at `/v1/info` counts. Raises
        InvalidEvent for one that does not hold, and from who could prove it before and no longer does; FetchFailed."""
        nonce, address, deadline_s = secrets.token_hex(32), proof.base_of(base), self._deadline_s(base)
        asked = msgspec.json.encode({"nonce": nonce, "url": address})
        headers = {"Content-Type": "application/json"}
        reply = await fetch(
            self._http, "POST", f"{base}{proof.PATH}", content=asked, headers=headers, deadline_s=deadline_s
        )
        if not reply.is_success:
            if can_prove and reply.status not in BUSY:
                raise InvalidEvent(f"it did before, and answers {reply.status} now")
            return False
        event = parse_event(reply.body)
        proof.verify(event, pubkey=pubkey, url=address, nonce=nonce, now=int(self._clock()))
        return True

    async def _listed(self, base: str) -> tuple[Listed, ...]:
        deadline_s = self._deadline_s(base)
        try:
            async with self._slots:
                reply = await fetch(
                    self._http, "GET", f"{base}/v1/models", deadline_s=deadline_s, most_bytes=MAX_LIST_BYTES
                )
            entries: Any = from_json(reply.body, dict[str, Any]).get("data")
        except (FetchFailed, InvalidJson):
            return ()
        return listed(entries) if isinstance(entries, list) else ()

    def _deadline_s(self, url: str) -> float:
        return TOR_DEADLINE_S if self._routes.way(host_of(url), Purpose.NODES) else PROBE_DEADLINE_S


def place_of(announcement: Announcement) -> str:
    """What tells the nodes of one key apart."""
    return f"{announcement.pubkey}:{announcement.identifier}"
