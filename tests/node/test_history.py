"""Books with a long history: what jobs and callers look for every few seconds is found among the few, not among all."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from node.ledger import deposits, keys, payouts, refunds
from node.ledger.sql import Steps
from tests.ledgers import lay_out


def plan_of(conn: sqlite3.Connection, steps: Steps[Any]) -> str:
    """How SQLite finds the rows of the first query."""
    query = next(steps)
    return "; ".join(str(row[-1]) for row in conn.execute(f"EXPLAIN QUERY PLAN {query.text}", query.values))


@pytest.mark.parametrize(
    "look",
    [
        lambda: deposits.still_open(None),
        lambda: refunds.still_open(None),
        lambda: payouts.still_open(None),
        lambda: refunds.unreceived(7, 8),
        lambda: deposits.source(7),
        lambda: keys.children(7),
        lambda: keys.find("a hash"),
    ],
    ids=["open deposits", "open refunds", "open payouts", "refunds", "source", "children", "key"],
)
def test_nothing_looks_through_all_that_ever_was(folder: Path, look: Callable[[], Steps[Any]]) -> None:
    lay_out(folder / "ledger.db")
    with closing(sqlite3.connect(folder / "ledger.db")) as conn:
        plan = plan_of(conn, look())
    assert "INDEX" in plan
    assert not [step for step in plan.split("; ") if step.startswith("SCAN") and "INDEX" not in step], plan
