"""The ledger's contract, which SQLite and PostgreSQL both keep: holds end once, nothing goes below zero, every repeat is
harmless, and the audit sees any lie."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.errors import LedgerConflict, LedgerError
from node.ledger.audit import Totals
from node.ledger.ledger import Ledger
from node.ledger.model import (
    Account,
    Deposit,
    DuplicateHold,
    Held,
    Insufficient,
    Key,
    KeyClosed,
    LimitReached,
    Limits,
    NothingToRefund,
    Payout,
    Refund,
)
from relays.money import MAX_MSAT
from tests.conftest import connected
from tests.node.drafts import draft

MINT = "https://mint.example"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Books:
    """A ledger, and a door to its tables behind its back."""

    def __init__(self, ledger: Ledger, url: str) -> None:
        self.ledger = ledger
        self.url = url

    async def forge(self, statement: str) -> None:
        """Change the tables by hand."""
        if self.url.startswith("sqlite:///"):
            with sqlite3.connect(self.url.removeprefix("sqlite:///")) as conn:
                conn.execute(statement)
            conn.close()
        else:
            async with connected(self.url) as pg:
                await pg.execute(statement)


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{folder / 'ledger.db'}"


@pytest.fixture
async def books(ledger_url: str, clock: Clock) -> AsyncIterator[Books]:
    opened = await Ledger.open(ledger_url, clock)
    yield Books(opened, ledger_url)
    await opened.close()


@pytest.fixture
def ledger(books: Books) -> Ledger:
    return books.ledger


numbers = itertools.count()


async def key(ledger: Ledger, grant_msat: int = 0) -> Key:
    name = f"hash {next(numbers)}"
    await ledger.create_key(name, "sk-…x", "", grant_msat)
    made = await ledger.key_of(name)
    assert made is not None
    return made


async def child(ledger: Ledger, parent: Key, **limits: Any) -> Key:
    name = f"hash {next(numbers)}"
    await ledger.create_child(parent, name, "sk-…c", "", Limits(**limits))
    made = await ledger.key_of(name)
    assert made is not None
    return made


async def state(ledger: Ledger, key: Key) -> Account:
    return await ledger.account(key.account)


def deposit(name: str, account: int | None = None, amount: int = 1000) -> Deposit:
    return Deposit(
        id=name,
        purpose="open" if account is None else "topup",
        account=account,
        state="open",
        mint=MINT,
        unit="msat",
        amount_msat=amount,
        fee_msat=0,
        reason="",
    )


async def paid_in(ledger: Ledger, amount_msat: int) -> Key:
    name = f"deposit {next(numbers)}"
    await ledger.begin_deposit(deposit(name, amount=amount_msat))
    await ledger.credit_deposit(name, amount_msat, 0)
    made = await ledger.key_of(name)
    assert made is not None
    return made


async def test_a_hold_takes_and_a_post_gives_the_rest_back(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    assert await ledger.hold(account, "r", 600, 60) == Held(400)  # type: ignore[arg-type]
    posted = await ledger.post(draft("r", 600, 250))
    assert posted.receipt.balance_msat == 750
    after = await state(ledger, account)
    assert (after.available_msat, after.held_msat, after.spent_msat) == (750, 0, 250)
    assert (await ledger.audit()).earned_msat == 250


async def test_posting_again_changes_nothing_and_answers_the_same(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 600, 60)
    first = await ledger.post(draft("r", 600, 250))
    assert await ledger.post(draft("r", 600, 999)) == first
    assert (await state(ledger, account)).available_msat == 750
    assert not await ledger.void("r")


async def test_a_void_gives_all_back_once(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 600, 60)
    assert await ledger.void("r")
    assert not await ledger.void("r")
    assert (await state(ledger, account)).available_msat == 1000
    with pytest.raises(LedgerError):
        await ledger.post(draft("r", 600, 1))


async def test_a_request_id_holds_once(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 100, 60)
    assert await ledger.hold(account, "r", 100, 60) == DuplicateHold("pending", "")
    assert (await state(ledger, account)).held_msat == 100


async def test_more_than_there_is_is_not_held(ledger: Ledger) -> None:
    account = await key(ledger, 100)
    assert await ledger.hold(account, "r", 101, 60) == Insufficient(100)  # type: ignore[arg-type]
    assert (await state(ledger, account)).held_msat == 0


async def test_a_charge_above_the_hold_is_impossible(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 100, 60)
    with pytest.raises(LedgerError, match="its hold is"):
        await ledger.post(draft("r", 100, 101))
    with pytest.raises(LedgerError, match="another hold"):
        await ledger.post(draft("r", 101, 50))
    assert (await state(ledger, account)).held_msat == 100


async def test_a_revoked_key_holds_nothing(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    assert await ledger.revoke_key(account.id)
    assert await ledger.hold(account, "r", 1, 60) == KeyClosed("revoked")
    assert not await ledger.revoke_key(99999)


async def test_sixty_four_at_once_with_money_for_ten(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    outcomes = await asyncio.gather(*(ledger.hold(account, f"r{i}", 100, 60) for i in range(64)))
    assert sum(isinstance(outcome, Held) for outcome in outcomes) == 10
    assert (await state(ledger, account)).available_msat == 0
    await ledger.audit()


async def test_holds_expire_by_the_clock_and_at_a_restart(ledger: Ledger, clock: Clock) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "short", 100, 10)
    await ledger.hold(account, "long", 100, 1000)
    assert await ledger.expire_holds() == 0
    clock.now += 11
    assert await ledger.expire_holds() == 1
    assert (await state(ledger, account)).held_msat == 100
    assert await ledger.expire_orphans() == 1
    assert (await state(ledger, account)).available_msat == 1000
    with pytest.raises(LedgerError, match="expired"):
        await ledger.post(draft("long", 100, 5))


async def test_a_token_is_credited_once(ledger: Ledger) -> None:
    assert (await ledger.begin_deposit(deposit("t"))).state == "open"
    account = await ledger.credit_deposit("t", 990, 10)
    assert await ledger.credit_deposit("t", 990, 10) == account
    assert (await ledger.begin_deposit(deposit("t"))).state == "credited"
    assert (await ledger.account(account)).available_msat == 990
    named = await ledger.key_of("t")
    assert named is not None
    assert named.account == account
    assert (await ledger.audit()).ecash_in_msat == 990


async def test_a_top_up_does_not_make_its_token_a_key_to_the_account(ledger: Ledger) -> None:
    account = (await key(ledger, 0)).account
    await ledger.begin_deposit(deposit("t", account))
    assert await ledger.credit_deposit("t", 500, 0) == account
    assert await ledger.key_of("t") is None


async def test_a_failed_deposit_can_be_tried_again(ledger: Ledger) -> None:
    await ledger.begin_deposit(deposit("t"))
    await ledger.fail_deposit("t", "the mint said no")
    failed = await ledger.deposit("t")
    assert failed is not None
    assert (failed.state, failed.reason) == ("failed", "the mint said no")
    assert (await ledger.begin_deposit(deposit("t"))).state == "open"
    assert await ledger.open_deposits() == [deposit("t")]


# keys ----------------------------------------------------------------------------------------------------------------


async def test_a_key_made_with_a_token_takes_its_place_when_it_is_first_used(ledger: Ledger) -> None:
    """The token may be known to whoever paid with it; and the answer that holds the key may be lost."""
    await ledger.begin_deposit(deposit("t"))
    account = await ledger.credit_deposit("t", 990, 10, "hash of sk", "sk-…x")
    token = await ledger.key_of("t")
    assert token is not None, "the answer may have been lost: the token is still good"
    made = await ledger.key_of("hash of sk")
    assert made is not None
    assert (made.id, made.account) == (token.id, account)
    assert await ledger.key_of("t") is None


async def test_a_new_key_that_is_first_used_twice_at_once_is_one_key(ledger: Ledger) -> None:
    await ledger.begin_deposit(deposit("t"))
    await ledger.credit_deposit("t", 990, 10, "hash of sk", "sk-…x")
    found = await asyncio.gather(*(ledger.key_of("hash of sk") for _ in range(8)))
    assert all(key == found[0] is not None for key in found)


async def test_rotation_keeps_the_old_key_until_the_new_one_is_used(ledger: Ledger) -> None:
    await ledger.create_key("old", "sk-…o", "", 100)
    old = await ledger.key_of("old")
    assert old is not None
    assert await ledger.rotate_key(old.id, "lost on its way", "sk-…l")
    assert await ledger.rotate_key(old.id, "new", "sk-…n")
    assert (await ledger.key_of("old")) is not None
    assert await ledger.key_of("lost on its way") is None, "a second rotation takes the place of the first"
    new = await ledger.key_of("new")
    assert new is not None
    assert (new.id, new.account, new.hint) == (old.id, old.account, "sk-…n")
    assert await ledger.key_of("old") is None
    await ledger.revoke_key(new.id)
    assert not await ledger.rotate_key(new.id, "newer", "sk-…m")


async def test_a_child_spends_from_its_parent_within_its_limit(ledger: Ledger) -> None:
    parent = await key(ledger, 10_000)
    kid = await child(ledger, parent, spend_limit_msat=1000)
    assert (kid.account, kid.parent) == (parent.account, parent.id)
    assert isinstance(await ledger.hold(kid, "a", 600, 60), Held)
    assert await ledger.hold(kid, "b", 500, 60) == LimitReached("spend", 400)  # type: ignore[arg-type]
    await ledger.post(draft("a", 600, 250))
    assert isinstance(await ledger.hold(kid, "c", 750, 60), Held)
    await ledger.void("c")
    assert await ledger.hold(kid, "d", 751, 60) == LimitReached("spend", 750)  # type: ignore[arg-type]
    seen = (await ledger.children(parent.id))[0]
    assert (seen.spent_msat, seen.held_msat) == (250, 0)
    assert (await state(ledger, parent)).available_msat == 9750
    await ledger.audit()


async def test_a_child_cannot_spend_more_than_its_parent_has(ledger: Ledger) -> None:
    parent = await key(ledger, 100)
    kid = await child(ledger, parent, spend_limit_msat=1000)
    assert await ledger.hold(kid, "a", 101, 60) == Insufficient(100)  # type: ignore[arg-type]


async def test_a_daily_budget_begins_anew_at_midnight(ledger: Ledger, clock: Clock) -> None:
    clock.now = 20_000 * 86_400 - 10
    parent = await key(ledger, 10_000)
    kid = await child(ledger, parent, daily_limit_msat=1000)
    assert isinstance(await ledger.hold(kid, "late", 900, 60), Held)
    assert await ledger.hold(kid, "more", 200, 60) == LimitReached("daily", 100)  # type: ignore[arg-type]
    clock.now += 20
    assert isinstance(await ledger.hold(kid, "early", 950, 60), Held)
    await ledger.post(draft("late", 900, 100))
    assert await ledger.hold(kid, "again", 51, 60) == LimitReached("daily", 50), "yesterday's rest is not today's"  # type: ignore[arg-type]
    await ledger.post(draft("early", 950, 450))
    assert isinstance(await ledger.hold(kid, "last", 550, 60), Held)
    await ledger.audit()


async def test_a_key_past_its_end_and_a_child_of_a_closed_key_hold_nothing(ledger: Ledger, clock: Clock) -> None:
    parent = await key(ledger, 10_000)
    kid = await child(ledger, parent, expires_at=int(clock.now) + 10)
    other = await child(ledger, parent)
    assert isinstance(await ledger.hold(kid, "a", 1, 60), Held)
    clock.now += 10
    assert await ledger.hold(kid, "b", 1, 60) == KeyClosed("expired")
    assert not await ledger.revoke_key(other.id, parent=kid.id), "only whoever made it"
    await ledger.revoke_key(parent.id)
    assert await ledger.hold(other, "c", 1, 60) == KeyClosed("revoked")


async def test_a_child_under_load_never_passes_its_limit(ledger: Ledger) -> None:
    parent = await key(ledger, 100_000)
    kid = await child(ledger, parent, spend_limit_msat=1000, daily_limit_msat=900)
    outcomes = await asyncio.gather(*(ledger.hold(kid, f"r{i}", 100, 60) for i in range(64)))
    assert sum(isinstance(outcome, Held) for outcome in outcomes) == 9
    await ledger.audit()


# refunds -------------------------------------------------------------------------------------------------------------


def wish(account: Key, name: str, unit: str = "msat") -> Refund:
    return Refund(
        id=name, account=account.account, state="open", mint=MINT, unit=unit, amount_msat=MAX_MSAT, fee_msat=0, token=""
    )


async def begun(ledger: Ledger, account: Key, name: str, unit: str = "msat") -> Refund:
    refund = await ledger.begin_refund(wish(account, name, unit))
    assert isinstance(refund, Refund)
    return refund


async def test_a_refund_pays_the_whole_balance_out_once(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    assert (await begun(ledger, account, "f1")).amount_msat == 1000
    assert (await begun(ledger, account, "f2")).id == "f1", "a second one joins the first"
    done = await ledger.finish_refund("f1", token="cashuB…", fee_msat=3)
    assert await ledger.finish_refund("f1", token="another") == done
    assert await ledger.begin_refund(wish(account, "f3")) == NothingToRefund(0)  # type: ignore[arg-type]
    assert await ledger.unreceived_refunds(account.account, 5) == [done], "a lost answer can be had again"
    assert not await ledger.receive_refund("f1", account.account + 1), "only its owner can say so"
    assert await ledger.receive_refund("f1", account.account)
    assert await ledger.unreceived_refunds(account.account, 5) == []
    assert (await state(ledger, account)).available_msat == 0
    assert (await ledger.audit()).ecash_in_msat == 0


async def test_after_a_top_up_a_refund_is_a_new_one(ledger: Ledger) -> None:
    """A cache of refunds that outlives a top-up answers with a token that was spent long ago."""
    account = await paid_in(ledger, 1000)
    await begun(ledger, account, "f1")
    await ledger.finish_refund("f1", token="first")
    await ledger.begin_deposit(deposit("more", account.account))
    await ledger.credit_deposit("more", 300, 0)
    second = await begun(ledger, account, "f2")
    assert (second.id, second.amount_msat, second.token) == ("f2", 300, "")
    await ledger.finish_refund("f2", token="second")
    assert {refund.token for refund in await ledger.unreceived_refunds(account.account, 5)} == {"first", "second"}


async def test_a_top_up_while_a_refund_is_open_is_in_the_next_one(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await begun(ledger, account, "f1")
    await ledger.begin_deposit(deposit("more", account.account))
    await ledger.credit_deposit("more", 300, 0)
    assert (await begun(ledger, account, "f2")).id == "f1"
    await ledger.finish_refund("f1", token="first")
    assert (await begun(ledger, account, "f3")).amount_msat == 300


async def test_a_refund_that_cost_less_than_was_held_gives_the_rest_back(ledger: Ledger) -> None:
    """To a Lightning address, the fee is known only when it is paid."""
    account = await paid_in(ledger, 1000)
    await begun(ledger, account, "f1")
    done = await ledger.finish_refund("f1", paid_msat=980, fee_msat=5)
    assert (done.amount_msat, done.fee_msat) == (980, 5)
    assert (await state(ledger, account)).available_msat == 20
    assert (await state(ledger, account)).refundable_msat == 20
    assert (await ledger.audit()).ecash_in_msat == 20


async def test_a_failed_refund_gives_the_balance_back(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await begun(ledger, account, "f1")
    assert (await state(ledger, account)).available_msat == 0
    await ledger.fail_refund("f1")
    await ledger.fail_refund("f1")
    assert (await state(ledger, account)).available_msat == 1000


async def test_granted_credit_is_spent_first_and_never_paid_out(ledger: Ledger) -> None:
    account = await key(ledger, 500)
    assert await ledger.begin_refund(wish(account, "f0")) == NothingToRefund(500)  # type: ignore[arg-type]
    await ledger.begin_deposit(deposit("t", account.account))
    await ledger.credit_deposit("t", 1000, 0)
    await ledger.hold(account, "r", 700, 60)
    await ledger.post(draft("r", 700, 700))
    assert (await state(ledger, account)).refundable_msat == 800
    assert (await begun(ledger, account, "f1")).amount_msat == 800


async def test_what_is_less_than_a_coin_stays_on_the_account(ledger: Ledger) -> None:
    account = await paid_in(ledger, 2500)
    assert (await begun(ledger, account, "f1", "sat")).amount_msat == 2000
    await ledger.finish_refund("f1", token="t")
    assert (await state(ledger, account)).available_msat == 500


async def test_running_requests_are_not_refunded_from_under(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await ledger.hold(account, "r", 400, 60)
    assert (await begun(ledger, account, "f1")).amount_msat == 600
    await ledger.finish_refund("f1", token="t")
    await ledger.post(draft("r", 400, 100))
    assert (await state(ledger, account)).available_msat == 300
    await ledger.audit()


async def test_a_token_for_a_refund_that_was_given_up_is_an_alarm(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await begun(ledger, account, "f1")
    await ledger.fail_refund("f1")
    with pytest.raises(LedgerError, match="given up"):
        await ledger.finish_refund("f1", token="token")


# the node's own money ------------------------------------------------------------------------------------------------


def payout(amount_msat: int, name: str = "p1") -> Payout:
    return Payout(
        id=name,
        state="open",
        mint=MINT,
        unit="msat",
        amount_msat=amount_msat,
        fee_msat=0,
        recipient="op@example.com",
        instance="",
        created_at=0,
    )


async def test_payouts_leave_callers_balances_alone(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await ledger.hold(account, "r", 400, 60)
    await ledger.post(draft("r", 400, 400))
    with pytest.raises(LedgerConflict):
        await ledger.begin_payout(payout(401))
    assert (await ledger.begin_payout(payout(300))).amount_msat == 300
    assert (await ledger.begin_payout(payout(100, "p2"))).id == "p1", "one at a time"
    await ledger.finish_payout("p1", 290, 5)
    await ledger.finish_payout("p1", 290, 5)
    assert (await ledger.earnings()).available_msat == 110
    assert (await state(ledger, account)).available_msat == 600
    totals = await ledger.audit()
    assert (totals.earned_msat, totals.ecash_in_msat) == (110, 710)
    await ledger.begin_payout(payout(110, "p3"))
    await ledger.fail_payout("p3")
    assert (await ledger.earnings()).available_msat == 110
    assert [done.state for done in await ledger.payouts()] == ["failed", "done"] or len(await ledger.payouts()) == 2


async def test_what_redeeming_saved_or_lost_is_booked_once(ledger: Ledger) -> None:
    await paid_in(ledger, 1000)
    for _ in range(2):
        await ledger.book_redemption("batch", 7, 50)
    totals = await ledger.audit()
    assert (totals.earned_msat, totals.lost_msat, totals.ecash_in_msat) == (7, 50, 957)


# answers -------------------------------------------------------------------------------------------------------------


async def test_an_answer_is_kept_for_a_while(ledger: Ledger, clock: Clock) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 100, 60, "fingerprint")
    assert await ledger.hold(account, "r", 100, 60, "another") == DuplicateHold("pending", "fingerprint")
    await ledger.keep_answer("r", b"sealed", 100)
    await ledger.keep_answer("r", b"other", 100)
    assert await ledger.answer("r") == b"sealed"
    clock.now += 101
    assert await ledger.answer("r") is None


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
        "UPDATE holds SET state = 'voided' WHERE state = 'posted'",
        "UPDATE holds SET account = 9999 WHERE state = 'voided'",
        "DELETE FROM receipts",
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
        "UPDATE receipts SET account = 1",
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
    await books.forge(lie)
    with pytest.raises(LedgerError, match="do not add up"):
        await ledger.audit()


@pytest.mark.parametrize("forgery", ["UPDATE transfers SET amount_msat = 1", "DELETE FROM transfers"])
async def test_transfers_are_append_only(books: Books, forgery: str) -> None:
    await key(books.ledger, 1000)
    with pytest.raises((sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError), match="append-only"):
        await books.forge(forgery)


async def test_keys_are_stored_hashed(folder: Path) -> None:
    from node.deposits import new_key

    made = new_key()
    ledger = await Ledger.open(f"sqlite:///{folder / 'ledger.db'}")
    await ledger.create_key(made.hash, made.hint, "alice", 5)
    assert await ledger.key_of(made.hash) is not None
    await ledger.close()
    for file in folder.glob("ledger.db*"):
        assert made.text.encode() not in file.read_bytes()


async def test_one_guilty_move_does_not_spoil_its_neighbours(ledger: Ledger) -> None:
    """Moves that share a commit: the one that contradicts the books fails alone."""
    account = await key(ledger, 1000)
    await ledger.hold(account, "known", 100, 60)
    outcomes = await asyncio.gather(
        ledger.hold(account, "a", 100, 60),
        ledger.post(draft("unknown", 100, 50)),
        ledger.post(draft("known", 100, 60)),
        ledger.create_key(f"hash {next(numbers)}", "", "", 10),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], LedgerError)
    assert outcomes[0] == Held(800)  # type: ignore[arg-type]
    assert isinstance(outcomes[3], int)
    assert (await state(ledger, account)).spent_msat == 60
    await ledger.audit()


MOVES = ("hold", "post", "void", "expire", "deposit", "refund", "finish", "fail", "grant", "payout", "paid", "redeemed")

moves = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "hold",
                "post",
                "void",
                "expire",
                "deposit",
                "refund",
                "finish",
                "fail",
                "grant",
                "payout",
                "paid",
                "redeemed",
            ]
        ),
        st.integers(0, 3),
        st.integers(0, 1500),
    ),
    max_size=40,
)


def play_in_any_order(url: str, plan: list[Any]) -> None:
    """Hypothesis runs this in a loop of its own."""

    async def play() -> None:
        clock = Clock()
        ledger = await Ledger.open(url, clock)
        try:
            before = await ledger.audit()
            account = await paid_in(ledger, 2000)
            kid = await child(ledger, account, spend_limit_msat=1500, daily_limit_msat=1200)
            run = next(numbers)
            for move, which, amount in plan:
                clock.now += 1
                with contextlib.suppress(LedgerError):
                    await one(ledger, (account, kid)[which % 2], move, f"{run}-{which}", amount)
                totals = await ledger.audit()
                assert (await state(ledger, account)).available_msat >= 0
                assert totals.keys_msat + totals.held_msat + totals.earned_msat == (
                    totals.ecash_in_msat + totals.granted_msat + totals.lost_msat
                )
            assert totals_grew(before, await ledger.audit())
        finally:
            await ledger.close()

    asyncio.run(play())


def totals_grew(before: Totals, after: Totals) -> bool:
    return after.granted_msat >= before.granted_msat and after.lost_msat >= before.lost_msat


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=moves)
def test_no_order_of_moves_breaks_the_books(ledger_url: str, plan: list[Any]) -> None:
    play_in_any_order(ledger_url, plan)


async def one(ledger: Ledger, account: Key, move: str, which: str, amount: int) -> None:
    do: dict[str, Callable[[], Awaitable[object]]] = {
        "hold": lambda: ledger.hold(account, f"r{which}", amount, 5),
        "post": lambda: ledger.post(draft(f"r{which}", amount, amount // 2)),
        "void": lambda: ledger.void(f"r{which}"),
        "expire": ledger.expire_holds,
        "deposit": lambda: topped_up(ledger, f"t{which}", account, amount),
        "refund": lambda: ledger.begin_refund(wish(account, f"f{which}")),
        "finish": lambda: ledger.finish_refund(f"f{which}", token="token"),
        "fail": lambda: ledger.fail_refund(f"f{which}"),
        "grant": lambda: key(ledger, amount),
        "payout": lambda: ledger.begin_payout(payout(amount, f"p{which}")),
        "paid": lambda: ledger.finish_payout(f"p{which}", amount, 0),
        "redeemed": lambda: ledger.book_redemption(which, amount, amount // 3),
    }
    await do[move]()


async def topped_up(ledger: Ledger, name: str, account: Key, amount: int) -> None:
    await ledger.begin_deposit(deposit(name, account.account))
    await ledger.credit_deposit(name, amount, 1)
