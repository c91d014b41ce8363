"""Where it is wished, a second node is asked when the first is late: the quicker one serves, the other gives its money back,
and the budget has room for both or there is no second."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web

from relays.event import Signer
from relays.pricing import ModelPrice
from router_client.buying.hedging import Race, Runner
from router_client.buying.reading import Reader
from router_client.buying.tries import Tries
from router_client.client import RouterClient
from router_client.discovery.directory import Provider
from router_client.errors import NodeError, NoProvider
from router_client.routing.candidates import Candidate
from router_client.routing.health import Healths
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import Budget
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, PRICE, TEXT, Cheat, announce, receipt, serving

HEDGED = BODY | {"routing": {"hedge": True}}
DEARER = ModelPrice(PRICE.prompt_msat_per_mtok * 11 // 10, PRICE.completion_msat_per_mtok * 11 // 10)
COST_MSAT = 102
MINUTE_S = 60.0


@pytest.fixture
async def spending(folder: Path) -> AsyncIterator[Spending]:
    opened = await Spending.open(folder / "spending.db")
    yield opened
    opened.close()


class Slow(Cheat):
    """Says nothing until it may."""

    def __init__(self, wallet: Any) -> None:
        super().__init__(wallet)
        self.may = asyncio.Event()
        self.may_quote = asyncio.Event()
        self.may_quote.set()
        self.on_payment = self.waits

    async def on_quote(self, request: web.Request) -> web.StreamResponse:
        await self.may_quote.wait()
        return await super().on_quote(request)

    async def waits(self, _: str) -> None:
        await self.may.wait()


@pytest.fixture
async def slow(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Slow]:
    """The cheaper of two nodes, which is late; the other is `cheat`."""
    announce(buyer, cheat, mint_url)
    (quick,) = buyer.directory.known()
    cheat.chat = [TEXT, receipt(), DONE]
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    node = Slow(cheat.wallet)
    node.chat = [TEXT, DONE]
    async with serving(node):
        dearer = msgspec.structs.replace(quick.offers[0], price=DEARER)
        late = msgspec.structs.replace(
            quick.announcement, pubkey=Signer.generate().pubkey, urls=(node.url,), name="slow"
        )
        quick = Provider(msgspec.structs.replace(quick.announcement, models=(dearer,)), quick.url)
        buyer.directory._providers = (quick, Provider(late, node.url))
        buyer._serving._given.rng = None
        buyer._serving.allowance = Allowance(spending)
        monkeypatch.setattr(Healths, "late_s", lambda *_: 0.02)
        yield node
        node.may.set()
        node.may_quote.set()


async def test_a_reader_hears_the_one_that_serves_alone(buyer: RouterClient, slow: Slow) -> None:
    heard: list[str] = []
    await buyer.chat(HEDGED, on_text=heard.append)
    slow.may.set()
    await buyer.close()
    assert heard == ["hello"]


async def test_the_quicker_one_serves_and_the_others_money_comes_back(
    buyer: RouterClient, cheat: Cheat, slow: Slow, spending: Spending
) -> None:
    before_msat = buyer.wallet.balance_msat()
    answer = await buyer.chat(HEDGED)
    await buyer.close()
    assert (answer.node_name, answer.text) == ("cheat", "hello")
    assert slow.asked[0] == "/v1/chat/completions"
    assert buyer.payments.open_count() <= 1, "the one whose change this node does not give"
    assert [(line.model, line.spent_msat, line.open) for line in spending.lines(MINUTE_S)] == [("m", COST_MSAT, 0)]
    await buyer.recover()
    assert before_msat - buyer.wallet.balance_msat() <= COST_MSAT + 12, "the mint's fees alone"
    late = next(p for p in buyer.directory.known() if p.announcement.name == "slow").announcement.pubkey
    health = buyer._serving._given.healths.of(late)
    assert (health.in_flight, health.failed_in_a_row) == (0, 0)
    assert health.wait_s is not None


async def test_what_the_slower_one_keeps_is_spent(
    buyer: RouterClient, cheat: Cheat, slow: Slow, spending: Spending, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def takes(token: str) -> None:
        await cheat.wallet.receive(token, "theft")
        await slow.may.wait()

    monkeypatch.setattr("router_client.buying.purchase.LEFT_PAUSES_S", (0.0,))
    monkeypatch.setattr(Healths, "late_s", lambda *_: 0.3)
    slow.on_payment = takes
    await buyer.chat(HEDGED)
    await buyer.close()
    spent = sorted(line.spent_msat for line in spending.lines(MINUTE_S))
    assert spent[0] == COST_MSAT
    assert spent[1] > COST_MSAT, "all that was paid with"
    late = next(p for p in buyer.directory.known() if p.announcement.name == "slow").announcement.pubkey
    assert buyer._serving._given.healths.of(late).failed_in_a_row == 1


@pytest.mark.parametrize("body", [BODY, HEDGED | {"provider": {"allow_fallbacks": False}}])
async def test_nobody_else_is_asked_unless_that_is_wished(
    buyer: RouterClient, cheat: Cheat, slow: Slow, body: dict[str, Any]
) -> None:
    asyncio.get_running_loop().call_later(0.1, slow.may.set)
    assert (await buyer.chat(body)).node_name == "slow"
    assert cheat.asked == []


@pytest.mark.parametrize("limit", ["day_msat", "request_msat", "max_cost_msat", "while it quotes"])
async def test_there_is_no_second_where_both_would_be_too_much(
    buyer: RouterClient, cheat: Cheat, slow: Slow, spending: Spending, limit: str
) -> None:
    if limit == "while it quotes":
        slow.may_quote.clear()
        asyncio.get_running_loop().call_later(0.1, slow.may_quote.set)
        limit = "max_cost_msat"
    _, choice = await buyer.choice(BODY)
    most_msat = int(1.5 * choice.candidates[0].hold_msat)
    body: dict[str, Any] = HEDGED
    if limit == "max_cost_msat":
        body = body | {"routing": {"hedge": True, "max_cost_msat": most_msat}}
    else:
        buyer._serving.allowance = Allowance(spending, Budget(**{limit: most_msat}))
    asyncio.get_running_loop().call_later(0.1, slow.may.set)
    answer = await buyer.chat(body)
    assert (answer.node_name, answer.wait_ms >= 90) == ("slow", True), "what the quote takes is waited for, too"
    assert cheat.asked == []


async def test_who_has_lost_while_it_quotes_is_not_paid(
    buyer: RouterClient, cheat: Cheat, slow: Slow, spending: Spending
) -> None:
    slow.may_quote.clear()
    assert (await buyer.chat(HEDGED)).node_name == "cheat"
    slow.may_quote.set()
    await buyer.close()
    assert slow.asked == []
    assert [line.spent_msat for line in spending.lines(MINUTE_S)] == [COST_MSAT]


async def test_no_second_is_asked_once_the_first_serves(
    buyer: RouterClient, cheat: Cheat, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, heard = buyer._serving.chosen, asyncio.Event()

    async def late(*args: Any, **wishes: Any) -> Any:
        if slow.asked:  # the first is under way
            slow.may.set()
            await heard.wait()
        return await chosen(*args, **wishes)

    monkeypatch.setattr(buyer._serving, "chosen", late)
    monkeypatch.setattr(Healths, "late_s", lambda *_: 0.5)
    slow.chat, slow.pause_s = [TEXT, TEXT, DONE], 0.1
    assert (await buyer.chat(HEDGED, on_text=lambda _: heard.set())).node_name == "slow"
    assert cheat.asked == []


@pytest.fixture
def stolen(cheat: Cheat, slow: Slow, spending: Spending) -> list[int]:
    """What `cheat` takes, serves nothing for and says nothing of, in msat; `slow` goes on when that is booked."""
    cheat.refund = lambda _: web.json_response({}, status=500)
    taken: list[int] = []

    async def takes(token: str) -> None:
        taken.append((await cheat.wallet.receive(token, f"theft {len(taken)}")).amount_msat)

    async def waits(_: str) -> None:
        async with asyncio.timeout(10):
            while all(line.open for line in spending.lines(MINUTE_S)):
                await asyncio.sleep(0.01)

    cheat.on_payment, cheat.chat_status, slow.on_payment = takes, 502, waits
    return taken


async def test_where_both_fail_neither_is_asked_again(
    buyer: RouterClient, slow: Slow, spending: Spending, stolen: list[int]
) -> None:
    slow.chat_status = 502
    with pytest.raises(NoProvider) as raised:
        await buyer.chat(HEDGED)
    assert len(stolen) == 1
    assert slow.asked.count("/v1/chat/completions") == 1
    assert raised.value.out_msat == sum(line.spent_msat for line in spending.lines(MINUTE_S)) >= stolen[0]


async def test_what_one_keeps_that_fails_is_part_of_the_others_cost(
    buyer: RouterClient, slow: Slow, spending: Spending, stolen: list[int]
) -> None:
    answer = await buyer.chat(HEDGED)
    lines = spending.lines(MINUTE_S)
    assert answer.node_name == "slow"
    assert answer.lost_msat >= stolen[0]
    assert sum(line.spent_msat for line in lines) == answer.cost_msat
    assert sum(line.saved_msat for line in lines) == answer.saved_msat


async def test_what_one_kept_is_told_where_the_other_breaks_off(
    buyer: RouterClient, slow: Slow, spending: Spending, stolen: list[int]
) -> None:
    slow.chat = [TEXT, b'data: {"error": {"message": "out of memory"}}\n\n']
    with pytest.raises(NodeError, match="out of memory") as raised:
        await buyer.chat(HEDGED)
    assert raised.value.out_msat == sum(line.spent_msat for line in spending.lines(MINUTE_S)) >= stolen[0]


async def test_what_one_keeps_that_is_still_leaving_is_told_where_the_other_breaks_off(
    buyer: RouterClient, cheat: Cheat, slow: Slow, spending: Spending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told as free, and a request with a name was bought again though it had been paid."""

    async def takes(token: str) -> None:
        taken.append((await cheat.wallet.receive(token, "theft")).amount_msat)
        await slow.may.wait()

    async def once_it_is_taken(_: str) -> None:
        async with asyncio.timeout(10):
            while not taken:
                await asyncio.sleep(0.01)

    taken: list[int] = []
    monkeypatch.setattr("router_client.buying.purchase.LEFT_PAUSES_S", (0.0, 0.3))
    slow.on_payment, cheat.on_payment = takes, once_it_is_taken
    cheat.chat = [TEXT, b'data: {"error": {"message": "out of memory"}}\n\n']
    with pytest.raises(NodeError, match="out of memory") as raised:
        await buyer.chat(HEDGED)
    assert raised.value.out_msat == sum(line.spent_msat for line in spending.lines(MINUTE_S)) >= taken[0]


async def test_what_cannot_be_told_in_time_is_told_as_all_that_was_paid() -> None:
    race, nobody, never = Race(Reader(), set()), cast("Candidate", None), asyncio.Event()

    async def breaks_off(runner: Runner) -> Any:
        race.won_by(runner)
        raise NodeError("broke off")

    async def waits() -> Any:
        await never.wait()

    quick, late = Runner(race, nobody), Runner(race, nobody, held_msat=300)
    race.enter(late, waits())
    race.enter(quick, breaks_off(quick))
    with pytest.raises(NodeError) as raised:
        await race.answer()
    assert await race.left_msat(raised.value, patience_s=0) == 300
    never.set()
    race.end()


async def test_there_is_no_second_where_one_try_is_left(
    buyer: RouterClient, cheat: Cheat, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router_client.buying.serving.Tries", lambda *_: Tries(1, 1))
    asyncio.get_running_loop().call_later(0.1, slow.may.set)
    assert (await buyer.chat(HEDGED)).node_name == "slow"
    assert cheat.asked == []


async def test_a_caller_who_leaves_leaves_both(buyer: RouterClient, cheat: Cheat, slow: Slow) -> None:
    cheat.on_payment = slow.waits
    before_msat = buyer.wallet.balance_msat()
    calling = asyncio.create_task(buyer.chat(HEDGED))
    while "/v1/chat/completions" not in cheat.asked:
        await asyncio.sleep(0.01)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    del calling
    await buyer.close()
    await buyer.recover()
    assert buyer.payments.open_count() == 0
    assert before_msat - buyer.wallet.balance_msat() <= 24


async def test_the_second_serves_where_the_first_fails_and_the_first_is_to_blame_where_both_do() -> None:
    may, one, two = asyncio.Event(), RuntimeError("one"), RuntimeError("two")

    async def fails(error: RuntimeError) -> Any:
        await may.wait()
        raise error

    async def serves() -> Any:
        await may.wait()
        await asyncio.sleep(0)
        return "an answer"

    asyncio.get_running_loop().call_soon(may.set)
    race, nobody = Race(Reader(), set()), cast("Candidate", None)
    race.enter(Runner(race, nobody), fails(one))
    race.enter(Runner(race, nobody), serves())
    answer: Any = await race.answer()
    assert answer == "an answer"
    race = Race(Reader(), set())
    race.enter(Runner(race, nobody), fails(one))
    race.enter(Runner(race, nobody), fails(two))
    with pytest.raises(RuntimeError, match="one"):
        await race.answer()


def test_one_wait_in_twenty_is_late() -> None:
    rng = random.Random(1)
    healths, late = Healths(), 0
    for number in range(3000):
        wait_s = rng.lognormvariate(0.0, 0.6)
        late += number >= 1000 and wait_s > healths.late_s("n")
        healths.began("n")
        healths.served("n", wait_s, 1, wait_s)
    assert 0.03 < late / 2000 < 0.08
