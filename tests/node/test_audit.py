"""The books themselves, on both databases: they survive a restart, and the audit sees any lie."""

from __future__ import annotations

import sqlite3

import asyncpg
import pytest

from node.errors import LedgerError
from node.ledger.ledger import Ledger
from tests.node.books import Books, begun, child, key, paid_in, payout, state
from tests.node.drafts import draft

# the books as a whole ------------------------------------------------------------------------------------------------


async def test_the_books_survive_a_restart(ledger_url: str) -> None:
    first = await Ledger.open(ledger_url)
    account = await key(first, 1000)
    await first.hold(account, "r", 600, 60)
    await first.post(draft("r", 600, 250))
    await first.close()
    second = await Ledger.open(ledger_url)
    assert (await state(second, account)).available_msat == 750
    assert await second.receipt("r", account.account) is not None
    assert await second.receipt("r", account.account + 1) is None, "a receipt is for who paid"
    await second.audit()
    await second.close()


async def test_a_later_version_is_not_touched(ledger_url: str) -> None:
    ledger = await Ledger.open(ledger_url)
    await ledger.close()
    await Books(ledger, ledger_url).forge("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerError, match="version 9999"):
        await Ledger.open(ledger_url)


@pytest.mark.parametrize(
    "lie",
    [
        "UPDATE accounts SET available_msat = available_msat + 1 WHERE kind = 'key'",
        "UPDATE accounts SET available_msat = available_msat + 1 WHERE kind = 'node'",
        "UPDATE accounts SET held_msat = held_msat - 1, available_msat = available_msat + 1 WHERE held_msat > 0",
        "UPDATE accounts SET spent_msat = spent_msat - 1 WHERE kind = 'key'",
        "UPDATE accounts SET paid_in_msat = paid_in_msat + 1 WHERE kind = 'key'",
        "UPDATE keys SET spent_msat = spent_msat + 1 WHERE parent IS NOT NULL",
        "UPDATE holds SET posted_msat = posted_msat - 1 WHERE state = 'posted'",
        "UPDATE holds SET state = 'voided', receipt = NULL, posted_at = NULL WHERE state = 'posted' AND purpose = 'request'",
        "UPDATE holds SET account = 9999 WHERE state = 'voided'",
        "UPDATE deposits SET amount_msat = amount_msat + 1",
        "UPDATE refunds SET amount_msat = amount_msat - 1 WHERE state = 'done'",
        "UPDATE refunds SET amount_msat = amount_msat - 1 WHERE state = 'open'",
        "INSERT INTO transfers (debit, credit, amount_msat, kind, reference, created_at) VALUES (2, 1, 5, 'charge', 'x', 0)",
        "INSERT INTO transfers (debit, credit, amount_msat, kind, reference, created_at) VALUES (2, 1, 5, 'gift', 'x', 0)",
        "UPDATE deposits SET account = (SELECT MAX(id) FROM accounts)",
        "UPDATE deposits SET state = 'open'",
        "DELETE FROM deposits",
        "UPDATE refunds SET state = 'failed' WHERE state = 'done'",
        "UPDATE refunds SET account = (SELECT MAX(id) FROM accounts) WHERE state = 'done'",
        "UPDATE holds SET account = 1 WHERE state = 'posted'",
        "UPDATE holds SET posted_msat = 1 WHERE state = 'voided'",
        "UPDATE payouts SET state = 'failed' WHERE state = 'done'",
        "UPDATE payouts SET amount_msat = amount_msat - 1",
    ],
)
async def test_the_audit_sees_any_lie(books: Books, lie: str) -> None:
    ledger = books.ledger
    account = await paid_in(ledger, 1000)
    kid = await child(ledger, account)
    await ledger.hold(kid, "r", 600, 60)
    await ledger.post(draft("r", 600, 250))
    await ledger.hold(account, "v", 10, 60)
    await ledger.void("v")
    await begun(ledger, account, "f1", "msat")
    await ledger.finish_refund("f1", token="t", paid_msat=300)
    await begun(ledger, account, "f2", "msat")
    await ledger.begin_payout(payout(100))
    await ledger.finish_payout("p1", 100, 0)
    await key(ledger, 5)
    await ledger.audit()
    await books.forge_the_final(lie)
    with pytest.raises(LedgerError, match="do not add up"):
        await ledger.audit()


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE holds SET receipt = NULL",
        "UPDATE holds SET state = 'voided', posted_msat = 0",
        "UPDATE holds SET state = 'lost', receipt = NULL, posted_at = NULL",
        "UPDATE holds SET posted_msat = amount_msat + 1",
        "UPDATE accounts SET available_msat = -1 WHERE kind = 'key'",
        "UPDATE holds SET posted_msat = posted_msat - 1",
        "UPDATE holds SET account = 1",
        "DELETE FROM holds",
    ],
)
async def test_the_tables_refuse_to_change_what_has_ended(books: Books, forgery: str) -> None:
    """A posted request is final, as the charge that it is."""
    await posted(books)
    with pytest.raises((sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError)):
        await books.forge(forgery)


async def posted(books: Books) -> None:
    """A request that was held and charged."""
    account = await key(books.ledger, 1000)
    await books.ledger.hold(account, "r", 600, 60)
    await books.ledger.post(draft("r", 600, 250))


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE holds SET receipt = NULL",
        "UPDATE holds SET state = 'voided', posted_msat = 0",
        "UPDATE holds SET state = 'lost', receipt = NULL, posted_at = NULL",
        "UPDATE holds SET posted_msat = amount_msat + 1",
        "UPDATE accounts SET available_msat = -1 WHERE kind = 'key'",
    ],
)
async def test_the_tables_refuse_what_cannot_be(books: Books, forgery: str) -> None:
    """A posted request has its receipt, and no other has one: also where what has ended could be changed."""
    await posted(books)
    with pytest.raises((sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError)):
        await books.forge_the_final(forgery)


@pytest.mark.parametrize("forgery", ["UPDATE transfers SET amount_msat = 1", "DELETE FROM transfers"])
async def test_transfers_are_append_only(books: Books, forgery: str) -> None:
    await key(books.ledger, 1000)
    with pytest.raises((sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError), match="append-only"):
        await books.forge(forgery)
