"""The tariff in force: the price of bitcoin and how busy the node is, each at its lowest of the last minute.

So a price that a quote named holds for that long, whoever asks and however often: a rise takes effect a minute after it is
announced, a fall at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, Generic, TypeVar

import msgspec

from node.shop.listprice import Tariff

T = TypeVar("T")

HOLDS_S: Final = 60
"""How long a price holds that was told."""
FACTOR_STEP: Final = Decimal("0.05")
"""Of the factor: finer changes are not told."""
MOST_BUSY: Final = Decimal("0.99")
SMOOTHING: Final = Decimal("0.3")
"""How much the latest look counts (Pura's)."""


class History(msgspec.Struct, Generic[T], frozen=True):
    """A value, and until when those before it still hold."""

    value: T
    before: tuple[tuple[float, T], ...] = ()


class Recent(Generic[T]):
    """A value, and those it took the place of in the last minute."""

    def __init__(self, value: T, clock: Callable[[], float], holds_s: float = HOLDS_S) -> None:
        self._history = History(value)
        self._clock = clock
        self._holds_s = holds_s

    def put(self, value: T, *, was_told: bool = True) -> None:
        """From now on; what was before still holds for a minute, if anybody was told it. Others may look meanwhile, also in
        other threads."""
        if value != self.value:
            now = self._clock()
            held = tuple(each for each in self._history.before if each[0] > now)
            self._history = History(value, (*held, (now + self._holds_s, self.value)) if was_told else ())

    @property
    def holds_s(self) -> float:
        """How long all that holds now goes on to hold."""
        now = self._clock()
        return min((until - now for until, _ in self._history.before if until > now), default=float(HOLDS_S))

    @property
    def value(self) -> T:
        return self._history.value

    @property
    def history(self) -> History[T]:
        return self._history

    def follow(self, history: History[T]) -> None:
        """Hold what another one holds."""
        self._history = history

    def all(self) -> list[T]:
        """All that hold now."""
        history = self._history
        if not history.before:
            return [history.value]
        now = self._clock()
        return [history.value, *(value for until, value in history.before if until > now)]


def factor_of(busy: Decimal, gamma: Decimal, floor: Decimal, ceiling: Decimal) -> Decimal:
    """What prices are multiplied by at a utilisation from 0 to 1: 1 + gamma u / (1 - u), as Pura has it, in steps."""
    u = min(busy, MOST_BUSY)
    factor = (1 + gamma * u / (1 - u)) if gamma else Decimal(1)
    stepped = (factor / FACTOR_STEP).to_integral_value(ROUND_HALF_EVEN) * FACTOR_STEP
    return max(floor, min(ceiling, stepped)).normalize()


class Utilisation:
    """How busy the node is, from 0 to 1, smoothed over some looks."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._smooth = Decimal(0)

    def seen(self, running: int) -> Decimal:
        """Take in how many requests run now; what that makes of the average."""
        busy = min(Decimal(1), Decimal(running) / self._capacity)
        self._smooth += SMOOTHING * (busy - self._smooth)
        return self._smooth


class Tariffs:
    """Tells the tariff, and keeps what was told before for as long as it holds."""

    def __init__(
        self,
        btc_usd: Decimal | None,
        is_known: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        holds_s: float = HOLDS_S,
    ) -> None:
        self._btc = Recent[Decimal | None](btc_usd, clock, holds_s)
        self._factor = Recent(Decimal(1), clock, holds_s)
        self._is_known = is_known

    @property
    def btc_is_known(self) -> bool:
        """Whether bitcoin has a price that is young enough to sell by."""
        return self._btc.value is not None and self._is_known()

    @property
    def btc_usd(self) -> Decimal | None:
        """USD per bitcoin, to show amounts in USD; however old."""
        return self._btc.value

    def put_btc(self, usd: Decimal, *, was_open: bool = True) -> None:
        """Another price of bitcoin; `was_open` says whether anything was sold at the one before until now."""
        self._btc.put(usd, was_told=was_open)

    @property
    def holds_s(self) -> float:
        """How long the tariff of now holds at least."""
        return min(self._btc.holds_s, self._factor.holds_s)

    def put_factor(self, factor: Decimal) -> bool:
        """How much dearer the node is for being busy; True when that has changed."""
        changed = factor != self._factor.value
        self._factor.put(factor)
        return changed

    @property
    def histories(self) -> tuple[History[Decimal | None], History[Decimal]]:
        """Bitcoin's and the factor's, for others that follow."""
        return (self._btc.history, self._factor.history)

    def follow(self, btc: History[Decimal | None], factor: History[Decimal]) -> None:
        """Hold what others hold."""
        self._btc.follow(btc)
        self._factor.follow(factor)

    @property
    def now(self) -> Tariff:
        """What requests are held and charged by."""
        known = [usd for usd in self._btc.all() if usd is not None]
        return Tariff(max(known, default=None), min(self._factor.all()))

    @property
    def announced(self) -> Tariff:
        """What is coming into force, if it is not yet: announcements and lists outlive a minute."""
        return Tariff(self._btc.value, self._factor.value)
