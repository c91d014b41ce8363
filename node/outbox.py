"""Events on their way to relays: each is offered what it has not taken, and one that fails is left alone for a while."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Final

from relays.event import Event
from relays.pool import DEADLINE_S, Published, RelayPool

log = logging.getLogger(__name__)

PAUSE_MIN_S: Final = 5.0
PAUSE_MAX_S: Final = 600.0
ROUND_S: Final = 20.0
"""A slow relay is offered the rest in another round: who publishes waits no longer for it."""
ACCEPTED: Final = "accepted"
NOT_ASKED: Final = "not asked yet"


class _Desk:
    """What one relay has, and how it answered."""

    def __init__(self) -> None:
        self.talking = asyncio.Lock()
        self.taken: dict[str, str] = {}
        """Event ids by their address."""
        self.refused: dict[str, tuple[str, str, float]] = {}
        """By address: event id, the relay's words, and when to try again."""
        self.away = ""
        """Why nothing can be offered at all."""
        self.not_before = 0.0
        self.failures = 0
        self.state = NOT_ASKED

    def pending(self, events: Iterable[tuple[str, Event]], now: float) -> list[tuple[str, Event]]:
        """What it has not taken, but for what it refused a short while ago."""
        refused = {id_ for id_, _, until in self.refused.values() if until > now}
        return [(at, event) for at, event in events if self.taken.get(at) != event.id and event.id not in refused]

    def pause_s(self) -> float:
        """Longer after every failure, and not the same for all nodes whose relay comes back."""
        self.failures += 1
        return float(min(PAUSE_MIN_S * 2 ** (self.failures - 1), PAUSE_MAX_S)) * random.uniform(0.5, 1)


class Outbox:
    """The newest event of each address (NIP-01), offered to every relay until that takes it."""

    def __init__(self, pool: RelayPool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._events: dict[str, Event] = {}
        self._desks = {url: _Desk() for url in pool.urls}

    @property
    def events(self) -> tuple[Event, ...]:
        """What relays have, or are to have."""
        return tuple(self._events.values())

    async def put(self, *events: Event, deadline_s: float = DEADLINE_S) -> None:
        """Store these, and offer them."""
        self.store(*events)
        await self.offer(deadline_s)

    def store(self, *events: Event) -> None:
        """Take these in the place of what had their addresses."""
        self._events |= {event.address(): event for event in events}

    def drop(self, events: Iterable[Event]) -> None:
        """Offer these no longer."""
        for event in events:
            self._events.pop(event.address(), None)
            for desk in self._desks.values():
                desk.taken.pop(event.address(), None)
                desk.refused.pop(event.address(), None)

    async def offer(self, deadline_s: float = DEADLINE_S) -> None:
        """Offer every relay what it has not taken, if its pause is over."""
        await asyncio.gather(*(self._offer_to(url, desk, deadline_s) for url, desk in self._desks.items()))

    async def _offer_to(self, url: str, desk: _Desk, deadline_s: float) -> None:
        async with desk.talking:
            if self._clock() < desk.not_before:
                return
            pending, until = desk.pending(self._events.items(), self._clock()), self._clock() + ROUND_S
            for address, event in pending:
                if self._events.get(address) is not event:  # replaced meanwhile, or taken back
                    continue
                answer = (await self._pool.publish(event, deadline_s, to=(url,)))[url]
                self._note(desk, address, event, answer)
                if desk.away or self._clock() > until:
                    break
            if pending:
                self._tell(url, desk)

    def _note(self, desk: _Desk, address: str, event: Event, answer: Published) -> None:
        """Keep what the relay said. One that has the event already says so as a refusal (NIP-01)."""
        desk.away = ""
        if answer.accepted or answer.words.startswith("duplicate:"):
            desk.taken[address] = event.id
            desk.refused.pop(address, None)
            desk.failures = 0
        elif not answer.answered or answer.words.startswith("rate-limited:"):
            desk.away, desk.not_before = answer.words, self._clock() + desk.pause_s()
        else:
            desk.refused[address] = (event.id, answer.words, self._clock() + desk.pause_s())

    def _tell(self, url: str, desk: _Desk) -> None:
        """Say how it stands with a relay, if that has changed."""
        refused = [
            words for at, (id_, words, _) in desk.refused.items() if at in self._events and desk.taken.get(at) != id_
        ]
        state = desk.away or ACCEPTED
        if not desk.away and refused:
            some = f"{len(refused)} of {len(self._events)} events: " if len(self._events) > len(refused) else ""
            state = some + refused[0]
        if state != desk.state:
            level = logging.INFO if state == ACCEPTED else logging.WARNING
            log.log(level, "relay %s: %s", url, state)
        desk.state = state

    def states(self) -> dict[str, str]:
        """How it stands with each relay, for people."""
        return {url: desk.state for url, desk in self._desks.items()}
