"""Relays that are slow, silent or talk without end cost those who ask little, and what breaks inside is seen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from relays import relay as relay_room
from relays.event import Event, Signer
from relays.pool import RelayPool
from tests.relays.hostile import Hostile, hostile_relay, plain

SIGNER = Signer.generate()
NOTE: dict[str, Any] = {"kinds": [1]}


def note(text: str) -> Event:
    return SIGNER.sign(kind=1, content=text, created_at=1_700_000_000)


async def slow(socket: web.WebSocketResponse, name: str, _: object) -> None:
    """It begins at once, and never ends."""
    await socket.send_json(["EVENT", name, plain(note("from the slow"))])


@pytest.mark.parametrize("behaviour", [Hostile.silent, slow])
async def test_nobody_waits_for_the_silent_once_another_has_told(behaviour: Any) -> None:
    async with hostile_relay() as mute, hostile_relay() as honest, RelayPool([mute.url, honest.url]) as pool:
        mute.behaviour = behaviour.__get__(mute) if behaviour is Hostile.silent else behaviour
        honest.events = [note("honest")]
        async with asyncio.timeout(10):
            found = await pool.query(NOTE, deadline_s=60, grace_s=0.1)
        assert "honest" in {event.content for event in found.events}
        assert list(found.failures) == [mute.url]
        async with asyncio.timeout(10):
            assert (await pool.query(NOTE, deadline_s=60, skip=[mute.url])).failures == {}


async def test_what_is_known_is_told_too_and_nothing_is_no_answer_that_ends_the_wait() -> None:
    async with hostile_relay() as empty, hostile_relay() as late, RelayPool([empty.url, late.url]) as pool:
        asked = asyncio.Event()

        async def when_asked(socket: web.WebSocketResponse, name: str, filters: list[dict[str, Any]]) -> None:
            await asked.wait()
            await late.honest(socket, name, filters)

        late.behaviour, late.events = when_asked, [note("late")]
        query = asyncio.create_task(pool.query(NOTE, deadline_s=10, grace_s=0))
        while not empty.asked:
            await asyncio.sleep(0.01)
        await pool.query(NOTE, deadline_s=10, skip=[late.url])  # the empty one has answered the first question, too
        asked.set()
        assert [event.content for event in (await query).events] == ["late"]

        asked.clear()
        empty.events = [note("known")]
        async with asyncio.timeout(10):
            found = await pool.query(NOTE, deadline_s=60, grace_s=0.1, known=lambda _: True)
        assert list(found.failures) == [late.url]


@pytest.mark.parametrize("message", [["NOTICE", "no"], ["EVENT", "nobody's", {}], ["AUTH", "again"], 7])
async def test_one_that_talks_without_end_is_hung_up_on(message: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_room, "MAX_STRAY", 100)
    sent = 0

    async def chatter(socket: web.WebSocketResponse, *_: object) -> None:
        nonlocal sent
        while not socket.closed:
            await socket.send_json(message)
            await asyncio.sleep(0)
            sent += 1

    async with hostile_relay(chatter) as relay, RelayPool([relay.url], SIGNER) as pool:
        async with asyncio.timeout(20):
            found = await pool.query(NOTE, deadline_s=15)
        assert "closed the connection" in found.failures[relay.url]
        assert sent > 100


async def test_a_crowd_of_challenges_is_not_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = 0
    sign = SIGNER.sign

    def count(**words: Any) -> Event:
        nonlocal signed
        signed += 1
        return sign(**words)

    monkeypatch.setattr(SIGNER, "sign", count)

    async def challenging(socket: web.WebSocketResponse, name: str, _: object) -> None:
        for n in range(500):
            await socket.send_json(["AUTH", f"{n}"])
        await socket.send_json(["EOSE", name])

    async with hostile_relay(challenging) as relay, RelayPool([relay.url], SIGNER) as pool:
        assert (await pool.query(NOTE)).failures == {}
        assert signed <= relay_room.MAX_CHALLENGES


async def test_who_follows_sees_what_breaks_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("relays.pool._follow", broken)
    async with hostile_relay() as relay, RelayPool([relay.url]) as pool:
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(10):
                await anext(pool.follow(NOTE))


async def demanding(socket: web.WebSocketResponse, name: str, _: object) -> None:
    """It wants a key, and whatever key is shown does not help."""
    await socket.send_json(["AUTH", "challenge"])
    await socket.send_json(["CLOSED", name, "auth-required: members only"])


async def test_a_key_that_is_refused_is_said_and_not_waited_for() -> None:
    async with hostile_relay(demanding) as relay, RelayPool([relay.url], SIGNER) as pool:
        relay.takes_keys = False
        async with asyncio.timeout(10):
            found = await pool.query(NOTE, deadline_s=60)
        assert "NIP-42" in found.failures[relay.url]
        assert len(relay.asked) == 1


async def test_one_that_demands_a_key_again_and_again_is_not_asked_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relays.pool.RECONNECT_MIN_S", 60)
    async with hostile_relay(demanding) as relay, RelayPool([relay.url], SIGNER) as pool:
        following = asyncio.ensure_future(anext(pool.follow(NOTE)))
        async with asyncio.timeout(10):
            while len(relay.asked) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert len(relay.asked) == 2
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_closing_a_subscription_buys_a_flood_no_new_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relays.sieve.BURST_EVENTS", 50)
    monkeypatch.setattr("relays.pool.RECONNECT_MIN_S", 0.01)
    crowd = [note(f"{n}") for n in range(200)]

    async def in_portions(socket: web.WebSocketResponse, name: str, _: object) -> None:
        for event in crowd[40 * (len(relay.asked) - 1) :][:40]:
            await socket.send_json(["EVENT", name, plain(event)])
        await socket.send_json(["CLOSED", name, "error: again"])

    async with hostile_relay(in_portions) as relay, RelayPool([relay.url], SIGNER) as pool:
        heard: list[Event] = []

        async def listen() -> None:
            async for event in pool.follow(NOTE):
                heard.append(event)

        listening = asyncio.create_task(listen())
        async with asyncio.timeout(10):
            while len(relay.asked) < 2 or len(heard) < 45:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert len(heard) < 120
        assert len(relay.asked) < 4, "it was hung up on"
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
