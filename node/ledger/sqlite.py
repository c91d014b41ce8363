"""The ledger in one SQLite file: one writing thread, group commit, synchronous=FULL."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from node.errors import LedgerConflict
from node.ledger.model import EARNINGS, Posted
from node.ledger.page import AccountRow, Hold, HoldRow, KeyRow, Move, Outcome, Page, Post, receipt_rows
from node.ledger.schema import migrate_sqlite
from node.ledger.sql import Work, columns
from relays.receipt import Receipt
from router_client.storage import Database

T = TypeVar("T")

_AMONG = "(SELECT value FROM json_each(?))"
_HOLDS = f"SELECT {columns(HoldRow)} FROM holds WHERE id IN {_AMONG}"
_ACCOUNTS = f"SELECT {columns(AccountRow)} FROM accounts WHERE id IN {_AMONG}"
_KEYS = f"SELECT {columns(KeyRow)} FROM keys WHERE id IN {_AMONG}"
_RECEIPTS = f"SELECT request_id, content, created_at FROM receipts WHERE request_id IN {_AMONG}"


class SqliteBackend:
    """See `Backend`. One process serves from a file at a time; tools may look and write beside it."""

    shared = False

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._db = Database(path)

    @classmethod
    async def open(cls, path: Path) -> SqliteBackend:
        """The ledger in the file at `path`, laid out or brought up to date. Raises LedgerError or StorageError."""
        await asyncio.to_thread(migrate_sqlite, path)
        return cls(path)

    async def run(self, work: Work[T]) -> T:
        try:
            return await self._db.run(lambda conn: _stepped(conn, work))
        except sqlite3.IntegrityError as error:
            raise LedgerConflict(str(error)) from error

    async def move(self, move: Move) -> Outcome:
        try:
            outcome: Outcome = await self._db.run_together(_moved, move)
        except sqlite3.IntegrityError as error:
            raise LedgerConflict(str(error)) from error
        return outcome

    async def read(self, work: Work[T]) -> T:
        return self._db.read(lambda conn: _stepped(conn, work))

    async def survey(self, work: Work[T]) -> T:
        return await self._db.read_aside(lambda conn: _stepped(conn, work))

    async def close(self) -> None:
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


def _moved(conn: sqlite3.Connection, moves: Sequence[Move]) -> list[Outcome]:
    """The batch as one page."""
    page = _load(conn, moves)
    outcomes = [page.apply(move) for move in moves]
    _save(conn, page)
    return outcomes


def _load(conn: sqlite3.Connection, moves: Sequence[Move]) -> Page:
    holds = [HoldRow(*row) for row in conn.execute(_HOLDS, (json.dumps([move.id for move in moves]),))]
    accounts = {hold.account for hold in holds} | {EARNINGS}
    keys: set[int | None] = {hold.key for hold in holds}
    for move in moves:
        if isinstance(move, Hold):
            accounts.add(move.account)
            keys |= {move.key, move.parent}
    again = [hold.id for hold in holds if hold.state == "posted"]
    if again and any(isinstance(move, Post) for move in moves):
        receipts = [
            (id_, Posted(msgspec.json.decode(content, type=Receipt), created_at))
            for id_, content, created_at in conn.execute(_RECEIPTS, (json.dumps(again),))
        ]
    else:
        receipts = []
    return Page(
        [AccountRow(*row) for row in conn.execute(_ACCOUNTS, (json.dumps(sorted(accounts)),))],
        [KeyRow(*row) for row in conn.execute(_KEYS, (json.dumps([key for key in keys if key is not None]),))],
        holds,
        receipts,
    )


def _save(conn: sqlite3.Connection, page: Page) -> None:
    accounts = [page.accounts[id_] for id_ in page.changed_accounts]
    keys = [page.keys[id_] for id_ in page.changed_keys]
    changes: tuple[tuple[str, Sequence[tuple[Any, ...]]], ...] = (
        (
            "UPDATE accounts SET available_msat = ?, held_msat = ?, spent_msat = ? WHERE id = ?",
            [(row.available_msat, row.held_msat, row.spent_msat, row.id) for row in accounts],
        ),
        (
            "UPDATE keys SET spent_msat = ?, held_msat = ?, day = ?, day_msat = ? WHERE id = ?",
            [(row.spent_msat, row.held_msat, row.day, row.day_msat, row.id) for row in keys],
        ),
        (
            f"INSERT INTO holds ({columns(HoldRow)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [msgspec.structs.astuple(row) for row in page.made.values()],
        ),
        (
            "UPDATE holds SET state = ?, posted_msat = ? WHERE id = ?",
            [(row.state, row.posted_msat, row.id) for row in page.ended.values()],
        ),
        (
            "INSERT INTO transfers (debit, credit, amount_msat, kind, reference, created_at) "
            f"VALUES (?, {EARNINGS}, ?, 'charge', ?, ?)",
            page.charges,
        ),
        (
            "INSERT INTO receipts (request_id, account, content, created_at) VALUES (?, ?, ?, ?)",
            receipt_rows(page),
        ),
    )
    for text, rows in changes:
        if rows:
            conn.executemany(text, rows)
