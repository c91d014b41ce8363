"""Several relays as one: publish to all and read their answers, query all and merge what is genuine, follow live.

With `relay.py` the only Nostr socket code. Every event that leaves the pool has a checked id and signature.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Self

import aiohttp
import msgspec

from relays.errors import InvalidEvent, InvalidJson, RelayMisbehaves, RelayUnavailable
from relays.event import Event, Signer
from relays.filters import Filter
from relays.jsontext import from_json
from relays.relay import Relay
from relays.sieve import Patience, Sieve

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

    def __init__(self, urls: Iterable[str], signer: Signer | None = None) -> None:
        self.urls = tuple(dict.fromkeys(urls))
        self._signer = signer
        self._relays: dict[str, Relay] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        self._relays = {url: Relay(url, self._session, self._signer) for url in self.urls}
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(relay.close() for relay in self._relays.values()))
        if self._session is not None:
            await self._session.close()

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
        self, *filters: Filter, deadline_s: float = DEADLINE_S, known: Callable[[str], bool] = lambda _: False
    ) -> QueryResult:
        """What the relays have stored, without what is `known` by its id. A relay that is silent past the deadline costs its
        answer, not the others'."""
        found: dict[str, Event] = {}
        failures: dict[str, str] = {}
        sieve = Sieve(filters, known)

        async def one(relay: Relay) -> None:
            try:
                async with asyncio.timeout(deadline_s):
                    async for event in _pages(relay, list(filters), deadline_s, sieve):
                        found[event.id] = event
            except RelayUnavailable as error:
                failures[relay.url] = str(error)
                if isinstance(error, RelayMisbehaves):
                    relay.drop()
            except TimeoutError:
                failures[relay.url] = f"{relay.url} did not finish within {deadline_s:g} s"

        await asyncio.gather(*(one(relay) for relay in self._relays.values()))
        return QueryResult(tuple(found.values()), failures)

    async def follow(self, *filters: Filter, known: Callable[[str], bool] = lambda _: False) -> AsyncIterator[Event]:
        """Stored events, then new ones as they come, from all relays and each once, until the caller stops. Relays that go
        away, flood or lie are called again with growing pauses."""
        merged: asyncio.Queue[Event] = asyncio.Queue(1000)
        sieve = Sieve(filters, known)
        tasks = [asyncio.create_task(_follow(relay, list(filters), merged, sieve)) for relay in self._relays.values()]
        try:
            while True:
                yield await merged.get()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def information(self, url: str, deadline_s: float = DEADLINE_S) -> dict[str, object] | None:
        """A relay's own description (NIP-11), or None when it serves none."""
        assert self._session is not None
        http_url = url.replace("ws://", "http://", 1).replace("wss://", "https://", 1)
        timeout = aiohttp.ClientTimeout(total=deadline_s)
        try:
            async with self._session.get(
                http_url, headers={"Accept": "application/nostr+json"}, timeout=timeout
            ) as reply:
                raw = await reply.content.read(INFO_MAX_BYTES)
                return from_json(raw, dict[str, object]) if reply.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, InvalidJson):
            return None


async def _pages(relay: Relay, filters: list[Filter], deadline_s: float, sieve: Sieve) -> AsyncIterator[Event]:
    """Stored events, also those beyond the number that a relay gives at once: the elder are asked for until none is new."""
    patience = Patience(relay.url)
    until: int | None = None
    for _ in range(MAX_PAGES):
        asked = filters if until is None else [{**filters[0], "until": until}]
        dates = []
        async for created_at, event in _stored(relay, asked, deadline_s, sieve, patience):
            dates.append(created_at)
            if event is not None:
                yield event
        oldest = min(dates, default=0)
        if len(filters) > 1 or "limit" in filters[0] or len(dates) < FULL_PAGE or oldest == until:
            return
        until = oldest


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
            raise RelayUnavailable(f"{relay.url} wants a Nostr key (NIP-42)")


async def _sifted(raw: object, sieve: Sieve, patience: Patience) -> Event | None:
    """The event if it is genuine and new. Raises RelayUnavailable when the relay has had its say."""
    await asyncio.sleep(0)  # thousands may lie ready: others' turns come in between
    patience.spend()
    try:
        return sieve.take(raw)
    except InvalidEvent:
        patience.wrong()
        return None


def _date(raw: object) -> int | None:
    date = raw.get("created_at") if isinstance(raw, dict) else None
    return date if type(date) is int else None


async def _follow(relay: Relay, filters: list[Filter], merged: asyncio.Queue[Event], sieve: Sieve) -> None:
    pause_s = RECONNECT_MIN_S
    while True:
        patience = Patience(relay.url)
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
                            if words.startswith("auth-required"):
                                async with asyncio.timeout(DEADLINE_S):
                                    if await relay.wait_authenticated():
                                        pause_s = 0.0  # asked again at once
                            break
        except (RelayUnavailable, TimeoutError) as error:
            if isinstance(error, RelayMisbehaves):
                relay.drop()
                pause_s = RECONNECT_MAX_S
            log.info("%s; next try in %.0f s", error or f"{relay.url} takes no answer", pause_s)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(max(RECONNECT_MIN_S, pause_s * 2), RECONNECT_MAX_S)
