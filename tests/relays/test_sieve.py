"""What relays send is sifted: verified once, nothing that was not asked for, and nobody may send without end."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest
from aiohttp import web

from relays import pool as pools
from relays import sieve as sieves
from relays.errors import InvalidEvent, RelayMisbehaves
from relays.event import Event, Signer, verify_event
from relays.filters import matches
from relays.pool import RelayPool
from relays.sieve import Patience, Sieve
from tests.relays.hostile import hostile_relay, plain

SIGNER = Signer.generate()
NOW = int(time.time())


def event(content: str = "x", kind: int = 1, at: int = NOW, **tags: str) -> Event:
    return SIGNER.sign(kind=kind, content=content, created_at=at, tags=list(tags.items()))


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({"kinds": [1, 2]}, True),
        ({"kinds": [2]}, False),
        ({"authors": [SIGNER.pubkey], "kinds": [1]}, True),
        ({"authors": ["0" * 64]}, False),
        ({"ids": ["0" * 64]}, False),
        ({"since": NOW, "until": NOW}, True),
        ({"since": NOW + 1}, False),
        ({"until": NOW - 1}, False),
        ({"#m": ["gpt"]}, True),
        ({"#m": ["other"]}, False),
        ({"limit": 0}, True),
    ],
)
def test_filters_are_those_of_nip_01(wanted: dict[str, Any], fits: bool) -> None:
    assert matches(event(m="gpt"), wanted) is fits


def test_each_event_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def check(each: Event) -> None:
        checked.append(each.id)
        verify_event(each)

    monkeypatch.setattr("relays.sieve.verify_event", check)
    sieve, sent, known = Sieve([{"kinds": [1]}], known=lambda id_: id_ == old.id), event(), (old := event("old"))
    assert sieve.take(plain(sent)) == sent
    assert sieve.take(plain(sent)) is None
    assert sieve.take(plain(known)) is None
    assert checked == [sent.id]


def test_a_forgery_that_comes_first_does_not_shut_out_the_genuine_one() -> None:
    sieve, sent = Sieve([{"kinds": [1]}]), event()
    for forged in (plain(sent, content="forged"), plain(sent, sig="0" * 128), plain(sent, pubkey="0" * 64)):
        with pytest.raises(InvalidEvent):
            sieve.take(forged)
    assert sieve.take(plain(sent)) == sent


def test_what_was_not_asked_for_is_refused_before_its_signature_is_looked_at() -> None:
    with pytest.raises(InvalidEvent, match="asked"):
        Sieve([{"kinds": [1]}]).take(plain(event(kind=2), sig="0" * 128))


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sieves, "MAX_PASSED", 3)
    sieve, sent = Sieve([{}]), [event(str(n)) for n in range(5)]
    assert [sieve.take(plain(each)) for each in sent] == sent
    assert len(sieve._passed) == 3
    assert sieve.take(plain(sent[0])) == sent[0]


def test_patience_is_a_burst_and_then_a_rate() -> None:
    now = 0.0
    patience = Patience("ws://x", lambda: now)
    for _ in range(sieves.BURST_EVENTS):
        patience.spend()
    with pytest.raises(RelayMisbehaves):
        patience.spend()
    now = 10.0
    for _ in range(int(10 * sieves.EVENTS_PER_S) - 1):
        patience.spend()
    with pytest.raises(RelayMisbehaves):
        patience.spend()


def test_patience_has_an_end_for_large_events_too() -> None:
    now = 0.0
    patience = Patience("wss://r", clock=lambda: now)
    patience.spend(sieves.BURST_CHARS)
    with pytest.raises(RelayMisbehaves):
        patience.spend(1)
    now += 10
    patience.spend(5 * int(sieves.CHARS_PER_S))


@pytest.mark.parametrize(
    ("raw", "chars"),
    [
        ({"content": "abc", "tags": [["d", "xy"], ["e"], 7, [1, None]]}, 7),
        ({"content": 7, "tags": "no"}, 0),
        ([["d"]], 0),
        (None, 0),
    ],
)
def test_the_size_of_anything_is_told(raw: object, chars: int) -> None:
    assert sieves.chars_of(raw) == chars


async def test_more_than_a_relay_gives_at_once_is_asked_for_page_by_page() -> None:
    stored = [event(str(n), at=NOW - n) for n in range(250)]

    async def a_hundred(socket: web.WebSocketResponse, name: str, filters: list[dict[str, Any]]) -> None:
        fitting = (each for each in stored if matches(each, filters[0]))
        for each in itertools.islice(fitting, 100):
            await socket.send_json(["EVENT", name, plain(each)])
        await socket.send_json(["EOSE", name])

    async with hostile_relay(a_hundred) as relay, RelayPool([relay.url]) as pool:
        assert set((await pool.query({"kinds": [1]})).events) == set(stored)
        assert len(relay.asked) == 3


async def test_a_relay_that_ignores_pages_is_not_asked_for_ever() -> None:
    async with hostile_relay() as relay, RelayPool([relay.url]) as pool:
        relay.events = [event(str(n)) for n in range(120)]
        relay.behaviour = lambda socket, name, _: relay.honest(socket, name, [{}])
        assert len((await pool.query({"kinds": [1]})).events) == 120
        assert len(relay.asked) == 3


async def test_a_crowd_of_one_second_hides_nothing_that_is_older() -> None:
    crowd, elder = [event(str(n), at=NOW) for n in range(250)], event("elder", at=NOW - 1)

    async def a_hundred(socket: web.WebSocketResponse, name: str, filters: list[dict[str, Any]]) -> None:
        fitting = (each for each in [*crowd, elder] if matches(each, filters[0]))
        for each in itertools.islice(fitting, 100):
            await socket.send_json(["EVENT", name, plain(each)])
        await socket.send_json(["EOSE", name])

    async with hostile_relay(a_hundred) as relay, RelayPool([relay.url]) as pool:
        assert elder in (await pool.query({"kinds": [1]})).events


async def test_who_forges_without_end_is_cut_off_in_time_and_others_are_heard() -> None:
    genuine, other = event("genuine"), event("other")

    async def forge(socket: web.WebSocketResponse, name: str, _: object) -> None:
        while True:
            await socket.send_json(["EVENT", name, plain(other, content="forged")])

    async with hostile_relay(forge) as liar, hostile_relay() as honest, RelayPool([liar.url, honest.url]) as pool:
        honest.events = [genuine]
        async with asyncio.timeout(60):
            result = await pool.query({"kinds": [1]}, deadline_s=100)
        assert result.events == (genuine,)
        assert "forged" in result.failures[liar.url]


async def test_a_flood_waits_for_its_reader_and_fills_nothing() -> None:
    """A megabyte an event ends the connection; what is small enough waits at the relay until it is wanted."""
    sent = 0
    huge = plain(event("x" * 100_000))

    async def flood(socket: web.WebSocketResponse, name: str, _: object) -> None:
        nonlocal sent
        while True:
            await socket.send_json(["EVENT", name, huge])
            sent += 1

    async with hostile_relay(flood) as relay, RelayPool([relay.url]) as pool:
        (line,) = pool._relays.values()
        async with line.feed([{"kinds": [1]}], 5) as queue:
            await asyncio.sleep(1)
            stalled = sent
            await asyncio.sleep(0.5)
            assert queue.full()
            assert sent == stalled < 400

        async def megabyte(socket: web.WebSocketResponse, name: str, _: object) -> None:
            await socket.send_json(["EVENT", name, plain(event("x" * 1_000_000))])

        relay.behaviour = megabyte
        line.drop()
        assert "closed" in (await pool.query({"kinds": [1]}, deadline_s=5)).failures[relay.url]


async def test_one_who_follows_hears_each_event_once_and_again_after_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "RECONNECT_MIN_S", 0.05)
    async with hostile_relay() as one, hostile_relay() as two, RelayPool([one.url, two.url]) as pool:
        first, second = event("first"), event("second")
        one.events = two.events = [first]
        following = pool.follow({"kinds": [1]})
        assert await asyncio.wait_for(anext(following), 5) == first
        await one.die()
        await two.die()
        one.events = two.events = [first, second]
        await one.start()
        assert await asyncio.wait_for(anext(following), 5) == second
        await following.aclose()  # type: ignore[attr-defined]
