"""A locked token that did not reach its node pays for the next request there, as a payment of that request's."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import httpx
from aiohttp import web

from router_client.client import RouterClient
from router_client.ecash.token import token_hash
from router_client.paying.payments import Payments
from router_client.spending.account import Spending
from tests.client.cheat import BODY, Cheat, announce
from tests.client.clock import Clock

MINUTE_S = 60.0


async def test_a_request_that_a_spare_paid_for_has_its_budget_back_with_the_money(
    buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending
) -> None:
    key = cheat.wallet.lock_key
    announce(buyer, cheat, mint_url, key)
    hold_msat = (await buyer.choice(BODY))[1].candidates[0].hold_msat
    spare = await buyer.payments.pay(cheat.url, mint_url, "msat", hold_msat, lock=key)
    await buyer.payments.keep(spare)
    tokens: list[str] = []
    begun = asyncio.Event()

    async def silent(token: str) -> None:
        tokens.append(token)
        begun.set()

    async def give_back(token: str) -> web.Response:
        taken = await cheat.wallet.accept_locked(token, token_hash(token))
        await cheat.wallet.redeem_locked()
        change = await cheat.wallet.send(taken.amount_msat - 100, mint_url, "msat", "change", fees="inside")
        return web.json_response({"token": change.token, "fee_msats": change.fee_msat})

    cheat.on_payment, cheat.refund = silent, give_back
    calling = asyncio.create_task(buyer.chat(BODY))
    await begun.wait()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert tokens == [spare.token]
    assert spending.spent("")["day"] >= hold_msat
    del calling, spare
    async with asyncio.timeout(10):
        while buyer.payments.open_count():  # what the call held goes with it in a moment, its payment among it
            gc.collect()
            await asyncio.sleep(0.01)
            await buyer.recover()
    (line,) = spending.lines(MINUTE_S)
    assert (line.open, 100 <= line.spent_msat < hold_msat) == (0, True)


async def test_a_spare_is_as_old_as_the_request_that_it_pays_for(
    buyer: RouterClient, cheat: Cheat, mint_url: str, folder: Path, http: httpx.AsyncClient
) -> None:
    """Another process with this wallet leaves requests alone that are not old."""
    clock, key = Clock(), cheat.wallet.lock_key
    one, other = [await Payments.open(folder / "shared.db", buyer.wallet, http, clock) for _ in range(2)]
    await one.keep(await one.pay(cheat.url, mint_url, "msat", 500, lock=key))
    clock.now += 2 * MINUTE_S
    paid = await one.pay(cheat.url, mint_url, "msat", 500, lock=key)
    await other.recover(MINUTE_S)
    assert cheat.asked == [], "no refund of what is under way"
    clock.now += 2 * MINUTE_S
    await other.recover(MINUTE_S)
    assert cheat.asked == ["/v1/balance/refund"]
    assert paid.locked
    one.close()
    other.close()
