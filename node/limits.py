"""Limits of one account: requests at the same time, requests a minute, tokens a minute. In memory, of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from typing import Final

from node.errors import Refusal
from relays import payment
from relays.pricing import Usage

MAX_ACCOUNTS: Final = 20_000
"""More are forgotten, the longest unused first: whoever is forgotten begins with full buckets."""
MINUTE_S: Final = 60.0
AGAIN_S: Final = 1.0
"""When to come again while others run: nobody knows when they end."""


class Bucket:
    """Refills at `limit` a minute, and holds no more."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._seen = now

    def level(self, now: float) -> float:
        self._level = min(self.limit, self._level + (now - self._seen) * self.limit / MINUTE_S)
        self._seen = now
        return self._level

    def take(self, amount: float) -> None:
        self._level -= amount

    def wait_s(self, amount: float, now: float) -> float:
        """Until so much can be taken; what is more than the bucket holds waits until it is full."""
        return max(0.0, (min(amount, self.limit) - self.level(now)) * MINUTE_S / self.limit)


class _Account:
    def __init__(self, requests: int, tokens: int, now: float) -> None:
        self.running = 0
        self.buckets = {
            name: Bucket(limit, now) for name, limit in (("requests", requests), ("tokens", tokens)) if limit
        }


class Place:
    """Of one request among those that run: the headers that tell what is left, and what it used, once that is known."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self.told = told
        self._tokens = 0

    @property
    def tokens(self) -> int:
        """None for a request that came to nothing."""
        return self._tokens

    def used(self, usage: Usage) -> None:
        """Take down what it used."""
        self._tokens = usage.prompt_tokens + usage.completion_tokens


class RateLimits:
    """`requests` and `tokens` a minute (0: no limit), and how many requests may run at once."""

    def __init__(self, running: int, requests: int, tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = running
        self._limits = (requests, tokens)
        self._clock = clock
        self._accounts: dict[int, _Account] = {}
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Requests that run, of all accounts."""
        return self._in_flight

    @contextmanager
    def running(self, account: int, tokens: int) -> Iterator[Place]:
        """A block in which a request of the account runs that may use so many tokens: so many are taken, and at its end as
        many as it did use. Raises Refusal 429, with when to come again."""
        state, now = self._of(account), self._clock()
        amounts = {"requests": 1, "tokens": tokens}
        waits = {name: bucket.wait_s(amounts[name], now) for name, bucket in state.buckets.items()}
        name = max(waits, key=lambda name: waits[name], default="")
        if name and waits[name] > 0:
            limit = state.buckets[name].limit
            raise _too_many(f"more than {limit} {name} a minute", waits[name], self._told(state, now))
        if state.running >= self._most:
            told = {**self._told(state, now), **_headers("requests", self._most, 0, AGAIN_S)}
            raise _too_many(f"{state.running} requests of this account run already", AGAIN_S, told)
        for name, taken in state.buckets.items():
            taken.take(amounts[name])
        state.running += 1
        self._in_flight += 1
        place = Place(self._told(state, now))
        try:
            yield place
        finally:
            if (bucket := state.buckets.get("tokens")) is not None:
                bucket.take(place.tokens - tokens)
            state.running -= 1
            self._in_flight -= 1

    def _of(self, account: int) -> _Account:
        state = self._accounts.pop(account, None) or _Account(*self._limits, self._clock())
        self._accounts[account] = state  # the latest last
        if len(self._accounts) > MAX_ACCOUNTS:
            idle = next((id_ for id_, other in self._accounts.items() if not other.running), None)
            if idle is not None:
                del self._accounts[idle]
        return state

    def _told(self, state: _Account, now: float) -> dict[str, str]:
        """In OpenAI's names."""
        headers: dict[str, str] = {}
        for name, bucket in state.buckets.items():
            left = max(0, int(bucket.level(now)))
            headers |= _headers(name, bucket.limit, left, (bucket.limit - left) * MINUTE_S / bucket.limit)
        return headers


def _headers(name: str, limit: int, left: int, reset_s: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{name}": str(limit),
        f"x-ratelimit-remaining-{name}": str(left),
        f"x-ratelimit-reset-{name}": f"{ceil(reset_s)}s",
    }


def _too_many(what: str, wait_s: float, told: Mapping[str, str]) -> Refusal:
    headers = {**told, "retry-after": str(max(1, ceil(wait_s)))}
    return Refusal(429, payment.RATE_LIMITED, f"{what}: try again in {max(1, ceil(wait_s))} s", headers=headers)
