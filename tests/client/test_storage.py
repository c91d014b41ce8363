"""The group-commit writer: what it says is committed is, a failing write harms no neighbour, and a cancelled one is done."""

import asyncio
import sqlite3
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from router_client.disk.storage import Database
from router_client.errors import StorageError


@pytest.fixture
def db(folder: Path) -> Iterator[Database]:
    database = Database(folder / "test.db")
    yield database
    database.close()


async def prepare(db: Database) -> None:
    await db.run(lambda conn: conn.execute("CREATE TABLE t (n INTEGER PRIMARY KEY CHECK (n >= 0))").close())


def insert(n: int, conn: sqlite3.Connection) -> int:
    conn.execute("INSERT INTO t VALUES (?)", (n,))
    return n


def numbers(conn: sqlite3.Connection) -> list[int]:
    return [n for (n,) in conn.execute("SELECT n FROM t ORDER BY n")]


async def test_a_thousand_writers_at_once(db: Database) -> None:
    await prepare(db)
    written = await asyncio.gather(*(db.run(partial(insert, n)) for n in range(1000)))
    assert written == list(range(1000)) == db.read(numbers)


async def test_a_failing_write_harms_no_neighbour(db: Database) -> None:
    await prepare(db)
    outcomes = await asyncio.gather(
        *(db.run(partial(insert, n)) for n in (1, -1, 2, 2, 3)),
        return_exceptions=True,
    )
    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [1, 2, 3]
    assert sum(isinstance(outcome, sqlite3.IntegrityError) for outcome in outcomes) == 2
    assert db.read(numbers) == [1, 2, 3]


async def test_an_error_of_the_work_rolls_its_changes_back(db: Database) -> None:
    await prepare(db)

    def half(conn: sqlite3.Connection) -> None:
        insert(1, conn)
        raise KeyError("no")

    with pytest.raises(KeyError):
        await db.run(half)
    assert db.read(numbers) == []


async def test_a_cancelled_writer_is_done_all_the_same(db: Database) -> None:
    await prepare(db)
    task = asyncio.create_task(db.run(lambda conn: insert(7, conn)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await db.run(lambda conn: None)
    assert db.read(numbers) == [7]


async def test_another_process_sees_what_was_committed(db: Database, folder: Path) -> None:
    await prepare(db)
    await db.run(lambda conn: insert(5, conn))
    with sqlite3.connect(folder / "test.db") as other:
        assert numbers(other) == [5]
    other.close()


async def test_reads_cannot_write(db: Database) -> None:
    await prepare(db)
    with pytest.raises(StorageError):
        db.read(lambda conn: insert(1, conn))


async def test_a_closed_database_says_so(folder: Path) -> None:
    database = Database(folder / "x.db")
    database.close()
    database.close()
    with pytest.raises(StorageError, match="closed"):
        await database.run(lambda conn: None)
    with pytest.raises(StorageError, match="closed"):
        database.read(lambda conn: None)


def test_the_file_is_its_owners_alone(db: Database, folder: Path) -> None:
    assert stat.S_IMODE((folder / "test.db").stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_is_one_clear_error(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(StorageError, match="name another folder"):
        Database(folder / "file" / "x.db")
