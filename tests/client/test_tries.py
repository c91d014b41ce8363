"""A request's limits hold for all of its tries together, and what costs nothing does not use them up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from relays.event import Signer
from router_client.buying.tries import MAX_TRIES, MOST_UNPAID
from router_client.client import RouterClient
from router_client.discovery.directory import Provider
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from router_client.errors import ClientError, NodeBrokeOff, NodeRefused, NoProvider
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import Budget
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, PRICE, TEXT, Cheat, announce, receipt, serving
from tests.client.test_quoting import answer as answered
from tests.client.test_quoting import hold_at, times

HOLD_MSAT = hold_at(PRICE)
MINUTE_S = 60.0


@pytest.fixture
async def spending(folder: Path, buyer: RouterClient) -> AsyncIterator[Spending]:
    opened = await Spending.open(folder / "spending.db")
    buyer._serving.allowance = Allowance(opened)
    buyer._serving._given.rng = None
    yield opened
    opened.close()


class Thief(Cheat):
    """Takes the money and serves nothing."""

    def __init__(self, wallet: Wallet) -> None:
        super().__init__(wallet)
        self.chat_status = 502
        self.paid: list[int] = []
        self.on_payment = self.takes

    async def takes(self, token: str) -> None:
        self.paid.append(decode(token).amount_msat)
        await self.wallet.receive(token, f"theft {len(self.paid)} of {id(self)}")


@pytest.fixture
async def cheaper(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending
) -> AsyncIterator[Callable[..., Any]]:
    """Gives the buyer so many nodes of a kind that are cheaper than `cheat`, which serves."""
    announce(buyer, cheat, mint_url)
    (one,) = buyer.directory.known()
    cheat.chat = [TEXT, receipt(), DONE]
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    async with AsyncExitStack() as stack:

        async def given(kind: type[Cheat], many: int) -> list[Cheat]:
            nodes = [kind(cheat.wallet) for _ in range(many)]
            offer = msgspec.structs.replace(one.offers[0], price=times(90))
            for number, node in enumerate(nodes):
                await stack.enter_async_context(serving(node))
                key, name = Signer.generate().pubkey, f"n{number}"
                made = msgspec.structs.replace(
                    one.announcement, pubkey=key, urls=(node.url,), name=name, models=(offer,)
                )
                buyer.directory._providers += (Provider(made, node.url),)
            return nodes

        yield given


class Dear(Cheat):
    """Announces less than it asks for."""

    def __init__(self, wallet: Wallet) -> None:
        super().__init__(wallet)
        self.quote = lambda _: answered(times(300))


class Refuses(Cheat):
    """Will not serve what all others would."""

    def __init__(self, wallet: Wallet) -> None:
        super().__init__(wallet)
        self.quote = lambda _: web.json_response({"error": {"code": "odd", "message": "no"}}, status=400)


class Broken(Cheat):
    """Gives no quote: it fails."""

    def __init__(self, wallet: Wallet) -> None:
        super().__init__(wallet)
        self.quote = lambda _: web.Response(status=500)


class BreaksOff(Thief):
    """Stops in the midst of its answer, and keeps what it was given."""

    def __init__(self, wallet: Wallet) -> None:
        super().__init__(wallet)
        self.chat_status = 200
        self.chat = [TEXT, b'data: {"error":{"message":"out of memory"}}\n\n']
        self.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)


@pytest.mark.parametrize("kind", [Dear, Refuses, Broken])
async def test_nodes_that_cost_nothing_stop_nothing(
    buyer: RouterClient, cheat: Cheat, cheaper: Any, kind: type[Cheat]
) -> None:
    await cheaper(kind, MAX_TRIES + 1)
    with pytest.raises(ClientError):
        await buyer.chat(BODY | {"provider": {"allow_fallbacks": False}})
    assert cheat.asked == []
    assert (await buyer.chat(BODY)).node_name == "cheat"
    cools = [buyer._serving._given.healths.of(node.announcement.pubkey).cool_until for node in buyer.directory.known()]
    assert sum(until > 0 for until in cools) == (0 if kind is Refuses else MAX_TRIES + 1)


class Endless(Cheat):
    """Sends a line without end instead of its first word."""

    def __init__(self, wallet: Wallet) -> None:
        super().__init__(wallet)
        self.chat = [b"data: " + b"x" * 9_000_000]


async def test_who_babbles_before_its_first_word_is_left_for_the_next(
    buyer: RouterClient, cheat: Cheat, cheaper: Any
) -> None:
    (babbler,) = await cheaper(Endless, 1)
    assert (await buyer.chat(BODY)).node_name == "cheat"
    assert babbler.asked


async def test_not_even_they_are_asked_without_end(buyer: RouterClient, cheat: Cheat, cheaper: Any) -> None:
    await cheaper(Refuses, MOST_UNPAID)
    with pytest.raises(NodeRefused):
        await buyer.chat(BODY)
    assert cheat.asked == []


@pytest.mark.parametrize("limit", ["max_cost_msat", "request_msat"])
async def test_what_failed_tries_keep_is_taken_off_what_the_request_may_cost(
    buyer: RouterClient, cheat: Cheat, spending: Spending, cheaper: Any, limit: str
) -> None:
    thieves, most_msat = await cheaper(Thief, 3), int(1.6 * HOLD_MSAT)
    if limit == "request_msat":
        buyer._serving.allowance = Allowance(spending, Budget(request_msat=most_msat))
    with pytest.raises(NoProvider, match="allowed") as raised:
        await buyer.chat(BODY, max_cost_msat=most_msat if limit == "max_cost_msat" else None)
    paid = [msat for thief in thieves for msat in thief.paid]
    assert len(paid) == 1
    assert cheat.asked == []
    assert 0 < raised.value.out_msat <= paid[0]


async def test_an_answer_costs_what_failed_tries_kept_too(
    buyer: RouterClient, spending: Spending, cheaper: Any
) -> None:
    await cheaper(Thief, 1)
    answer = await buyer.chat(BODY)
    assert answer.node_name == "cheat"
    assert answer.cost_msat == 102 + answer.lost_msat
    assert answer.lost_msat >= hold_at(times(90))
    assert sum(line.spent_msat for line in spending.lines(MINUTE_S)) == answer.cost_msat


async def test_an_answer_says_why_its_node_was_chosen(buyer: RouterClient, cheaper: Any) -> None:
    (thief,) = await cheaper(Thief, 1)
    answer = await buyer.chat(BODY, explain=True)
    why = answer.explanation
    assert thief.paid
    assert why is not None
    assert [each.name for each in why.candidates] == [answer.node_name], "the choice that it came from"
    (chosen,) = why.candidates
    assert (chosen.node, chosen.model, chosen.hold_msat) == (answer.node, answer.model, HOLD_MSAT)
    assert chosen.factors is not None
    assert chosen.score == pytest.approx((chosen.expected_msat + 1) * chosen.factors.product, rel=0.3)
    assert "failed just now" in " ".join(why.rejected.values())
    assert (await buyer.chat(BODY)).explanation is None


async def test_an_answer_that_breaks_off_unheard_is_asked_of_the_next(
    buyer: RouterClient, cheat: Cheat, spending: Spending, cheaper: Any
) -> None:
    (broken,) = await cheaper(BreaksOff, 1)
    answer = await buyer.chat(BODY)
    assert broken.asked
    assert answer.node_name == "cheat"
    assert answer.text == "hello", "and nothing of the first"
    assert answer.lost_msat > 0
    assert sum(line.spent_msat for line in spending.lines(MINUTE_S)) == answer.cost_msat
    assert buyer._serving._given.healths.of(buyer.directory.known()[1].announcement.pubkey).failed_in_a_row == 1


async def test_one_that_was_heard_is_not(buyer: RouterClient, cheat: Cheat, cheaper: Any) -> None:
    heard: list[str] = []
    await cheaper(BreaksOff, 1)
    with pytest.raises(NodeBrokeOff, match="out of memory") as raised:
        await buyer.chat(BODY, on_text=heard.append)
    assert raised.value.out_msat > 0
    assert heard
    assert cheat.asked == []


async def test_where_all_break_off_their_error_says_what_they_kept(
    buyer: RouterClient, cheat: Cheat, spending: Spending, cheaper: Any
) -> None:
    cheat.chat = [TEXT, b'data: {"error":{"message":"out of memory"}}\n\n']
    await cheaper(BreaksOff, 2)
    with pytest.raises(NodeBrokeOff, match="out of memory") as raised:
        await buyer.chat(BODY)
    assert cheat.asked
    assert raised.value.out_msat == sum(line.spent_msat for line in spending.lines(MINUTE_S)) > HOLD_MSAT


async def test_a_wallet_that_cannot_pay_its_mints_fee_is_told_of_the_money(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending
) -> None:
    """It holds what the request may cost, and nothing for the fee: asking again does not help, more money does."""
    announce(buyer, cheat, mint_url)
    away_msat = buyer.wallet.balance_msat() - HOLD_MSAT
    await buyer.wallet.send(away_msat, mint_url, "msat", "away", fees="inside")
    assert buyer.wallet.balance_msat() == HOLD_MSAT
    with pytest.raises(NoProvider, match="fee") as error:
        await buyer.chat(BODY)
    assert error.value.cause == "money"
    assert buyer.wallet.balance_msat() == HOLD_MSAT
