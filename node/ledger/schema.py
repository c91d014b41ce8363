"""Whether the tables are those of this program. Only where they are not is Alembic asked, which takes long to import."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from importlib import import_module
from pathlib import Path

import asyncpg

from node.ledger.sql import CONNECT_S

CURRENT = "0005"
"""The last revision in `migrations/`."""
_VERSION = "SELECT version_num FROM alembic_version"


async def prepare_sqlite(path: Path) -> None:
    """Lay the tables in the file, or bring it up to date. Raises LedgerError or StorageError."""

    def prepare() -> None:
        if not _is_current(path):
            import_module("node.ledger.upgrade").migrate_sqlite(path)

    await asyncio.to_thread(prepare)


async def prepare_postgres(url: str) -> None:
    """The same for the PostgreSQL database at `url`."""
    if not await _postgres_is_current(url):
        await (await asyncio.to_thread(import_module, "node.ledger.upgrade")).migrate_postgres(url)


def _is_current(path: Path) -> bool:
    """What cannot be read is not: the upgrade says why."""
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(path)) as conn:
            return conn.execute(_VERSION).fetchall() == [(CURRENT,)]
    except sqlite3.Error:
        return False


async def _postgres_is_current(url: str) -> bool:
    try:
        async with asyncio.timeout(CONNECT_S):
            conn = await asyncpg.connect(url)
            try:
                return [row[0] for row in await conn.fetch(_VERSION)] == [CURRENT]
            finally:
                await conn.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError):
        return False
