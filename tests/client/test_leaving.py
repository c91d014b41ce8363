"""A caller who has left ends what was begun for him, however it is bought: nothing more is paid, and the rest comes back."""

from __future__ import annotations

import asyncio

import pytest

from router_client.buying.reading import Reader
from router_client.client import RouterClient
from router_client.errors import NodeOutrun
from router_client.routing.health import Healths
from router_client.spending.account import Spending
from tests.client.cheat import Cheat
from tests.client.test_hedging import HEDGED, Slow, slow, spending

__all__ = ["slow", "spending"]
DEADLINE_S = 5


async def leaves_when(reader: Reader, calling: asyncio.Task[object], begun: asyncio.Event) -> None:
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
