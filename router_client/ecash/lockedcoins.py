"""The table of coins that are locked to this wallet's key: each taken in once, for ever, by the Y that names it to the mint.

`locked` coins were accepted without the mint and are worth their amount less `fee`, their part of what swapping their token
alone would cost; `redeeming` ones are on their way through it. `receiving` ones come in by an ordinary receive: they stand
here so that they are not accepted a second time. Everything runs inside a transaction of `router_client.disk.storage`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from router_client.ecash.store import Operation
from router_client.ecash.token import Proof
from router_client.errors import StorageError, TokenSpent

State = Literal["locked", "redeeming", "redeemed", "lost", "receiving"]


class Waiting(msgspec.Struct, frozen=True):
    """A locked coin and its part of the fee, in the unit."""

    proof: Proof
    fee: int


def add(conn: sqlite3.Connection, source: Operation, coins: Sequence[Proof], fee: int, state: State) -> None:
    """Take coins in; the token's fee stands at the first. Raises TokenSpent when one of them is known."""
    for index, coin in enumerate(coins):
        taken = conn.execute(
            "INSERT INTO locked (y, mint, unit, amount, fee, proof, state, accepted_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (y) DO NOTHING",
            (
                coin.y(),
                source.mint,
                source.unit,
                coin.amount,
                fee if index == 0 else 0,
                msgspec.json.encode(coin).decode(),
                state,
                source.id,
            ),
        )
        if taken.rowcount != 1:
            raise TokenSpent("a coin of the token was accepted here before")


def known(conn: sqlite3.Connection, ys: Iterable[str]) -> dict[str, str]:
    """Which of these coins were taken in, and by which operation."""
    found = {}
    for y in ys:
        row = conn.execute("SELECT accepted_by FROM locked WHERE y = ?", (y,)).fetchone()
        if row is not None:
            found[y] = str(row[0])
    return found


def groups(conn: sqlite3.Connection) -> list[tuple[str, str]]:
    """Every (mint, unit) with coins that wait for their redemption."""
    return conn.execute("SELECT DISTINCT mint, unit FROM locked WHERE state = 'locked'").fetchall()


def waiting(conn: sqlite3.Connection, mint: str, unit: str, most: int) -> list[Waiting]:
    """Coins to redeem, oldest first. Those that a mint refused in a batch come after all others, in ever smaller batches,
    so that one bad coin keeps no good one.
    """
    group = "FROM locked WHERE mint = ? AND unit = ? AND state = 'locked'"
    tries = conn.execute(f"SELECT MIN(tries) {group}", (mint, unit)).fetchone()[0] or 0
    rows = conn.execute(
        f"SELECT proof, fee {group} AND tries = ? ORDER BY rowid LIMIT ?", (mint, unit, tries, max(1, most >> tries))
    )
    return [Waiting(msgspec.json.decode(proof, type=Proof), fee) for proof, fee in rows]


def refused(conn: sqlite3.Connection, coins: Iterable[Proof]) -> None:
    """A batch was refused: its coins wait again, behind the others."""
    coins = list(coins)
    move(conn, coins, "redeeming", "locked", None)
    conn.executemany("UPDATE locked SET tries = tries + 1 WHERE y = ?", [(coin.y(),) for coin in coins])


def move(
    conn: sqlite3.Connection, coins: Iterable[Proof], before: State, after: State, redeemed_by: str | None
) -> None:
    """Change the state of exactly these coins. Raises StorageError when one was not in the state before."""
    for coin in coins:
        changed = conn.execute(
            "UPDATE locked SET state = ?, redeemed_by = ? WHERE y = ? AND state = ?",
            (after, redeemed_by, coin.y(), before),
        )
        if changed.rowcount != 1:
            raise StorageError(f"a locked coin that should be {before} is not")


def all_waiting(conn: sqlite3.Connection, mint: str) -> list[Proof]:
    """Every coin of a mint that waits for its redemption."""
    rows = conn.execute("SELECT proof FROM locked WHERE mint = ? AND state = 'locked'", (mint,))
    return [msgspec.json.decode(proof, type=Proof) for (proof,) in rows]


def worth(conn: sqlite3.Connection, coins: Iterable[Proof]) -> int:
    """What these coins were credited for, in the unit."""
    query = "SELECT amount - fee FROM locked WHERE y = ?"
    return sum(int(conn.execute(query, (coin.y(),)).fetchone()[0]) for coin in coins)


def received(conn: sqlite3.Connection, operation_id: str) -> None:
    """A receive took its coins in at the mint."""
    conn.execute(
        "UPDATE locked SET state = 'redeemed', redeemed_by = accepted_by WHERE accepted_by = ? AND state = 'receiving'",
        (operation_id,),
    )


def released(conn: sqlite3.Connection, operation_id: str) -> None:
    """A receive was refused: its coins were never ours."""
    conn.execute("DELETE FROM locked WHERE accepted_by = ? AND state = 'receiving'", (operation_id,))


def values(conn: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """What accepted coins that are not redeemed yet were credited for, by (mint, unit), in the unit."""
    rows = conn.execute(
        "SELECT mint, unit, SUM(amount - fee) FROM locked WHERE state IN ('locked', 'redeeming') GROUP BY mint, unit"
    )
    return {(mint, unit): int(value) for mint, unit, value in rows}
