"""Which nodes there are: what relays announce, kept on disk, asked whether they answer under their key, and judged."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import httpx
import msgspec

from relays import kinds
from relays.announcement import Announcement, ModelOffer
from relays.event import Event, npub
from relays.pool import DEADLINE_S, RelayPool
from router_client.board import Board
from router_client.errors import ClientError
from router_client.opinions import Opinions
from router_client.plain import Listed
from router_client.probe import Found, Prober, ProofCheck, place_of
from router_client.shelf import Shelf
from router_client.trust import Trust

log = logging.getLogger(__name__)

TTL_S = 300.0
KNOWN_DEADLINE_S = 3.0
"""For relays, where nodes are known already."""
AUTHORS_AT_ONCE = 500
LIVE_PAUSE_S = 1.0
"""Between two looks at what came in, while following."""
QUIET_S = 10.0
"""When nothing comes in, nodes are asked again and expire all the same."""
OVERLAP_S = 3600
"""Who follows hears of this much of the past again: clocks differ."""
ANNOUNCED = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT]}
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

    @property
    def npub(self) -> str:
        return npub(self.announcement.pubkey)

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

    With a shelf, what was known before is there at once, and remains when no relay answers.
    """

    def __init__(
        self,
        pool: RelayPool,
        http: httpx.AsyncClient,
        clock: Callable[[], float] = time.time,
        *,
        shelf: Shelf | None = None,
        opinions: Opinions | None = None,
        proof: ProofCheck | None = None,
        probing: bool = True,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._shelf = shelf
        self._opinions = opinions
        self._probing = probing
        self._prober = Prober(http, proof, clock)
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

    async def providers(self, *, fresh: bool = False) -> tuple[Provider, ...]:
        """All announced nodes with their liveness; from memory within the time to live unless `fresh`."""
        async with self._reading:
            if fresh or (not self._is_live and self._read_at < self._clock() - TTL_S):
                await self._ask_relays()
                await self._look(again=fresh)
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
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._keep_looking())]
        try:
            yield
        finally:
            self._is_live = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def hear(self, events: Iterable[Event]) -> bool:
        """Take in verified events; whether anything changed."""
        changed, now = False, int(self._clock())
        for event in events:
            if self.board.put(event, now):
                changed = True
            if event.kind == kinds.DELETION:
                self._deletions.append(event)
                del self._deletions[: -10 * AUTHORS_AT_ONCE]
        return changed

    async def _follow(self) -> None:
        since = {"since": int(self._clock()) - OVERLAP_S}
        async for event in self._pool.follow({**ANNOUNCED, **since}, {**WITHDRAWN, **since}, known=self.board.knows):
            if self.hear((event,)):
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
            await asyncio.sleep(LIVE_PAUSE_S)

    async def _ask_relays(self) -> None:
        deadline_s = KNOWN_DEADLINE_S if len(self.board) else DEADLINE_S
        found = await self._pool.query(ANNOUNCED, deadline_s=deadline_s, known=self.board.knows)
        self.failures = found.failures
        self.hear(found.events)
        authors = sorted({each.pubkey for each in self.board.announcements(int(self._clock()))})
        try:
            async with asyncio.timeout(deadline_s):
                for first in range(0, len(authors), AUTHORS_AT_ONCE):
                    some = authors[first : first + AUTHORS_AT_ONCE]
                    asked = {"kinds": [kinds.DELETION], "authors": some}
                    self.hear((await self._pool.query(asked, deadline_s=deadline_s)).events)
        except TimeoutError:
            log.info("relays were too slow to tell all deletions")
        self._read_at = self._clock()

    async def _look(self, *, again: bool = False) -> None:
        """Judge and ask the nodes that are announced now, and write down what has changed."""
        announcements = self.board.announcements(int(self._clock()))
        asked: set[str] = set()
        if self._opinions is not None:
            await self._opinions.look()
        if self._probing:
            self._prober.retain({place_of(each) for each in announcements})
            asked = await self._prober.look(self._by_promise(announcements), again=again)
        self._providers = tuple(self._provider(each) for each in announcements)
        own = self._opinions.own.trusted if self._opinions is not None else frozenset()
        self.board.protect(own | {p.announcement.pubkey for p in self._providers if p.url is not None})
        if self._shelf is not None and (asked or self.board.changed or self._deletions):
            deletions, self._deletions = self._deletions, []
            await self._shelf.store(self.board, deletions)
            await self._shelf.state("found", {place: self._prober.found[place] for place in asked})

    def _by_promise(self, announcements: list[Announcement]) -> list[Announcement]:
        """Whom to ask first: who is trusted more, who answered before, and then anyone, so that a crowd that nobody has
        heard of cannot keep others from their turn by its names."""

        def promise(announcement: Announcement) -> tuple[float, bool, float]:
            found = self._prober.found.get(place_of(announcement))
            return (-self._trust(announcement).score, found is None or found.url is None, random.random())

        return sorted((each for each in announcements if not self._trust(each).blocked), key=promise)

    def _trust(self, announcement: Announcement) -> Trust:
        return Trust() if self._opinions is None else self._opinions.of(announcement.pubkey)

    def _provider(self, announcement: Announcement) -> Provider:
        found, trust = self._prober.found.get(place_of(announcement)), self._trust(announcement)
        if found is None or found.url is None or found.urls != announcement.urls:
            return Provider(announcement, None, trust=trust)
        return Provider(announcement, found.url, found.proven, found.latency_ms, found.at, found.listed, trust)


def current(events: Iterable[Event], deletions: Iterable[Event], *, now: int) -> list[Announcement]:
    """The announcements in force among these events."""
    board = Board()
    for event in (*deletions, *events):
        board.put(event, now)
    return board.announcements(now)
