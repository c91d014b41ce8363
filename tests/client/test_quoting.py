"""Before it pays, the client asks what the request costs now: what is too much, or fits no price, is not paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web

from relays.bounds import ModelLimits, most_usage
from relays.event import Signer
from relays.pricing import ModelPrice, Usage, cost
from relays.quote import QuoteAnswer
from router_client.client import RouterClient
from router_client.discovery.directory import Provider
from router_client.ecash.token import decode
from router_client.errors import NodeRefused, NoProvider
from router_client.preferences import Preferences
from router_client.routing.health import USUAL_ERRORS
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import Budget
from router_client.spending.rate import Rate
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, PRICE, TEXT, Cheat, announce, receipt, serving

LIMITS = ModelLimits(2048, 1024)
USED = Usage(31, 5)


def hold_at(price: ModelPrice, body: dict[str, Any] = BODY) -> int:
    return cost(most_usage(body, LIMITS, price), price)


def times(percent: int) -> ModelPrice:
    return ModelPrice(PRICE.prompt_msat_per_mtok * percent // 100, PRICE.completion_msat_per_mtok * percent // 100)


def answer(price: ModelPrice, hold_msat: int | None = None, **fields: Any) -> web.Response:
    made = QuoteAnswer(
        model="m",
        endpoint="/v1/chat/completions",
        hold_msat=hold_at(price) if hold_msat is None else hold_msat,
        expected_msat=1,
        expected_usage=USED,
        price=price,
        valid_s=60,
    )
    return web.json_response(msgspec.to_builtins(made) | fields)


def paying(cheat: Cheat) -> list[int]:
    """What the node is paid, request by request."""
    paid: list[int] = []

    async def on_payment(token: str) -> None:
        paid.append(decode(token).amount_msat)

    cheat.on_payment = on_payment
    return paid


async def test_what_is_paid_is_what_was_quoted(buyer: RouterClient, cheat: Cheat, mint_url: str) -> None:
    """A quote below the announcement: less is brought, and the receipt must keep to the quote."""
    announce(buyer, cheat, mint_url)
    cheaper = times(50)
    paid = paying(cheat)
    asked: list[dict[str, Any]] = []

    def quote(body: dict[str, Any]) -> web.Response:
        asked.append(body)
        return answer(cheaper)

    cheat.quote = quote
    cost_msat = cost(USED, cheaper)
    cheat.chat = [TEXT, receipt(cost_msat, price=cheaper, hold_msat=hold_at(cheaper)), DONE]
    got = await buyer.chat(BODY)
    assert got.cost_msat == cost_msat
    assert hold_at(cheaper) <= paid[0] < hold_at(PRICE)
    assert asked[0]["messages"] == BODY["messages"], "the very body of the request"
    assert asked[0]["model"] == "m"


async def test_a_receipt_above_the_quote_is_found_out(buyer: RouterClient, cheat: Cheat, mint_url: str) -> None:
    announce(buyer, cheat, mint_url)
    cheat.quote = lambda _: answer(times(50))
    cheat.chat = [TEXT, receipt(cost(USED, PRICE), price=PRICE, hold_msat=hold_at(times(50))), DONE]
    got = await buyer.chat(BODY)
    assert not got.verified
    assert "higher price" in str(got.problem)


@pytest.mark.parametrize(
    "quote",
    [
        lambda _: answer(times(126)),
        lambda _: answer(times(10_000)),
        lambda _: answer(PRICE, hold_at(PRICE) + 1),
        lambda _: answer(times(50), hold_at(PRICE)),
        lambda _: answer(times(1000), hold_at(PRICE)),
        lambda _: answer(msgspec.structs.replace(PRICE, request_msat=1), hold_at(PRICE)),
        lambda _: answer(msgspec.structs.replace(PRICE, reasoning_msat_per_mtok=10_100_000), hold_at(PRICE)),
        lambda _: answer(PRICE, -1),
        lambda _: answer(PRICE, 10**30),
        lambda _: web.json_response({"object": "quote"}),
        lambda _: web.json_response([]),
        lambda _: web.Response(text="<html>"),
        lambda _: web.Response(status=500),
        lambda _: web.Response(status=503),
        lambda _: answer(PRICE, model=7),
    ],
)
async def test_a_quote_that_is_too_much_or_cannot_be_is_not_paid(
    buyer: RouterClient, cheat: Cheat, mint_url: str, quote: Any
) -> None:
    announce(buyer, cheat, mint_url)
    cheat.quote = quote
    before_msat = buyer.wallet.balance_msat()
    with pytest.raises(NoProvider):
        await buyer.chat(BODY)
    assert cheat.asked == [], "nothing was sent"
    assert buyer.wallet.balance_msat() == before_msat
    assert buyer.payments.out() == []


async def test_a_small_rise_is_paid_unless_the_caller_forbids_it(
    buyer: RouterClient, cheat: Cheat, mint_url: str
) -> None:
    announce(buyer, cheat, mint_url)
    dearer = times(120)
    cheat.quote = lambda _: answer(dearer)
    with pytest.raises(NoProvider, match="allowed"):
        await buyer.chat(BODY, max_cost_msat=hold_at(PRICE))
    assert cheat.asked == []
    announce(buyer, cheat, mint_url)
    cheat.chat = [TEXT, receipt(cost(USED, dearer), price=dearer, hold_msat=hold_at(dearer)), DONE]
    got = await buyer.chat(BODY)
    assert got.cost_msat == cost(USED, dearer)


async def test_a_rise_above_max_price_is_not_paid(buyer: RouterClient, cheat: Cheat, mint_url: str) -> None:
    """What was announced kept to it."""
    announce(buyer, cheat, mint_url)
    buyer._serving._rate = Rate(Preferences(btc_usd=100_000))
    within = BODY | {"provider": {"max_price": {"completion": PRICE.completion_msat_per_mtok / 1e6}}}
    cheat.quote = lambda _: answer(times(101))
    with pytest.raises(NoProvider, match="max_price"):
        await buyer.chat(within)
    assert cheat.asked == []
    announce(buyer, cheat, mint_url)
    cheat.quote = lambda _: answer(PRICE)
    cheat.chat = [TEXT, receipt(hold_msat=hold_at(PRICE)), DONE]
    assert (await buyer.chat(within)).verified


async def test_who_raised_its_price_above_the_budget_is_left_for_the_next(
    buyer: RouterClient, cheat: Cheat, mint_url: str, folder: Path, http: httpx.AsyncClient
) -> None:
    announce(buyer, cheat, mint_url)
    (risen,) = buyer.directory.known()
    paid = paying(cheat)
    cheat.quote = lambda _: answer(times(110))
    spending = await Spending.open(folder / "spending.db")
    buyer._serving.allowance = Allowance(spending, Budget(day_msat=hold_at(times(105))))
    honest = Cheat(cheat.wallet)
    honest.chat = [TEXT, DONE]
    async with serving(honest):
        other = msgspec.structs.replace(
            risen.announcement,
            pubkey=Signer.generate().pubkey,
            name="honest",
            models=(msgspec.structs.replace(risen.offers[0], price=times(102)),),
        )
        buyer.directory._providers = (risen, Provider(other, honest.url))
        buyer._serving._given.rng = None
        got = await buyer.chat(BODY)
        assert got.node_name == "honest"
        assert paid == []
    spending.close()


@pytest.mark.parametrize("status", [404, 405])
async def test_a_node_that_gives_no_quotes_is_taken_by_its_announcement(
    buyer: RouterClient, cheat: Cheat, mint_url: str, status: int
) -> None:
    announce(buyer, cheat, mint_url)
    paid = paying(cheat)
    cheat.quote = lambda _: web.Response(status=status)
    cheat.chat = [TEXT, receipt(), DONE]
    await buyer.chat(BODY)
    assert paid[0] >= hold_at(PRICE)


async def test_who_is_full_at_the_quote_is_waited_for_and_has_not_failed(
    buyer: RouterClient, cheat: Cheat, mint_url: str
) -> None:
    announce(buyer, cheat, mint_url)
    answers = [web.Response(status=404), web.Response(status=429, headers={"Retry-After": "1"})]
    cheat.quote = lambda _: answers.pop()
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    cheat.chat = [TEXT, receipt(), DONE]
    assert (await buyer.chat(BODY)).text == "hello"
    (health,) = buyer._serving._given.healths._nodes.values()
    assert (health.room is None, (health.errors or 0) < USUAL_ERRORS) == (False, True)


async def test_a_request_that_is_refused_at_the_quote_costs_nothing(
    buyer: RouterClient, cheat: Cheat, mint_url: str
) -> None:
    announce(buyer, cheat, mint_url)
    refusal = {"error": {"code": "invalid_request", "message": "too odd"}}
    cheat.quote = lambda _: web.json_response(refusal, status=400)
    with pytest.raises(NodeRefused, match="too odd"):
        await buyer.chat(BODY)
    assert cheat.asked == []


async def test_quotes_of_all_who_sell_it_cheapest_first(buyer: RouterClient, cheat: Cheat, mint_url: str) -> None:
    announce(buyer, cheat, mint_url)
    cheat.quote = lambda _: answer(PRICE)
    (asked,) = await buyer.quotes(BODY)
    assert asked.quote is not None
    assert (asked.name, asked.model, asked.quote.hold_msat) == ("cheat", "m", hold_at(PRICE))
    cheat.quote = lambda _: web.Response(status=500)
    (asked,) = await buyer.quotes(BODY)
    assert (asked.quote, bool(asked.problem)) == (None, True)
    assert await buyer.quotes(BODY | {"model": "other"}) == []
