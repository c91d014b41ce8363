"""A wallet with a long history: what a seller's jobs look at every few seconds is found among the few, not among all."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from router_client.ecash import lockedcoins, store
from router_client.ecash.redeeming import BOOKED

MINT = ("https://mint.example", "msat")


@pytest.mark.parametrize(
    "look",
    [
        lambda conn: store.finished_operations(conn, BOOKED, 1_800_000_000),
        lambda conn: store.oldest_open(conn, BOOKED),
        store.open_operations,
        lambda conn: store.open_swap(conn, *MINT),
        store.balances,
        store.away,
        lambda conn: store.held(conn, *MINT),
        lockedcoins.values,
        lockedcoins.groups,
    ],
    ids=["booked", "oldest", "open", "swap", "balances", "away", "held", "locked", "groups"],
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
