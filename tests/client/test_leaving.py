"""A caller who has left ends what was begun for him, however it is bought: nothing more is paid, and the rest comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from relays.event import Signer
from relays.pricing import ModelPrice
from router_client.buying.hedging import Race, Runner
from router_client.buying.reading import Reader
from router_client.client import RouterClient
from router_client.discovery.directory import Provider
from router_client.errors import NodeOutrun
from router_client.routing.health import Healths
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, PRICE, TEXT, Cheat, receipt, serving
from tests.client.test_hedging import HEDGED, Slow, slow, spending

__all__ = ["slow", "spending"]
DEADLINE_S = 5


async def leaves_when(reader: Reader, calling: asyncio.Task[Any], begun: asyncio.Event) -> None:
    """The call ends at once, though the nodes say nothing."""
    assert reader.left is not None
    async with asyncio.timeout(DEADLINE_S):
        await begun.wait()
        reader.left.set()
        with pytest.raises(NodeOutrun):
            await calling


def watching() -> Reader:
    reader = Reader()
    reader.left = asyncio.Event()
    return reader


@pytest.mark.parametrize("both", [True, False])
async def test_of_a_hedged_request_both_nodes_are_left(
    buyer: RouterClient, cheat: Cheat, slow: Slow, spending: Spending, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, reader = asyncio.Event(), watching()

    async def silent(_: str) -> None:
        begun.set()
        await slow.may.wait()

    (cheat if both else slow).on_payment = silent
    if not both:
        monkeypatch.setattr(Healths, "late_s", lambda *_: 60.0)
    calling = asyncio.create_task(buyer.chat(HEDGED, reader=reader))
    await leaves_when(reader, calling, begun)
    await buyer.close()
    assert buyer.payments.open_count() == 0
    assert spending.lines(60) == []
    healths = [buyer._serving._given.healths.of(each.announcement.pubkey) for each in buyer.directory.known()]
    assert {(each.in_flight, each.failed_in_a_row, each.wait_s) for each in healths} == {(0, 0, None)}, (
        "no fault of theirs"
    )


@pytest.fixture
async def large(buyer: RouterClient, cheat: Cheat, mint_url: str, spending: Spending) -> AsyncIterator[Cheat]:
    """A node whose model is better and dearer than that of `cheat`, which refuses whatever it is asked."""
    (one,) = buyer.directory.known()
    cheat.chat = [b'data: {"choices":[{"delta":{"content":"I\'m sorry, but I cannot help with that."}}]}\n\n', DONE]
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    buyer._serving.allowance = Allowance(spending)
    node = Cheat(cheat.wallet)
    node.refund = cheat.refund
    price = ModelPrice(PRICE.prompt_msat_per_mtok * 8, PRICE.completion_msat_per_mtok * 8)
    offer = msgspec.structs.replace(one.offers[0], id="large", price=price)
    async with serving(node):
        made = msgspec.structs.replace(
            one.announcement, pubkey=Signer.generate().pubkey, urls=(node.url,), models=(offer,)
        )
        buyer.directory._providers += (Provider(made, node.url),)
        yield node


@pytest.mark.parametrize("at", ["cheap", "large"])
async def test_of_a_cascade_the_answer_that_was_begun_is_left_and_no_other_is_asked(
    buyer: RouterClient, cheat: Cheat, large: Cheat, spending: Spending, at: str
) -> None:
    begun, reader, may = asyncio.Event(), watching(), asyncio.Event()

    async def silent(_: str) -> None:
        begun.set()
        await may.wait()

    (cheat if at == "cheap" else large).on_payment = silent
    calling = asyncio.create_task(buyer.chat(BODY | {"model": "auto", "routing": {"cascade": True}}, reader=reader))
    if at == "cheap":
        await leaves_when(reader, calling, begun)
        assert large.asked == []
    else:
        async with asyncio.timeout(DEADLINE_S):
            await begun.wait()
            assert reader.left is not None
            reader.left.set()
            assert (await calling).text.startswith("I'm sorry"), "what was paid stands"
    may.set()
    assert {line.model for line in spending.lines(60)} == ({"m"} if at == "large" else set())


async def test_of_two_that_end_at_once_the_one_that_nobody_reads_has_saved_nothing(
    buyer: RouterClient, cheat: Cheat, large: Cheat, spending: Spending
) -> None:
    cheat.chat = [TEXT, receipt(), DONE]
    plan = await buyer._planned(BODY, None)
    (candidate,) = (await buyer._serving.chosen(plan)).candidates
    race = Race(Reader(), set())
    winner, loser = Runner(race, candidate), Runner(race, candidate)
    assert (await buyer._serving._answered(plan, candidate, winner)).saved_msat > 0
    assert (await buyer._serving._answered(plan, candidate, loser)).saved_msat == 0
