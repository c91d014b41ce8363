"""Coins of a sat: what of one is left when its answer is paid cannot come back, and counts against the budget."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from relays.money import MSAT_PER_SAT, to_sat_ceil
from relays.pool import RelayPool
from router_client.client import RouterClient
from router_client.discovery.directory import Directory
from router_client.errors import BudgetExceeded
from router_client.paying.payments import Payments
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import Budget
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, TEXT, Cheat, announce, receipt
from tests.client.purses import funded

COST_MSAT = 102
MINUTE_S = 60.0


@pytest.fixture
async def coarse(folder: Path, http: httpx.AsyncClient, mint_url: str, cheat: Cheat) -> AsyncIterator[RouterClient]:
    """A buyer who has sats alone, at a node that takes what it is paid and has nothing to give back."""
    wallet = await funded(folder / "sats.db", http, mint_url, 100, "sat")
    payments = await Payments.open(folder / "payments-of-sats.db", wallet, http)
    taken = 0

    async def takes(token: str) -> None:
        nonlocal taken
        taken += 1
        await cheat.wallet.receive(token, f"pay {taken}")

    cheat.chat, cheat.on_payment = [TEXT, receipt(COST_MSAT), DONE], takes
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    async with RelayPool([]) as pool:
        client = RouterClient(Directory(pool, http), wallet, payments, http)
        announce(client, cheat, mint_url)
        yield client
    payments.close()
    wallet.close()


async def test_the_rest_of_a_sat_counts(coarse: RouterClient, spending: Spending) -> None:
    """A day of five sats is over after five answers of a tenth of one."""
    coarse._serving.allowance = Allowance(spending, Budget(day_msat=5 * MSAT_PER_SAT))
    for _ in range(5):
        answer = await coarse.chat(BODY)
        assert (answer.verified, answer.cost_msat) == (True, COST_MSAT)
    with pytest.raises(BudgetExceeded):
        await coarse.chat(BODY)
    assert [line.spent_msat for line in spending.lines(MINUTE_S)] == [5 * MSAT_PER_SAT]


@pytest.mark.parametrize("max_tokens", [20, 120])
async def test_whole_coins_are_taken_out_of_the_budget(
    coarse: RouterClient, cheat: Cheat, spending: Spending, max_tokens: int
) -> None:
    coarse._serving.allowance = Allowance(spending)
    body = BODY | {"max_tokens": max_tokens}
    hold_msat = (await coarse.choice(body))[1].candidates[0].hold_msat
    reserved: list[int] = []

    async def looks(_: str) -> None:
        reserved.append(spending.spent("")["day"])

    cheat.on_payment = looks
    await coarse.chat(body)
    assert reserved[0] >= to_sat_ceil(hold_msat) * MSAT_PER_SAT > hold_msat


async def test_coins_that_do_not_fit_a_budget_are_its_matter(coarse: RouterClient, spending: Spending) -> None:
    """A hold of a sat and a bit fits, but its two coins do not: to ask again is pointless, and the error says so."""
    coarse._serving.allowance = Allowance(spending, Budget(request_msat=1500))
    with pytest.raises(BudgetExceeded) as raised:
        await coarse.chat(BODY | {"max_tokens": 120})
    assert (raised.value.window, raised.value.would_msat) == ("request", 2 * MSAT_PER_SAT)
