"""How nodes do, as this client sees it: waits, speed, failures and how many requests at once they take. In memory, bounded.

Averages are exponentially weighted, so that what was hours ago does not count. A node that failed is left alone for a while,
twice as long each time in a row; one that is full for a moment. How much a node takes at once is learned as TCP learns it: a
bit more after each success near the limit, much less when the node says that it is full.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import msgspec

from relays.capacity import MAX_BPS, Capacity

ALPHA: Final = 0.3
"""What the newest measurement counts."""
ERROR_ALPHA: Final = 0.2
FORGET_S: Final = 600.0
"""After so long a failure counts half."""
COOL_S: Final = 15.0
MOST_COOL_S: Final = 600.0
BUSY_S: Final = 0.5
MOST_BUSY_S: Final = 8.0
MOST_IN_A_ROW: Final = 10
USUAL_WAIT_S: Final = 1.5
USUAL_SPEED: Final = 40.0
USUAL_ERRORS: Final = 0.02
"""Of whom nothing is known: seconds to the first word, tokens a second, the share of requests that fail."""
UNKNOWN_LOAD: Final = 0.3
MOST_TOLD: Final = 0.9
"""A node that told that it is full may have room by now: to be refused costs little."""
MOST_NODES: Final = 20_000
NEWS_KEPT: Final = 1000
LATE: Final = 0.05
"""One wait in twenty is longer than what `late_s` has learned."""
LATE_STEP: Final = 0.5
LATE_AT_FIRST: Final = 2.0
"""Times the first wait that was measured, or the usual one."""
ROOM_KEPT: Final = 0.7
"""Of what ran at once, when a node said that it is busy."""


class Health(msgspec.Struct):
    """Of one node. Seconds and tokens a second; None: never measured."""

    wait_s: float | None = None
    late_s: float | None = None
    speed: float | None = None
    errors: float | None = None
    noted_at: float = 0.0
    in_flight: int = 0
    """Of this client's own requests."""
    room: float | None = None
    """How many at once it takes of us; None: it never said that it is busy."""
    failed_in_a_row: int = 0
    cool_until: float = 0.0
    busy_in_a_row: int = 0
    full_until: float = 0.0


class Outlook(msgspec.Struct, frozen=True):
    """What a request there is to expect."""

    wait_s: float
    speed: float
    errors: float
    load: float
    """From 0 to 1: how much of what it takes at once is taken."""
    cools_s: float
    """How long it is still to be left alone, since it failed."""
    full_s: float
    """The same, since it was full."""
    stops: bool
    """It tells that it is about to."""


class Healths:
    """All nodes' health, by public key."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng or random.Random()
        self._wall = wall
        self._nodes: OrderedDict[str, Health] = OrderedDict()
        self.changes = 0
        self._changed: deque[str] = deque(maxlen=NEWS_KEPT)

    def now(self) -> float:
        """By its clock."""
        return self._clock()

    def changed_since(self, changes: int) -> set[str] | None:
        """The nodes that changed since `changes` was that; None: too many to tell."""
        news = self.changes - changes
        if not 0 <= news <= len(self._changed):
            return None
        return {self._changed[-place] for place in range(1, news + 1)}

    def of(self, node: str) -> Health:
        """What is known of it; a change of it does not count as one."""
        return self._nodes.get(node) or Health()

    def _noting(self, node: str) -> Health:
        self.changes += 1
        self._changed.append(node)
        health = self._nodes.setdefault(node, Health())
        self._nodes.move_to_end(node)
        while len(self._nodes) > MOST_NODES:
            self._nodes.popitem(last=False)
        return health

    def began(self, node: str) -> None:
        """A request is sent there. `served`, `busy`, `failed` or `left` must follow."""
        self._noting(node).in_flight += 1

    def served(self, node: str, wait_s: float | None, tokens: int, whole_s: float) -> None:
        """It answered: so long to the first word, so many tokens, so long in all. What comes when it is whole has no first
        word (None)."""
        health = self._ended(node)
        if wait_s is not None:
            _waited(health, wait_s)
        if wait_s is not None and tokens > 1 and whole_s > wait_s:
            health.speed = _smooth(health.speed, (tokens - 1) / (whole_s - wait_s))
        self._count(health, 0.0)
        health.failed_in_a_row, health.cool_until = 0, 0.0
        health.busy_in_a_row, health.full_until = 0, 0.0
        if health.room is not None and health.in_flight + 1 >= 0.8 * health.room:
            health.room += 1 / health.room

    def busy(self, node: str, retry_after_s: float | None = None) -> None:
        """It takes no more at the moment (429, 503): no fault, but less is sent there, and for a moment nothing."""
        health = self._ended(node)
        health.room = max(1.0, ROOM_KEPT * min(health.in_flight + 1, health.room or float("inf")))
        pause_s = min(MOST_BUSY_S, BUSY_S * 2**health.busy_in_a_row) * self._rng.uniform(0.5, 1.5)
        health.busy_in_a_row = min(MOST_IN_A_ROW, health.busy_in_a_row + 1)
        health.full_until = self._clock() + min(MOST_COOL_S, retry_after_s or pause_s)

    def failed(self, node: str) -> None:
        """It did not serve what it should have."""
        health = self._ended(node)
        self._count(health, 1.0)
        health.failed_in_a_row = min(MOST_IN_A_ROW, health.failed_in_a_row + 1)
        pause_s = min(MOST_COOL_S, COOL_S * 2 ** (health.failed_in_a_row - 1))
        health.cool_until = self._clock() + pause_s

    def left(self, node: str) -> None:
        """The request ended for a reason that says nothing of the node."""
        self._ended(node)

    def outrun(self, node: str, waited_s: float) -> None:
        """Another was quicker: its first word would have taken so long at least."""
        health = self._ended(node)
        _waited(health, max(waited_s, health.wait_s or 0.0))

    def late_s(self, node: str) -> float:
        """So long its first word takes in one case of twenty."""
        return self.of(node).late_s or LATE_AT_FIRST * USUAL_WAIT_S

    def _ended(self, node: str) -> Health:
        health = self._noting(node)
        health.in_flight = max(0, health.in_flight - 1)
        return health

    def _count(self, health: Health, failed: float) -> None:
        now = self._clock()
        faded = _faded(health.errors, now - health.noted_at)
        health.errors = faded + ERROR_ALPHA * (failed - faded)
        health.noted_at = now

    def outlook(self, node: str, told: Capacity | None = None) -> Outlook:
        """What to expect there: what was measured, else the usual, or the worse that the node tells of itself: nobody gains
        by fine figures."""
        health = self._nodes.get(node) or _NEW
        now = self._clock()
        if told is not None and told.expires_at <= self._wall():
            told = None
        wait_s, speed, errors = health.wait_s, health.speed, health.errors
        if wait_s is None:
            wait_s = max(USUAL_WAIT_S, told.latency_ms / 1000) if told is not None and told.latency_ms else USUAL_WAIT_S
        if speed is None:
            speed = min(USUAL_SPEED, told.tokens_per_s) if told is not None and told.tokens_per_s else USUAL_SPEED
        if errors is not None:
            errors = _faded(errors, now - health.noted_at)
        elif told is not None and told.error_rate_bps is not None:
            errors = max(USUAL_ERRORS, told.error_rate_bps / MAX_BPS)
        else:
            errors = USUAL_ERRORS
        return Outlook(
            wait_s=wait_s,
            speed=speed,
            errors=errors,
            load=_load(health, told),
            cools_s=max(0.0, health.cool_until - now),
            full_s=max(0.0, health.full_until - now),
            stops=told is not None and told.state == "draining",
        )


_NEW: Final = Health()


def _load(health: Health, told: Capacity | None) -> float:
    """By what the node tells and what is under way to it from here, and by what it took so far; the higher of the two."""
    load = UNKNOWN_LOAD
    if told is not None:
        free = max(0, told.capacity - health.in_flight)
        load = max(load, min(MOST_TOLD, 1 - min(1.0, free / max(1, told.max_concurrent))))
    if health.room is not None:
        load = max(load, health.in_flight / health.room)
    return min(1.0, load)


def _waited(health: Health, wait_s: float) -> None:
    """The quantile is followed in small steps: up where it was passed, down by as much less as that is rarer."""
    health.wait_s = _smooth(health.wait_s, wait_s)
    if health.late_s is None:
        health.late_s = LATE_AT_FIRST * wait_s
    else:
        health.late_s *= 1 + LATE_STEP * (1 - LATE if wait_s > health.late_s else -LATE)


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else before + ALPHA * (now - before)


def _faded(errors: float | None, since_s: float) -> float:
    """Towards the usual, as time goes by."""
    if errors is None:
        return USUAL_ERRORS
    return float(USUAL_ERRORS + (errors - USUAL_ERRORS) * 0.5 ** (max(0.0, since_s) / FORGET_S))
