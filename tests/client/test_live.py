"""The directory lives with its relays: hostile ones cost it nothing, without any it starts from disk, and after an hour of
churn it knows exactly who is there."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from relays import pool as pools
from relays.announcement import withdrawal
from relays.event import Event, Signer
from relays.pool import RelayPool
from router_client.client import RouterClient
from router_client.discovery import directory as discovery
from router_client.discovery.directory import Directory
from router_client.discovery.opinions import Opinions
from router_client.discovery.people import People
from router_client.discovery.shelf import Shelf
from router_client.discovery.trust import Own
from tests.client.test_discovery import announcement
from tests.conftest import DEAD_RELAY
from tests.relays.hostile import Hostile, hostile_relay, plain

NOW = int(time.time())
ALICE, BOB = Signer.generate(), Signer.generate()


class Clock:
    """An hour passes when a test says so."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "RECONNECT_MIN_S", 0.05)
    monkeypatch.setattr(pools, "RECONNECT_MAX_S", 0.2)
    monkeypatch.setattr(discovery, "LIVE_PAUSE_S", 0.02)
    monkeypatch.setattr(discovery, "QUIET_S", 0.05)


@asynccontextmanager
async def directory_on(*urls: str, folder: Path | None = None, **options: Any) -> AsyncIterator[Directory]:
    shelf = None if folder is None else await Shelf.open(folder / "directory.db", options.get("clock", time.time))
    async with RelayPool(urls) as pool, httpx.AsyncClient() as http:
        yield Directory(pool, http, shelf=shelf, probing=False, **options)
    if shelf is not None:
        shelf.close()


def names(directory: Directory) -> list[str]:
    return sorted(provider.announcement.name for provider in directory.known())


async def until(there: Callable[[], bool], deadline_s: float = 10) -> None:
    async with asyncio.timeout(deadline_s):
        while not there():
            await asyncio.sleep(0.01)


async def test_a_start_without_any_relay_knows_what_was_known(folder: Path) -> None:
    async with hostile_relay() as relay, directory_on(relay.url, folder=folder) as directory:
        relay.events = [announcement(ALICE, at=NOW, name="alice"), announcement(BOB, at=NOW, name="bob")]
        await directory.providers()
        assert names(directory) == ["alice", "bob"]
        relay.events = [withdrawal(relay.events[1], BOB, NOW)]
        await directory.providers(fresh=True)
    async with directory_on(DEAD_RELAY, folder=folder) as directory:
        await directory.providers()
        assert names(directory) == ["alice"]
        assert list(directory.failures) == [DEAD_RELAY]


async def test_what_is_known_is_not_verified_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hostile_relay() as relay:
        relay.events = [announcement(ALICE, at=NOW, name="alice")]
        async with directory_on(relay.url, folder=folder) as directory:
            await directory.providers()
        monkeypatch.setattr("relays.sieve.verify_event", lambda _: pytest.fail("verified again"))
        async with directory_on(relay.url, folder=folder) as directory:
            await directory.providers()
            assert names(directory) == ["alice"]


def lies(genuine: Event, stale: Event) -> list[tuple[str, Any]]:
    return [
        ("stale", lambda name: ["EVENT", name, plain(stale)]),
        ("forged", lambda name: ["EVENT", name, plain(genuine, content='{"name":"forged"}')]),
        ("dated ahead", lambda name: ["EVENT", name, plain(announcement(ALICE, at=NOW + 10**5, name="ahead"))]),
        ("another subscription", lambda _: ["EVENT", "another", plain(announcement(BOB, at=NOW, name="bob"))]),
        ("another kind", lambda name: ["EVENT", name, plain(BOB.sign(kind=1, content="", created_at=NOW))]),
        ("another's deletion", lambda name: ["EVENT", name, plain(withdrawal(genuine, BOB, NOW))]),
        ("huge tags", lambda name: ["EVENT", name, plain(genuine, tags=[["d", "x" * 100_000]])]),
        ("a megabyte", lambda name: ["EVENT", name, plain(genuine, content="x" * 2**20)]),
        ("no event", lambda name: ["EVENT", name, [[[]]]]),
        ("nothing", lambda _: []),
    ]


GENUINE, STALE = announcement(ALICE, at=NOW, name="new"), announcement(ALICE, at=NOW - 60, name="old")


@pytest.mark.parametrize(("what", "lie"), lies(GENUINE, STALE), ids=lambda each: each if isinstance(each, str) else "")
async def test_a_relay_that_lies_changes_nothing(what: str, lie: Callable[[str], list[Any]]) -> None:
    async def lying(socket: web.WebSocketResponse, name: str, _: object) -> None:
        await socket.send_json(lie(name))
        await socket.send_json(["EOSE", name])

    async with hostile_relay(lying) as liar, hostile_relay() as honest:
        honest.events = [GENUINE]
        async with directory_on(liar.url, honest.url) as directory, directory.live():
            assert names(directory) == ["new"], what
            await asyncio.sleep(0.1)
            assert names(directory) == ["new"], what


@pytest.mark.parametrize(("what", "lie"), lies(GENUINE, STALE), ids=lambda each: each if isinstance(each, str) else "")
async def test_what_hostile_authors_have_a_relay_keep_costs_the_others_there_nothing(
    what: str, lie: Callable[[str], list[Any]]
) -> None:
    async def keeping(socket: web.WebSocketResponse, name: str, _: object) -> None:
        for _ in range(5):
            await socket.send_json(lie(name))
        await socket.send_json(["EVENT", name, plain(GENUINE)])
        await socket.send_json(["EOSE", name])

    async with hostile_relay(keeping) as relay, directory_on(relay.url) as directory:
        await directory.providers()
        assert names(directory) == ["new"], what
        assert directory.failures == {}


async def test_one_that_never_answers_keeps_nobody_waiting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("DEADLINE_S", "KNOWN_DEADLINE_S"):
        monkeypatch.setattr(discovery, place, 60)
    monkeypatch.setattr(discovery, "GRACE_S", 0.1)
    async with hostile_relay() as mute, hostile_relay() as honest:
        mute.behaviour, honest.events = mute.silent, [GENUINE]
        for _ in range(2):  # the second time all is known
            async with (
                asyncio.timeout(20),
                directory_on(mute.url, honest.url, folder=folder) as directory,
                directory.live(),
            ):
                assert names(directory) == ["new"]
                assert list(directory.failures) == [mute.url]


async def test_one_that_demands_a_key_is_passed_over_without_one_and_heard_with_one(auth_relay_url: str) -> None:
    async with RelayPool([auth_relay_url], ALICE) as members:
        await members.publish(announcement(ALICE, at=NOW, name="for members"))
        async with directory_on(auth_relay_url) as directory:
            await directory.providers()
            assert "NIP-42" in directory.failures[auth_relay_url]
        async with httpx.AsyncClient() as http:
            directory = Directory(members, http, probing=False)
            async with directory.live():
                assert names(directory) == ["for members"]
                await members.publish(announcement(BOB, at=NOW, name="live"))
                await until(lambda: names(directory) == ["for members", "live"])


async def test_a_buyer_hears_a_relay_that_demands_a_key_without_showing_one_of_its_own(
    auth_relay_url: str, folder: Path
) -> None:
    async with RelayPool([auth_relay_url], ALICE) as members:
        await members.publish(announcement(ALICE, at=NOW + 2, name="for members"))
        async with RouterClient.open([auth_relay_url], folder) as client:
            assert "for members" in {each.announcement.name for each in await client.directory.providers()}
            assert client.directory.failures == {}


async def test_a_flood_of_fresh_keys_neither_fills_nor_stops_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_client.discovery.board.MAX_NOTICES", 50)
    monkeypatch.setattr("relays.sieve.BURST_EVENTS", 300)
    crowd = [announcement(Signer.generate(), at=NOW, name=f"{n}") for n in range(400)]

    async def flood(socket: web.WebSocketResponse, name: str, _: object) -> None:
        for event in crowd:
            await socket.send_json(["EVENT", name, plain(event)])

    async with hostile_relay(flood) as flooding, hostile_relay() as honest:
        honest.events = [GENUINE]
        people = People(folder / "people.json")
        people.put(ALICE.pubkey, "trusted")
        opinions = Opinions(RelayPool([]), people)
        async with directory_on(flooding.url, honest.url, opinions=opinions) as directory, directory.live():
            assert len(directory.board) <= 50
            assert "more events than" in directory.failures[flooding.url]
            later = announcement(ALICE, at=NOW + 1, name="newer")
            honest.events = [later]
            await honest.die()
            await honest.start()
            await until(lambda: "newer" in names(directory))


async def test_who_is_blocked_is_never_asked_and_reviews_come_from_the_circle_alone(folder: Path) -> None:
    from relays.review import encode

    friend, stranger = Signer.generate(), Signer.generate()
    people = People(folder / "people.json")
    people.put(friend.pubkey, "followed")
    people.put(BOB.pubkey, "blocked")
    assert (folder / "people.json").stat().st_mode & 0o777 == 0o600
    async with hostile_relay() as relay, RelayPool([relay.url]) as pool, httpx.AsyncClient() as http:
        relay.events = [
            announcement(ALICE, at=NOW, name="alice"),
            announcement(BOB, at=NOW, name="bob"),
            encode(ALICE.pubkey, "lgtm", friend, NOW),
            encode(ALICE.pubkey, "avoid", stranger, NOW),
        ]
        shelf = await Shelf.open(folder / "directory.db")
        directory = Directory(pool, http, shelf=shelf, opinions=Opinions(pool, people, shelf), probing=False)
        found = {p.announcement.name: p.trust for p in await directory.providers()}
        assert found["alice"].reasons == ("recommended by 1 whom you follow",)
        assert found["bob"].blocked
        asked = [wanted for filters in relay.asked for wanted in filters if 38425 in wanted["kinds"]]
        assert [wanted["authors"] for wanted in asked] == [[friend.pubkey]]
        await relay.die()
        again = Opinions(pool, people, shelf)
        await again.look()
        assert again.of(ALICE.pubkey) == found["alice"]
        await relay.start()
        before = len(relay.asked)
        await again.look()
        assert len(relay.asked) == before, "it is not old yet"
        await Opinions(pool, people, shelf, clock=lambda: time.time() + 7200).look()
        assert len(relay.asked) > before
        people.put(stranger.pubkey, "followed")
        await again.look()
        assert again.of(ALICE.pubkey).reasons == ("recommended by 1 whom you follow", "warned of by 1 whom you follow")
        people.put(stranger.pubkey, "followed", there=False)
        await again.look()
        assert {review.author for review in again._said.reviews} == {friend.pubkey}
        assert again.of(ALICE.pubkey) == found["alice"]
        people.put(friend.pubkey, "followed", there=False)
        await again.look()
        assert again.of(ALICE.pubkey).reasons == ()
        shelf.close()


async def test_a_silent_relay_is_waited_for_once_a_look(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_client.discovery.opinions.DEADLINE_S", 0.2)
    monkeypatch.setattr("router_client.discovery.opinions.AUTHORS_AT_ONCE", 1)
    people, clock = People(folder / "people.json"), Clock()
    for _ in range(5):
        people.put(Signer.generate().pubkey, "followed")
    async with hostile_relay() as mute, RelayPool([mute.url]) as pool:
        mute.behaviour = mute.silent
        opinions = Opinions(pool, people, clock=clock)
        await opinions.look()
        assert len(mute.asked) == 1
        await opinions.look()
        assert len(mute.asked) == 1, "not at once again"
        clock.now += 61
        await opinions.look()
        assert len(mute.asked) == 2, "but sooner than if it had answered"


def test_nobody_is_both_trusted_and_blocked(folder: Path) -> None:
    people = People(folder / "people.json")
    people.put(ALICE.pubkey, "trusted")
    people.put(ALICE.pubkey, "followed")
    own = people.put(ALICE.pubkey, "blocked")
    assert own == Own(blocked=frozenset({ALICE.pubkey}))
    assert people.put(ALICE.pubkey, "trusted") == Own(trusted=frozenset({ALICE.pubkey}))


class Market:
    """Nodes that come, change their price, and vanish with or without a word; and what of them should be known."""

    def __init__(self, clock: Clock, relays: list[Hostile], seed: int) -> None:
        self.clock = clock
        self.relays = relays
        self.random = random.Random(seed)
        self.signers = [Signer.generate() for _ in range(12)]
        self.latest: dict[str, tuple[str, int] | None] = {}
        self._number = 0
        self._said: dict[str, Event] = {}
        self._dates: dict[str, int] = {}

    def step(self) -> None:
        signer = self.random.choice(self.signers)
        self._number += 1
        last = self._said.get(signer.pubkey)
        now = max(int(self.clock()), self._dates.get(signer.pubkey, 0) + 1)
        self._dates[signer.pubkey] = now
        if last is not None and self.random.random() < 0.25:
            self._tell(withdrawal(last, signer, now))
            self.latest[signer.pubkey] = None
            return
        expires = now + self.random.choice([60, 600, 3600])
        event = announcement(signer, at=now, name=f"{self._number}", expires=expires)
        self._said[signer.pubkey] = event
        self._tell(event)
        self.latest[signer.pubkey] = (f"{self._number}", expires)

    def _tell(self, event: Event) -> None:
        """At least one relay hears it; those that do not stay stale."""
        hearing = self.random.sample(self.relays, self.random.randint(1, len(self.relays)))
        for relay in hearing:
            relay.events.append(event)

    def known(self) -> list[str]:
        now = int(self.clock())
        return sorted(said[0] for said in self.latest.values() if said is not None and said[1] > now)


async def all_heard(directory: Directory) -> None:
    """Every relay has answered: one that has just died has its connection found broken first."""
    async with asyncio.timeout(10):
        while True:
            await directory.providers(fresh=True)
            if not directory.failures:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("seed", range(3))
async def test_after_an_hour_of_churn_it_is_exact(folder: Path, seed: int) -> None:
    """Three relays that keep all they ever heard; each misses half, dies now and then, and shuffles what it tells."""
    clock = Clock()
    async with hostile_relay() as one, hostile_relay() as two, hostile_relay() as three:
        relays = [one, two, three]
        market = Market(clock, relays, seed)
        async with directory_on(one.url, two.url, three.url, folder=folder, clock=clock) as directory, directory.live():
            for minute in range(60):
                for _ in range(market.random.randint(0, 5)):
                    market.step()
                clock.now += 60
                relay = market.random.choice(relays)
                market.random.shuffle(relay.events)
                if minute % 7 == 0:
                    await relay.die()
                    await asyncio.sleep(0.02)
                    await relay.start()
                if minute % 10 == 9:
                    await all_heard(directory)
                    assert names(directory) == market.known()
            await all_heard(directory)
            assert names(directory) == market.known()
            known = market.known()
    async with directory_on(DEAD_RELAY, folder=folder, clock=clock) as directory:
        await directory.providers()
        assert names(directory) == known


async def test_what_breaks_while_following_is_its_callers_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hostile_relay() as relay, directory_on(relay.url) as directory:
        with pytest.raises(ExceptionGroup) as failed:
            async with asyncio.timeout(10), directory.live():
                monkeypatch.setattr(directory.board, "put", lambda *_: 1 / 0)
                await relay.die()
                relay.events = [GENUINE]
                await relay.start()
                await asyncio.Event().wait()
        assert isinstance(failed.value.exceptions[0], ZeroDivisionError)
        assert not directory._is_live
