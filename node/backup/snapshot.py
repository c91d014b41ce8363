"""Copies of a running node's databases, all as of one moment.

A msat is on its way between the ledger and the wallet all the time. So the write locks of all files are held for as long as
it takes to begin a read of each, which is less than a millisecond: what is copied afterwards is what a power cut at that
moment would have left, and a node goes on from that by its journals.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from pathlib import Path

from node.backup.postgres import connected, dump_books
from router_client.disk.storage import connect
from router_client.errors import StorageError


async def copy_all(files: Mapping[Path, Path], postgres: str = "", dump: Path | None = None) -> None:
    """Copy each SQLite file to where it says, and dump the database at `postgres`, all as of one moment.

    Raises StorageError for files that cannot be read, BadBackup for a database that cannot be dumped.
    """
    async with AsyncExitStack() as stack:
        try:
            readers = await stack.enter_async_context(_cut(list(files), stack, postgres))
        except sqlite3.Error as error:
            raise StorageError(f"the node's databases cannot be read: {error}") from error
        for target, reader in zip(files.values(), readers.connections, strict=True):
            await asyncio.to_thread(_copy, reader, target)
        if dump is not None:
            await dump_books(postgres, dump, readers.snapshot)


class _Readers:
    """A read transaction on each file, and the name of one in PostgreSQL."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []
        self.snapshot = ""


@asynccontextmanager
async def _cut(paths: Sequence[Path], stack: AsyncExitStack, postgres: str) -> AsyncIterator[_Readers]:
    readers = _Readers()
    conn = await connected(postgres) if postgres else None
    if conn is not None:
        stack.push_async_callback(conn.close)
    with ExitStack() as locks:
        for path in sorted(paths):
            writer = locks.enter_context(closing(connect(path)))
            await asyncio.to_thread(writer.execute, "BEGIN IMMEDIATE")
        for path in paths:
            reader = stack.enter_context(closing(connect(path, read_only=True)))
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM sqlite_master").fetchone()  # that is when it begins
            readers.connections.append(reader)
        if conn is not None:
            await stack.enter_async_context(conn.transaction(isolation="repeatable_read", readonly=True))
            readers.snapshot = str(await conn.fetchval("SELECT pg_export_snapshot()"))
    yield readers


def _copy(reader: sqlite3.Connection, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(sqlite3.connect(target)) as copy:
        reader.backup(copy)
