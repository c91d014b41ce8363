"""A request whose hold does not fit the budget is refused before anything is paid; what was served counts at its cost."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from relays.pricing import ModelPrice
from router_client.client import RouterClient
from router_client.ecash.mint import MintClient
from router_client.errors import BadRequest, BudgetExceeded, MintUnavailable, NoProvider, StorageError
from router_client.paying.payments import PAYING_S
from router_client.spending.account import Entry, Outcome, Report, Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import Budget, read_budget, write_budget
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, SIGNER, TEXT, Cheat, announce, receipt
from tests.client.clock import Clock
from tests.client.till import COST_MSAT, FEES_MSAT, Till, honestly

HOUR_S, DAY_S = 3600, 86400
MINT_FEES_MSAT = 24


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def spending(folder: Path, clock: Clock) -> AsyncIterator[Spending]:
    opened = await Spending.open(folder / "spending.db", clock)
    yield opened
    opened.close()


def entry(name: str, hold_msat: int, session: str = "s") -> Entry:
    return Entry(name, session, "m", "npub1x", "cheap", hold_msat)


async def test_a_hold_counts_until_its_cost_is_known(spending: Spending) -> None:
    budget = Budget(day_msat=1000)
    await spending.reserve(entry("a", 700), budget)
    with pytest.raises(BudgetExceeded) as refused:
        await spending.reserve(entry("b", 400), budget)
    assert (refused.value.window, refused.value.left_msat, refused.value.would_msat) == ("day", 300, 400)
    await spending.settle("a", Outcome(100, 50))
    await spending.reserve(entry("b", 400), budget)
    await spending.release("b")
    assert spending.spent("s")["day"] == 100
    await spending.release("a")
    assert spending.spent("s")["day"] == 100, "what is settled stays"


async def test_what_is_paid_with_beyond_a_hold_is_taken_too_as_far_as_there_is(spending: Spending) -> None:
    budget = Budget(day_msat=1000)
    assert await spending.reserve(Entry("a", "s", "m", "n", "cheap", 400, 500), budget) == 500
    assert await spending.reserve(Entry("b", "s", "m", "n", "cheap", 450, 560), budget) == 500
    assert spending.spent("s")["day"] == 1000


async def test_each_window_has_its_own_end(spending: Spending, clock: Clock) -> None:
    await spending.reserve(entry("a", 500), Budget())
    await spending.settle("a", Outcome(500))
    for budget, passes_after in ((Budget(hour_msat=500), HOUR_S), (Budget(day_msat=500), DAY_S - HOUR_S)):
        with pytest.raises(BudgetExceeded):
            await spending.reserve(entry("b", 1), budget)
        clock.now += passes_after
        await spending.reserve(entry("b", 1), budget)
        await spending.release("b")
    with pytest.raises(BudgetExceeded, match="session"):
        await spending.reserve(entry("b", 1), Budget(session_msat=500))
    await spending.reserve(entry("b", 1, "another"), Budget(session_msat=500))
    with pytest.raises(BudgetExceeded, match="request"):
        await spending.reserve(entry("c", 11), Budget(request_msat=10))


async def test_many_at_once_never_reserve_more_than_there_is(spending: Spending) -> None:
    async def one(number: int) -> bool:
        try:
            await spending.reserve(entry(str(number), 100), Budget(hour_msat=1000))
        except BudgetExceeded:
            return False
        return True

    assert sum(await asyncio.gather(*(one(number) for number in range(64)))) == 10


async def test_what_was_cut_off_counts_with_its_hold_after_a_restart(folder: Path, clock: Clock) -> None:
    spending = await Spending.open(folder / "spending.db", clock)
    await spending.reserve(entry("a", 700), Budget())
    spending.close()
    again = await Spending.open(folder / "spending.db", clock)
    with pytest.raises(BudgetExceeded):
        await again.reserve(entry("b", 400), Budget(day_msat=1000))
    (line,) = again.lines(DAY_S)
    assert (line.open, line.spent_msat) == (1, 700)
    again.close()


def test_the_file_is_the_users_and_one_that_cannot_be_read_stops_everything(folder: Path) -> None:
    path = folder / "budget.json"
    assert read_budget(path) == Budget()
    write_budget(path, Budget(day_msat=1000))
    assert read_budget(path) == Budget(day_msat=1000)
    assert path.stat().st_mode & 0o077 == 0
    for broken in ("{", '{"day_msat": -1}', '{"week_msat": 1}'):
        path.write_text(broken)
        with pytest.raises(StorageError):
            read_budget(path)


async def test_a_client_pays_within_its_budget_and_says_what_is_left(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending
) -> None:
    announce(buyer, cheat, mint_url)
    cheat.chat = [TEXT, receipt(), DONE]
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    ((candidate,),) = (((await buyer.choice(BODY))[1].candidates),)
    hold_msat = candidate.hold_msat
    buyer._serving.allowance = Allowance(spending, Budget(day_msat=hold_msat + 101))
    balance_msat = buyer.wallet.balance_msat()
    answer = await buyer.chat(BODY)
    assert answer.cost_msat == 102
    assert answer.budget_left_msat == hold_msat - 1
    (line,) = Report(24, tuple(spending.lines(DAY_S))).lines
    assert (line.model, line.node, line.requests, line.spent_msat, line.open) == ("m", answer.node, 1, 102, 0)
    balance_msat, cheat.asked = buyer.wallet.balance_msat(), []
    with pytest.raises(BudgetExceeded) as refused:
        await buyer.chat(BODY)
    assert refused.value.would_msat == hold_msat
    assert cheat.asked == []
    assert buyer.wallet.balance_msat() == balance_msat


async def test_what_was_not_served_is_not_spent(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending
) -> None:
    announce(buyer, cheat, mint_url)
    buyer._serving.allowance = Allowance(spending, Budget())
    cheat.chat_status = 502
    with pytest.raises(NoProvider):
        await buyer.chat(BODY)
    assert spending.lines(DAY_S) == []


async def test_money_that_a_node_keeps_is_spent_and_it_is_not_asked_again(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending
) -> None:
    """It takes the token, answers that it is full, and gives nothing back."""
    announce(buyer, cheat, mint_url)
    buyer._serving.allowance = Allowance(spending, Budget(day_msat=100_000))

    async def takes(token: str) -> None:
        await cheat.wallet.receive(token, "theft")

    cheat.on_payment, cheat.chat_status = takes, 429
    before_msat = buyer.wallet.balance_msat()
    with pytest.raises(NoProvider):
        await buyer.chat(BODY)
    gone_msat = before_msat - buyer.wallet.balance_msat()
    assert gone_msat > 0
    assert cheat.asked.count("/v1/chat/completions") == 1
    assert 0 < spending.spent("")["day"] <= gone_msat


async def test_what_the_judge_thought_of_an_answer_is_in_the_report_and_the_users_word_replaces_it(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending
) -> None:
    announce(buyer, cheat, mint_url)
    buyer._serving.allowance = Allowance(spending)
    cheat.chat = [TEXT, receipt(), DONE]
    answer = await buyer.chat(BODY)
    assert answer.confidence is not None
    assert [line.quality for line in spending.lines(DAY_S)] == [answer.confidence]
    assert await buyer.tell(answer.request_id, 0.0)
    assert [line.quality for line in spending.lines(DAY_S)] == [0.0]
    assert not await buyer.tell("another", 0.0)
    with pytest.raises(BadRequest):
        await buyer.tell(answer.request_id, 7.0)


async def test_the_quality_of_a_report_is_that_of_the_answers_that_were_judged(spending: Spending) -> None:
    """A node with many answers counts with those of which something was said."""
    for number, (node, quality) in enumerate([("good", 1.0), *[("good", None)] * 9, ("bad", 0.0)]):
        await spending.reserve(Entry(str(number), "s", "m", node, "cheap", 1), Budget())
        await spending.settle(str(number), Outcome(1, quality=quality))
    report = Report(24, tuple(spending.lines(DAY_S)))
    assert (report.requests, report.quality) == (11, 0.5)


async def test_an_account_of_before_goes_on(folder: Path, clock: Clock) -> None:
    """Its rows have no request's id."""
    spending = await Spending.open(folder / "spending.db", clock)
    await spending.reserve(entry("a", 700), Budget())
    await spending._db.run(lambda conn: conn.execute("ALTER TABLE spending DROP COLUMN request_id").close())
    spending.close()
    again = await Spending.open(folder / "spending.db", clock)
    await again.settle("a", Outcome(100, request_id="r"))
    assert await again.grade("r", 1.0)
    assert not await again.grade("", 1.0)
    again.close()


@pytest.mark.parametrize("withholds", [True, False])
async def test_change_that_is_out_counts_and_is_held_against_the_node_unless_the_mint_is_down(
    buyer: RouterClient,
    cheat: Cheat,
    mint_url: str,
    spending: Spending,
    monkeypatch: pytest.MonkeyPatch,
    withholds: bool,
) -> None:
    """A true small receipt with no change would drain a wallet unseen."""
    buyer._serving.allowance = Allowance(spending, Budget())
    taken_msat: list[int] = []

    async def takes(token: str) -> None:
        taken_msat.append((await cheat.wallet.receive(token, "theft")).amount_msat)

    async def down(*_: object) -> None:
        raise MintUnavailable("it is down")

    if withholds:
        cheat.on_payment = takes
    else:
        cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
        monkeypatch.setattr(buyer.wallet, "reclaim", down)
    cheat.chat = [TEXT, receipt(), DONE]
    announce(buyer, cheat, mint_url)
    answer = await buyer.chat(BODY)
    assert (answer.cost_msat, answer.settled) == (102, False)
    assert spending.lines(60)[0].spent_msat >= max(taken_msat, default=300), "all that was paid with"
    health = buyer._serving._given.healths.of(SIGNER.pubkey)
    assert (health.failed_in_a_row, len(buyer._serving._sessions)) == ((1, 0) if withholds else (0, 1))
    monkeypatch.undo()
    await buyer.recover()
    left_msat = spending.lines(60)[0].spent_msat
    assert left_msat >= max(taken_msat, default=0)
    assert withholds or left_msat <= MINT_FEES_MSAT, "the mint is back, and so is the money"


@pytest.mark.parametrize("is_locked", [True, False])
async def test_change_that_the_mint_kept_waiting_is_back_though_its_node_knows_nothing_of_it_any_more(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending, is_locked: bool
) -> None:
    """The wallet takes it in by itself when the mint is there again; the node then calls it spent, which it is."""
    buyer._serving.allowance = Allowance(spending, Budget())
    announce(buyer, cheat, mint_url, cheat.wallet.lock_key if is_locked else None)
    Till(cheat, mint_url, honestly)
    settle = buyer.payments.settle

    async def silent(*_: object) -> None:
        raise MintUnavailable("no answer")

    with pytest.MonkeyPatch.context() as away:

        async def in_silence(*how: Any) -> object:
            away.setattr(MintClient, "swap", silent)
            return await settle(*how)

        away.setattr(buyer.payments, "settle", in_silence)
        assert not (await buyer.chat(BODY)).settled
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    before = buyer.wallet.balance_msat()
    assert await buyer.recover() == buyer.wallet.balance_msat() - before > 200
    assert COST_MSAT <= spending.lines(60)[0].spent_msat <= COST_MSAT + FEES_MSAT
    assert buyer.payments.out() == []


async def test_a_caller_who_leaves_has_the_budget_back_with_the_money(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending
) -> None:
    buyer._serving.allowance = Allowance(spending, Budget())
    asked, may_go = asyncio.Event(), asyncio.Event()

    async def waits(_: str) -> None:
        asked.set()
        await may_go.wait()

    cheat.on_payment = waits
    announce(buyer, cheat, mint_url)
    calling = asyncio.create_task(buyer.chat(BODY))
    await asked.wait()
    assert spending.spent("")["day"] > 300
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    del calling
    may_go.set()
    async with asyncio.timeout(10):
        while buyer.payments.open_count():  # what the call held goes with it in a moment, its payment among it
            gc.collect()
            await asyncio.sleep(0.01)
            await buyer.recover()
    assert spending.spent("")["day"] <= MINT_FEES_MSAT


async def test_what_was_cut_off_before_it_was_paid_is_free_again(
    buyer: RouterClient, spending: Spending, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mint that is asked for the first time may take its time, and the caller may not have that."""
    buyer._serving.allowance = Allowance(spending, Budget())
    reserved = asyncio.Event()

    async def thinks(*_: object, **__: object) -> None:
        reserved.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(buyer.payments, "pay", thinks)
    calling = asyncio.create_task(buyer.chat(BODY))
    await reserved.wait()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    await buyer.recover()
    assert [line.open for line in spending.lines(DAY_S)] == [1], "another process may be about to pay"
    clock.now += PAYING_S + 1
    await buyer.recover()
    assert spending.lines(DAY_S) == []


async def test_what_was_paid_is_not_free_before_its_money_is_back(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending, clock: Clock
) -> None:
    key = cheat.wallet.lock_key
    paid = await buyer.payments.pay(cheat.url, mint_url, "msat", 700, lock=key, payment_id="one")
    await buyer.payments.keep(paid)
    await buyer.payments.pay(cheat.url, mint_url, "msat", 700, lock=key, payment_id="two")
    buyer._serving.allowance = Allowance(spending, Budget())
    for name in ("one", "two", "three"):
        await spending.reserve(entry(name, 700), Budget())
    clock.now += PAYING_S + 1
    await buyer.recover()
    assert spending.spent("s")["day"] == 2 * 700


async def test_a_cascade_that_fails_tells_of_what_the_nodes_of_all_tiers_kept(
    buyer: RouterClient, cheat: Cheat, mint_url: str
) -> None:
    announce(buyer, cheat, mint_url)
    (known,) = buyer.directory.known()
    (cheap,) = known.offers
    dear = msgspec.structs.replace(cheap, id="dear", price=ModelPrice(20_000_000, 80_000_000))
    announcement = msgspec.structs.replace(known.announcement, models=(cheap, dear))
    buyer.directory._providers = (msgspec.structs.replace(known, announcement=announcement),)
    taken_msat: list[int] = []

    async def takes(token: str) -> None:
        taken_msat.append((await cheat.wallet.receive(token, f"theft {len(taken_msat)}")).amount_msat)

    cheat.on_payment, cheat.chat_status = takes, 500
    with pytest.raises(NoProvider) as failed:
        await buyer.chat({**BODY, "model": "auto", "routing": {"cascade": True}})
    assert len(taken_msat) == 2
    assert failed.value.out_msat >= sum(taken_msat)
