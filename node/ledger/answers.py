"""Sealed answers to requests that carry an Idempotency-Key, in SQL: kept for a while, for whoever repeats the request."""

from __future__ import annotations

from node.ledger.sql import Steps, one, run


def keep(request_id: str, sealed: bytes, expires_at: int) -> Steps[None]:
    """Keep the answer of a request that has a hold; the first one counts."""
    yield from run(
        "INSERT INTO answers (request_id, sealed, expires_at) VALUES (?1, ?2, ?3) ON CONFLICT (request_id) DO NOTHING",
        request_id,
        sealed,
        expires_at,
    )


def read(request_id: str, now: int) -> Steps[bytes | None]:
    """The sealed answer, while it is kept."""
    row = yield from one("SELECT sealed FROM answers WHERE request_id = ?1 AND expires_at > ?2", request_id, now)
    return None if row is None else bytes(row[0])


def forget(now: int) -> Steps[None]:
    """Drop what was kept long enough."""
    yield from run("DELETE FROM answers WHERE expires_at <= ?1", now)
