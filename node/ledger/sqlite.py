"""The ledger in one SQLite file: one writing thread, group commit, synchronous=FULL."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from node.errors import LedgerConflict
from node.ledger.page import MOST_KEPT, AccountRow, HoldRow, KeyRow, Move, Outcome, Page
from node.ledger.schema import prepare_sqlite
from node.ledger.sql import Work, columns
from router_client.disk.storage import Database

T = TypeVar("T")

_AMONG = "(SELECT value FROM json_each(?))"
_HOLDS = f"SELECT {columns(HoldRow)} FROM holds WHERE id IN {_AMONG}"
_ACCOUNTS = f"SELECT {columns(AccountRow)} FROM accounts WHERE id IN {_AMONG}"
_KEYS = f"SELECT {columns(KeyRow)} FROM keys WHERE id IN {_AMONG}"
_NEWEST = "SELECT MAX(id) FROM holds WHERE id <= ?"
NEW_FOR_S = 365 * 24 * 3600
"""Ids begin with their time: one that is newer than all in the books is not looked for there."""
_SAVE_ACCOUNTS = "UPDATE accounts SET available_msat = ?, held_msat = ?, spent_msat = ? WHERE id = ?"
_SAVE_KEYS = "UPDATE keys SET spent_msat = ?, held_msat = ?, day = ?, day_msat = ? WHERE id = ?"
_MAKE_HOLDS = f"INSERT INTO holds ({columns(HoldRow)}) VALUES ({', '.join('?' * len(HoldRow.__struct_fields__))})"
_OPEN_HOLDS = """
INSERT INTO holds (id, account, key, purpose, amount_msat, posted_msat, state, created_at, expires_at, instance, fingerprint)
VALUES (?, ?, ?, ?, ?, 0, 'pending', ?, ?, ?, ?)
"""
"""The same for those that are pending, as nearly all are: Python's driver takes as long over one None as over ten values."""
_END_HOLDS = "UPDATE holds SET state = ?, posted_msat = ?, receipt = ?, posted_at = ? WHERE id = ?"


class SqliteBackend:
    """See `Backend`. One process serves from a file at a time; tools may look and write beside it."""

    shared = False

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._db = Database(path)
        self._moves = _Moves(self._db)

    @classmethod
    async def open(cls, path: Path) -> SqliteBackend:
        """The ledger in the file at `path`, laid out or brought up to date. Raises LedgerError or StorageError."""
        await prepare_sqlite(path)
        return cls(path)

    async def run(self, work: Work[T]) -> T:
        try:
            return await self._db.run(lambda conn: _stepped(conn, work))
        except sqlite3.IntegrityError as error:
            raise LedgerConflict(str(error)) from error

    def move(self, move: Move) -> asyncio.Future[Outcome]:
        return self._db.run_together(self._moves, move)

    async def read(self, work: Work[T]) -> T:
        return self._db.read(lambda conn: _stepped(conn, work))

    async def survey(self, work: Work[T]) -> T:
        return await self._db.read_aside(lambda conn: _stepped(conn, work))

    async def close(self) -> None:
        self._db.refuse()
        await asyncio.to_thread(self._db.close)


def _stepped(conn: sqlite3.Connection, work: Work[T]) -> T:
    """Drive the steps to their end."""
    steps = work()
    try:
        query = next(steps)
        while True:
            query = steps.send(conn.execute(query.text, query.values).fetchall())
    except StopIteration as end:
        result: T = end.value
        return result


class _Moves:
    """Batches of moves. The page of one serves the next, unless anything else was written meanwhile or a batch failed."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._page = Page()
        self._seen: tuple[int, ...] | None = None
        self._newest = self._latest = ""
        """No hold in the books has an id above the first, up to the second."""

    def __call__(self, conn: sqlite3.Connection, moves: Sequence[Move]) -> list[Outcome]:
        before = self._state(conn)
        if before != self._seen or self._page.size > MOST_KEPT:
            self._page = Page()
            self._latest = f"req_{int((time.time() + NEW_FOR_S) * 1000):012x}"
            self._newest = conn.execute(_NEWEST, (self._latest,)).fetchone()[0] or ""
        self._seen = None
        page = self._page
        new, last = self._newest, self._latest
        _load(conn, page, moves, [id_ for id_ in page.lacking_holds(moves) if not new < id_ <= last])
        outcomes = [page.apply(move) for move in moves]
        self._newest = max((new, *(id_ for id_ in page.made if id_ <= last)))
        try:
            _save(conn, page)
        except sqlite3.IntegrityError as error:
            raise LedgerConflict(str(error)) from error
        page.written()
        self._seen = (before[0], conn.total_changes, self._db.rollbacks)  # others cannot have written since the look
        return outcomes

    def _state(self, conn: sqlite3.Connection) -> tuple[int, ...]:
        """Another number when another connection has written, this one has, or something was rolled back."""
        (others,) = conn.execute("PRAGMA data_version").fetchone()
        return (others, conn.total_changes, self._db.rollbacks)


def _load(conn: sqlite3.Connection, page: Page, moves: Sequence[Move], holds: Sequence[str]) -> None:
    """The rows of the moves that the page lacks; of holds those that can be in the books."""
    if holds:
        page.add(holds=[HoldRow(*row) for row in conn.execute(_HOLDS, (json.dumps(holds),))])
    accounts, keys = page.lacking_rows(moves)
    if accounts:
        page.add(accounts=[AccountRow(*row) for row in conn.execute(_ACCOUNTS, (json.dumps(accounts),))])
    if keys:
        page.add(keys=[KeyRow(*row) for row in conn.execute(_KEYS, (json.dumps(keys),))])


def _save(conn: sqlite3.Connection, page: Page) -> None:
    accounts = [page.accounts[id_] for id_ in page.changed_accounts]
    keys = [page.keys[id_] for id_ in page.changed_keys]
    made, ended = page.made.values(), page.ended.values()
    changes: tuple[tuple[str, Sequence[tuple[Any, ...]]], ...] = (
        (_SAVE_ACCOUNTS, [(row.available_msat, row.held_msat, row.spent_msat, row.id) for row in accounts]),
        (_SAVE_KEYS, [(row.spent_msat, row.held_msat, row.day, row.day_msat, row.id) for row in keys]),
        (_OPEN_HOLDS, [_opened(row) for row in made if row.state == "pending"]),
        (_MAKE_HOLDS, [msgspec.structs.astuple(row) for row in made if row.state != "pending"]),
        (_END_HOLDS, [(row.state, row.posted_msat, row.receipt, row.posted_at, row.id) for row in ended]),
    )
    for text, rows in changes:
        if rows:
            conn.executemany(text, rows)


def _opened(row: HoldRow) -> tuple[Any, ...]:
    return (
        row.id,
        row.account,
        row.key,
        row.purpose,
        row.amount_msat,
        row.created_at,
        row.expires_at,
        row.instance,
        row.fingerprint,
    )
