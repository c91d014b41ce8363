"""What was spent on which answers: a row a request, reserved at its hold before anything is paid, then at what it cost.

Transaction boundaries: `reserve` looks at the sums and writes its row in one; `settle` and `release` close it. A request
that was cut off stays reserved and counts with its hold until its money is back (a row has the name of its payment), or its
windows have passed: less is spent then, never more.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from relays.money import Msat
from router_client.disk.storage import Database
from router_client.spending.budget import WINDOW_S, Budget, Window

HOUR_S: Final = 3600.0
KEPT_S: Final = 90 * 86400
"""Rows older than this are dropped."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS spending (
    id TEXT PRIMARY KEY, at REAL NOT NULL, session TEXT NOT NULL, model TEXT NOT NULL, node TEXT NOT NULL,
    tier TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('reserved', 'settled')),
    msat INTEGER NOT NULL CHECK (msat >= 0), saved_msat INTEGER NOT NULL DEFAULT 0 CHECK (saved_msat >= 0),
    verified INTEGER NOT NULL DEFAULT 0, quality REAL, request_id TEXT NOT NULL DEFAULT ''
)
"""
_LATER: Final = "ALTER TABLE spending ADD COLUMN request_id TEXT NOT NULL DEFAULT ''"
"""For accounts that were begun without it."""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS spending_at ON spending (at)"
_SETTLE: Final = """
UPDATE spending SET state = 'settled', msat = ?, saved_msat = ?, verified = ?, quality = ?, request_id = ? WHERE id = ?
"""
_GRADE: Final = """
UPDATE spending SET quality = ? WHERE id = (SELECT id FROM spending WHERE request_id = ? ORDER BY at DESC LIMIT 1)
"""
_SINCE: Final = "SELECT COALESCE(SUM(msat), 0) FROM spending WHERE at > ?"
_OF_SESSION: Final = "SELECT COALESCE(SUM(msat), 0) FROM spending WHERE session = ? AND at > ?"
_GROUPED: Final = """
SELECT model, tier, node, COUNT(*), SUM(msat), SUM(saved_msat), SUM(verified), AVG(quality), SUM(state = 'reserved'),
    COUNT(quality)
FROM spending WHERE at > ? GROUP BY model, tier, node ORDER BY SUM(msat) DESC, model, node
"""


class Entry(msgspec.Struct, frozen=True):
    """A request to be reserved."""

    id: str
    session: str
    model: str
    node: str
    """The node's npub."""
    tier: str
    hold_msat: int
    most_msat: int = 0
    """What is paid with until change is back, where that is more."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of it."""

    cost_msat: int
    saved_msat: int = 0
    verified: bool = False
    quality: float | None = None
    """How likely the answer is good, from 0 to 1; None where nothing was said of it."""
    request_id: str = ""
    """The node's, by which its user may say how the answer was."""


class Line(msgspec.Struct, frozen=True):
    """What was spent on one model at one node."""

    model: str
    tier: str
    node: str
    requests: int
    spent_msat: int
    saved_msat: int
    verified: int
    quality: float | None
    """From 0 to 1, the mean of its answers that were judged: the user's own word counts, else what the judge thought."""
    open: int
    """Of the requests, those that were cut off or still run: they count with their hold."""
    judged: int
    """Of the requests, those that `quality` is of."""


class Spending:
    """The rows in the file at `path`."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    async def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Spending:
        """Raises StorageError."""
        db = Database(path)

        def lay(conn: sqlite3.Connection) -> None:
            conn.execute(_SCHEMA)
            if not any(column[1] == "request_id" for column in conn.execute("PRAGMA table_info(spending)")):
                conn.execute(_LATER)
            conn.execute(_INDEX)
            conn.execute("DELETE FROM spending WHERE at < ?", (clock() - KEPT_S,))

        await db.run(lay)
        return cls(db, clock)

    def close(self) -> None:
        self._db.close()

    def spent(self, session: str) -> dict[Window, int]:
        """In each window, as of now, what is reserved included."""
        return self._db.read(lambda conn: _spent(conn, session, self._clock()))

    async def reserve(self, entry: Entry, budget: Budget) -> int:
        """Take a request's hold out of the budget, and up to its most as far as there is; returns what was taken. Raises
        BudgetExceeded, and then nothing was written."""
        now = self._clock()

        def work(conn: sqlite3.Connection) -> int:
            spent = _spent(conn, entry.session, now)
            budget.check(spent, entry.hold_msat)
            taken_msat = max(entry.hold_msat, min([*budget.left(spent).values(), entry.most_msat]))
            conn.execute(
                "INSERT INTO spending (id, at, session, model, node, tier, state, msat) VALUES (?,?,?,?,?,?,'reserved',?)",
                (entry.id, now, entry.session, entry.model, entry.node, entry.tier, taken_msat),
            ).close()
            return taken_msat

        return await self._db.run(work)

    async def settle(self, id_: str, outcome: Outcome) -> None:
        """It cost that much."""
        values = (*msgspec.structs.astuple(outcome), id_)
        await self._db.run(lambda conn: conn.execute(_SETTLE, values).close())

    async def grade(self, request_id: str, quality: float) -> bool:
        """How good that request's answer was; whether it is known. Ids are the nodes' own: of several the newest."""
        if not request_id:
            return False
        return bool(await self._db.run(lambda conn: conn.execute(_GRADE, (quality, request_id)).rowcount))

    async def save(self, id_: str, saved_msat: int) -> None:
        """It saved that much, as is known by now."""
        sql = "UPDATE spending SET saved_msat = ? WHERE id = ?"
        await self._db.run(lambda conn: conn.execute(sql, (saved_msat, id_)).close())

    async def release(self, id_: str) -> None:
        """It was not served, and cost nothing."""
        await self._db.run(
            lambda conn: conn.execute("DELETE FROM spending WHERE id = ? AND state = 'reserved'", (id_,)).close()
        )

    async def end(self, id_: str, kept_msat: int) -> None:
        """Its money is back but for so much: what counts is no more than that any longer, and nothing if it is all."""
        end = "UPDATE spending SET state = 'settled', msat = MIN(msat, ?) WHERE id = ?"
        drop = "DELETE FROM spending WHERE id = ? AND state = 'reserved' AND ? <= 0"

        def work(conn: sqlite3.Connection) -> None:
            conn.execute(drop, (id_, kept_msat)).close()
            conn.execute(end, (max(0, kept_msat), id_)).close()

        await self._db.run(work)

    def reserved(self, older_than_s: float) -> list[str]:
        """The requests of which, after so long, nobody has said what became of them."""
        sql, until = "SELECT id FROM spending WHERE state = 'reserved' AND at < ?", self._clock() - older_than_s
        return [name for (name,) in self._db.read(lambda conn: conn.execute(sql, (until,)).fetchall())]

    def lines(self, seconds: float) -> list[Line]:
        """What was spent in the last so many seconds, by model and node, most first."""
        since = self._clock() - seconds
        rows: list[Any] = self._db.read(lambda conn: conn.execute(_GROUPED, (since,)).fetchall())
        return [Line(*row) for row in rows]


def _spent(conn: sqlite3.Connection, session: str, now: float) -> dict[Window, int]:
    sums: dict[Window, int] = {}
    for window in get_args(Window):
        if window in WINDOW_S:
            (sums[window],) = conn.execute(_SINCE, (now - WINDOW_S[window],)).fetchone()
    (sums["session"],) = conn.execute(_OF_SESSION, (session, now - KEPT_S)).fetchone()
    return sums


class Report(msgspec.Struct, frozen=True):
    """The sums of lines."""

    hours: float
    lines: tuple[Line, ...]

    @property
    def requests(self) -> int:
        return sum(line.requests for line in self.lines)

    @property
    def spent_msat(self) -> Msat:
        return Msat(sum(line.spent_msat for line in self.lines))

    @property
    def saved_msat(self) -> Msat:
        return Msat(sum(line.saved_msat for line in self.lines))

    def by(self, field: str) -> dict[str, tuple[int, int]]:
        """Requests and msat for each model, tier or node."""
        sums: dict[str, tuple[int, int]] = {}
        for line in self.lines:
            requests, spent_msat = sums.get(getattr(line, field), (0, 0))
            sums[getattr(line, field)] = requests + line.requests, spent_msat + line.spent_msat
        return sums

    def told(self, msat_per_usd: float | None = None) -> dict[str, Any]:
        """For programs: ours in msat; where bitcoin has a price, beside it Pura's report in USD, at the price of now."""

        def sums(field: str) -> dict[str, Any]:
            return {name: {"requests": many, "spend_msat": msat} for name, (many, msat) in self.by(field).items()}

        told = {
            "period": f"{self.hours:g}h",
            "request_count": self.requests,
            "spend_msat": self.spent_msat,
            "saved_msat": self.saved_msat,
            "quality": self.quality,
            "per_model": sums("model"),
            "per_tier": sums("tier"),
            "per_node": sums("node"),
            "lines": [msgspec.to_builtins(line) for line in self.lines],
        }
        return told if msat_per_usd is None else told | self._as_pura(msat_per_usd)

    @property
    def quality(self) -> float | None:
        """The mean confidence in answers; None where none was judged."""
        many = sum(line.judged for line in self.lines)
        return sum((line.quality or 0.0) * line.judged for line in self.lines) / many if many else None

    def _as_pura(self, msat_per_usd: float) -> dict[str, Any]:
        usd = self.spent_msat / msat_per_usd
        return {
            "totalSpendUsd": usd,
            "requestCount": self.requests,
            "averageCostUsd": usd / self.requests if self.requests else 0.0,
            "perModel": {
                model: {"requests": many, "spend": msat / msat_per_usd}
                for model, (many, msat) in self.by("model").items()
            },
        }
