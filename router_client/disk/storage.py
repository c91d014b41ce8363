"""One SQLite file, written by one thread with group commit.

Every write is a function of a connection. The thread takes what has queued up, runs it in one transaction and commits
once, so that a durable commit (synchronous=FULL) is shared by all who wait for it. A function may run twice (its batch is
rolled back and repeated alone when a neighbour fails), so it changes nothing but the database. Work of one kind can be
given as items to a shared function, which then gets all that are waiting at once; what it keeps in memory between batches
holds as long as nothing was rolled back.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from router_client.disk.waiting import Job, check_room, deliver
from router_client.errors import StorageError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Together = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[T]]
"""Does all items of a batch; returns their results in the same order."""

LOCK_TRIES, LOCK_PAUSE_S = 5, 0.05
"""Whoever only looks holds a lock for a moment; that must not keep a process from starting."""
MAX_BATCH = 256
BUSY_TIMEOUT_MS = 15_000


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection with the durability that money needs; the file is readable by its owner alone."""
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    # Transactions are opened by hand; the writer's connection is handed to its thread once and closed there.
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    conn.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("PRAGMA synchronous=FULL")
    conn.execute("PRAGMA foreign_keys=ON")
    if read_only:
        conn.execute("PRAGMA query_only=ON")
    return conn


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` for this process alone; it is free again when the process ends, however that comes.

    Raises StorageError when another process holds it, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("ab")
    except OSError as error:
        raise StorageError(f"cannot write in {path.parent} ({error.strerror}): name another folder") from error
    with lock:
        if not _locked(lock):
            raise StorageError(f"another process works on {path.parent} already: stop it, or name another folder")
        yield


def _locked(lock: IO[bytes]) -> bool:
    for _ in range(LOCK_TRIES):
        if _try_lock(lock, fcntl.LOCK_EX):
            return True
        time.sleep(LOCK_PAUSE_S)
    return False


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file at `path`."""
    try:
        with path.open("rb") as lock:
            return not _try_lock(lock, fcntl.LOCK_SH)
    except OSError:
        return False


def _try_lock(lock: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class _Job(Job):
    """Work to be written."""

    together: Together[Any] | None
    work: Any
    """A function of the connection, or, with `together`, that one's item."""


class Database:
    """The file at `path`. `run` writes, `read` reads; both raise StorageError for faults of the disk."""

    rollbacks = 0
    """Counted for work that keeps in memory what it knows of the file."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = connect(path)
            self._reader = connect(path, read_only=True)
        except OSError as error:
            raise StorageError(f"cannot write in {path.parent} ({error.strerror}): name another folder") from error
        except sqlite3.Error as error:
            raise StorageError(f"cannot open the database {path}: {error}") from error
        self._path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=f"writer {path.name}", daemon=True)
        self._thread.start()

    async def run(self, work: Work[T]) -> T:
        """The result of `work(connection)`, once it is committed. What `work` raises, rolls back its changes.

        A caller that is cancelled leaves its work to be done: money moves are idempotent for that reason.
        """
        result: T = await self._queued(None, work)
        return result

    async def lay(self, *statements: str) -> None:
        """Make tables that are not there yet, all or none."""

        def work(conn: sqlite3.Connection) -> None:
            for statement in statements:
                conn.execute(statement).close()

        await self.run(work)

    def run_together(self, together: Together[T], item: object) -> asyncio.Future[T]:
        """The result for one item of a function that takes all items of the same batch. Otherwise as `run`."""
        return self._queued(together, item)

    def _queued(self, together: Together[Any] | None, work: Any) -> asyncio.Future[Any]:
        check_room(self._closed, self._jobs.qsize())
        future = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(future=future, together=together, work=work))
        return future

    def read(self, work: Work[T]) -> T:
        """The result of `work(connection)` on a read-only connection, at once: for short indexed queries."""
        if self._closed:
            raise StorageError("the database is closed")
        try:
            return work(self._reader)
        except sqlite3.Error as error:
            raise StorageError(f"the database cannot be read: {error}") from error

    async def read_aside(self, work: Work[T]) -> T:
        """The same on a connection and a thread of its own, in one snapshot: for long queries."""

        def look() -> T:
            conn = connect(self._path, read_only=True)
            try:
                conn.execute("BEGIN")
                return work(conn)
            finally:
                conn.close()

        if self._closed:
            raise StorageError("the database is closed")
        try:
            return await asyncio.to_thread(look)
        except sqlite3.Error as error:
            raise StorageError(f"the database cannot be read: {error}") from error

    def refuse(self) -> None:
        """Take nothing more. Called where work is queued, so that nothing can come behind the end."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)

    def close(self) -> None:
        """Finish what is queued, then close. Safe to call twice."""
        self.refuse()
        self._thread.join()
        self._reader.close()

    def _serve(self) -> None:
        stop = False
        while not stop:
            taken = [self._jobs.get()]
            taken += [self._jobs.get() for _ in range(min(self._jobs.qsize(), MAX_BATCH - 1))]
            batch = [job for job in taken if job is not None]
            stop = len(batch) < len(taken)
            if batch:
                self._commit(batch)
                _deliver(batch)
        self._writer.close()

    def _commit(self, batch: list[_Job]) -> None:
        """All in one transaction; when one fails, each in its own, so that only the guilty one does."""
        try:
            self._transaction(batch)
        except BaseException as error:  # noqa: BLE001 - whatever it was, it belongs to the caller, not to this thread
            if len(batch) == 1:
                batch[0].error = _translated(error)
                return
            for job in batch:
                self._commit([job])

    def _transaction(self, batch: list[_Job]) -> None:
        conn = self._writer
        conn.execute("BEGIN IMMEDIATE")
        try:
            groups: dict[Together[Any] | None, list[_Job]] = {}
            for job in batch:
                groups.setdefault(job.together, []).append(job)
            alone = groups.pop(None, ())
            for together, jobs in groups.items():
                assert together is not None
                for job, result in zip(jobs, together(conn, [job.work for job in jobs]), strict=True):
                    job.result = result
            for job in alone:
                job.result = job.work(conn)
            conn.execute("COMMIT")
        except BaseException:
            self.rollbacks += 1
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
        return StorageError(f"the database cannot be written: {error}")
    return error


def _deliver(batch: list[_Job]) -> None:
    """Wake the waiting, one call per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        by_loop.setdefault(job.future.get_loop(), []).append(job)
    for loop, jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(deliver, jobs)
        except RuntimeError:  # the loop ended; nobody is left to tell
            continue
