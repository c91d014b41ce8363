"""Several relays as one: publish to all and read their answers, query all and merge what is genuine, follow live.

With `relay.py` the only Nostr socket code. Every event that leaves the pool has a checked id and signature.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Self

import aiohttp
import msgspec

from relays.dialing import connector_to
from relays.errors import InvalidEvent, InvalidJson, NoTor, RelayMisbehaves, RelayUnavailable
from relays.event import Event, Signer
from relays.filters import Filter
from relays.jsontext import from_json
from relays.relay import Relay
from relays.routes import DIRECT, Purpose, Routes, Socks, host_of
from relays.sieve import Patience, Sieve, chars_of

log = logging.getLogger(__name__)

DEADLINE_S = 8.0
MAX_PAGES = 200
FULL_PAGE = 90
"""Relays give no more than some number of events at once, 100 being the lowest that is in use; fewer than this are all."""
RECONNECT_MIN_S, RECONNECT_MAX_S = 1.0, 60.0
INFO_MAX_BYTES = 64 * 1024


class Published(msgspec.Struct, frozen=True):
    """What one relay said of an event."""

    accepted: bool
    words: str
    answered: bool = True
    """False where the words are our own: it could not be asked, or was silent."""


class QueryResult(msgspec.Struct, frozen=True):
    """Genuine events of all relays, one per id, and why a relay gave none or not all."""

    events: tuple[Event, ...]
    failures: dict[str, str]


class RelayPool:
    """Relays by URL. Use as an async context manager; a `signer` answers NIP-42 challenges."""

    def __init__(self, urls: Iterable[str], signer: Signer | None = None, routes: Routes = DIRECT) -> None:
        self.urls = tuple(dict.fromkeys(urls))
        self._signer = signer
        self._routes = routes
        self._relays: dict[str, Relay] = {}
        self._sessions: dict[Socks | None, aiohttp.ClientSession] = {}
        """One for each way that leads to some of them."""

    async def __aenter__(self) -> Self:
        self._relays = {url: Relay(url, partial(self._session_to, url), self._signer) for url in self.urls}
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(relay.close() for relay in self._relays.values()))
        await asyncio.gather(*(session.close() for session in self._sessions.values()))

    def _session_to(self, url: str) -> aiohttp.ClientSession:
        """Raises NoTor."""
        way = self._routes.way(host_of(url), Purpose.RELAYS)
        if way not in self._sessions:
            connector = connector_to(url, self._routes, Purpose.RELAYS)
            self._sessions[way] = aiohttp.ClientSession(connector=connector)
        return self._sessions[way]

    async def publish(
        self, event: Event, deadline_s: float = DEADLINE_S, *, to: Iterable[str] | None = None
    ) -> dict[str, Published]:
        """Offer the event to every relay, or to some of them, at once; each one's answer, never an exception for a relay
        that is down."""

        async def one(relay: Relay) -> Published:
            try:
                return Published(*await relay.publish(event, deadline_s))
            except RelayUnavailable as error:
                return Published(accepted=False, words=str(error), answered=False)

        urls = tuple(self._relays if to is None else to)
        answers = await asyncio.gather(*(one(self._relays[url]) for url in urls))
        return dict(zip(urls, answers, strict=True))

    async def query(
        self,
        *filters: Filter,
        deadline_s: float = DEADLINE_S,
        grace_s: float | None = None,
        skip: Collection[str] = (),
        known: Callable[[str], bool] = lambda _: False,
    ) -> QueryResult:
        """What the relays have stored, without what is `known` by its id. A relay that is silent past the deadline costs its
        answer, not the others'. With `grace_s`, none is waited for longer than that once another has told what it has,
        unless that is nothing; those in `skip` are not asked."""
        found: dict[str, Event] = {}
        failures: dict[str, str] = {}
        waiting: set[asyncio.Timeout] = set()
        sieve = Sieve(filters, known)

        async def one(relay: Relay) -> None:
            told = False
            try:
                async with asyncio.timeout(deadline_s) as limit, _among(waiting, limit):
                    async for event in _pages(relay, list(filters), deadline_s, sieve):
                        told = True
                        if event is not None:
                            found[event.id] = event
                if told and grace_s is not None:
                    _bring_forward(waiting, grace_s)
            except RelayUnavailable as error:
                failures[relay.url] = str(error)
                if isinstance(error, RelayMisbehaves):
                    relay.drop()
            except TimeoutError:
                failures[relay.url] = f"{relay.url} did not finish in time"

        await asyncio.gather(*(one(relay) for url, relay in self._relays.items() if url not in skip))
        return QueryResult(tuple(found.values()), failures)

    async def follow(self, *filters: Filter, known: Callable[[str], bool] = lambda _: False) -> AsyncIterator[Event]:
        """Stored events, then new ones as they come, from all relays and each once, until the caller stops. Relays that go
        away, flood or lie are called again with growing pauses."""
        merged: asyncio.Queue[Event] = asyncio.Queue(1000)
        sieve = Sieve(filters, known)
        tasks = {asyncio.create_task(_follow(relay, list(filters), merged, sieve)) for relay in self._relays.values()}
        coming = asyncio.create_task(merged.get())
        try:
            while True:
                done, _ = await asyncio.wait({coming, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                for failed in done & tasks:  # they have no end of their own
                    failed.result()
                yield coming.result()
                coming = asyncio.create_task(merged.get())
        finally:
            for task in (coming, *tasks):
                task.cancel()
            await asyncio.gather(coming, *tasks, return_exceptions=True)

    async def information(self, url: str, deadline_s: float = DEADLINE_S) -> dict[str, object] | None:
        """A relay's own description (NIP-11), or None when it serves none."""
        http_url = url.replace("ws://", "http://", 1).replace("wss://", "https://", 1)
        timeout = aiohttp.ClientTimeout(total=deadline_s)
        try:
            async with self._session_to(url).get(
                http_url, headers={"Accept": "application/nostr+json"}, timeout=timeout
            ) as reply:
                raw = await reply.content.read(INFO_MAX_BYTES)
                return from_json(raw, dict[str, object]) if reply.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, InvalidJson, NoTor):
            return None


@asynccontextmanager
async def _among(waiting: set[asyncio.Timeout], limit: asyncio.Timeout) -> AsyncIterator[None]:
    waiting.add(limit)
    try:
        yield
    finally:
        waiting.remove(limit)


def _bring_forward(waiting: Iterable[asyncio.Timeout], grace_s: float) -> None:
    """Let none of these deadlines be later than so many seconds from now."""
    latest = asyncio.get_running_loop().time() + grace_s
    for limit in waiting:
        if (when := limit.when()) is not None and when > latest and not limit.expired():
            limit.reschedule(latest)


async def _pages(relay: Relay, filters: list[Filter], deadline_s: float, sieve: Sieve) -> AsyncIterator[Event | None]:
    """Stored events, also those beyond the number that a relay gives at once: the elder are asked for until none is new.
    None for one that is known."""
    patience = Patience(relay.url)
    until: int | None = None
    for _ in range(MAX_PAGES):
        asked = filters if until is None else [{**filters[0], "until": until}]
        dates = []
        async for created_at, event in _stored(relay, asked, deadline_s, sieve, patience):
            dates.append(created_at)
            yield event
        oldest = min(dates, default=0)
        ignored = until is not None and oldest > until
        if len(filters) > 1 or "limit" in filters[0] or len(dates) < FULL_PAGE or ignored:
            return
        until = oldest - 1 if oldest == until else oldest  # a crowd of one second must not hide what is older


async def _stored(
    relay: Relay, filters: list[Filter], deadline_s: float, sieve: Sieve, patience: Patience
) -> AsyncIterator[tuple[int, Event | None]]:
    """Events up to EOSE with their dates; None for one that is known. A relay that wants NIP-42 is asked again after it."""
    for attempt in range(2):
        async with relay.feed(filters, deadline_s) as queue:
            while True:
                match await queue.get():
                    case ["EVENT", _, raw]:
                        event = await _sifted(raw, sieve, patience)
                        if (created_at := _date(raw)) is not None:
                            yield created_at, event
                    case ["EOSE", *_]:
                        return
                    case ["CLOSED", _, str(words), *_]:
                        if not (attempt == 0 and words.startswith("auth-required")):
                            raise RelayUnavailable(f"{relay.url} refused the query: {words[:200]}")
                        break
                    case None:
                        raise RelayUnavailable(f"{relay.url} closed the connection")
        if not await relay.wait_authenticated():
            raise RelayUnavailable(
                f"{relay.url} wants a Nostr key (NIP-42), {'another' if relay.has_key else 'we have none'}"
            )


async def _sifted(raw: object, sieve: Sieve, patience: Patience) -> Event | None:
    """The event if it is genuine and new. Raises RelayUnavailable when the relay has had its say."""
    await asyncio.sleep(0)  # thousands may lie ready: others' turns come in between
    patience.spend(chars_of(raw))
    try:
        return sieve.take(raw)
    except InvalidEvent:
        patience.wrong()
        return None


def _date(raw: object) -> int | None:
    date = raw.get("created_at") if isinstance(raw, dict) else None
    return date if type(date) is int else None


async def _follow(relay: Relay, filters: list[Filter], merged: asyncio.Queue[Event], sieve: Sieve) -> None:
    pause_s, is_known = RECONNECT_MIN_S, False
    patience = Patience(relay.url)
    while True:
        patience.forgive()
        try:
            async with relay.feed(filters, DEADLINE_S) as queue:
                while (message := await queue.get()) is not None:
                    match message:
                        case ["EVENT", _, raw]:
                            if (event := await _sifted(raw, sieve, patience)) is not None:
                                await merged.put(event)
                                pause_s = RECONNECT_MIN_S
                        case ["CLOSED", _, str(words), *_]:
                            log.info("relay %s closed the subscription: %s", relay.url, words[:200])
                            if words.startswith("auth-required") and not is_known:
                                async with asyncio.timeout(DEADLINE_S):
                                    if is_known := await relay.wait_authenticated():
                                        pause_s = 0.0  # asked again at once, but once
                            break
        except (RelayUnavailable, TimeoutError) as error:
            if isinstance(error, RelayMisbehaves):
                relay.drop()
                pause_s = RECONNECT_MAX_S
            log.info("%s; next try in %.0f s", error or f"{relay.url} takes no answer", pause_s)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(max(RECONNECT_MIN_S, pause_s * 2), RECONNECT_MAX_S)
