"""A node of many models is announced whole, only what has changed is published again, and all of it is taken back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from node.announcer import RENEW_S, most_wanted_first
from node.jobs import schedule
from relays import announcement, kinds, pages
from relays.announcement import Announcement, ModelOffer, NodeLimits
from relays.bounds import ModelLimits
from relays.event import Event, expiration
from relays.pool import RelayPool
from relays.pricing import ModelPrice
from router_client.discovery.directory import Directory
from tests.conftest import DEAD_MINT
from tests.node.harness import Running, running_node
from tests.relays.scripted import ScriptedRelay, scripted_relay

pytestmark = pytest.mark.usefixtures("no_clock")


@pytest.fixture
async def relay() -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as running:
        yield running


@asynccontextmanager
async def shop(folder: Path, model_url: str, relay: str, **settings: Any) -> AsyncIterator[Running]:
    """A node that publishes when it is told to."""
    settings = {"http_url": "https://n.example", "relays": relay} | settings
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url, **settings) as running:
        yield running


def sells(running: Running, number: int, **entry: Any) -> None:
    """So many models from now on."""
    running.node.catalogue.update({"upstream": [{"id": f"maker/model-{n}", **entry} for n in range(number)]})


async def seen(pool: RelayPool, running: Running) -> Announcement:
    """The node as a client sees it."""
    author = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "authors": [running.node.signer.pubkey]}
    events, now = (await pool.query(author)).events, int(time.time()) + 60
    (head,) = (event for event in events if event.values(kinds.TAG_URL))
    rest = [pages.decode(event, now=now) for event in events if event is not head]
    return pages.with_pages(announcement.decode(head, now=now), rest)


async def test_every_model_is_found_by_its_name_and_all_are_taken_back(
    folder: Path, model_url: str, relay_url: str
) -> None:
    async with RelayPool([relay_url]) as pool:
        async with shop(folder, model_url, relay_url) as running:
            sells(running, 1500)
            await running.node.announcer.publish_changes()
            found = await seen(pool, running)
            assert found.pages > 2
            assert {model.id for model in found.models or ()} == {f"maker/model-{n}" for n in range(1500)}
            one = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "#m": ["maker/model-1499"]}
            assert [event.pubkey for event in (await pool.query(one)).events] == [running.node.signer.pubkey]
            async with httpx.AsyncClient() as http:
                for each in await Directory(pool, http, probing=False).providers():
                    if each.announcement.pubkey == running.node.signer.pubkey:
                        assert len(each.offers) == 1500, "a buyer has them all"
                        break
                else:
                    pytest.fail("a buyer does not find the node")

            sells(running, 3)
            await running.node.announcer.publish_changes()
            assert len((await seen(pool, running)).models or ()) == 3
            assert (await pool.query(one)).events == (), "pages that are no longer listed are deleted"
            sells(running, 1500)
            await running.node.announcer.publish_changes()
            assert len((await seen(pool, running)).models or ()) == 1500, "and come back"
            author = running.node.signer.pubkey
        left = await pool.query({"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "authors": [author]})
        assert left.events == ()


async def test_a_relay_that_wants_nip42_takes_all_of_it(folder: Path, model_url: str, auth_relay_url: str) -> None:
    async with shop(folder, model_url, auth_relay_url) as running:
        sells(running, 600)
        await running.node.announcer.publish()
        assert running.node.announcer.relay_states() == {auth_relay_url: "accepted"}
        async with RelayPool([auth_relay_url], running.node.signer) as pool:
            assert len((await seen(pool, running)).models or ()) == 600


async def test_limits_and_ways_to_pay_are_announced(folder: Path, model_url: str, relay_url: str) -> None:
    limits = {"max_body_bytes": 5000, "requests_per_minute": 60, "max_requests_per_key": 7}
    async with shop(folder, model_url, relay_url, **limits) as running, RelayPool([relay_url]) as pool:
        await running.node.announcer.publish()
        found = await seen(pool, running)
        assert found.limits == NodeLimits(max_body_bytes=5000, concurrent_requests=7, requests_per_minute=60)
        assert found.payments == ("key", "cashu", "x-cashu", "lightning")


def sent(relay: ScriptedRelay) -> list[tuple[int, str]]:
    events = [msgspec.convert(raw, Event) for raw in relay.heard]
    relay.heard.clear()
    ours = (kinds.PROVIDER_ANNOUNCEMENT, kinds.DELETION)
    return [(event.kind, event.value("d") or "") for event in events if event.kind in ours]


async def test_only_what_has_changed_is_published_until_it_is_due(
    folder: Path, model_url: str, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(folder, model_url, relay.url) as running:
        announcer = running.node.announcer
        sells(running, 500)
        await announcer.publish_changes()
        kind = kinds.PROVIDER_ANNOUNCEMENT
        name = running.node.announcer.announcement().identifier
        whole = [(kind, name), (kind, f"{name}/1"), (kind, f"{name}/2")]
        assert sent(relay)[-3:] == whole
        with monkeypatch.context() as patched:
            patched.setattr(announcer, "events", pytest.fail)  # they are not even made: of thousands that takes a while
            await announcer.publish_changes()
        assert sent(relay) == []
        sells(running, 501)  # the cheapest of equals come by their names: the last page alone is another
        await announcer.publish_changes()
        assert len(sent(relay)) < len(whole)
        await announcer.publish()
        assert sent(relay) == whole
        monkeypatch.setattr(announcer, "_clock", lambda: time.time() + RENEW_S + 10)
        sells(running, 502)
        await announcer.publish_changes()
        assert sent(relay) == whole, "what is old is renewed with it"
        assert announcer.relay_states() == {relay.url: "accepted"}


async def test_what_cannot_be_sold_at_the_moment_is_not_announced(
    folder: Path, model_url: str, relay_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(folder, model_url, relay_url) as running, RelayPool([relay_url]) as pool:
        await running.node.announcer.publish()
        assert len((await seen(pool, running)).models or ()) == 1
        monkeypatch.setattr(type(running.node.catalogue), "is_open", lambda *_: False)
        await running.node.announcer.publish()
        assert (await seen(pool, running)).models == ()


async def test_a_node_that_goes_says_nothing_more(folder: Path, model_url: str, relay: ScriptedRelay) -> None:
    async with shop(folder, model_url, relay.url) as running:
        await running.node.announcer.publish()
        await running.node.announcer.withdraw()
        assert sent(relay)[-1] == (kinds.DELETION, "")
        await running.node.announcer.publish()
        await running.node.announcer.retry()
        assert sent(relay) == []


async def test_what_is_left_out_is_said(
    folder: Path, model_url: str, relay_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "node.announcer")
    monkeypatch.setattr(pages, "MAX_PAGES", 1)
    async with shop(folder, model_url, relay_url) as running:
        sells(running, 1000)
        await running.node.announcer.publish()
    assert [record.message.split(":")[0] for record in caplog.records][-1].endswith("models are not announced")


def test_the_most_wanted_come_first_then_the_cheapest() -> None:
    def offer(id_: str, price: int) -> ModelOffer:
        return ModelOffer(id_, ModelLimits(10, 10), ModelPrice(price, price))

    dear, cheap, cheap_too, wanted = offer("a", 9), offer("c", 1), offer("b", 1), offer("z", 99)
    assert most_wanted_first([dear, cheap, cheap_too, wanted], {"z": 1}) == [wanted, cheap_too, cheap, dear]


@pytest.mark.parametrize(
    ("settings", "published"),
    [
        ({}, True),
        ({"nsec": "1" * 64}, False),
        ({"nsec": "2" * 64, "publish_profile": True}, True),
        ({"publish_profile": False}, False),
    ],
    ids=["made here", "brought", "brought and meant", "not wanted"],
)
async def test_a_key_that_was_brought_keeps_its_own_profile(
    folder: Path, model_url: str, relay_url: str, settings: dict[str, Any], published: bool
) -> None:
    async with RelayPool([relay_url]) as pool:
        async with shop(folder, model_url, relay_url, name="Node", description="Sells", **settings) as running:
            await running.node.announcer.publish()
            author = running.node.signer.pubkey
        found = await pool.query({"kinds": [kinds.PROFILE, kinds.RELAY_LIST], "authors": [author]})
    by_kind = {event.kind: event for event in found.events}
    if not published:
        assert by_kind == {}
        return
    assert json.loads(by_kind[kinds.PROFILE].content)["name"] == "Node"
    assert by_kind[kinds.RELAY_LIST].values("r") == (relay_url,)
    assert all(expiration(event) is not None for event in found.events)


async def test_whatever_is_published_goes_out_at_odd_times(folder: Path, model_url: str, relay_url: str) -> None:
    """So that a crowd of nodes does not come to a relay at once."""
    async with shop(folder, model_url, relay_url) as running:
        jobs = {job.id: job.trigger for job in schedule(running.node).get_jobs()}
    for name in ("announce", "announce what has changed", "tell the capacity", "offer relays what they have not taken"):
        assert jobs[name].jitter > 0, name
