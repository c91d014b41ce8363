"""A review says what was measured, under a key of its own, and others read it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from relays.event import Signer
from relays.pool import RelayPool
from relays.review import decode
from router_client.client import RouterClient
from router_client.discovery.opinions import Opinions
from router_client.discovery.people import People
from router_client.discovery.reviewer import Reviewer, verdict_of
from router_client.discovery.shelf import Shelf
from router_client.discovery.trust import Deeds
from router_client.errors import NoProvider, NotTaken, StorageError
from tests.client.test_discovery import announcement
from tests.conftest import DEAD_RELAY
from tests.relays.hostile import hostile_relay

NODE = Signer.generate().pubkey


@pytest.mark.parametrize(
    ("deeds", "verdict"),
    [
        (Deeds(), None),
        (Deeds(failed=3), None),
        (Deeds(failed=4), "suspicious"),
        (Deeds(served=1), "verified"),
        (Deeds(served=9, failed=3), "verified"),
        (Deeds(served=9, cheated=1), "avoid"),
    ],
)
def test_the_verdict_is_what_was_measured(deeds: Deeds, verdict: str | None) -> None:
    assert verdict_of(deeds) == verdict


async def test_it_is_published_under_one_key_that_its_owner_alone_can_read(folder: Path) -> None:
    key = folder / "reviewer.nsec"
    async with hostile_relay() as relay, RelayPool([relay.url]) as pool:
        assert await Reviewer(pool, key).publish(NODE, Deeds()) is None
        assert not key.exists()
        first = await Reviewer(pool, key).publish(NODE, Deeds(served=1))
        second = await Reviewer(pool, key).publish(NODE, Deeds(served=1, cheated=1))
        assert first is not None
        assert second is not None
        assert [event.id for event in relay.published] == [first.id, second.id]
        assert first.pubkey == second.pubkey
        assert first.address() == second.address(), "the newer replaces the elder"
        read = decode(second, now=second.created_at)
        assert (read.node, read.verdict) == (NODE, "avoid")
        assert key.stat().st_mode & 0o777 == 0o600
        key.write_text("nonsense")
        with pytest.raises(StorageError):
            await Reviewer(pool, key).publish(NODE, Deeds(served=1))


async def test_a_client_reviews_nobody_it_has_not_paid(folder: Path) -> None:
    async with hostile_relay() as relay, RouterClient.open([relay.url], folder) as client:
        assert await client.review(NODE) is None
        assert relay.published == []


async def test_a_recommendation_is_read_by_who_follows_and_can_be_taken_back(folder: Path, relay_url: str) -> None:
    node = Signer.generate()
    announced = announcement(node, at=int(time.time()), name="good")
    async with RelayPool([relay_url]) as pool:
        await pool.publish(announced)
        async with RouterClient.open([relay_url], folder / "friend") as friend:
            with pytest.raises(NoProvider):
                await friend.recommend(NODE)
            said = await friend.recommend(node.pubkey, "fast")
        assert (said.kind, said.content, said.value("u")) == (38000, "fast", "https://node.example")
        assert said.value("a") == announced.address()

        people = People(folder / "people.json")
        people.put(said.pubkey, "followed")
        shelf = await Shelf.open(folder / "directory.db")
        opinions = Opinions(pool, people, shelf)
        await opinions.look()
        assert opinions.of(node.pubkey).reasons == ("recommended by 1 whom you follow",)

        async with RouterClient.open([relay_url], folder / "friend") as friend:
            assert [event.id for event in await friend.take_back(node.pubkey)] == [said.id]
            assert await friend.take_back(node.pubkey) == ()
        await opinions.look(again=True)
        assert opinions.of(node.pubkey).reasons == ()
        shelf.close()


async def test_what_no_relay_took_is_not_said_to_be_published(folder: Path) -> None:
    async with RelayPool([DEAD_RELAY]) as pool:
        with pytest.raises(NotTaken, match="cannot be reached"):
            await Reviewer(pool, folder / "key").publish(NODE, Deeds(served=1))
