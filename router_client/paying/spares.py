"""Locked tokens that did not reach their node: good for the next request there, as the payment of that request."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from router_client.disk.storage import Database

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS spares (id TEXT PRIMARY KEY)",
    # What a payment is called by the request that it pays for, where that is not its own id: it was a spare.
    "CREATE TABLE IF NOT EXISTS names (id TEXT PRIMARY KEY, name TEXT NOT NULL)",
)
_THERE: Final = (
    "SELECT id FROM spares JOIN payments USING (id) WHERE node_url = ? AND state = 'open' ORDER BY created_at"
)
_TAKE: Final = "DELETE FROM spares WHERE id IN (SELECT id FROM payments WHERE id = ? AND state = 'open')"
DROP: Final = "DELETE FROM spares WHERE id = ?"


class Spares:
    """Those of one journal of payments."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    def at(self, node_url: str) -> list[str]:
        """The payments that lie ready for that node, oldest first."""
        return [
            payment_id for (payment_id,) in self._db.read(lambda conn: conn.execute(_THERE, (node_url,)).fetchall())
        ]

    async def put(self, payment_id: str) -> None:
        await self._db.run(lambda conn: conn.execute("INSERT OR IGNORE INTO spares VALUES (?)", (payment_id,)).close())

    async def drop(self, payment_id: str) -> bool:
        """So that nobody takes it; whether it was there."""
        return bool(await self._db.run(lambda conn: conn.execute(DROP, (payment_id,)).rowcount))

    async def take(self, payment_id: str, name: str) -> bool:
        """Whether it is the caller's alone now, for a request of that name: it is as old as that, too, so that no other
        process on this wallet takes it for one that was left."""
        now = int(self._clock())

        def work(conn: sqlite3.Connection) -> bool:
            if not conn.execute(_TAKE, (payment_id,)).rowcount:
                return False
            conn.execute("UPDATE payments SET created_at = ? WHERE id = ?", (now, payment_id)).close()
            conn.execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (payment_id, name or payment_id)).close()
            return True

        return await self._db.run(work)
