"""Which nodes are there: each is asked at its addresses whether it answers, and whether it holds the announced key.

A node says its key at `GET /v1/info`; one that can, proves it by signing a number of ours. Failures cool down, so that the
dead and the hostile cost little however many they are.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

import httpx
import msgspec

from relays.announcement import Announcement
from relays.errors import InvalidEvent, InvalidJson
from relays.event import Event, npub, parse_event
from relays.jsontext import from_json
from router_client.fetch import FetchFailed, fetch
from router_client.plain import Listed, listed

log = logging.getLogger(__name__)

PROBE_DEADLINE_S = 5.0
LOOK_DEADLINE_S = 20.0
"""For all of them together; who had no turn has one at the next look."""
MAX_AT_ONCE = 32
MAX_PER_LOOK = 256
LIVING_S = 300.0
"""Who answered is asked again after this."""
COOL_MIN_S, COOL_MAX_S = 60.0, 3600.0
MAX_LIST_BYTES: Final = 4 * 1024 * 1024
ONION: Final = re.compile(r"https?://[^/]*\.onion\.?(:\d+)?(/|$)", re.IGNORECASE)
"""Names that are not asked for without Tor (RFC 7686)."""
NO_PROOF: Final = (404, 405, 501)
"""Answers of a node that cannot prove its key: its word at `/v1/info` counts."""


class ProofCheck(Protocol):
    """Whether a signed answer proves the key at that address: raises InvalidEvent unless it does."""

    def __call__(self, event: Event, *, pubkey: str, url: str, nonce: str, now: int) -> object: ...


class Found(msgspec.Struct, frozen=True):
    """What a node did when it was asked."""

    urls: tuple[str, ...]
    """Where it was asked; others, announced later, are worth another try at once."""
    url: str | None
    """Where it answered under its key."""
    at: float
    proven: bool = False
    """By a signature; otherwise it was only said."""
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
        self, http: httpx.AsyncClient, proof: ProofCheck | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._http = http
        self._proof = proof
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self.found: dict[str, Found] = {}
        """By the address of the announcement, `pubkey:identifier`."""

    async def look(self, announcements: Sequence[Announcement], *, again: bool = False) -> set[str]:
        """Ask those that are due, the first of the sequence first; with `again` also those that cool down. Returns whom."""
        due = [each for each in announcements if again or self._is_due(each)][:MAX_PER_LOOK]
        asked: set[str] = set()

        async def one(announcement: Announcement) -> None:
            place = place_of(announcement)
            self.found[place] = await self._ask(announcement)
            asked.add(place)

        try:
            async with asyncio.timeout(LOOK_DEADLINE_S):
                await asyncio.gather(*(one(each) for each in due))
        except TimeoutError:
            log.info("%d of %d nodes were asked in time", len(asked), len(due))
        return asked

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
        return Found(urls, None, self._clock(), failures=1 + (before.failures if before else 0))

    async def _ask(self, announcement: Announcement) -> Found:
        """The first of its URLs, in their order, that answers under the announced key."""
        urls = [url for url in announcement.urls if not ONION.match(url)]
        answers = await asyncio.gather(*(self._answers_as(url, announcement.pubkey) for url in urls))
        answer = next((each for each in answers if each is not None), None)
        if answer is None:
            return self._failure(announcement.urls, self.found.get(place_of(announcement)))
        sold = None if announcement.models is not None else await self._listed(answer.base)
        return Found(announcement.urls, answer.base, self._clock(), answer.proven, answer.latency_ms, listed=sold)

    async def _answers_as(self, url: str, pubkey: str) -> _Answer | None:
        """The base of `url` if a node of that key answers there."""
        base = url.rstrip("/").removesuffix("/v1")
        try:
            async with self._slots:
                began = time.monotonic()
                reply = await fetch(self._http, "GET", f"{base}/v1/info", deadline_s=PROBE_DEADLINE_S)
                latency_ms = round((time.monotonic() - began) * 1000)
                if from_json(reply.body, dict[str, object]).get("npub") != npub(pubkey):
                    log.info("%s does not answer as %s", base, npub(pubkey))
                    return None
                return _Answer(base, self._proof is not None and await self._proves(base, pubkey), latency_ms)
        except (FetchFailed, InvalidJson):
            return None
        except InvalidEvent as error:
            log.info("%s does not prove that it is %s: %s", base, npub(pubkey), error)
            return None

    async def _proves(self, base: str, pubkey: str) -> bool:
        """True for a proof that holds, False from a node that has none to give. Raises InvalidEvent for one that does not
        hold, FetchFailed."""
        assert self._proof is not None
        nonce = secrets.token_hex(32)
        asked = msgspec.json.encode({"nonce": nonce, "url": base})
        headers = {"Content-Type": "application/json"}
        reply = await fetch(
            self._http, "POST", f"{base}/v1/proof", content=asked, headers=headers, deadline_s=PROBE_DEADLINE_S
        )
        if reply.status in NO_PROOF:
            return False
        event = parse_event(reply.body)
        self._proof(event, pubkey=pubkey, url=base, nonce=nonce, now=int(self._clock()))
        return True

    async def _listed(self, base: str) -> tuple[Listed, ...]:
        try:
            async with self._slots:
                reply = await fetch(
                    self._http, "GET", f"{base}/v1/models", deadline_s=PROBE_DEADLINE_S, most_bytes=MAX_LIST_BYTES
                )
            entries: Any = from_json(reply.body, dict[str, Any]).get("data")
        except (FetchFailed, InvalidJson):
            return ()
        return listed(entries) if isinstance(entries, list) else ()


def place_of(announcement: Announcement) -> str:
    """What tells the nodes of one key apart."""
    return f"{announcement.pubkey}:{announcement.identifier}"
