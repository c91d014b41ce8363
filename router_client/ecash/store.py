"""The wallet's tables: seed, keysets with their counters, operations (the journal) and coins.

Every function runs inside a transaction of `router_client.disk.storage` and does nothing but SQL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from router_client.ecash.mint import Keyset
from router_client.ecash.token import Proof
from router_client.errors import MintMisbehaved, StorageError

SCHEMA_1 = """
CREATE TABLE seed (id INTEGER PRIMARY KEY CHECK (id = 1), mnemonic TEXT NOT NULL);
CREATE TABLE keysets (
    id TEXT NOT NULL, mint TEXT NOT NULL, unit TEXT NOT NULL, active INTEGER NOT NULL,
    input_fee_ppk INTEGER NOT NULL, keys TEXT NOT NULL, PRIMARY KEY (mint, id)
);
CREATE TABLE counters (keyset TEXT PRIMARY KEY, next INTEGER NOT NULL CHECK (next >= 0));
CREATE TABLE operations (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, mint TEXT NOT NULL, unit TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'done', 'failed')),
    journal TEXT NOT NULL, result TEXT NOT NULL DEFAULT '', created_at INTEGER NOT NULL
);
CREATE INDEX operations_open ON operations (created_at) WHERE state = 'open';
CREATE TABLE coins (
    secret TEXT PRIMARY KEY, mint TEXT NOT NULL, unit TEXT NOT NULL, keyset TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0), proof TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('unspent', 'reserved', 'sent', 'spent')),
    made_by TEXT NOT NULL REFERENCES operations (id), used_by TEXT REFERENCES operations (id)
);
CREATE INDEX coins_unspent ON coins (mint, unit) WHERE state = 'unspent';
"""
SCHEMA_2 = """
CREATE TABLE mints (url TEXT PRIMARY KEY, locks INTEGER NOT NULL);
CREATE TABLE locked (
    y TEXT PRIMARY KEY, mint TEXT NOT NULL, unit TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount > 0),
    fee INTEGER NOT NULL CHECK (fee >= 0), proof TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL CHECK (state IN ('locked', 'redeeming', 'redeemed', 'lost', 'receiving')),
    accepted_by TEXT NOT NULL REFERENCES operations (id), redeemed_by TEXT REFERENCES operations (id)
);
CREATE INDEX locked_waiting ON locked (mint, unit, tries) WHERE state = 'locked';
CREATE INDEX locked_values ON locked (mint, unit) WHERE state IN ('locked', 'redeeming');
CREATE INDEX locked_receiving ON locked (accepted_by) WHERE state = 'receiving';
CREATE INDEX coins_amounts ON coins (mint, unit, amount) WHERE state = 'unspent';
"""
SCHEMA_3 = """
DROP INDEX coins_unspent;
"""
SCHEMA_4 = """
CREATE INDEX operations_booked ON operations (created_at) WHERE kind IN ('redeem', 'swap');
CREATE INDEX coins_reserved ON coins (used_by) WHERE state = 'reserved';
"""
SCHEMA_5 = """
CREATE TABLE untold (operation TEXT PRIMARY KEY REFERENCES operations (id));
INSERT INTO untold SELECT id FROM operations WHERE kind IN ('redeem', 'swap') AND state = 'done' AND created_at >=
    (SELECT MAX(created_at) FROM operations WHERE kind IN ('redeem', 'swap')) - 604800;
DROP INDEX operations_booked;
"""
SCHEMAS = (SCHEMA_1, SCHEMA_2, SCHEMA_3, SCHEMA_4, SCHEMA_5)
"""What each version added to the one before; a new file goes through all of them."""

TOLD: Final = ("redeem", "swap")
"""Kinds of operations whose fees and losses are the wallet's own: its owner is told of each until it says that it knows."""
Kind = Literal["receive", "send", "mint", "accept", "redeem", "melt", "swap", "restore"]
CoinState = Literal["unspent", "reserved", "sent", "spent"]


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to repeat or restore an operation's request to the mint, written before it is sent."""

    keyset: str = ""
    counter: int = 0
    amounts: tuple[int, ...] = ()
    """Amounts of the outputs, in the order of their counters; the first `sent` of them are handed out."""
    sent: int = 0
    lock: str = ""
    """The public key that the outputs handed out are locked to (NUT-11)."""
    inputs: tuple[Proof, ...] = ()
    quote: str = ""
    invoice: str = ""
    amount: int = 0
    fee: int = 0
    expires_at: int | None = None
    credited: int = 0
    """A redemption: what its coins were accepted for. A swap of our own coins: their sum."""
    lost: int = 0
    """A redemption: face value of the coins that the mint called spent."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the wallet. `result` is a token (send) or the reason (failed)."""

    id: str
    kind: Kind
    mint: str
    unit: str
    state: Literal["open", "done", "failed"]
    journal: Journal
    result: str
    created_at: int


def migrate(conn: sqlite3.Connection) -> None:
    """Bring the file to this version, from nothing or from any before; refuse one of a later version."""
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    if version > len(SCHEMAS):
        raise StorageError(f"the wallet is of version {version}, this program knows {len(SCHEMAS)}: upgrade it")
    for schema in SCHEMAS[version:]:
        for statement in schema.split(";"):
            conn.execute(statement)
    conn.execute(f"PRAGMA user_version={len(SCHEMAS)}")


def load_or_create_seed(conn: sqlite3.Connection, fresh_mnemonic: str) -> str:
    """The stored mnemonic; in a new wallet the fresh one, now stored."""
    conn.execute("INSERT OR IGNORE INTO seed VALUES (1, ?)", (fresh_mnemonic,))
    return str(conn.execute("SELECT mnemonic FROM seed").fetchone()[0])


def save_keyset(conn: sqlite3.Connection, mint: str, keyset: Keyset) -> None:
    """Insert, or update what may change. Its keys, unit and mint never do."""
    row = conn.execute("SELECT unit FROM keysets WHERE mint = ? AND id = ?", (mint, keyset.id)).fetchone()
    if row is not None and row[0] != keyset.unit:
        raise MintMisbehaved(f"keyset {keyset.id} of {mint} was {row[0]} and is {keyset.unit} now")
    conn.execute(
        "INSERT INTO keysets (id, mint, unit, active, input_fee_ppk, keys) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (mint, id) DO UPDATE SET active = excluded.active, input_fee_ppk = excluded.input_fee_ppk",
        (keyset.id, mint, keyset.unit, keyset.active, keyset.input_fee_ppk, msgspec.json.encode(keyset.keys).decode()),
    )


def save_keysets(conn: sqlite3.Connection, mint: str, keysets: Sequence[Keyset]) -> None:
    """Save all that a mint lists."""
    for keyset in keysets:
        save_keyset(conn, mint, keyset)


def keysets(conn: sqlite3.Connection, mint: str) -> list[Keyset]:
    """Known keysets of a mint, with keys."""
    rows = conn.execute("SELECT id, unit, active, input_fee_ppk, keys FROM keysets WHERE mint = ?", (mint,))
    return [
        Keyset(id_, unit, bool(active), fee, None, msgspec.json.decode(keys, type=dict[int, str]))
        for id_, unit, active, fee, keys in rows
    ]


def mints(conn: sqlite3.Connection) -> set[str]:
    """Every mint there are keysets or coins of."""
    return {mint for (mint,) in conn.execute("SELECT mint FROM keysets UNION SELECT mint FROM coins")}


def knows_locks(conn: sqlite3.Connection, mint: str) -> bool:
    """Whether the mint was once found to enforce locks and to prove its signatures (NUT-11, NUT-12)."""
    return conn.execute("SELECT 1 FROM mints WHERE url = ? AND locks = 1", (mint,)).fetchone() is not None


def save_locks(conn: sqlite3.Connection, mint: str) -> None:
    """Remember that it does."""
    conn.execute("INSERT OR REPLACE INTO mints VALUES (?, 1)", (mint,))


def move_mint(conn: sqlite3.Connection, old: str, new: str) -> None:
    """Everything of one mint is another's: the same mint under a new URL."""
    for table in ("coins", "operations", "locked"):
        conn.execute(f"UPDATE {table} SET mint = ? WHERE mint = ?", (new, old))
    conn.execute("UPDATE OR REPLACE mints SET url = ? WHERE url = ?", (new, old))
    conn.execute("UPDATE OR REPLACE keysets SET mint = ? WHERE mint = ?", (new, old))


def take_counters(conn: sqlite3.Connection, keyset_id: str, count: int) -> int:
    """Reserve `count` counters of a keyset for ever; returns the first.

    They belong to the keyset, not to a URL: a mint with two addresses signs a secret once.
    """
    row = conn.execute(
        "INSERT INTO counters VALUES (?1, ?2) ON CONFLICT (keyset) DO UPDATE SET next = next + ?2 RETURNING next - ?2",
        (keyset_id, count),
    ).fetchone()
    return int(row[0])


def counter(conn: sqlite3.Connection, keyset_id: str) -> int:
    """The next one of a keyset."""
    row = conn.execute("SELECT next FROM counters WHERE keyset = ?", (keyset_id,)).fetchone()
    return 0 if row is None else int(row[0])


_COLUMNS = "id, kind, mint, unit, state, journal, result, created_at"


def insert_operation(conn: sqlite3.Connection, operation: Operation) -> None:
    """Open the journal entry. Raises sqlite3.IntegrityError when the id was used before."""
    conn.execute(
        f"INSERT INTO operations ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            operation.id,
            operation.kind,
            operation.mint,
            operation.unit,
            operation.state,
            msgspec.json.encode(operation.journal).decode(),
            operation.result,
            operation.created_at,
        ),
    )


def operation(conn: sqlite3.Connection, operation_id: str) -> Operation | None:
    """The journal entry of that id."""
    return next(iter(_operations(conn, "WHERE id = ?", (operation_id,))), None)


def done_operations(conn: sqlite3.Connection, prefix: str) -> list[Operation]:
    """Those that are done and whose ids begin so."""
    where = "WHERE id >= ? AND id < ? AND state = 'done'"
    return _operations(conn, where, (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)))


def untold_operations(conn: sqlite3.Connection, kinds: Sequence[Kind] = TOLD) -> list[Operation]:
    """Operations of these kinds whose owner has not said yet that it knows of them, oldest first."""
    where = f"WHERE id IN (SELECT operation FROM untold) AND kind IN ({', '.join('?' * len(kinds))})"
    return _operations(conn, f"{where} ORDER BY created_at, rowid", tuple(kinds))


def keep_untold(conn: sqlite3.Connection, operation_id: str) -> None:
    """Its owner is to know of it, though it is not done yet."""
    conn.execute("INSERT OR IGNORE INTO untold VALUES (?)", (operation_id,))


def told(conn: sqlite3.Connection, operation_id: str) -> None:
    """Its owner knows of it."""
    conn.execute("DELETE FROM untold WHERE operation = ?", (operation_id,))


def open_swap(conn: sqlite3.Connection, mint: str, unit: str) -> Operation | None:
    """A swap of our own coins that the mint has not answered yet."""
    where = "WHERE state = 'open' AND kind = 'swap' AND mint = ? AND unit = ? ORDER BY created_at LIMIT 1"
    return next(iter(_operations(conn, where, (mint, unit))), None)


def has_open(conn: sqlite3.Connection, kinds: Sequence[Kind]) -> bool:
    """Whether an operation of these kinds is open."""
    query = f"SELECT 1 FROM operations WHERE state = 'open' AND kind IN ({', '.join('?' * len(kinds))}) LIMIT 1"
    return conn.execute(query, tuple(kinds)).fetchone() is not None


def open_operations(conn: sqlite3.Connection) -> list[Operation]:
    """What is not finished, oldest first."""
    return _operations(conn, "WHERE state = 'open' ORDER BY created_at", ())


def set_journal(conn: sqlite3.Connection, operation_id: str, journal: Journal) -> None:
    """Note the request of an operation before it is sent; a failed operation is open again with it."""
    conn.execute(
        "UPDATE operations SET journal = ?, state = 'open', result = '' WHERE id = ? AND state != 'done'",
        (msgspec.json.encode(journal).decode(), operation_id),
    )


def close_operation(
    conn: sqlite3.Connection, operation_id: str, state: Literal["done", "failed"], result: str = ""
) -> bool:
    """Finish an operation once; False when it already was."""
    changed = conn.execute(
        "UPDATE operations SET state = ?, result = ? WHERE id = ? AND state = 'open'", (state, result, operation_id)
    )
    return changed.rowcount == 1


def tell_of(conn: sqlite3.Connection, operation: Operation) -> None:
    """Its owner is to know that it is done, if that is of a kind that matters to the books."""
    if operation.kind in TOLD:
        conn.execute("INSERT INTO untold VALUES (?)", (operation.id,))


def add_coins(conn: sqlite3.Connection, source: Operation, proofs: Iterable[Proof], state: CoinState) -> None:
    """New coins that `source` made. Raises sqlite3.IntegrityError for a secret that is known."""
    conn.executemany(
        "INSERT INTO coins (secret, mint, unit, keyset, amount, proof, state, made_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (p.secret, source.mint, source.unit, p.id, p.amount, msgspec.json.encode(p).decode(), state, source.id)
            for p in proofs
        ],
    )


def unspent(conn: sqlite3.Connection, mint: str, unit: str) -> list[Proof]:
    """Coins that can be spent."""
    rows = conn.execute("SELECT proof FROM coins WHERE mint = ? AND unit = ? AND state = 'unspent'", (mint, unit))
    return [msgspec.json.decode(proof, type=Proof) for (proof,) in rows]


def some_unspent(conn: sqlite3.Connection, mint: str, unit: str, most_each: int) -> list[Proof]:
    """Coins that can be spent, at most so many of each amount: enough to choose from, however many there are."""
    sizes: list[int] = []
    query = "SELECT MIN(amount) FROM coins WHERE mint = ? AND unit = ? AND state = 'unspent' AND amount > ?"
    while (row := conn.execute(query, (mint, unit, sizes[-1] if sizes else 0)).fetchone())[0]:
        sizes.append(row[0])
    return some_of_each(conn, mint, unit, sizes, most_each)


def some_of_each(conn: sqlite3.Connection, mint: str, unit: str, sizes: Sequence[int], most_each: int) -> list[Proof]:
    """Coins that can be spent, at most so many of each of these amounts, in one query."""
    where = "mint = ? AND unit = ? AND state = 'unspent' AND amount = ?"
    query = " UNION ALL ".join([f"SELECT * FROM (SELECT proof FROM coins WHERE {where} LIMIT ?)"] * len(sizes))
    values = [value for size in sizes for value in (mint, unit, size, most_each)]
    return [msgspec.json.decode(proof, type=Proof) for (proof,) in (conn.execute(query, values) if sizes else ())]


def some_of(conn: sqlite3.Connection, mint: str, unit: str, amount: int, most: int) -> list[Proof]:
    """So many coins of one amount that can be spent."""
    where = "mint = ? AND unit = ? AND state = 'unspent' AND amount = ?"
    rows = conn.execute(f"SELECT proof FROM coins WHERE {where} LIMIT ?", (mint, unit, amount, most))
    return [msgspec.json.decode(proof, type=Proof) for (proof,) in rows]


def held(conn: sqlite3.Connection, mint: str, unit: str) -> dict[int, int]:
    """How many coins of each amount can be spent."""
    rows = conn.execute(
        "SELECT amount, COUNT(*) FROM coins WHERE mint = ? AND unit = ? AND state = 'unspent' GROUP BY amount",
        (mint, unit),
    )
    return {int(amount): int(count) for amount, count in rows}


def move_coins(
    conn: sqlite3.Connection, secrets: Sequence[str], before: CoinState, after: CoinState, used_by: str | None
) -> None:
    """Change the state of exactly these coins. Raises StorageError when one was not in the state before."""
    changed = conn.execute(
        "UPDATE coins SET state = ?, used_by = ? WHERE secret IN (SELECT value FROM json_each(?)) AND state = ?",
        (after, used_by, msgspec.json.encode(secrets).decode(), before),
    )
    if changed.rowcount != len(secrets):
        raise StorageError(f"a coin that should be {before} is not")


def balances(conn: sqlite3.Connection, state: CoinState = "unspent") -> dict[tuple[str, str], int]:
    """Sums by (mint, unit), in the unit."""
    rows = conn.execute("SELECT mint, unit, SUM(amount) FROM coins WHERE state = ? GROUP BY mint, unit", (state,))
    return {(mint, unit): int(amount) for mint, unit, amount in rows}


def holds(conn: sqlite3.Connection, mint: str, unit: str, amount: int) -> bool:
    """Whether coins of at least this amount can be spent: a look at the largest few, however many there are."""
    where = "mint = ? AND unit = ? AND state = 'unspent' ORDER BY amount DESC"
    for (coin,) in conn.execute(f"SELECT amount FROM coins WHERE {where}", (mint, unit)):
        amount -= coin
        if amount <= 0:
            return True
    return amount <= 0


def away(conn: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """Sums of our own coins whose mint has not said yet what became of them, by (mint, unit), in the unit."""
    rows = conn.execute(
        "SELECT coins.mint, coins.unit, SUM(amount) FROM operations JOIN coins ON used_by = operations.id "
        "WHERE operations.state = 'open' AND coins.state = 'reserved' GROUP BY coins.mint, coins.unit"
    )
    return {(mint, unit): int(amount) for mint, unit, amount in rows}


def _operations(conn: sqlite3.Connection, where: str, values: tuple[object, ...]) -> list[Operation]:
    rows = conn.execute(f"SELECT {_COLUMNS} FROM operations {where}", values)
    return [
        Operation(
            id=id_,
            kind=kind,
            mint=mint,
            unit=unit,
            state=state,
            journal=msgspec.json.decode(journal, type=Journal),
            result=result,
            created_at=created_at,
        )
        for id_, kind, mint, unit, state, journal, result, created_at in rows
    ]
