"""How much may be spent, per request, session, hour and day. Pure arithmetic, and the user's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.money import Msat
from router_client.disk.ownfile import write_own
from router_client.errors import BudgetExceeded, PriceUnknown, StorageError

Window = Literal["request", "session", "hour", "day"]
WINDOW_S: Final[Mapping[Window, float]] = {"hour": 3600.0, "day": 86400.0}
"""What was spent counts for so long: windows move with the time, they do not begin at midnight."""
MOST_USD: Final = 1_000_000_000


class Budget(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The most that may be spent in each; None: no limit."""

    request_msat: int | None = None
    session_msat: int | None = None
    hour_msat: int | None = None
    day_msat: int | None = None
    request_usd: float | None = None
    session_usd: float | None = None
    hour_usd: float | None = None
    day_usd: float | None = None
    """A limit in USD is as many msat as that is at the moment; of two limits the lower one holds."""

    def __post_init__(self) -> None:
        for window in get_args(Window):
            if (limit := self.of(window)) is not None and limit < 0:
                raise ValueError(f"the budget of a {window} is not below 0")
            if (usd := self.usd_of(window)) is not None and not 0 <= usd <= MOST_USD:
                raise ValueError(f"the budget of a {window} is from 0 to {MOST_USD} USD")

    def of(self, window: Window) -> int | None:
        limit: int | None = getattr(self, f"{window}_msat")
        return limit

    def usd_of(self, window: Window) -> float | None:
        limit: float | None = getattr(self, f"{window}_usd")
        return limit

    @property
    def in_usd(self) -> bool:
        """Whether any limit is."""
        return any(self.usd_of(window) is not None for window in get_args(Window))

    def at(self, msat_per_usd: float | None) -> Budget:
        """The same in msat alone. Raises PriceUnknown."""
        if not self.in_usd:
            return self
        if msat_per_usd is None:
            raise PriceUnknown(
                "a budget in USD needs the price of bitcoin, and none is known now: try again, or set it in sats"
            )
        limits: dict[str, int] = {}
        for window in get_args(Window):
            usd, limit_msat = self.usd_of(window), self.of(window)
            both = [each for each in (limit_msat, None if usd is None else int(usd * msat_per_usd)) if each is not None]
            if both:
                limits[f"{window}_msat"] = min(both)
        return Budget(**limits)

    def left(self, spent: Mapping[Window, int]) -> dict[Window, Msat]:
        """What is left of each limit, never below 0; windows without a limit are not in it."""
        limits = {window: self.of(window) for window in get_args(Window)}
        return {
            window: Msat(max(0, limit - spent.get(window, 0))) for window, limit in limits.items() if limit is not None
        }

    def check(self, spent: Mapping[Window, int], hold_msat: int) -> None:
        """Raises BudgetExceeded when a request that can cost that much does not fit."""
        for window, left_msat in self.left(spent).items():
            if hold_msat > left_msat:
                raise BudgetExceeded(window, left_msat, hold_msat)


def read_budget(path: Path) -> Budget:
    """The user's file; without it nothing is limited. Raises StorageError: a limit that is overlooked costs money."""
    try:
        return from_json(path.read_bytes(), Budget)
    except FileNotFoundError:
        return Budget()
    except (OSError, InvalidJson) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


class BudgetFile:
    """The user's file as it is now: another process may change it while this one spends."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError."""
        self._path = path
        self._seen = self._look()
        self._budget = read_budget(path)

    def now(self) -> Budget:
        """Raises StorageError."""
        if (seen := self._look()) != self._seen:
            self._budget = read_budget(self._path)
            self._seen = seen
        return self._budget

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def write_budget(path: Path, budget: Budget) -> None:
    """Raises StorageError."""
    write_own(path, msgspec.to_builtins(budget))
