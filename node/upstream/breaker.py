"""Circuit breakers: who failed is left alone for a while, then tried by one request. Pure; the clock comes in.

Closed: all requests pass. After `MOST_FAILURES` in a row it opens for a time that doubles with every failed probe. When that
is over it is half open: one request passes; if it is served the
breaker is thrown away, else it opens again.
"""

from __future__ import annotations

from typing import Final, Literal

MOST_FAILURES: Final = 3
FIRST_REST_S: Final = 5.0
LONGEST_REST_S: Final = 300.0
PROBE_S: Final = 60.0
"""A probe that was not heard of for so long is given up: its caller may have left."""

State = Literal["closed", "half open", "open"]


class Breaker:
    """Of one upstream, or one model of it."""

    def __init__(self) -> None:
        self._failures = 0
        self._rest_s = 0.0
        self._open_until = 0.0
        self._probe_until = 0.0

    def state(self, now: float) -> State:
        """Whether a request may pass: all, one, none."""
        if not self._open_until:
            return "closed"
        return "open" if now < max(self._open_until, self._probe_until) else "half open"

    def begin(self, now: float) -> None:
        """A request passes; in a half open breaker it is the one."""
        if self._open_until and now >= self._open_until:
            self._probe_until = now + PROBE_S

    def failed(self, now: float, at_least_s: float = 0.0) -> None:
        """A request failed; `at_least_s` is how long the server asks to be left alone."""
        self._failures += 1
        self._probe_until = 0.0
        if at_least_s or self._failures >= MOST_FAILURES:
            self._rest_s = min(LONGEST_REST_S, max(at_least_s, FIRST_REST_S, 2 * self._rest_s))
            self._open_until = now + self._rest_s
