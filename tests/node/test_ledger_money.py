"""Money in and out of the books, on both databases: deposits, refunds, payouts, what redeeming saved or lost; each once."""

from __future__ import annotations

import pytest

from node.errors import LedgerConflict, LedgerError
from node.ledger.ledger import Ledger
from node.ledger.model import (
    NothingToRefund,
)
from relays.money import Msat
from tests.node.books import begun, deposit, key, paid_in, payout, state, wish
from tests.node.drafts import draft


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


async def test_a_refund_pays_the_whole_balance_out_once(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    assert (await begun(ledger, account, "f1")).amount_msat == 1000
    assert (await begun(ledger, account, "f2")).id == "f1", "a second one joins the first"
    done = await ledger.finish_refund("f1", token="cashuB…", fee_msat=3)
    assert await ledger.finish_refund("f1", token="another") == done
    assert await ledger.begin_refund(wish(account, "f3")) == NothingToRefund(Msat(0))
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
    assert await ledger.begin_refund(wish(account, "f0")) == NothingToRefund(Msat(500))
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


async def test_what_a_mint_took_beyond_a_refund_is_the_operators_loss(ledger: Ledger) -> None:
    """It kept the change of a payment. The caller bears no more than the balance, and the refund is over."""
    account = await paid_in(ledger, 1000)
    await paid_in(ledger, 500)
    await begun(ledger, account, "f1")
    for _ in range(2):
        done = await ledger.finish_refund("f1", paid_msat=1200, fee_msat=500)
        assert (done.state, done.amount_msat, done.fee_msat) == ("done", 1000, 300), "what arrived is told"
    now = await state(ledger, account)
    assert (now.available_msat, now.held_msat, now.refundable_msat) == (0, 0, 0)
    totals = await ledger.audit()
    assert (totals.keys_msat, totals.lost_msat, totals.ecash_in_msat) == (500, 200, 300)


# the node's own money ------------------------------------------------------------------------------------------------


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


async def test_what_a_mint_took_beyond_a_payout_is_a_loss(ledger: Ledger) -> None:
    account = await paid_in(ledger, 1000)
    await ledger.hold(account, "r", 400, 60)
    await ledger.post(draft("r", 400, 400))
    await ledger.begin_payout(payout(300))
    for _ in range(2):
        await ledger.finish_payout("p1", 350, 60)
    (done,) = await ledger.payouts()
    assert (done.state, done.amount_msat, done.fee_msat) == ("done", 300, 10)
    totals = await ledger.audit()
    assert (totals.earned_msat, totals.lost_msat, totals.ecash_in_msat) == (100, 50, 650)


async def test_what_is_being_paid_out_is_not_free_any_more(ledger: Ledger) -> None:
    """Else a fee that is taken beside a payout would be a caller's."""
    account = await paid_in(ledger, 1000)
    await ledger.hold(account, "r", 400, 60)
    await ledger.post(draft("r", 400, 400))
    assert await ledger.free_msat() == 400
    await ledger.begin_payout(payout(300))
    assert await ledger.free_msat() == 100
    await ledger.finish_payout("p1", 290, 5)
    assert await ledger.free_msat() == 110


async def test_granted_credit_that_was_spent_is_no_money_to_pay_out(ledger: Ledger) -> None:
    await paid_in(ledger, 1000)
    granted = await key(ledger, 500)
    await ledger.hold(granted, "r", 400, 60)
    await ledger.post(draft("r", 400, 400))
    assert (await ledger.earnings()).available_msat == 400
    assert await ledger.free_msat() == 0
    with pytest.raises(LedgerConflict):
        await ledger.begin_payout(payout(1))
    assert await ledger.open_payouts() == []
    await ledger.audit()


async def test_what_redeeming_saved_or_lost_is_booked_once(ledger: Ledger) -> None:
    await paid_in(ledger, 1000)
    for _ in range(2):
        await ledger.book_redemption("batch", 7, 50)
    totals = await ledger.audit()
    assert (totals.earned_msat, totals.lost_msat, totals.ecash_in_msat) == (7, 50, 957)


# answers -------------------------------------------------------------------------------------------------------------
