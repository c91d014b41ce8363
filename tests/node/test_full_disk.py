"""A disk that is full in the midst of requests: what was not booked is refused, and can be booked later, once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from node.ledger.ledger import Ledger
from node.ledger.model import Held
from node.ledger.sqlite import SqliteBackend
from router_client.errors import StorageError
from tests.ledgers import lay_out
from tests.node.books import Clock, paid_in, state
from tests.node.drafts import draft

REQUESTS, HOLD_MSAT, COST_MSAT = 2000, 10, 4
ROOM_PAGES, MOST_PAGES = 3, 1_000_000


async def limited(ledger: Ledger, pages: int) -> None:
    """SQLite's own bound: beyond it, the disk is full."""
    assert isinstance(ledger._db, SqliteBackend)
    await ledger._db._db.run(lambda conn: conn.execute(f"PRAGMA max_page_count = {pages}").fetchone())


async def test_a_full_disk_loses_and_invents_nothing(folder: Path, clock: Clock) -> None:
    lay_out(folder / "ledger.db")
    ledger = await Ledger.open(f"sqlite:///{folder / 'ledger.db'}", clock)
    account = await paid_in(ledger, 1_000_000)
    assert isinstance(ledger._db, SqliteBackend)
    (pages,) = await ledger._db._db.run(lambda conn: conn.execute("PRAGMA page_count").fetchone())
    await limited(ledger, pages + ROOM_PAGES)
    ids = [f"req_{number:024x}" for number in range(REQUESTS)]
    holding = (ledger.hold(account, id_, HOLD_MSAT, 60) for id_ in ids)
    outcomes = await asyncio.gather(*holding, return_exceptions=True)
    held = [id_ for id_, outcome in zip(ids, outcomes, strict=True) if isinstance(outcome, Held)]
    full = [outcome for outcome in outcomes if isinstance(outcome, StorageError)]
    assert len(held) + len(full) == REQUESTS
    assert held and full

    async def post(id_: str) -> int:
        return (await ledger.post(draft(id_, HOLD_MSAT, COST_MSAT))).receipt.cost_msat

    posted = await asyncio.gather(*(post(id_) for id_ in held), return_exceptions=True)
    assert any(isinstance(outcome, StorageError) for outcome in posted), "a receipt needs room, too"
    now, done = await state(ledger, account), len([outcome for outcome in posted if outcome == COST_MSAT])
    assert (now.held_msat, now.spent_msat) == (HOLD_MSAT * (len(held) - done), COST_MSAT * done)
    await ledger.audit()

    await limited(ledger, MOST_PAGES)
    assert await asyncio.gather(*(post(id_) for id_ in held)) == [COST_MSAT] * len(held), "asked again, each once"
    now = await state(ledger, account)
    assert (now.held_msat, now.spent_msat) == (0, COST_MSAT * len(held))
    assert (await ledger.audit()).ecash_in_msat == 1_000_000
    await ledger.close()
