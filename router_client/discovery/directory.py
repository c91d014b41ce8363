"""Which nodes there are: what relays announce, kept on disk, asked whether they answer under their key, and judged."""

from __future__ import annotations

import asyncio
import logging
import operator
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import msgspec

from relays import kinds
from relays.announcement import Announcement, ModelOffer
from relays.capacity import STALE_S, Capacity
from relays.event import Event, npub
from relays.pool import DEADLINE_S, RelayPool
from relays.routes import DIRECT, Routes
from router_client.beside import beside
from router_client.discovery.board import Board
from router_client.discovery.opinions import Opinions
from router_client.discovery.plain import Listed
from router_client.discovery.probe import Found, Prober, place_of
from router_client.discovery.shelf import Shelf
from router_client.discovery.trust import Trust
from router_client.errors import ClientError

log = logging.getLogger(__name__)

TTL_S = 300.0
KNOWN_DEADLINE_S = 3.0
"""For relays, where nodes are known already."""
GRACE_S, TOR_GRACE_S = 1.5, 6.0
"""For the others, once a relay has told what it has."""
AUTHORS_AT_ONCE = 500
LIVE_PAUSE_S = 1.0
"""Between two looks at what came in, while following; longer among many, so that looking takes a small part of the time."""
CROWD = 1000
QUIET_S = 10.0
"""When nothing comes in, nodes are asked again and expire all the same."""
OVERLAP_S = 3600
"""Who follows hears of this much of the past again: clocks differ."""
ANNOUNCED = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT]}
BUSY = {"kinds": [kinds.CAPACITY]}
WITHDRAWN = {"kinds": [kinds.DELETION], "#k": [str(kinds.PROVIDER_ANNOUNCEMENT)]}


class Provider(msgspec.Struct, frozen=True):
    """An announced node. `url` is one that answered under the announced key; None while none did."""

    announcement: Announcement
    url: str | None
    proven: bool = False
    """The key signed a number of ours; otherwise the node only said that it has it."""
    latency_ms: int | None = None
    answered_at: float | None = None
    listed: tuple[Listed, ...] | None = None
    """What a plain node sells, by its own list."""
    trust: Trust = Trust()
    capacity: Capacity | None = None
    """What the node says of itself, if it has lately."""

    @property
    def npub(self) -> str:
        return npub(self.announcement.pubkey)

    @property
    def seen_at(self) -> int:
        """The last sign of life: its announcement, its word on how busy it is, or its answer. Unix seconds."""
        figures_at = self.capacity.created_at if self.capacity is not None else 0
        return max(self.announcement.created_at, figures_at, int(self.answered_at or 0))

    @property
    def is_plain(self) -> bool:
        """It announces no prices, takes no locked ecash, and gives neither quotes nor receipts."""
        return self.announcement.models is None

    @property
    def offers(self) -> tuple[ModelOffer, ...]:
        """What it sells, announced or listed."""
        if self.announcement.models is not None:
            return self.announcement.models
        return tuple(each.offer for each in self.listed or ())

    def least_msat(self, model: str) -> int:
        """What a request has to bring with it, whatever it will cost."""
        return next((each.least_msat for each in self.listed or () if each.offer.id == model), 0)


class Directory:
    """The nodes known from a pool of relays, looked up again when they are older than their time to live.

    `routes` are those of `http`. With a shelf, what was known before is there at once, and remains when no relay answers.
    """

    def __init__(
        self,
        pool: RelayPool,
        http: httpx.AsyncClient,
        clock: Callable[[], float] = time.time,
        *,
        routes: Routes = DIRECT,
        shelf: Shelf | None = None,
        opinions: Opinions | None = None,
        probing: bool = True,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._shelf = shelf
        self._opinions = opinions
        self._probing = probing
        self._routes = routes
        self._prober = Prober(http, clock, routes)
        self.board = Board()
        self._providers: tuple[Provider, ...] = ()
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._deletions: list[Event] = []
        self._is_live = False
        self._news = asyncio.Event()
        self.failures: dict[str, str] = {}
        """Why a relay gave nothing, by URL, as of the last look."""
        if shelf is not None:
            shelf.fill(self.board)
            self._prober.found = shelf.facts("found", Found)

    async def providers(self, *, fresh: bool = False, soon: bool = False) -> tuple[Provider, ...]:
        """All announced nodes with their liveness; from memory within the time to live unless `fresh`. With `soon`, nodes
        that are silent are not waited for where others are known to be alive."""
        async with self._reading:
            if fresh or (not self._is_live and self._read_at < self._clock() - TTL_S):
                await self._ask_relays()
                await self._look(again=fresh, soon=soon)
        return self._providers

    def known(self) -> tuple[Provider, ...]:
        """The same as of now, without asking anybody."""
        return self._providers

    def forget(self, pubkey: str) -> None:
        """A node that failed is not alive until it is looked up again, when it has cooled down."""
        self._prober.failed(pubkey)
        self._providers = tuple(
            msgspec.structs.replace(p, url=None) if p.announcement.pubkey == pubkey else p for p in self._providers
        )

    @asynccontextmanager
    async def live(self) -> AsyncIterator[None]:
        """Follow the relays as long as the block runs: what changes there is known here a moment later."""
        async with self._reading:
            await self._ask_relays()
            await self._look()
        self._is_live = True
        try:
            async with beside(self._follow(), self._keep_looking()):
                yield
        finally:
            self._is_live = False

    def hear(self, events: Iterable[Event]) -> bool:
        """Take in verified events; whether anything changed."""
        changed, now = False, int(self._clock())
        for event in events:
            if self.board.put(event, now):
                changed = True
            if event.kind == kinds.DELETION and self._shelf is not None:
                self._deletions.append(event)
                del self._deletions[: -10 * AUTHORS_AT_ONCE]
        return changed

    async def _follow(self) -> None:
        now = int(self._clock())
        since, lately = {"since": now - OVERLAP_S}, {"since": now - STALE_S}
        asked = ({**ANNOUNCED, **since}, {**WITHDRAWN, **since}, {**BUSY, **lately})
        async for event in self._pool.follow(*asked, known=self.board.knows):
            if self.hear((event,)) and event.kind != kinds.CAPACITY:  # those come all the time, and are no hurry
                self._news.set()

    async def _keep_looking(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await self._news.wait()
            self._news.clear()
            try:
                async with self._reading:
                    if self._read_at < self._clock() - TTL_S:
                        await self._ask_relays()  # deletions without a `k` tag are found by their author alone
                    await self._look()
            except ClientError as error:
                log.warning("the directory could not be brought up to date: %s", error)
            await asyncio.sleep(LIVE_PAUSE_S * (1 + len(self.board) / CROWD))

    async def _ask_relays(self) -> None:
        deadline_s = KNOWN_DEADLINE_S if len(self.board) else DEADLINE_S
        grace_s = TOR_GRACE_S if self._routes.tor_only else GRACE_S
        found = await self._pool.query(ANNOUNCED, deadline_s=deadline_s, grace_s=grace_s, known=self.board.knows)
        self.failures = found.failures
        self.hear(sorted(found.events, key=lambda event: event.created_at))  # who is heard of first is listed first
        deadline_s = KNOWN_DEADLINE_S
        authors = sorted({each.pubkey for each in self.board.announcements(int(self._clock()))})
        try:
            async with asyncio.timeout(deadline_s):
                for first in range(0, len(authors), AUTHORS_AT_ONCE):
                    some = authors[first : first + AUTHORS_AT_ONCE]
                    asked = {"kinds": [kinds.DELETION, kinds.CAPACITY], "authors": some}
                    some_more = await self._pool.query(
                        asked, deadline_s=deadline_s, grace_s=grace_s, skip=found.failures
                    )
                    self.hear(some_more.events)
        except TimeoutError:
            log.info("relays were too slow to tell all deletions and capacities")
        self._read_at = self._clock()

    async def _look(self, *, again: bool = False, soon: bool = False) -> None:
        """Judge and ask the nodes that are announced now, and write down what has changed."""
        now = int(self._clock())
        announcements = self.board.announcements(now)
        asked: set[str] = set()
        if self._opinions is not None:
            await self._opinions.look()
        if self._probing:
            self._prober.retain({place_of(each) for each in announcements})
            asked = await self._prober.look(self._by_promise(announcements), again=again, soon=soon)
        self._providers = _unless_same(self._providers, [self._provider(each, now) for each in announcements])
        own = self._opinions.own.trusted if self._opinions is not None else frozenset()
        self.board.protect(own | {p.announcement.pubkey for p in self._providers if p.url is not None})
        if self._shelf is not None and (asked or self.board.changed or self._deletions):
            deletions, self._deletions = self._deletions, []
            await self._shelf.store(self.board, deletions)
            await self._shelf.state("found", {place: _kept(self._prober.found[place]) for place in asked})

    def _by_promise(self, announcements: list[Announcement]) -> list[Announcement]:
        """Whom to ask first: who is trusted more, who answered before, and then anyone, so that a crowd that nobody has
        heard of cannot keep others from their turn by its names."""

        def promise(announcement: Announcement) -> tuple[float, bool, float]:
            found = self._prober.found.get(place_of(announcement))
            return (-self._trust(announcement).score, found is None or found.url is None, random.random())

        return sorted((each for each in announcements if not self._trust(each).blocked), key=promise)

    def _trust(self, announcement: Announcement) -> Trust:
        return Trust() if self._opinions is None else self._opinions.of(announcement.pubkey)

    def _provider(self, announcement: Announcement, now: int) -> Provider:
        found, trust = self._prober.found.get(place_of(announcement)), self._trust(announcement)
        capacity = self.board.capacity(announcement.pubkey, announcement.identifier, now)
        if found is None or found.url is None or found.urls != announcement.urls:
            return Provider(announcement, None, trust=trust, capacity=capacity)
        return Provider(
            announcement, found.url, found.proven, found.latency_ms, found.at, found.listed, trust, capacity
        )


def _unless_same(before: tuple[Provider, ...], now: list[Provider]) -> tuple[Provider, ...]:
    """The nodes as they are, with the very objects of before for those that have not changed: who keeps something of each
    need not make it anew."""
    elders = {(each.announcement.pubkey, each.announcement.identifier): each for each in before}
    for place, provider in enumerate(now):
        elder = elders.get((provider.announcement.pubkey, provider.announcement.identifier))
        if elder == provider:
            now[place] = elder
    if len(now) == len(before) and all(map(operator.is_, now, before)):
        return before
    return tuple(now)


def _kept(found: Found) -> Found:
    """As it is written down: lists can be long, and are asked for again at the next start."""
    return found if found.listed is None else msgspec.structs.replace(found, listed=None, at=0.0)


def figures_of(capacity: Capacity) -> dict[str, Any]:
    """A node's figures for programs; whose they are stands beside."""
    fields: dict[str, Any] = msgspec.to_builtins(capacity)
    return {name: value for name, value in fields.items() if name not in ("pubkey", "identifier")}


def current(events: Iterable[Event], deletions: Iterable[Event], *, now: int) -> list[Announcement]:
    """The announcements in force among these events."""
    board = Board()
    for event in (*deletions, *events):
        board.put(event, now)
    return board.announcements(now)
