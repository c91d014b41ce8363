"""The ledger's contract, which SQLite and PostgreSQL both keep: a request's hold ends once and nothing goes below zero."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.errors import LedgerError
from node.ledger.audit import Totals
from node.ledger.ledger import Ledger
from node.ledger.model import (
    DuplicateHold,
    Held,
    Insufficient,
    Key,
)
from relays.money import Msat
from tests.node.books import Clock, child, deposit, key, numbers, paid_in, payout, state, wish
from tests.node.drafts import draft


async def test_a_hold_takes_and_a_post_gives_the_rest_back(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    assert await ledger.hold(account, "r", 600, 60) == Held(Msat(400))
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
    assert await ledger.hold(account, "r", 101, 60) == Insufficient(Msat(100))
    assert (await state(ledger, account)).held_msat == 0


async def test_a_charge_above_the_hold_is_impossible(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 100, 60)
    with pytest.raises(LedgerError, match="its hold is"):
        await ledger.post(draft("r", 100, 101))
    with pytest.raises(LedgerError, match="another hold"):
        await ledger.post(draft("r", 101, 50))
    assert (await state(ledger, account)).held_msat == 100


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
    assert outcomes[0] == Held(Msat(800))
    assert isinstance(outcomes[3], int)
    assert (await state(ledger, account)).spent_msat == 60
    await ledger.audit()


MOVES = ("hold", "post", "void", "expire", "deposit", "refund", "finish", "fail", "grant", "payout", "paid", "redeemed")


async def test_what_a_crash_left_is_charged_by_what_was_noted_of_it(ledger_url: str, clock: Clock) -> None:
    """A stream of which nothing was noted is free; and a note is of no use once its request has ended."""
    first = await Ledger.open(ledger_url, clock)
    account = await key(first, 1000)
    for name in ("streamed", "begun", "voided", "posted"):
        await first.hold(account, name, 100, 60)
    await first.note_progress([draft("streamed", 100, 30), draft("voided", 100, 30), draft("posted", 100, 30)])
    await first.note_progress([draft("streamed", 100, 40), draft("posted", 100, 30)])
    await first.void("voided")
    await first.post(draft("posted", 100, 7))
    await first.close()
    again = await Ledger.open(ledger_url, clock)
    assert await again.expire_orphans() == 2
    state_now = await again.account(account.account)
    assert (state_now.available_msat, state_now.held_msat, state_now.spent_msat) == (953, 0, 47)
    receipt = await again.receipt("streamed", account.account)
    assert receipt is not None
    assert receipt.receipt.cost_msat == 40
    assert await again.receipt("begun", account.account) is None
    await again.note_progress([draft("streamed", 100, 99)])
    assert await again.expire_orphans() == 0
    await again.audit()
    await again.close()


async def test_an_answer_is_kept_for_a_while(ledger: Ledger, clock: Clock) -> None:
    account = await key(ledger, 1000)
    await ledger.hold(account, "r", 100, 60, "fingerprint")
    assert await ledger.hold(account, "r", 100, 60, "another") == DuplicateHold("pending", "fingerprint")
    await ledger.keep_answer("r", b"sealed", 100)
    await ledger.keep_answer("r", b"other", 100)
    assert await ledger.answer("r") == b"sealed"
    clock.now += 101
    assert await ledger.answer("r") is None


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


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
