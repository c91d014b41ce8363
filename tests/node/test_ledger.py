"""The ledger's contract: holds end once, nothing goes below zero, every repeat is harmless, and the audit sees any lie."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.errors import LedgerError
from node.ledger.ledger import Ledger
from node.ledger.model import Deposit, DuplicateHold, Held, Insufficient, NothingToRefund, Refund
from relays.pricing import ModelPrice, Usage
from relays.receipt import Receipt

MINT = "https://mint.example"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(folder: Path, clock: Clock) -> Iterator[Ledger]:
    opened = Ledger(folder / "ledger.db", clock)
    yield opened
    opened.close()


numbers = itertools.count()


async def key(ledger: Ledger, grant_msat: int = 0) -> int:
    return await ledger.create_key(f"hash {next(numbers)}", "sk-…x", "", grant_msat)


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


async def paid_in(ledger: Ledger, amount_msat: int) -> int:
    name = f"deposit {next(numbers)}"
    await ledger.begin_deposit(deposit(name, amount=amount_msat))
    return await ledger.credit_deposit(name, amount_msat, 0)


def draft(request_id: str, hold_msat: int, cost_msat: int) -> Receipt:
    return Receipt(
        request_id=request_id,
        model="m",
        usage=Usage(1, 1),
        metered="upstream",
        outcome="complete",
        price=ModelPrice(1, 1),
        hold_msat=hold_msat,
        cost_msat=cost_msat,
        balance_msat=0,
    )


async def test_a_hold_takes_and_a_post_gives_the_rest_back(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    assert await ledger.hold(account, "r", 600, 60) == Held(400)  # type: ignore[arg-type]
    posted = await ledger.post(draft("r", 600, 250))
    assert posted.receipt.balance_msat == 750
    after = ledger.account(account)
    assert (after.available_msat, after.held_msat, after.spent_msat) == (750, 0, 250)
    assert (await ledger.audit()).earned_msat == 250


async def test_posting_again_changes_nothing_and_answers_the_same(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 600, 60)
    first = await ledger.post(draft("r", 600, 250))
    assert await ledger.post(draft("r", 600, 999)) == first
    assert ledger.account(account).available_msat == 750
    assert not await ledger.void("r")


async def test_a_void_gives_all_back_once(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 600, 60)
    assert await ledger.void("r")
    assert not await ledger.void("r")
    assert ledger.account(account).available_msat == 1000
    with pytest.raises(LedgerError):
        await ledger.post(draft("r", 600, 1))


async def test_a_request_id_holds_once(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 100, 60)
    assert await ledger.hold(account, "r", 100, 60) == DuplicateHold()
    assert ledger.account(account).held_msat == 100


async def test_more_than_there_is_is_not_held(ledger: Ledger) -> None:
    account = await key(ledger, 100)
    assert await ledger.hold(account, "r", 101, 60) == Insufficient(100)  # type: ignore[arg-type]
    assert ledger.account(account).held_msat == 0


async def test_a_charge_above_the_hold_is_impossible(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 100, 60)
    with pytest.raises(sqlite3.IntegrityError, match="never_above_the_hold"):
        await ledger.post(draft("r", 100, 101))
    with pytest.raises(LedgerError, match="another hold"):
        await ledger.post(draft("r", 101, 50))
    assert ledger.account(account).held_msat == 100


async def test_a_revoked_key_holds_nothing(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    assert await ledger.revoke_key(account)
    assert isinstance(await ledger.hold(account, "r", 1, 60), Insufficient)
    assert not await ledger.revoke_key(999)
    assert not await ledger.revoke_key(1), "the node's own account is no key"


async def test_sixty_four_at_once_with_money_for_ten(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    outcomes = await asyncio.gather(*(ledger.hold(account, f"r{i}", 100, 60) for i in range(64)))
    assert sum(isinstance(outcome, Held) for outcome in outcomes) == 10
    assert ledger.account(account).available_msat == 0
    await ledger.audit()


async def test_holds_expire_by_the_clock_and_at_a_restart(ledger: Ledger, clock: Clock) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "short", 100, 10)
    await ledger.hold(account, "long", 100, 1000)
    assert await ledger.expire_holds() == 0
    clock.now += 11
    assert await ledger.expire_holds() == 1
    assert ledger.account(account).held_msat == 100
    assert await ledger.expire_orphans() == 1
    assert ledger.account(account).available_msat == 1000
    with pytest.raises(LedgerError, match="expired"):
        await ledger.post(draft("long", 100, 5))


async def test_a_token_is_credited_once(ledger: Ledger) -> None:
    assert (await ledger.begin_deposit(deposit("t"))).state == "open"
    account = await ledger.credit_deposit("t", 990, 10)
    assert await ledger.credit_deposit("t", 990, 10) == account
    assert (await ledger.begin_deposit(deposit("t"))).state == "credited"
    assert ledger.account(account).available_msat == 990
    assert ledger.account_of_token("t") == (account, False)
    assert (await ledger.audit()).ecash_in_msat == 990


async def test_a_top_up_does_not_make_its_token_a_key_to_the_account(ledger: Ledger) -> None:
    account = await key(ledger, 0)
    await ledger.begin_deposit(deposit("t", account))
    assert await ledger.credit_deposit("t", 500, 0) == account
    assert ledger.account_of_token("t") is None


async def test_a_failed_deposit_can_be_tried_again(ledger: Ledger) -> None:
    await ledger.begin_deposit(deposit("t"))
    await ledger.fail_deposit("t", "the mint said no")
    failed = ledger.deposit("t")
    assert failed is not None
    assert (failed.state, failed.reason) == ("failed", "the mint said no")
    assert (await ledger.begin_deposit(deposit("t"))).state == "open"
    assert ledger.open_deposits() == [deposit("t")]


async def begun(ledger: Ledger, account: int, name: str, unit: str = "msat") -> Refund:
    refund = await ledger.begin_refund(account, name, MINT, unit)
    assert isinstance(refund, Refund)
    return refund


async def test_a_refund_pays_the_whole_balance_out_once(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    assert (await begun(ledger, account, "f1")).amount_msat == 1000
    assert (await begun(ledger, account, "f2")).id == "f1", "a second one joins the first"
    done = await ledger.finish_refund("f1", "cashuB…", 3)
    assert await ledger.finish_refund("f1", "another", 0) == done
    assert (await begun(ledger, account, "f3")) == done, "a lost answer can be had again"
    assert ledger.account(account).available_msat == 0
    assert (await ledger.audit()).ecash_in_msat == 0


async def test_after_a_top_up_a_refund_is_a_new_one(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await begun(ledger, account, "f1")
    await ledger.finish_refund("f1", "first", 0)
    await ledger.begin_deposit(deposit("more", account))
    await ledger.credit_deposit("more", 300, 0)
    second = await begun(ledger, account, "f2")
    assert (second.id, second.amount_msat, second.token) == ("f2", 300, "")
    await ledger.finish_refund("f2", "second", 0)
    assert (await begun(ledger, account, "f3")).token == "second"


async def test_a_failed_refund_gives_the_balance_back(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await begun(ledger, account, "f1")
    assert ledger.account(account).available_msat == 0
    await ledger.fail_refund("f1")
    await ledger.fail_refund("f1")
    assert ledger.account(account).available_msat == 1000


async def test_granted_credit_is_spent_first_and_never_paid_out(ledger: Ledger) -> None:
    account = await key(ledger, 500)
    assert await ledger.begin_refund(account, "f0", MINT, "msat") == NothingToRefund(500)  # type: ignore[arg-type]
    await ledger.begin_deposit(deposit("t", account))
    await ledger.credit_deposit("t", 1000, 0)
    await ledger.hold(account, "r", 700, 60)
    await ledger.post(draft("r", 700, 700))
    assert ledger.refundable_msat(account) == 800
    assert (await begun(ledger, account, "f1")).amount_msat == 800


async def test_what_is_less_than_a_coin_stays_on_the_account(ledger: Ledger) -> None:
    account = await paid_in(ledger, 2500)
    assert (await begun(ledger, account, "f1", "sat")).amount_msat == 2000
    await ledger.finish_refund("f1", "t", 0)
    assert ledger.account(account).available_msat == 500


async def test_running_requests_are_not_refunded_from_under(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await ledger.hold(account, "r", 400, 60)
    assert (await begun(ledger, account, "f1")).amount_msat == 600
    await ledger.finish_refund("f1", "t", 0)
    await ledger.post(draft("r", 400, 100))
    assert ledger.account(account).available_msat == 300
    await ledger.audit()


async def test_the_books_survive_a_restart(folder: Path) -> None:
    first = Ledger(folder / "x.db")
    account = await key(first, 1000)
    await first.hold(account, "r", 600, 60)
    await first.post(draft("r", 600, 250))
    first.close()
    second = Ledger(folder / "x.db")
    assert second.account(account).available_msat == 750
    assert second.receipt("r", account) is not None
    assert second.receipt("r", account + 1) is None, "a receipt is for who paid"
    await second.audit()
    second.close()


async def test_a_later_version_is_not_touched(folder: Path) -> None:
    Ledger(folder / "x.db").close()
    with sqlite3.connect(folder / "x.db") as conn:
        conn.execute("PRAGMA user_version=99")
    conn.close()
    with pytest.raises(LedgerError, match="version 99"):
        Ledger(folder / "x.db")


@pytest.mark.parametrize(
    "lie",
    [
        "UPDATE accounts SET available_msat = available_msat + 1 WHERE kind = 'key'",
        "UPDATE accounts SET available_msat = available_msat + 1 WHERE kind = 'node'",
        "UPDATE accounts SET held_msat = held_msat + 1, available_msat = available_msat - 1 WHERE kind = 'key'",
        "UPDATE holds SET posted_msat = posted_msat - 1 WHERE state = 'posted'",
        "UPDATE holds SET state = 'voided' WHERE state = 'posted'",
        "DELETE FROM receipts",
        "UPDATE deposits SET amount_msat = amount_msat + 1",
    ],
)
async def test_the_audit_sees_any_lie(ledger: Ledger, folder: Path, lie: str) -> None:
    account = await paid_in(ledger, 1000)
    await ledger.hold(account, "r", 600, 60)
    await ledger.post(draft("r", 600, 250))
    await ledger.audit()
    with sqlite3.connect(folder / "ledger.db") as conn:
        assert conn.execute(lie).rowcount >= 1
    conn.close()
    with pytest.raises(LedgerError, match="do not add up"):
        await ledger.audit()


@pytest.mark.parametrize("forgery", ["UPDATE transfers SET amount_msat = 1", "DELETE FROM transfers"])
async def test_transfers_are_append_only(ledger: Ledger, folder: Path, forgery: str) -> None:
    await key(ledger, 1000)
    with sqlite3.connect(folder / "ledger.db") as conn, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        conn.execute(forgery)
    conn.close()


async def test_keys_are_stored_hashed(ledger: Ledger, folder: Path) -> None:
    from node.deposits import new_key

    made = new_key()
    account = await ledger.create_key(made.hash, made.hint, "alice", 5)
    assert ledger.account_of_key(made.hash) == (account, False)
    ledger.close()
    for file in folder.glob("ledger.db*"):
        assert made.text.encode() not in file.read_bytes()


moves = st.lists(
    st.tuples(
        st.sampled_from(["hold", "post", "void", "expire", "deposit", "refund", "finish", "fail", "grant"]),
        st.integers(0, 3),
        st.integers(0, 1500),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves)
def test_no_order_of_moves_breaks_the_books(tmp_path_factory: pytest.TempPathFactory, plan: list[Any]) -> None:
    async def play() -> None:
        clock = Clock()
        ledger = Ledger(tmp_path_factory.mktemp("play") / "x.db", clock)
        try:
            account = await paid_in(ledger, 2000)
            for move, which, amount in plan:
                clock.now += 1
                with contextlib.suppress(LedgerError, sqlite3.IntegrityError):
                    await one(ledger, account, move, which, amount)
                totals = await ledger.audit()
                assert ledger.account(account).available_msat >= 0
                assert totals.keys_msat + totals.held_msat + totals.earned_msat == (
                    totals.ecash_in_msat + totals.granted_msat
                )
        finally:
            ledger.close()

    asyncio.run(play())


async def one(ledger: Ledger, account: int, move: str, which: int, amount: int) -> None:
    match move:
        case "hold":
            await ledger.hold(account, f"r{which}", amount, 5)
        case "post":
            await ledger.post(draft(f"r{which}", amount, amount // 2))
        case "void":
            await ledger.void(f"r{which}")
        case "expire":
            await ledger.expire_holds()
        case "deposit":
            await ledger.begin_deposit(deposit(f"t{which}", account))
            await ledger.credit_deposit(f"t{which}", amount, 1)
        case "refund":
            await ledger.begin_refund(account, f"f{which}", MINT, "msat")
        case "finish":
            await ledger.finish_refund(f"f{which}", "token", 0)
        case "fail":
            await ledger.fail_refund(f"f{which}")
        case "grant":
            await key(ledger, amount)


async def test_a_token_for_a_refund_that_was_given_up_is_an_alarm(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await begun(ledger, account, "f1")
    await ledger.fail_refund("f1")
    with pytest.raises(LedgerError, match="given up"):
        await ledger.finish_refund("f1", "token", 0)
