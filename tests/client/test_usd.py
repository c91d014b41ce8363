"""Limits in USD: by a price of bitcoin that is young enough, asked for when it is needed; without one nothing is paid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from relays.pool import RelayPool
from router_client.client import RouterClient
from router_client.discovery.directory import Directory
from router_client.discovery.shelf import Shelf
from router_client.errors import BadRequest, BadSetting, BudgetExceeded, NoProvider, PriceUnknown
from router_client.preferences import USUAL, Preferences
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import Budget, BudgetFile, write_budget
from router_client.spending.rate import FRESH_S, MAX_AGE_S, PAUSE_S, Rate
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, TEXT, Cheat, announce, receipt
from tests.client.clock import Clock
from tests.strangers import served

MSAT_PER_USD = 1_000_000.0
"""Where a bitcoin costs 100,000 USD."""


class Exchange:
    """A source of the price, which counts who asks."""

    def __init__(self) -> None:
        self.usd = "100000"
        self.asked = 0
        self.source = ""

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=json.dumps({"price": self.usd}))


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    made = Exchange()
    app = web.Application()
    app.router.add_get("/", made.answer)
    async with served(app) as where:
        made.source = f"http://{where}/#/price"
        yield made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def shelf(folder: Path) -> AsyncIterator[Shelf]:
    opened = await Shelf.open(folder / "shelf.db")
    yield opened
    opened.close()


def known(rate: Rate) -> float | None:
    return rate.msat_per_usd


def rate_of(exchange: Exchange, http: httpx.AsyncClient, shelf: Shelf, clock: Clock) -> Rate:
    return Rate(Preferences(btc_sources=(exchange.source,)), http, shelf, clock)


async def test_it_is_asked_for_once_kept_over_a_restart_and_too_old_in_the_end(
    exchange: Exchange, http: httpx.AsyncClient, shelf: Shelf, clock: Clock
) -> None:
    rate = rate_of(exchange, http, shelf, clock)
    assert exchange.asked == 0
    await asyncio.gather(*(rate.look() for _ in range(5)))
    assert [rate.msat_per_usd, exchange.asked] == [MSAT_PER_USD, 1]
    again = rate_of(exchange, http, shelf, clock)
    await again.look()
    assert (again.msat_per_usd, exchange.asked) == (MSAT_PER_USD, 1)
    exchange.usd = "no price"
    clock.now += FRESH_S + 1
    await again.look()
    await again.look()
    assert (again.msat_per_usd, exchange.asked) == (MSAT_PER_USD, 2), "who is silent is not asked again at once"
    clock.now += MAX_AGE_S - FRESH_S
    assert known(again) is None
    exchange.usd = "50000"
    await again.look()
    assert known(again) == 2 * MSAT_PER_USD
    clock.now -= 2 * PAUSE_S
    assert known(again) is None, "a clock that was set back knows no age"


async def test_a_price_that_is_set_is_asked_of_nobody(exchange: Exchange, http: httpx.AsyncClient) -> None:
    rate = Rate(Preferences(btc_usd=100_000.0, btc_sources=(exchange.source,)), http)
    await rate.look()
    assert (rate.msat_per_usd, exchange.asked) == (MSAT_PER_USD, 0)
    with pytest.raises(BadSetting):
        Rate(Preferences(btc_sources=("nobody",)), http)
    for btc_usd, explore in ((0.0, 0.1), (float("nan"), 0.1), (1.0, 0.6), (1.0, -0.1)):
        with pytest.raises(BadSetting):
            Preferences(btc_usd=btc_usd, explore=explore)


def test_of_two_limits_the_lower_holds() -> None:
    both = Budget(request_msat=500, day_msat=3_000_000, day_usd=2.0, hour_usd=0.5)
    assert both.at(MSAT_PER_USD) == Budget(request_msat=500, day_msat=2_000_000, hour_msat=500_000)
    with pytest.raises(PriceUnknown):
        both.at(None)
    assert Budget(day_msat=1).at(None) == Budget(day_msat=1)


async def test_what_another_process_settles_holds_at_once(folder: Path) -> None:
    write_budget(folder / "budget.json", Budget(day_msat=5))
    file = BudgetFile(folder / "budget.json")
    assert file.now() == Budget(day_msat=5)
    write_budget(folder / "budget.json", Budget(day_usd=5))
    assert file.now() == Budget(day_usd=5)
    (folder / "budget.json").unlink()
    assert file.now() == Budget()


@pytest.fixture
async def spender(
    folder: Path, buyer: RouterClient, cheat: Cheat, mint_url: str, exchange: Exchange, http: httpx.AsyncClient,
    shelf: Shelf, clock: Clock,
) -> AsyncIterator[RouterClient]:  # fmt: skip
    """The buyer with a budget of two cents a day, which asks the exchange."""
    cheat.chat = [TEXT, receipt(), DONE]
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    rate = rate_of(exchange, http, shelf, clock)
    spending = await Spending.open(folder / "spending.db", clock)
    async with RelayPool([]) as pool:
        allowance = Allowance(spending, Budget(day_usd=0.02), rate)
        client = RouterClient(
            Directory(pool, http), buyer.wallet, buyer.payments, http, preferences=USUAL, rate=rate, allowance=allowance
        )
        announce(client, cheat, mint_url)
        yield client
    spending.close()


async def test_a_budget_in_usd_is_kept_and_nothing_is_paid_without_a_price(
    spender: RouterClient, exchange: Exchange, cheat: Cheat, clock: Clock
) -> None:
    assert (await spender.chat(BODY)).budget_left_msat == 20_000 - 102
    assert spender.report().told(spender.msat_per_usd)["totalSpendUsd"] == pytest.approx(0.000102)
    exchange.usd = "100000000"  # a cent is ten msat now
    clock.now += FRESH_S + 1
    cheat.asked = []
    with pytest.raises(BudgetExceeded):
        await spender.chat(BODY)
    exchange.usd = "?"
    clock.now += MAX_AGE_S + 1
    with pytest.raises(PriceUnknown):
        await spender.chat(BODY)
    assert cheat.asked == []


async def test_requests_have_limits_in_usd(spender: RouterClient, exchange: Exchange) -> None:
    """Pura's for the whole, OpenRouter's for a million tokens: a thousandth of a cent is 10 msat, two USD are 2,000,000."""
    with pytest.raises(NoProvider, match="could cost"):
        await spender.chat({**BODY, "routing": {"maxCost": 0.00001}})
    with pytest.raises(NoProvider, match="max_price"):
        await spender.chat({**BODY, "provider": {"max_price": {"prompt": 1.99}}})
    assert exchange.asked == 1
    with pytest.raises(BadRequest, match="maxCost"):
        await spender.chat({**BODY, "routing": {"maxCost": 1e305}})
    fits = {"routing": {"maxCost": 0.01}, "provider": {"max_price": {"prompt": 2, "completion": 8}}}
    assert (await spender.chat(BODY | fits)).cost_msat == 102


async def test_without_a_price_a_request_in_usd_is_refused(spender: RouterClient, exchange: Exchange) -> None:
    exchange.usd = "?"
    spender._serving.allowance.budget = Budget()
    with pytest.raises(BadRequest, match="price of bitcoin"):
        await spender.chat({**BODY, "routing": {"maxCost": 1}})
    assert (await spender.chat(BODY)).cost_msat == 102
