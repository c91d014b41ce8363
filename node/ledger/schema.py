"""Whether the tables are those of this program. Only where they are not is Alembic asked, in a process of its
own: it takes long to import, and much memory."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import asyncpg

from node.errors import LedgerError
from node.ledger.sql import CONNECT_S
from router_client.errors import StorageError

CURRENT = "0006"
"""The last revision in `migrations/`."""
_VERSION = "SELECT version_num FROM alembic_version"


SQLITE: Final = "sqlite:///"
UPGRADE_S: Final = 900
NOT_OURS, BROKEN_OFF = 3, 4
"""Exit codes of the upgrade: LedgerError, StorageError."""


async def prepare_sqlite(path: Path) -> None:
    """Lay the tables in the file, or bring it up to date. Raises LedgerError or StorageError."""
    if not await asyncio.to_thread(_is_current, path):
        await _upgrade(f"{SQLITE}{path}")


async def prepare_postgres(url: str) -> None:
    """The same for the PostgreSQL database at `url`."""
    if not await _postgres_is_current(url):
        await _upgrade(url)


async def _upgrade(url: str) -> None:
    # -P: the folder in which the command was given may have a `node` of its own, of somebody else or of another version.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "node.ledger.upgrade"), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(UPGRADE_S):
            _, words = await process.communicate(url.encode())
    except TimeoutError:
        words = b"it takes too long"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        last = (words.decode(errors="replace").splitlines() or ["no reason given"])[-1]
        raise LedgerError(last) if process.returncode == NOT_OURS else StorageError(last)


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
