"""A wallet with a long history: what a seller's jobs look at every few seconds is found among the few, not among all."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from router_client.ecash import lockedcoins, store

MINT = ("https://mint.example", "msat")


@pytest.mark.parametrize(
    "look",
    [
        store.untold_operations,
        lambda conn: store.has_open(conn, store.TOLD),
        store.open_operations,
        lambda conn: store.open_swap(conn, *MINT),
        store.balances,
        store.away,
        lambda conn: store.held(conn, *MINT),
        lockedcoins.values,
        lockedcoins.groups,
    ],
    ids=["untold", "unfinished", "open", "swap", "balances", "away", "held", "locked", "groups"],
)
def test_nothing_looks_through_all_that_ever_was(folder: Path, look: Callable[[sqlite3.Connection], object]) -> None:
    with closing(sqlite3.connect(folder / "wallet.db")) as conn:
        store.migrate(conn)
        asked: list[str] = []
        conn.set_trace_callback(asked.append)
        look(conn)
        conn.set_trace_callback(None)
        plans = [str(row[-1]) for query in asked for row in conn.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert plans
    assert not [step for step in plans if step.startswith("SCAN") and "INDEX" not in step], plans


def test_what_an_older_wallet_had_not_told_of_for_sure_is_told(folder: Path) -> None:
    """Versions before booked the last week anew at each start."""
    with closing(sqlite3.connect(folder / "wallet.db")) as conn:
        for schema in store.SCHEMAS[:4]:
            conn.executescript(schema)
        conn.execute("PRAGMA user_version=4")
        for name, kind, state, day in (
            ("old", "swap", "done", 0),
            ("new", "redeem", "done", 8),
            ("open", "swap", "open", 8),
            ("newest", "swap", "done", 9),
            ("other", "send", "done", 9),
        ):
            values = (name, kind, *MINT, state, "{}", "", day * 24 * 3600)
            conn.execute("INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        store.migrate(conn)
        assert [operation.id for operation in store.untold_operations(conn)] == ["new", "newest"]
        store.told(conn, "newest")
        assert [operation.id for operation in store.untold_operations(conn)] == ["new"]
