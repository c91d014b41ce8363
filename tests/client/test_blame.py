"""Whose fault a failure is: a request that no node can serve costs nodes neither other requests nor their good name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from relays.event import Signer
from relays.pool import RelayPool
from relays.pricing import ModelPrice
from router_client.client import RouterClient
from router_client.discovery.directory import Provider
from router_client.discovery.opinions import Opinions
from router_client.discovery.people import People
from router_client.discovery.trust import Deeds
from router_client.errors import NoProvider, StorageError
from router_client.spending.account import Spending
from tests.client.cheat import BODY, DONE, PRICE, TEXT, Cheat, receipt, serving

DEARER = ModelPrice(PRICE.prompt_msat_per_mtok * 11 // 10, PRICE.completion_msat_per_mtok * 11 // 10)


@pytest.fixture
async def opinions(buyer: RouterClient, folder: Path) -> AsyncIterator[Opinions]:
    async with RelayPool([]) as pool:
        kept = Opinions(pool, People(folder / "people.json"))
        buyer._serving._opinions = kept
        yield kept


@pytest.fixture
async def ill(buyer: RouterClient, cheat: Cheat) -> AsyncIterator[Cheat]:
    """The cheaper of two nodes: its model's server fails, and it gives the money back. The other is `cheat`."""
    (first,) = buyer.directory.known()
    node = Cheat(cheat.wallet)
    for each in (node, cheat):
        each.chat_status, each.chat = 500, [b'{"error": {"message": "a template failed"}}']
        each.refund = lambda _: web.json_response({"error": {"code": "not_refundable", "message": "x"}}, status=403)
    async with serving(node):
        made = first.announcement
        (offer,) = made.models or ()
        offer = msgspec.structs.replace(offer, price=DEARER)
        dearer = msgspec.structs.replace(made, models=(offer,))
        cheaper = msgspec.structs.replace(made, pubkey=Signer.generate().pubkey, urls=(node.url,))
        buyer.directory._providers = (Provider(cheaper, node.url), Provider(dearer, first.url))
        yield node


def heal(node: Cheat) -> None:
    node.chat_status, node.chat = 200, [TEXT, receipt(price=DEARER), DONE]


async def test_a_request_that_fails_everywhere_is_its_own_fault(
    buyer: RouterClient, cheat: Cheat, ill: Cheat, opinions: Opinions
) -> None:
    with pytest.raises(NoProvider, match="a template failed"):
        await buyer.chat(BODY)
    assert ill.asked and cheat.asked, "both were tried"
    known = buyer.directory.known()
    assert all(each.url for each in known), "the next request finds both"
    assert {opinions.deeds(each.announcement.pubkey) for each in known} == {Deeds()}
    heal(cheat)
    assert (await buyer.chat(BODY)).text == "hello"


async def test_who_fails_at_what_another_serves_is_to_blame(
    buyer: RouterClient, cheat: Cheat, ill: Cheat, opinions: Opinions
) -> None:
    heal(cheat)
    await buyer.chat({**BODY, "provider": {"sort": "price"}})
    first, second = (each.announcement.pubkey for each in buyer.directory.known())
    assert opinions.deeds(first) == Deeds(failed=1)
    assert opinions.deeds(second).failed == 0


async def test_who_cannot_be_reached_is_not_asked_again_at_once(buyer: RouterClient, ill: Cheat) -> None:
    nearest, other = buyer.directory.known()
    buyer.directory._providers = (msgspec.structs.replace(nearest, url="http://127.0.0.1:9"), other)
    with pytest.raises(NoProvider):
        await buyer.chat(BODY)
    assert [each.url for each in buyer.directory.known()] == [None, other.url]


async def test_what_was_paid_is_booked_before_its_node_is_praised(
    buyer: RouterClient, cheat: Cheat, opinions: Opinions, spending: Spending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the one cannot be written, the other does not stay open."""

    async def full(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(opinions, "note", full)
    cheat.chat = [TEXT, receipt(), DONE]
    with pytest.raises(StorageError):
        await buyer.chat(BODY)
    assert [line.open for line in spending.lines(60)] == [0]
