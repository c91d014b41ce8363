"""What the directory knows, on disk: announcements, deletions, and facts about nodes, so that a start needs no relay.

Of each address it holds the newest event as it came, or that the address is empty. What no relay has renewed for a week is
forgotten. The file is the user's own (mode 600): what was verified before it was written is not verified again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from relays.errors import InvalidEvent, InvalidJson
from relays.event import Event, read_event, to_json
from relays.jsontext import from_json
from router_client.discovery.board import MAX_NOTICES, Board, Notice
from router_client.disk.storage import Database

T = TypeVar("T")

KEPT_S: Final = 7 * 86400
MAX_DELETIONS: Final = 2_000
MAX_DELETION_CHARS: Final = 32_768
"""What a deletion did is with its address; it is kept itself for what has not come yet."""
MAX_FACTS: Final = 20_000
"""Of one kind."""

SCHEMA: Final = (
    """
CREATE TABLE IF NOT EXISTS notices (
    address TEXT PRIMARY KEY, id TEXT NOT NULL, pubkey TEXT NOT NULL, created_at INTEGER NOT NULL, at INTEGER NOT NULL,
    event TEXT -- null where an address is empty: deleted, or taken by what announces nothing
)
""",
    "CREATE TABLE IF NOT EXISTS deletions (id TEXT PRIMARY KEY, at INTEGER NOT NULL, event TEXT NOT NULL)",
    """
CREATE TABLE IF NOT EXISTS facts (
    kind TEXT NOT NULL, about TEXT NOT NULL, at INTEGER NOT NULL, fact BLOB NOT NULL, PRIMARY KEY (kind, about)
)
""",
)


class Shelf:
    """The file."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    async def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Shelf:
        """Raises StorageError."""
        db = Database(path)

        def lay(conn: sqlite3.Connection) -> None:
            for statement in SCHEMA:
                conn.execute(statement)

        await db.run(lay)
        return cls(db, clock)

    def close(self) -> None:
        self._db.close()

    def fill(self, board: Board) -> None:
        """Put all that is known on the board."""
        now, oldest = int(self._clock()), int(self._clock() - KEPT_S)
        deletions = self._rows("SELECT event, '', id, '', 0 FROM deletions WHERE at >= ? LIMIT ?", oldest, MAX_NOTICES)
        notices = self._rows(
            "SELECT event, address, id, pubkey, created_at FROM notices WHERE at >= ? ORDER BY at LIMIT ?",
            oldest,
            MAX_NOTICES,
        )
        for event, address, id_, pubkey, created_at in (*deletions, *notices):
            try:
                if event is None:
                    board.keep(Notice(address, id_, pubkey, created_at, 0, None))
                else:
                    board.put(read_event(event), now)
            except InvalidEvent:  # somebody wrote into the file; relays have it whole
                continue
        board.written()

    async def store(self, board: Board, deletions: Sequence[Event]) -> None:
        """Write what changed on the board, and the deletions that came with it; throw away what is old."""
        now, changed = int(self._clock()), board.written()
        gone = [(each,) for each in changed if isinstance(each, str)]
        here = [_row(each, now) for each in changed if isinstance(each, Notice)]
        withdrawn = [(each.id, now, text) for each in deletions if len(text := to_json(each)) <= MAX_DELETION_CHARS]

        def write(conn: sqlite3.Connection) -> None:
            conn.executemany("DELETE FROM notices WHERE address = ?", gone)
            conn.executemany("INSERT OR REPLACE INTO notices VALUES (?, ?, ?, ?, ?, ?)", here)
            conn.executemany("INSERT OR REPLACE INTO deletions VALUES (?, ?, ?)", withdrawn)
            for table, most in (("notices", MAX_NOTICES), ("deletions", MAX_DELETIONS)):
                conn.execute(f"DELETE FROM {table} WHERE at < ?", (now - KEPT_S,))  # noqa: S608 - a constant
                conn.execute(
                    f"DELETE FROM {table} WHERE rowid IN"  # noqa: S608
                    f" (SELECT rowid FROM {table} ORDER BY at DESC LIMIT -1 OFFSET ?)",
                    (most,),
                )

        await self._db.run(write)

    def facts(self, kind: str, form: type[T]) -> dict[str, T]:
        """All facts of a kind, by what they are about."""
        found: dict[str, T] = {}
        for about, fact in self._rows("SELECT about, fact FROM facts WHERE kind = ?", kind):
            try:
                found[about] = from_json(fact, form)
            except InvalidJson:
                continue
        return found

    async def state(self, kind: str, facts: Mapping[str, object]) -> None:
        """Write facts of a kind; each replaces the one about the same before."""
        now = int(self._clock())
        rows = [(kind, about, now, msgspec.json.encode(fact)) for about, fact in facts.items()]

        def write(conn: sqlite3.Connection) -> None:
            conn.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", rows)
            conn.execute(
                "DELETE FROM facts WHERE rowid IN"
                " (SELECT rowid FROM facts WHERE kind = ? ORDER BY at DESC LIMIT -1 OFFSET ?)",
                (kind, MAX_FACTS),
            )

        await self._db.run(write)

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._db.read(lambda conn: conn.execute(query, values).fetchall())


def _row(notice: Notice, now: int) -> tuple[str, str, str, int, int, str | None]:
    event = None if notice.event is None else to_json(notice.event)
    return notice.address, notice.id, notice.pubkey, notice.created_at, now, event
