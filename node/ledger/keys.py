"""Keys, in SQL: who may spend from an account, and within which limits. Only hashes are stored.

A key that is to take another's place does so when it is first used: until then the old one is good, so that an answer that
is lost on its way costs nobody an account.
"""

from __future__ import annotations

import msgspec

from node.ledger.model import Key, Limits
from node.ledger.sql import Row, Steps, one, rows

_COLUMNS = (
    "id, account, parent, hint, name, spend_limit_msat, daily_limit_msat, expires_at, models, revoked_at, spent_msat, "
    "held_msat, day, day_msat, created_at"
)


def create(
    *,
    account: int,
    parent: int | None,
    key_hash: str,
    next_hash: str | None,
    hint: str,
    name: str,
    limits: Limits,
    now: int,
) -> Steps[int]:
    """A new key; returns its id. The tables refuse a hash that is known (LedgerConflict)."""
    models = None if limits.models is None else msgspec.json.encode(limits.models).decode()
    row = yield from one(
        "INSERT INTO keys (account, parent, hash, next_hash, hint, name, spend_limit_msat, daily_limit_msat, expires_at, "
        "models, revoked_at, spent_msat, held_msat, day, day_msat, created_at) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NULL, 0, 0, 0, 0, ?11) RETURNING id",
        account,
        parent,
        key_hash,
        next_hash,
        hint,
        name,
        limits.spend_limit_msat,
        limits.daily_limit_msat,
        limits.expires_at,
        models,
        now,
    )
    assert row is not None
    return int(row[0])


def by_hash(key_hash: str) -> Steps[Key | None]:
    """The key of that hash, if it is in force."""
    row = yield from one(f"SELECT {_COLUMNS} FROM keys WHERE hash = ?1", key_hash)
    return None if row is None else _key(row)


def find(key_hash: str) -> Steps[tuple[Key, bool] | None]:
    """The key of that hash, and whether it still waits for its first use; in one look, since another may use it just now."""
    row = yield from one(f"SELECT {_COLUMNS}, hash = ?1 FROM keys WHERE hash = ?1 OR next_hash = ?1", key_hash)
    return None if row is None else (_key(row[:-1]), not row[-1])


def promoted(key_hash: str) -> Steps[Key | None]:
    """The key that waits under that hash, now in force in the place of the one before it."""
    row = yield from one(
        f"UPDATE keys SET hash = next_hash, next_hash = NULL WHERE next_hash = ?1 RETURNING {_COLUMNS}", key_hash
    )
    # Of two first uses at once, the later one finds it done.
    return (yield from by_hash(key_hash)) if row is None else _key(row)


def succeed(key: int, next_hash: str, hint: str) -> Steps[bool]:
    """Let a new key take this one's place when it is first used; False when there is no such key.

    A token that opened an account with a key cannot name another: whoever paid with it may know it too.
    """
    row = yield from one(
        "UPDATE keys SET next_hash = ?1, hint = ?2 WHERE id = ?3 AND revoked_at IS NULL AND NOT (next_hash IS NOT NULL "
        "AND EXISTS (SELECT 1 FROM deposits WHERE deposits.id = keys.hash)) RETURNING id",
        next_hash,
        hint,
        key,
    )
    return row is not None


def revoke(key: int, now: int, parent: int | None = None) -> Steps[bool]:
    """Close a key, and its children with it, for good; with `parent`, only a child of that. False when there is none."""
    row = yield from one(
        "UPDATE keys SET revoked_at = COALESCE(revoked_at, ?1) "
        "WHERE id = ?2 AND (CAST(?3 AS BIGINT) = 0 OR parent = CAST(?3 AS BIGINT)) RETURNING id",
        now,
        key,
        parent or 0,
    )
    return row is not None


def all_roots() -> Steps[list[Key]]:
    """Every key that no other made, oldest first."""
    found = yield from rows(f"SELECT {_COLUMNS} FROM keys WHERE parent IS NULL ORDER BY id")
    return [_key(row) for row in found]


def children(parent: int) -> Steps[list[Key]]:
    """The keys that one made, oldest first."""
    # By their common account, of which there is an index: each token that was ever paid with is a key.
    found = yield from rows(
        f"SELECT {_COLUMNS} FROM keys WHERE account = (SELECT account FROM keys WHERE id = ?1) AND parent = ?1 ORDER BY id",
        parent,
    )
    return [_key(row) for row in found]


def _key(row: Row) -> Key:
    id_, account, parent, hint, name, spend, daily, expires_at, models, revoked_at, *sums, created_at = row
    spent_msat, held_msat, day, day_msat = sums
    allowed = None if models is None else msgspec.json.decode(models, type=tuple[str, ...])
    return Key(
        id=id_,
        account=account,
        parent=parent,
        hint=hint,
        name=name,
        limits=Limits(spend_limit_msat=spend, daily_limit_msat=daily, expires_at=expires_at, models=allowed),
        revoked=revoked_at is not None,
        spent_msat=spent_msat,
        held_msat=held_msat,
        day=day,
        day_msat=day_msat,
        created_at=created_at,
    )
