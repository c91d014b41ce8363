"""How the node is doing, of the requests that it serves: averages in which the latest count most. Pure, and a few sums for
each request."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

SMOOTHING: Final = 0.1
"""How much the latest request counts: the last twenty or so make the average."""
LEAST_STREAM_S: Final = 0.05
"""What streams for less comes in one piece, which tells nothing of the speed."""


class _Average:
    """Exponentially weighted; the first value counts whole."""

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, value: float, times: int = 1) -> None:
        """With `times`, so many values of which this is the mean."""
        share = 1 - (1 - SMOOTHING) ** times
        self.value = value if self.value is None else self.value + share * (value - self.value)


class Beats(msgspec.Struct, omit_defaults=True):
    """What one process measured since it was asked last: sums, and of how many."""

    latency_s: float = 0.0
    began: int = 0
    tokens_per_s: float = 0.0
    streamed: int = 0
    failed: int = 0
    served: dict[str, int] = {}
    """By model."""


class Pulse:
    """Measured from paid requests, of this process and of others that tell theirs."""

    def __init__(self) -> None:
        self._latency_s, self._tokens_per_s, self._errors = _Average(), _Average(), _Average()
        self._untold = Beats()
        self.asked: Counter[str] = Counter()
        """How often each model was served."""

    def began(self, after_s: float) -> None:
        """A stream said its first word. Answers in one piece are left out: they come when they are whole."""
        self._latency_s.add(after_s)
        self._untold.latency_s += after_s
        self._untold.began += 1

    def served(self, model: str) -> None:
        """A request was served."""
        self.asked[model] += 1
        self._errors.add(0)
        self._untold.served[model] = self._untold.served.get(model, 0) + 1

    def streamed(self, tokens: int, seconds: float) -> None:
        """So many tokens came in a stream after its first word."""
        if tokens and seconds >= LEAST_STREAM_S:
            self._tokens_per_s.add(tokens / seconds)
            self._untold.tokens_per_s += tokens / seconds
            self._untold.streamed += 1

    def failed(self) -> None:
        """A request was not served, or not to its end, and its caller is not to blame."""
        self._errors.add(1)
        self._untold.failed += 1

    def take(self) -> Beats:
        """What was measured here since this was asked last: for another process, which hears it."""
        told, self._untold = self._untold, Beats()
        return told

    def hear(self, told: Beats) -> None:
        """Count what another process measured as if it had been here."""
        if told.began:
            self._latency_s.add(told.latency_s / told.began, told.began)
        if told.streamed:
            self._tokens_per_s.add(told.tokens_per_s / told.streamed, told.streamed)
        if ended := told.failed + sum(told.served.values()):
            self._errors.add(told.failed / ended, ended)
        self.asked.update(told.served)

    @property
    def latency_ms(self) -> int | None:
        return None if self._latency_s.value is None else round(self._latency_s.value * 1000)

    @property
    def tokens_per_s(self) -> int | None:
        return None if self._tokens_per_s.value is None else round(self._tokens_per_s.value)

    @property
    def error_rate_bps(self) -> int | None:
        return None if self._errors.value is None else round(self._errors.value * 10_000)
