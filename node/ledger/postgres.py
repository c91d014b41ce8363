"""The ledger in PostgreSQL, where several processes serve from the same books (asyncpg).

Each process has one writer that takes what has queued up and books it in one transaction. An advisory lock lets one writer
in at a time, so that every batch sees the books as the one before it left them, just as in SQLite: no move can be lost
between two, and none can deadlock. Under load batches grow, not waits: what queues up while others have the lock goes along.
A process that is alone books a batch by one call.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import msgspec

from node.errors import LedgerConflict
from node.ledger.model import Insufficient, KeyClosed, LimitReached
from node.ledger.page import MOST_KEPT, AccountRow, Hold, HoldRow, KeyRow, Move, Outcome, Page
from node.ledger.schema import prepare_postgres
from node.ledger.sql import LOCK, Work, columns
from router_client.disk.waiting import Job, check_room, deliver
from router_client.errors import StorageError

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH = 512
READERS = 4
DEADLINE_S = 30.0
"""Of one statement, the wait for the lock included."""
CLOSE_S = 10.0

_OPTIONS: dict[str, Any] = {
    "timeout": DEADLINE_S,
    "command_timeout": DEADLINE_S,
    "server_settings": {
        "synchronous_commit": "on",
        # Every statement finds its rows by key, and is planned once.
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "jit": "off",
        # A process that stands still in the middle of a batch must not stop the others for ever.
        "idle_in_transaction_session_timeout": str(int(DEADLINE_S * 1000)),
    },
}

_BEGIN = f"BEGIN; SELECT pg_advisory_xact_lock({LOCK})"
_SAME = "SELECT FROM pg_current_snapshot() AS s WHERE pg_snapshot_xmax(s) = '{0}'"
"""One row, if no transaction from this number on has ended."""
_LOAD = f"""
WITH h AS MATERIALIZED (SELECT {columns(HoldRow)} FROM holds WHERE id = ANY($1::text[]))
SELECT ARRAY(SELECT ROW({columns(HoldRow)}) FROM h),
       ARRAY(SELECT ROW({columns(AccountRow)}) FROM accounts
             WHERE id IN (SELECT unnest($2::bigint[]) UNION SELECT account FROM h)),
       ARRAY(SELECT ROW({columns(KeyRow)}) FROM keys
             WHERE id IN (SELECT unnest($3::bigint[]) UNION SELECT key FROM h)),
       pg_snapshot_xmin(pg_current_snapshot()), pg_snapshot_xmax(pg_current_snapshot())
"""
"""All rows that a batch touches, on one way there and back."""
_BOOK = f"SELECT book_batch({', '.join(f'${number}' for number in range(1, 29))})"
"""All changes of a page, one list a column. Returns the transaction's number, or raises `_OTHERS` if it is not the one that
was given. See the migrations."""
_OTHERS = "SR001"


_BROKEN = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""The connection is gone, or too slow to be trusted."""
_FOREIGN = (asyncpg.PostgresError, *_BROKEN)


class _Job(Job):
    move: Move | None = None
    work: Work[Any] | None = None


class PostgresBackend:
    """See `Backend`."""

    shared = True

    def __init__(self, url: str, pool: asyncpg.Pool) -> None:
        parts = urlsplit(url)
        self.place = f"PostgreSQL {parts.hostname or 'localhost'}{parts.path}"
        self._pool = pool
        self._url = url
        self._conn: Any = None
        """The writer's own connection, made again when it broke: a pool would tidy it up after every batch."""
        self._books = _Books()
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._closed = False
        self._writer = asyncio.create_task(self._serve(), name="ledger writer")

    @classmethod
    async def open(cls, url: str) -> PostgresBackend:
        """The ledger in the database at `url`, laid out or brought up to date. Raises LedgerError or StorageError."""
        await prepare_postgres(url)
        try:
            pool = await asyncpg.create_pool(url, min_size=1, max_size=READERS, **_OPTIONS)
        except _FOREIGN as error:
            raise _translated(error) from error
        return cls(url, pool)

    async def run(self, work: Work[T]) -> T:
        result: T = await self._queued(work=work)
        return result

    def move(self, move: Move) -> asyncio.Future[Outcome]:
        return self._queued(move)

    async def read(self, work: Work[T]) -> T:
        async with self._connection() as conn:
            return await _stepped(conn, work)

    async def survey(self, work: Work[T]) -> T:
        async with self._connection() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            return await _stepped(conn, work)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._jobs.put_nowait(None)
            await self._writer
            try:
                async with asyncio.timeout(CLOSE_S):
                    await self._pool.close()
                    if self._conn is not None:
                        await self._conn.close()
            except TimeoutError:
                self._pool.terminate()

    def _queued(self, move: Move | None = None, work: Work[Any] | None = None) -> asyncio.Future[Any]:
        check_room(self._closed, self._jobs.qsize())
        future = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait(_Job(future=future, move=move, work=work))
        return future

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        try:
            async with self._pool.acquire(timeout=DEADLINE_S) as conn:
                yield conn
        except _FOREIGN as error:
            raise _translated(error) from error

    async def _serve(self) -> None:
        stop = False
        while not stop:
            batch: list[_Job] = []
            job = await self._jobs.get()
            if job is not None:
                batch.append(job)
                self._take_more(batch)
                await self._commit(batch, self._take_more)
                deliver(batch)
            stop = job is None

    def _take_more(self, batch: list[_Job]) -> None:
        """What has queued up meanwhile; the end of the queue stays there."""
        while len(batch) < MAX_BATCH and not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job is None:
                self._jobs.put_nowait(None)
                return
            batch.append(job)

    async def _commit(self, batch: list[_Job], more: Callable[[list[_Job]], None] = lambda _: None) -> None:
        """All in one transaction, with what `more` adds once nobody else is in; when one fails, each in its own, so that
        only the guilty one does."""
        books, self._books = self._books, _Books()  # what it takes for known is so when this is committed
        try:
            if self._conn is None or self._conn.is_closed():
                self._conn = await asyncpg.connect(self._url, **_OPTIONS)
            if not await books.book_at_once(self._conn, batch):
                await _transaction(self._conn, batch, books, more)
            if all(job.work is None for job in batch):
                self._books = books
        except _BROKEN as error:
            # Whether it was committed is not known: every move is idempotent, whoever waits asks again.
            self._drop_connection()
            for job in batch:
                job.error = _translated(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, it belongs to the caller, not to this task
            if len(batch) == 1:
                batch[0].error = _translated(error) if isinstance(error, asyncpg.PostgresError) else error
                return
            for job in batch:
                await self._commit([job])

    def _drop_connection(self) -> None:
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None


class _Books:
    """The page between batches. PostgreSQL numbers the transactions that write: as long as only our own use numbers, nobody
    else has changed a row, and the page of one batch serves the next.

    The lock keeps other processes of ours out, not somebody at a terminal: what such a one commits is seen by the next
    batch, though nobody should write to an account by hand while a node books on it. So a page is known to be whole only
    when no transaction was under way as it was loaded, and as long as each number after that is ours, without a gap.
    """

    def __init__(self) -> None:
        self.page = Page()
        self.relied = False
        """Whether rows, or that there are none, were last taken from the page."""
        self._next: int | None = None
        """The number of the next transaction, if the page is known to show all before it."""

    async def book_at_once(self, conn: Any, batch: Sequence[_Job]) -> bool:
        """Book and commit a batch whose rows are all known, if nobody else has written; else nothing was done."""
        if not self.relied or self._next is None or any(job.move is None for job in batch):
            return False
        moves = [job.move for job in batch if job.move is not None]
        if self._lacks(moves):
            return False
        outcomes = [self.page.apply(move) for move in moves]
        if any(isinstance(outcome, Insufficient | LimitReached | KeyClosed) for outcome in outcomes):
            self._forget()  # the tables would not tell whether a name that is refused is known
            return False
        try:
            await conn.fetchval(_BOOK, self._next, *_changes(self.page))
        except asyncpg.PostgresError as error:
            if error.sqlstate not in (_OTHERS, asyncpg.UniqueViolationError.sqlstate):
                raise
            self._forget()
            return False
        self._next += 1
        self.page.written()
        for job, outcome in zip(batch, outcomes, strict=True):
            job.result = outcome
        return True

    async def begin(self, conn: Any) -> None:
        """Open the transaction, alone; forget what others may have changed."""
        if self._next is None or self.page.size > MOST_KEPT:
            await conn.execute(_BEGIN)
            self.relied = False
        else:
            self.relied = await conn.execute(f"{_BEGIN}; {_SAME.format(self._next)}") == "SELECT 1"
        if not self.relied:
            self.page, self._next = Page(), None

    async def moved(self, conn: Any, moves: Sequence[Move]) -> list[Outcome]:
        """The outcomes of a batch, written but not committed."""
        if not self.relied or self._lacks(moves) or self.page.lacking_holds(moves):
            await self._load(conn, moves)
        page = self.page
        outcomes = [page.apply(move) for move in moves]
        if page.changed:
            number = await conn.fetchval(_BOOK, None, *_changes(page))
            self._next = number + 1 if number == self._next else None  # a gap: somebody is about to commit
        page.written()
        return outcomes

    def _forget(self) -> None:
        self.page, self._next, self.relied = Page(), None, False

    def _lacks(self, moves: Sequence[Move]) -> bool:
        """Whether a row must be read; that a new hold's name is new, the tables say."""
        page = self.page
        if any(page.lacking_rows(moves)):
            return True
        return any(move.id not in page.holds for move in moves if not isinstance(move, Hold))

    async def _load(self, conn: Any, moves: Sequence[Move]) -> None:
        page = self.page
        wanted = (page.lacking_holds(moves), *page.lacking_rows(moves))
        holds, accounts, keys, first, last = await conn.fetchrow(_LOAD, *wanted)
        if self.relied and not first == last == self._next:  # somebody wrote in this moment, past our lock
            self._forget()
            await self._load(conn, moves)
            return
        page.add(
            [AccountRow(*row) for row in accounts], [KeyRow(*row) for row in keys], [HoldRow(*row) for row in holds]
        )
        self._next = last if first == last else None


async def _transaction(conn: Any, batch: list[_Job], books: _Books, more: Callable[[list[_Job]], None]) -> None:
    try:
        await books.begin(conn)
        more(batch)
        moving = [job for job in batch if job.move is not None]
        if moving:
            moves = [job.move for job in moving if job.move is not None]
            for job, outcome in zip(moving, await books.moved(conn, moves), strict=True):
                job.result = outcome
        for job in batch:
            if job.work is not None:
                job.result = await _stepped(conn, job.work)
        await conn.execute("COMMIT")
    except BaseException:
        await _roll_back(conn)
        raise


async def _roll_back(conn: Any) -> None:
    """A connection that cannot is of no use; and its error says less than the one before it."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await conn.execute("ROLLBACK")
    except _FOREIGN:
        conn.terminate()


async def _stepped(conn: Any, work: Work[T]) -> T:
    """Drive the steps to their end."""
    steps = work()
    try:
        query = next(steps)
        while True:
            found = await conn.fetch(_numbered(query.text), *query.values)
            query = steps.send([tuple(row) for row in found])
    except StopIteration as end:
        result: T = end.value
        return result


def _changes(page: Page) -> list[list[Any]]:
    """One list a column."""
    accounts = [page.accounts[id_] for id_ in page.changed_accounts]
    keys = [page.keys[id_] for id_ in page.changed_keys]
    ended = page.ended.values()
    return [
        *_transposed(4, [(row.id, row.available_msat, row.held_msat, row.spent_msat) for row in accounts]),
        *_transposed(5, [(row.id, row.spent_msat, row.held_msat, row.day, row.day_msat) for row in keys]),
        *_transposed(len(HoldRow.__struct_fields__), [msgspec.structs.astuple(row) for row in page.made.values()]),
        *_transposed(5, [(row.state, row.posted_msat, row.receipt, row.posted_at, row.id) for row in ended]),
    ]


def _transposed(width: int, rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


@lru_cache(maxsize=512)
def _numbered(text: str) -> str:
    return re.sub(r"\?(\d+)", r"$\1", text)


def _translated(error: BaseException) -> Exception:
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return LedgerConflict(str(error))
    return StorageError(f"the ledger's database cannot be used: {type(error).__name__}")
