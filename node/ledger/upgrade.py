"""The tables brought up to date by Alembic, in one transaction.

    echo sqlite:////home/me/.satroute/node/ledger.db | python -m node.ledger.upgrade

A node has this done by a process of its own (`schema`), and is spared what Alembic takes of memory.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from node.errors import LedgerError
from node.ledger.schema import BROKEN_OFF, NOT_OURS, SQLITE
from node.ledger.sql import CONNECT_S, LOCK
from router_client.errors import StorageError

MIGRATIONS = Path(__file__).parent / "migrations"
FIRST = "0001"


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate_sqlite(path: Path, revision: str = "head") -> None:
    """Bring the file up to date, made if there is none; an older one is copied first. Raises LedgerError or StorageError."""
    with _translated(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                current = _current(connection)
                if current is not None and current != _target(revision):
                    _copy(path, f".{current}.bak")
                # A table that is made anew must not be missed by those that refer to it meanwhile.
                connection.execute(text("PRAGMA foreign_keys=OFF"))
                connection.execute(text("BEGIN IMMEDIATE"))
                _upgrade(connection, revision)
                connection.execute(text("COMMIT"))
        finally:
            engine.dispose()


async def migrate_postgres(url: str, revision: str = "head") -> None:
    """The same for the PostgreSQL database at `url`; of several processes that start at once one does it."""
    with _translated("PostgreSQL"):
        engine = create_async_engine(
            url.replace("postgresql://", "postgresql+asyncpg://", 1), connect_args={"timeout": CONNECT_S}
        )
        try:
            async with asyncio.timeout(600), engine.begin() as connection:
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
                await connection.run_sync(_upgrade, revision)
        finally:
            await engine.dispose()


def _upgrade(connection: Connection, revision: str) -> None:
    config = alembic_config(connection)
    current = _current(connection)
    if current is not None and MigrationContext.configure(connection).get_current_revision() is None:
        command.stamp(config, current)
    if current == _target(revision):
        return
    command.upgrade(config, revision)


def _current(connection: Connection) -> str | None:
    """The revision of the tables. Raises LedgerError for one that this program does not know."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None:
        # The first release numbered its files otherwise.
        return FIRST if inspect(connection).has_table("accounts") else None
    if revision not in {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}:
        raise LedgerError(f"the ledger is of version {revision}, which this program does not know: upgrade it")
    return revision


def _target(revision: str) -> str:
    script = ScriptDirectory.from_config(alembic_config()).get_revision(revision)
    assert script is not None
    return script.revision


def _copy(path: Path, suffix: str) -> None:
    """A whole copy beside the file, for its owner alone, before tables are made anew."""
    target, unfinished = path.with_name(path.name + suffix), path.with_name(path.name + suffix + ".part")
    if not target.exists():
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(unfinished)) as copy:
            source.backup(copy)
        unfinished.rename(target)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, CommandError, sqlite3.Error, OSError, TimeoutError) as error:
        remedy = ": check DATABASE_URL, and whether the server runs" if what == "PostgreSQL" else ""
        raise StorageError(f"cannot open the ledger in {what}: {_line(error)}{remedy}") from error


def _line(error: BaseException) -> str:
    """One line, without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(error).__name__])[0]


def main() -> int:
    """The books whose URL, which may hold a password, comes on stdin. The exit code tells which error is on stderr."""
    url = sys.stdin.readline().strip()
    try:
        if url.startswith(SQLITE):
            migrate_sqlite(Path(url.removeprefix(SQLITE)))
        else:
            asyncio.run(migrate_postgres(url))
    except (LedgerError, StorageError) as error:
        sys.stderr.write(f"{error}\n")
        return NOT_OURS if isinstance(error, LedgerError) else BROKEN_OFF
    return 0


if __name__ == "__main__":
    sys.exit(main())
