"""Requests that their callers name by an `Idempotency-Key`: bought once, paid once, answered the same again.

A name is in the file before anything is paid for it. What became of a request that was cut off, by its caller or with the
program, is not known to the file: its name buys nothing any more. One that failed and cost nothing may be repeated. As at a
node (`node/replay.py`), with its codes; the answers are sealed, and the oldest make room for newer ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from relays import payment
from router_client.disk.seal import seal, secret_of, unseal
from router_client.disk.storage import Database
from router_client.errors import StorageError
from router_client.proxy.refusal import SAME_AGAIN, Refusal, bad

log = logging.getLogger(__name__)

KEEP_S: Final = 24 * 3600
MAX_NAME_CHARS: Final = 255
MAX_NAMES: Final = 20_000
MAX_KEPT_BYTES: Final = 8 * 1024 * 1024
"""Of one answer: vectors are long."""
MAX_ALL_BYTES: Final = 128 * 1024 * 1024
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS answers (
    name TEXT PRIMARY KEY, at REAL NOT NULL, fingerprint TEXT NOT NULL,
    run TEXT NOT NULL, -- which one of the program works on it; empty: it is done
    sealed BLOB -- null: not kept
)
"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS answers_at ON answers (at)"
_FORGET: Final = "DELETE FROM answers WHERE at < ? AND run != ?"
"""Not of what is being bought just now, whatever a clock says that was set."""
_FEWER: Final = """
DELETE FROM answers WHERE name IN (SELECT name FROM answers WHERE run = '' ORDER BY at DESC LIMIT -1 OFFSET ?)
"""
_FIND: Final = "SELECT fingerprint, run, sealed FROM answers WHERE name = ?"
_BEGIN: Final = "INSERT INTO answers (name, at, fingerprint, run) VALUES (?, ?, ?, ?)"
_END: Final = "UPDATE answers SET at = ?, run = '', sealed = ? WHERE name = ? AND run = ?"
_DROP: Final = "DELETE FROM answers WHERE name = ? AND run = ?"
_LESS: Final = """
UPDATE answers SET sealed = NULL WHERE name IN (
    SELECT name FROM (
        SELECT name, SUM(LENGTH(sealed)) OVER (ORDER BY at DESC, name) AS total FROM answers WHERE sealed IS NOT NULL
    ) WHERE total > ?
)
"""


class Kept(msgspec.Struct, frozen=True):
    """An answer as it was given."""

    status: int
    headers: dict[str, str]
    body: bytes


class Named(msgspec.Struct, frozen=True):
    """A request with its caller's name for it."""

    id: str
    fingerprint: str
    secret: bytes

    @classmethod
    def of(cls, credential: str, name: str, path: str, body: Mapping[str, Any]) -> Named:
        """Names belong to the credential that is shown with them. Raises Refusal 400 for one that cannot be."""
        if len(name) > MAX_NAME_CHARS:
            raise bad(f"'Idempotency-Key' has at most {MAX_NAME_CHARS} characters")
        same = path.encode() + b"\n" + msgspec.json.encode(body)
        id_ = hashlib.sha256(f"{credential}\n{name}".encode()).hexdigest()
        return cls(id_, hashlib.sha256(same).hexdigest(), secret_of(credential, name))


class _Known(msgspec.Struct, frozen=True):
    """A name's row."""

    fingerprint: str
    run: str
    sealed: bytes | None


class Replays:
    """The names and answers of a day, in a file."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock
        self._run = secrets.token_hex(8)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, clock: Callable[[], float] = time.time) -> AsyncIterator[Replays]:
        """Raises StorageError."""
        db = Database(path)
        try:
            await db.lay(_TABLE, _INDEX)
            yield cls(db, clock)
        finally:
            db.close()

    async def begin(self, named: Named) -> Kept | None:
        """Take the name for a request that is to be bought now; the answer, where it was bought before.

        Raises Refusal: 422 for another request under the same name, 409 while it runs or when its answer is not kept;
        StorageError, and then nothing is to be bought.
        """
        now = self._clock()

        def work(conn: sqlite3.Connection) -> _Known | None:
            conn.execute(_FORGET, (now - KEEP_S, self._run)).close()
            row = conn.execute(_FIND, (named.id,)).fetchone()
            if row is not None:
                return _Known(*row)
            conn.execute(_BEGIN, (named.id, now, named.fingerprint, self._run)).close()
            conn.execute(_FEWER, (MAX_NAMES,)).close()
            return None

        known = await self._db.run(work)
        return None if known is None else await self._earlier(named, known)

    async def _earlier(self, named: Named, known: _Known) -> Kept:
        if known.fingerprint != named.fingerprint:
            message = "this Idempotency-Key was used for another request: choose a new one"
            raise Refusal(422, payment.IDEMPOTENCY_MISMATCH, message, headers=SAME_AGAIN)
        if known.run == self._run:
            message = "the request of this Idempotency-Key is running: ask again when it is done"
            raise Refusal(409, payment.REQUEST_RUNNING, message, headers={"retry-after": "2"})
        plain = None if known.sealed is None else await asyncio.to_thread(unseal, named.secret, named.id, known.sealed)
        if plain is None:
            message = (
                "the request of this Idempotency-Key was begun before, may be paid, and its answer is not kept: "
                "GET /api/report has what was spent; choose a new one to buy it anew"
            )
            raise Refusal(409, payment.REQUEST_DONE, message, headers=SAME_AGAIN)
        return msgspec.msgpack.decode(plain, type=Kept)

    async def conclude(self, named: Named, kept: Kept | None, *, is_free: bool) -> None:
        """The name is free again where nothing was served and paid; else it has its answer, or None that can be given."""
        try:
            await (self.forget(named) if is_free else self.keep(named, kept))
        except StorageError as error:  # it stays taken
            log.warning("an answer is not kept: %s", error)

    async def keep(self, named: Named, kept: Kept | None) -> None:
        """Its request has ended so; None: its answer cannot be given again. Raises StorageError."""
        plain = None if kept is None else msgspec.msgpack.encode(kept)
        sealed = None if plain is None else await asyncio.to_thread(seal, named.secret, named.id, plain)

        def work(conn: sqlite3.Connection) -> None:
            conn.execute(_END, (self._clock(), sealed, named.id, self._run)).close()
            conn.execute(_LESS, (MAX_ALL_BYTES,)).close()

        await self._db.run(work)

    async def forget(self, named: Named) -> None:
        """It was not served and cost nothing: the name is free again. Raises StorageError."""
        await self._db.run(lambda conn: conn.execute(_DROP, (named.id, self._run)).close())


class Once:
    """A request whose name is taken: its answer is recorded as it goes out, and kept before its last byte does."""

    def __init__(self, replays: Replays, named: Named) -> None:
        self._replays = replays
        self._named = named
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: bytearray | None = bytearray()
        self._is_over = False
        self.is_free = True
        """Whether nothing was paid for it, as far as is known."""

    def spoil(self) -> None:
        """Whatever is answered now is nothing to be given again."""
        self._body = None

    async def take(self, message: Mapping[str, Any]) -> None:
        """A message of ASGI's, before it is sent."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        if self._body is not None:
            self._body += message.get("body", b"")
            if len(self._body) > MAX_KEPT_BYTES:
                self.spoil()
        if not message.get("more_body"):
            await self.end()

    async def end(self) -> None:
        """There is no more of it; what did not come to its last byte is spoilt before. The first time counts."""
        if not self._is_over:
            self._is_over = True
            kept = None if self._body is None else Kept(self._status, self._headers, bytes(self._body))
            await self._replays.conclude(self._named, kept, is_free=self.is_free)
