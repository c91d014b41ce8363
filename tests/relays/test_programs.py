"""A client is right against every relay program: what it stores, forgets, keeps stale, and when it dies and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from relays import pool as pools
from relays.announcement import withdrawal
from relays.deletion import deletion
from relays.event import Event, Signer
from relays.pool import RelayPool
from router_client.discovery.directory import Directory, Provider
from tests.client.test_discovery import announcement
from tests.client.test_figures import MODELS, busy, written
from tests.relays.programs import PROGRAMS, Program

PATIENCE_S = 15


@pytest.fixture(scope="module", params=list(PROGRAMS))
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    made = PROGRAMS[request.param](tmp_path_factory.mktemp(request.param))
    made.start()
    yield made
    made.kill()


@asynccontextmanager
async def directory_on(*urls: str) -> AsyncIterator[tuple[RelayPool, Directory]]:
    async with RelayPool(urls) as pool, httpx.AsyncClient() as http:
        yield pool, Directory(pool, http, probing=False)


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not there():
            await asyncio.sleep(0.05)


def names(directory: Directory, *signers: Signer) -> list[str]:
    keys = {signer.pubkey for signer in signers}
    return sorted(p.announcement.name for p in directory.known() if p.announcement.pubkey in keys)


def made(signer: Signer, name: str, ago_s: int = 0, expires: int | None = None) -> Event:
    return announcement(signer, at=int(time.time()) - ago_s, name=name, expires=expires)


async def test_what_is_stored_is_found_and_the_newest_counts(program: Program) -> None:
    alice, bob, carol = Signer.generate(), Signer.generate(), Signer.generate()
    async with directory_on(program.url) as (pool, directory):
        for event in (
            made(alice, "old", 60),
            made(alice, "new", 30),
            made(alice, "older", 90),
            made(bob, "bob", 60),
            withdrawal(made(bob, "bob", 60), bob, int(time.time()) - 5),
            made(carol, "carol", 10, expires=int(time.time()) + 2),
        ):
            await pool.publish(event)
        await directory.providers()
        assert names(directory, alice, bob, carol) == ["carol", "new"]
        await asyncio.sleep(2.1)
        await directory.providers(fresh=True)
        assert names(directory, alice, bob, carol) == ["new"]
        assert not directory.failures


async def test_an_announcement_is_found_with_its_pages_and_how_busy_its_node_is(program: Program) -> None:
    signer, now = Signer.generate(), int(time.time())
    async with directory_on(program.url) as (pool, directory):
        events = [*written(signer, at=now - 20), busy(signer, at=now - 20), busy(signer, at=now - 10, capacity=1)]
        for event in events:
            assert (await pool.publish(event))[program.url].accepted

        def seen() -> list[Provider]:
            return [each for each in directory.known() if each.announcement.pubkey == signer.pubkey]

        await directory.providers()
        (found,) = seen()
        assert [offer.id for offer in found.offers] == [model.id for model in MODELS]
        assert (said := found.capacity) is not None
        assert said.capacity == 1
        await pool.publish(deletion(events, signer, now))
        await directory.providers(fresh=True)
        assert seen() == []


async def test_hundreds_are_found_whatever_a_relay_gives_at_once(program: Program) -> None:
    signers = [Signer.generate() for _ in range(250)]
    async with directory_on(program.url) as (pool, directory):
        for number, signer in enumerate(signers):
            assert (await pool.publish(made(signer, f"{number}", number % 200)))[program.url].accepted
        await directory.providers()
        assert len(names(directory, *signers)) == 250


async def test_one_who_follows_survives_its_death(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "RECONNECT_MIN_S", 0.1)
    monkeypatch.setattr(pools, "RECONNECT_MAX_S", 1.0)
    alice, bob = Signer.generate(), Signer.generate()
    async with directory_on(program.url) as (_, directory), RelayPool([program.url]) as seller, directory.live():
        await seller.publish(made(alice, "first", 60))
        await until(lambda: names(directory, alice) == ["first"])
        await seller.publish(made(alice, "second", 30))
        await until(lambda: names(directory, alice) == ["second"])
        program.kill()
        await asyncio.sleep(0.5)
        assert names(directory, alice) == ["second"]
        program.start()
        await seller.publish(made(bob, "bob"))
        await until(lambda: names(directory, alice, bob) == ["bob", "second"])
        await seller.publish(withdrawal(made(alice, "second", 30), alice, int(time.time())))
        if not program.tells_deletions:
            await directory.providers(fresh=True)
        await until(lambda: names(directory, alice, bob) == ["bob"])
