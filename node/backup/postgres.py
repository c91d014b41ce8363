"""Books in PostgreSQL, by its own programs: dumped, and put in the place of others."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncpg

from node.errors import BadBackup
from node.ledger.sql import CONNECT_S
from router_client.errors import StorageError

PG_DUMP: Final = "ledger.dump"
DUMP_S: Final = 3600
LOOKS: Final = 10
LOOK_AGAIN_S: Final = 0.1
_OTHERS: Final = """
    SELECT coalesce(nullif(application_name, ''), usename, 'somebody') FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


async def connected(url: str) -> asyncpg.Connection:
    """Raises StorageError."""
    try:
        return await asyncpg.connect(url, timeout=CONNECT_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        raise StorageError(f"the books at PostgreSQL cannot be reached: {error}") from error


async def has_tables(url: str) -> bool:
    """Whether there are books in the database. Raises StorageError."""
    conn = await connected(url)
    try:
        return await _has_tables(conn)
    finally:
        await conn.close()


class Replacing:
    """A database whose books others take the place of; nobody else may use it meanwhile."""

    def __init__(self, url: str, conn: asyncpg.Connection, *, has_books: bool) -> None:
        self._url = url
        self._conn = conn
        self.has_books = has_books

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Replacing]:
        """Raises StorageError, and BadBackup while others use it."""
        conn = await connected(url)
        try:
            replacing = cls(url, conn, has_books=await _has_tables(conn))
            await replacing._check_alone()
            yield replacing
        finally:
            await conn.close()

    async def load(self, dump: Path, aside: Path) -> None:
        """Fill it from a dump, in one transaction; what was there is dumped to `aside` before. Raises BadBackup."""
        await self._check_alone()
        if self.has_books:
            aside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                await dump_books(self._url, aside)
            except BadBackup:
                shutil.rmtree(aside.parent)
                raise
        await _run(
            "pg_restore",
            self._url,
            *("--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error", str(dump)),
        )

    async def _check_alone(self) -> None:
        """A node that works on would book into what is not its own any more."""
        for _ in range(LOOKS):
            others = [str(row[0]) for row in await self._conn.fetch(_OTHERS)]
            if not others:
                return
            await asyncio.sleep(LOOK_AGAIN_S)  # one that has just disconnected is listed for a moment
        names = ", ".join(sorted(set(others)))
        raise BadBackup(
            f"{len(others)} others use the database ({names}): stop every node that shares it, and disconnect"
        )


async def _has_tables(conn: asyncpg.Connection) -> bool:
    return bool(await conn.fetchval("SELECT to_regclass('accounts') IS NOT NULL"))


async def dump_books(url: str, target: Path, snapshot: str = "") -> None:
    """The whole database in a file for its owner alone, as of now or of an exported snapshot. Raises BadBackup."""
    of = [f"--snapshot={snapshot}"] if snapshot else []
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    await _run("pg_dump", url, "--format=custom", *of, f"--file={target}", "--no-owner")


async def _run(program: str, url: str, *words: str) -> None:
    """One of PostgreSQL's programs; the password is told where no other user of the machine sees it."""
    if shutil.which(program) is None:
        raise BadBackup(
            f"{program} is not installed: apt-get install postgresql-client; or leave the books out of backups with "
            "--without-database, and back the database up by other means at the same moment"
        )
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name, _, _ = user.partition(":")
    plain = urlunsplit(parts._replace(netloc=f"{name}@{host}" if user else host))
    password = {"PGPASSWORD": unquote(parts.password)} if parts.password else {}
    process = await asyncio.create_subprocess_exec(
        program,
        f"--dbname={plain}",
        *words,
        env=os.environ | {"LC_ALL": "C"} | password,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DUMP_S):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines() or ["failed"]
        # Its last lines are hints, and the command.
        reason = next((line for line in lines if " error: " in line), lines[-1])
        raise BadBackup(f"{program}: {reason.removeprefix(f'{program}: error: ')}")
