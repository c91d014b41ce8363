"""What the writer keeps in memory between batches is never older than the books, whoever else writes and whatever fails."""

from __future__ import annotations

import asyncio
import time

import pytest

from node.errors import LedgerConflict, LedgerError
from node.ledger import postgres, sqlite
from node.ledger.ledger import Ledger
from node.ledger.model import DuplicateHold, Held, HoldState, Insufficient, Key
from node.ledger.sql import Steps, run
from relays.money import Msat
from tests.conftest import connected
from tests.node.books import Books, key, state
from tests.node.drafts import draft


async def warm(ledger: Ledger, name: str, grant_msat: int = 1000) -> Key:
    """A key whose rows the writer has in memory."""
    made = await key(ledger, grant_msat)
    assert isinstance(await ledger.hold(made, name, 10, 60), Held)
    await ledger.post(draft(name, 10, 10))
    return made


async def test_what_another_process_wrote_is_seen(books: Books) -> None:
    account = await warm(books.ledger, "a")
    await books.forge(f"UPDATE accounts SET available_msat = 500 WHERE id = {account.account}")
    assert await books.ledger.hold(account, "b", 501, 60) == Insufficient(Msat(500))
    await books.forge(f"UPDATE keys SET revoked_at = 1 WHERE id = {account.id}")
    assert not isinstance(await books.ledger.hold(account, "c", 1, 60), Held | Insufficient)


async def test_what_the_same_process_wrote_otherwise_is_seen(books: Books) -> None:
    """In a batch of its own, and in one with holds, which load the row before it is written."""
    ledger = books.ledger
    account, beside, other = await warm(ledger, "a"), await warm(ledger, "b"), await warm(ledger, "c")
    assert isinstance(await ledger.hold(account, "d", 1, 60), Held)
    await ledger.revoke_key(account.id)
    assert not isinstance(await ledger.hold(account, "e", 1, 60), Held | Insufficient)
    await asyncio.gather(ledger.hold(other, "f", 1, 60), ledger.hold(beside, "g", 1, 60), ledger.revoke_key(beside.id))
    assert not isinstance(await ledger.hold(beside, "h", 1, 60), Held | Insufficient)


async def test_a_name_that_another_process_holds_is_a_duplicate(books: Books, ledger_url: str) -> None:
    account = await warm(books.ledger, "a")
    other = await Ledger.open(ledger_url, instance="other")
    assert isinstance(await other.hold(account, "b", 10, 60, "theirs"), Held)
    assert await books.ledger.hold(account, "b", 10, 60, "ours") == DuplicateHold("pending", "theirs")
    await other.post(draft("b", 10, 7))
    assert await books.ledger.hold(account, "b", 10, 60, "ours") == DuplicateHold("posted", "theirs")
    assert (await books.ledger.post(draft("b", 10, 9))).receipt.cost_msat == 7, "as at first"
    await other.close()
    await books.ledger.audit()


async def test_a_name_of_ours_that_is_over_is_a_duplicate(books: Books) -> None:
    account = await warm(books.ledger, "a")
    await asyncio.gather(*(books.ledger.hold(account, f"n{number}", 1, 60) for number in range(5)))
    outcomes = await asyncio.gather(*(books.ledger.hold(account, name, 1, 60) for name in ("a", "n3", "new", "new")))
    assert [type(outcome) for outcome in outcomes] == [DuplicateHold, DuplicateHold, Held, DuplicateHold]
    assert (await state(books.ledger, account)).held_msat == 6
    await books.ledger.audit()


async def test_a_known_name_is_a_duplicate_though_the_money_is_gone(books: Books, ledger_url: str) -> None:
    """It must be answered as at first, not be told to pay."""
    account = await warm(books.ledger, "a")
    other = await Ledger.open(ledger_url, instance="other")
    await other.hold(account, "b", 10, 60)
    await other.close()
    assert isinstance(await books.ledger.hold(account, "c", 900, 60), Held)
    assert isinstance(await books.ledger.hold(account, "d", 70, 60), Held)
    states: tuple[tuple[str, HoldState], ...] = (("a", "posted"), ("b", "pending"))
    for name, state_of_it in states:
        assert await books.ledger.hold(account, name, 100, 60) == DuplicateHold(state_of_it)
    assert await books.ledger.hold(account, "e", 100, 60) == Insufficient(Msat(10))


async def test_a_batch_that_failed_is_forgotten(books: Books) -> None:
    """A post above its hold, and a grant under a name that is taken, fail alone; what they shared a batch with stands."""
    ledger = books.ledger
    account = await warm(ledger, "a")
    await ledger.create_key("taken", "", "", 0)
    for number in range(5):
        assert isinstance(await ledger.hold(account, f"b{number}", 100, 60), Held)
        results = await asyncio.gather(
            ledger.hold(account, f"c{number}", 20, 60),
            ledger.post(draft(f"b{number}", 100, 101)),
            ledger.create_key("taken", "", "", 5000),
            ledger.void(f"b{number}"),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [Held, LedgerError, LedgerConflict, bool]
    now = await state(ledger, account)
    assert (now.available_msat, now.held_msat, now.spent_msat) == (890, 100, 10)
    await ledger.audit()


async def test_a_commit_that_fails_is_forgotten(books: Books) -> None:
    """SQLite finds a foreign key broken at the very end, when the page was already taken for written."""
    if not books.url.startswith("sqlite"):
        return
    ledger = books.ledger
    account = await warm(ledger, "a")

    def slow() -> Steps[None]:
        time.sleep(0.2)
        yield from run("SELECT 1")

    def broken() -> Steps[None]:
        yield from run("PRAGMA defer_foreign_keys = ON")
        yield from run("UPDATE keys SET account = 12345 WHERE id = ?1", account.id)

    busy = asyncio.create_task(ledger._db.run(slow))
    await asyncio.sleep(0.05)
    held, failed = await asyncio.gather(
        ledger.hold(account, "b", 100, 60), ledger._db.run(broken), return_exceptions=True
    )
    await busy
    assert isinstance(held, Held)
    assert isinstance(failed, LedgerConflict)
    assert isinstance(await ledger.hold(account, "c", 890, 60), Held)
    assert await ledger.hold(account, "d", 1, 60) == Insufficient(Msat(0))
    await ledger.audit()


@pytest.mark.parametrize("when", ["known", "load", "among others"])
async def test_a_writer_past_our_lock_is_seen_when_it_commits(postgres_books_url: str, when: str) -> None:
    """Somebody at a terminal begins before a batch of ours, which knows the rows or must load them, and commits after it."""
    ledger = await Ledger.open(postgres_books_url)
    mine, other = await warm(ledger, "a"), await warm(ledger, "b")

    async def holds(name: str, *accounts: Key) -> None:
        for number, account in enumerate(accounts):
            assert isinstance(await ledger.hold(account, f"{name}{number}", 1, 60), Held)

    async with connected(postgres_books_url) as admin, connected(postgres_books_url) as third:
        await holds("c", mine, other)
        change = admin.transaction()
        await change.start()
        await admin.execute(f"UPDATE accounts SET available_msat = 500 WHERE id = {mine.account}")
        if when == "load":
            await third.execute("SELECT pg_current_xact_id()")
            loads = [ledger.hold(mine, "a", 1, 60), ledger.hold(other, "b", 1, 60)]
            assert await asyncio.gather(*loads) == [DuplicateHold("posted")] * 2, "the rows as they were"
        await holds("d", other)
        if when == "among others":
            await third.execute("SELECT pg_current_xact_id()")
        await change.commit()
        assert await ledger.hold(mine, "e", 501, 60) == Insufficient(Msat(500))
    await ledger.close()


async def test_no_more_is_kept_than_so_much(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (postgres, sqlite):
        monkeypatch.setattr(backend, "MOST_KEPT", 3)
    accounts = [await warm(books.ledger, f"a{number}") for number in range(4)]
    for number, account in enumerate(accounts):
        assert isinstance(await books.ledger.hold(account, f"b{number}", 5, 60), Held)
        assert isinstance(await books.ledger.post(draft(f"b{number}", 5, 5)), object)
    assert [(await state(books.ledger, account)).spent_msat for account in accounts] == [15] * 4
    await books.ledger.audit()
