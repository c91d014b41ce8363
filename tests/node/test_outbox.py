"""Every relay gets every event once, however often others fail; one that fails is asked again later, not for all again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from node.outbox import PAUSE_MAX_S, PAUSE_MIN_S, Outbox
from relays.event import Event, Signer
from relays.pool import RelayPool
from tests.conftest import DEAD_RELAY
from tests.node.books import Clock
from tests.relays.scripted import ScriptedRelay, scripted_relay

SIGNER = Signer.generate()


def event(name: str = "a", at: int = 1_700_000_000, content: str = "") -> Event:
    return SIGNER.sign(kind=30_000, content=content, created_at=at, tags=[["d", name]])


@pytest.fixture
async def relay() -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as running:
        yield running


def heard(relay: ScriptedRelay) -> list[str]:
    names = [sent["tags"][0][1] for sent in relay.heard]
    relay.heard.clear()
    return names


async def test_what_a_relay_has_taken_it_is_not_offered_again(
    relay: ScriptedRelay, relay_url: str, clock: Clock
) -> None:
    async with RelayPool([relay.url, relay_url]) as pool:
        outbox = Outbox(pool, clock)
        assert set(outbox.states().values()) == {"not asked yet"}
        await outbox.put(event("a"), event("b"))
        await outbox.offer()
        assert heard(relay) == ["a", "b"]
        assert set(outbox.states().values()) == {"accepted"}
        await outbox.put(event("b", content="newer"))
        assert heard(relay) == ["b"]
        outbox.drop([event("b")])
        await outbox.put(event("b"))
        assert heard(relay) == ["b"], "dropped and put again"


async def test_only_who_failed_is_asked_again_and_ever_more_seldom(relay: ScriptedRelay, clock: Clock) -> None:
    async with RelayPool([DEAD_RELAY, relay.url]) as pool:
        outbox = Outbox(pool, clock)
        asked = spy(pool)
        await outbox.put(event("a"), event("b"))
        assert asked.count(DEAD_RELAY) == 1, "the second would fail as the first did"
        assert "cannot be reached" in outbox.states()[DEAD_RELAY]
        asked.clear()
        tries = []
        for second in range(4000):
            clock.now += 1
            await outbox.offer()
            tries += [second] * len(asked)
            assert relay.url not in asked
            asked.clear()
        pauses = [later - earlier for earlier, later in pairwise(tries)]
        assert pauses[0] <= PAUSE_MIN_S * 2 + 1
        assert PAUSE_MAX_S / 2 <= pauses[-1] <= PAUSE_MAX_S
        assert len(set(pauses[-4:])) > 1, "no two pauses alike: nodes do not come back in step"
        assert heard(relay) == ["a", "b"]


def spy(pool: RelayPool) -> list[str]:
    """Which relays are asked."""
    asked: list[str] = []
    publish = pool.publish

    async def noted(event: Event, deadline_s: float = 8, *, to: tuple[str, ...] = ()) -> object:
        asked.extend(to)
        return await publish(event, deadline_s, to=to)

    pool.publish = noted  # type: ignore[method-assign, assignment]
    return asked


async def test_a_refused_event_does_not_keep_others_from_the_relay(relay: ScriptedRelay, clock: Clock) -> None:
    relay.script = lambda sent: (False, "invalid: too large") if sent["tags"][0][1] == "b" else (True, "")
    async with RelayPool([relay.url]) as pool:
        outbox = Outbox(pool, clock)
        await outbox.put(event("a"), event("b"), event("c"))
        assert heard(relay) == ["a", "b", "c"]
        assert outbox.states()[relay.url] == "1 of 3 events: invalid: too large"
        await outbox.put(event("a", content="newer"))
        assert heard(relay) == ["a"]
        clock.now += PAUSE_MIN_S * 2
        await outbox.offer()
        assert heard(relay) == ["b"]
        await outbox.put(event("b", content="smaller"))
        assert heard(relay) == ["b"], "another event is not the one that was refused"
        relay.script = lambda sent: (True, "")
        clock.now += PAUSE_MAX_S
        await outbox.offer()
        assert outbox.states()[relay.url] == "accepted"


async def test_a_relay_that_is_too_busy_is_left_alone(relay: ScriptedRelay, clock: Clock) -> None:
    relay.script = lambda sent: (False, "rate-limited: slow down")
    async with RelayPool([relay.url]) as pool:
        outbox = Outbox(pool, clock)
        await outbox.put(event("a"), event("b"))
        await outbox.put(event("c"))
        assert heard(relay) == ["a"]
        assert outbox.states()[relay.url] == "rate-limited: slow down"
        relay.script = lambda sent: (True, "")
        clock.now += PAUSE_MIN_S
        await outbox.offer()
        assert heard(relay) == ["a", "b", "c"]


async def test_a_duplicate_is_taken_and_silence_is_not(relay: ScriptedRelay, clock: Clock) -> None:
    relay.script = lambda sent: (False, "duplicate: have it") if sent["tags"][0][1] == "a" else None
    async with RelayPool([relay.url]) as pool:
        outbox = Outbox(pool, clock)
        await outbox.put(event("a"))
        assert outbox.states()[relay.url] == "accepted"
        await outbox.put(event("b"), deadline_s=0.2)
        assert "did not answer" in outbox.states()[relay.url]


async def test_a_slow_relay_is_offered_the_rest_in_another_round(relay: ScriptedRelay, clock: Clock) -> None:
    def slowly(_: object) -> tuple[bool, str]:
        clock.now += 15
        return True, ""

    relay.script = slowly
    async with RelayPool([relay.url]) as pool:
        outbox = Outbox(pool, clock)
        await outbox.put(*(event(name) for name in "abcd"))
        assert heard(relay) == ["a", "b"]
        await outbox.offer()
        assert heard(relay) == ["c", "d"]


async def test_what_is_taken_back_meanwhile_is_not_sent_any_more(relay: ScriptedRelay, clock: Clock) -> None:
    async with RelayPool([relay.url]) as pool:
        outbox = Outbox(pool, clock)

        def at_the_first(_: object) -> tuple[bool, str]:
            outbox.drop([event("b")])
            return True, ""

        relay.script = at_the_first
        await outbox.put(event("a"), event("b"), event("c"))
        assert heard(relay) == ["a", "c"]


async def test_the_log_says_once_how_it_stands(
    relay: ScriptedRelay, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "node.outbox")
    relay.script = lambda sent: (False, "blocked: no")
    async with RelayPool([relay.url]) as pool:
        outbox = Outbox(pool, clock)
        await outbox.put(event())
        for _ in range(20):
            clock.now += 100
            await outbox.offer()
        relay.script = lambda sent: (True, "")
        clock.now += PAUSE_MAX_S
        await outbox.offer()
        await outbox.put(event(content="newer"))
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", f"relay {relay.url}: blocked: no"),
        ("INFO", f"relay {relay.url}: accepted"),
    ]
