"""A directory holds what is genuine, newest and alive: copies, forgeries, stale and withdrawn announcements gain nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from relays.announcement import Announcement, encode, withdrawal
from relays.event import Event, Signer
from relays.pool import RelayPool
from router_client.discovery.directory import Directory, current
from tests.conftest import DEAD_RELAY
from tests.strangers import served

NOW = 1_700_000_000
ALICE, BOB = Signer.generate(), Signer.generate()


def announcement(
    signer: Signer = ALICE,
    *,
    url: str = "https://node.example",
    at: int = NOW,
    name: str = "",
    expires: int | None = None,
) -> Event:
    made = Announcement(
        pubkey=signer.pubkey,
        identifier="satroute",
        urls=(url,),
        mints=(),
        version="1",
        name=name,
        about="",
        models=(),
        created_at=at,
        expires_at=expires,
    )
    return encode(made, signer)


def names(*events: Event, deletions: tuple[Event, ...] = (), now: int = NOW + 10) -> list[str]:
    return sorted(found.name for found in current(events, deletions, now=now))


@given(st.permutations(range(5)))
def test_the_newest_of_each_address_wins_in_any_order(order: list[int]) -> None:
    events = [announcement(at=NOW + i, name=str(i)) for i in range(4)] + [announcement(BOB, name="bob")]
    assert names(*(events[i] for i in order)) == ["3", "bob"]


def test_of_equal_dates_the_lower_id_wins() -> None:
    pair = sorted((announcement(name="a"), announcement(name="b")), key=lambda event: event.id)
    assert names(*pair) == names(*reversed(pair)) == [current(pair[:1], (), now=NOW)[0].name]


def test_a_newer_broken_one_does_not_bring_the_older_back() -> None:
    broken = ALICE.sign(kind=38421, content="", created_at=NOW + 1, tags=[["d", "satroute"]])
    assert names(announcement(name="old"), broken) == []


def test_expired_and_future_ones_are_left_out() -> None:
    assert names(announcement(expires=NOW + 5)) == []
    assert names(announcement(at=NOW + 10_000)) == []


def test_a_deletion_counts_for_its_author_and_up_to_its_date() -> None:
    mine = announcement(name="mine")
    assert names(mine, deletions=(withdrawal(mine, ALICE, NOW + 1),)) == []
    forged = withdrawal(mine, BOB, NOW + 1)
    assert names(mine, deletions=(forged,)) == ["mine"]
    later = announcement(at=NOW + 5, name="back")
    assert names(mine, later, deletions=(withdrawal(mine, ALICE, NOW + 1),)) == ["back"]


def test_other_kinds_are_no_providers() -> None:
    assert names(ALICE.sign(kind=1, content="", created_at=NOW, tags=[["u", "https://x"]])) == []


@pytest.fixture
async def node_url() -> AsyncIterator[str]:
    """Something that answers `/v1/info` as Alice."""

    async def info(_: web.Request) -> web.Response:
        return web.json_response({"npub": ALICE.npub})

    app = web.Application()
    app.router.add_get("/v1/info", info)
    async with served(app) as where:
        yield f"http://{where}"


async def test_only_who_answers_under_its_key_is_alive(relay_url: str, node_url: str, http: httpx.AsyncClient) -> None:
    now = int(time.time())
    thief = Signer.generate()
    async with RelayPool([relay_url, DEAD_RELAY]) as pool:
        directory = Directory(pool, http)
        await pool.publish(announcement(ALICE, url=f"{node_url}/v1", at=now, name="alice"))
        await pool.publish(announcement(thief, url=node_url, at=now, name="thief"))
        await pool.publish(announcement(BOB, url="http://127.0.0.1:9", at=now, name="gone"))
        found = {p.announcement.name: p.url for p in await directory.providers() if p.announcement.name}
        assert (found["alice"], found["thief"], found["gone"]) == (node_url, None, None)
        assert list(directory.failures) == [DEAD_RELAY]

        directory.forget(ALICE.pubkey)
        assert all(p.url is None for p in await directory.providers())
        assert any(p.url == node_url for p in await directory.providers(fresh=True))
