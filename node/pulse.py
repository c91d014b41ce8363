"""How the node is doing, of the requests that it serves: averages in which the latest count most. Pure, and a few sums for
each request."""

from __future__ import annotations

from collections import Counter
from typing import Final

SMOOTHING: Final = 0.1
"""How much the latest request counts: the last twenty or so make the average."""
LEAST_STREAM_S: Final = 0.05
"""What streams for less comes in one piece, which tells nothing of the speed."""


class _Average:
    """Exponentially weighted; the first value counts whole."""

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, value: float) -> None:
        self.value = value if self.value is None else self.value + SMOOTHING * (value - self.value)


class Pulse:
    """Measured from paid requests."""

    def __init__(self) -> None:
        self._latency_s, self._tokens_per_s, self._errors = _Average(), _Average(), _Average()
        self.asked: Counter[str] = Counter()
        """How often each model was served."""

    def began(self, after_s: float) -> None:
        """A stream said its first word. Answers in one piece are left out: they come when they are whole."""
        self._latency_s.add(after_s)

    def served(self, model: str) -> None:
        """A request was served."""
        self.asked[model] += 1
        self._errors.add(0)

    def streamed(self, tokens: int, seconds: float) -> None:
        """So many tokens came in a stream after its first word."""
        if tokens and seconds >= LEAST_STREAM_S:
            self._tokens_per_s.add(tokens / seconds)

    def failed(self) -> None:
        """A request was not served, or not to its end, and its caller is not to blame."""
        self._errors.add(1)

    @property
    def latency_ms(self) -> int | None:
        return None if self._latency_s.value is None else round(self._latency_s.value * 1000)

    @property
    def tokens_per_s(self) -> int | None:
        return None if self._tokens_per_s.value is None else round(self._tokens_per_s.value)

    @property
    def error_rate_bps(self) -> int | None:
        return None if self._errors.value is None else round(self._errors.value * 10_000)
