"""A directory has the whole of an announcement, its pages, and how busy its node says it is; nobody else's word on that."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays import capacity, pages
from relays.announcement import Announcement, ModelOffer
from relays.bounds import ModelLimits
from relays.capacity import STALE_S, Capacity
from relays.deletion import deletion
from relays.event import Event, Signer
from relays.pricing import ModelPrice
from router_client.discovery import figures
from router_client.discovery.board import Board
from router_client.discovery.directory import Provider
from router_client.discovery.figures import Figures
from router_client.discovery.shelf import Shelf
from tests.client.test_board import filled
from tests.client.test_discovery import ALICE, BOB, NOW
from tests.client.test_live import directory_on
from tests.conftest import DEAD_RELAY
from tests.relays.hostile import hostile_relay

MODELS = tuple(ModelOffer(f"m{n}", ModelLimits(8192, 4096), ModelPrice(n, n)) for n in range(7))


def written(signer: Signer = ALICE, *, at: int = NOW, expires: int | None = None, **changes: Any) -> tuple[Event, ...]:
    """An announcement of seven models with three pages."""
    fields: dict[str, Any] = {
        "pubkey": signer.pubkey,
        "identifier": "x",
        "urls": ("https://node.example",),
        "mints": (),
        "version": "1",
        "name": "n",
        "about": "",
        "models": MODELS,
        "created_at": at,
        "expires_at": expires,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "MAX_MODELS", 2)
        return pages.encode_all(Announcement(**fields | changes), signer)


def busy(signer: Signer = ALICE, *, at: int = NOW, d: str = "x", **changes: Any) -> Event:
    fields: dict[str, Any] = {"capacity": 3, "max_concurrent": 8, "created_at": at, "expires_at": at + STALE_S}
    return capacity.encode(Capacity(pubkey=signer.pubkey, identifier=d, **fields | changes), signer)


def models(board: Board, now: int = NOW + 10) -> list[str]:
    (found,) = board.announcements(now)
    return [model.id for model in found.models or ()]


EVENTS = written()


@given(st.permutations(EVENTS))
def test_an_announcement_is_whole_in_whatever_order_its_pages_come(events: list[Event]) -> None:
    assert sorted(models(filled(*events))) == [model.id for model in MODELS]


def test_a_page_that_is_missing_deleted_expired_or_anothers_costs_its_models_alone() -> None:
    head, one, two, three = EVENTS
    assert models(filled(head, two)) == ["m0", "m1", "m4", "m5"]
    assert models(filled(*EVENTS, deletion((one,), ALICE, NOW + 1))) == ["m0", "m1", "m4", "m5", "m6"]
    assert models(filled(*EVENTS, deletion((one,), BOB, NOW + 1))) == [model.id for model in MODELS]
    short = written(expires=NOW + 5)
    assert models(filled(head, *short[1:], now=NOW)) == ["m0", "m1"]
    assert models(filled(head, *written(BOB)[1:])) == ["m0", "m1"]
    fewer = written(at=NOW + 1, models=MODELS[:3])
    assert sorted(models(filled(*EVENTS, *fewer))) == ["m0", "m1", "m2"], "pages that are no longer counted are none"
    assert filled(one, two, three).announcements(NOW + 10) == []


def test_who_takes_more_room_than_its_share_loses_pages_before_the_announcement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router_client.discovery.board.MAX_OF_ONE_AUTHOR", 2)
    board = filled(*EVENTS)
    assert models(board)[:2] == ["m0", "m1"]
    assert len(board) == 2


async def test_pages_are_on_disk_and_asked_for_by_kind_and_author(folder: Path) -> None:
    now = int(time.time())
    async with hostile_relay() as relay, directory_on(relay.url, folder=folder) as directory:
        relay.events = [*written(at=now), busy(at=now, capacity=0)]
        (found,) = await directory.providers()
        assert len(found.offers) == 7
        assert found.capacity is not None
        assert found.capacity.capacity == 0
        assert not any("#d" in wanted for filters in relay.asked for wanted in filters)
    async with directory_on(DEAD_RELAY, folder=folder) as directory:
        (found,) = await directory.providers()
        assert len(found.offers) == 7
        assert found.capacity is None, "of how busy it is, nothing is kept"
    shelf = await Shelf.open(folder / "directory.db")
    board = Board()
    shelf.fill(board)
    shelf.close()
    assert len(board) == 4


async def test_who_follows_hears_how_busy_a_node_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relays.pool.RECONNECT_MIN_S", 0.05)
    monkeypatch.setattr("router_client.discovery.directory.LIVE_PAUSE_S", 0.02)
    monkeypatch.setattr("router_client.discovery.directory.QUIET_S", 0.05)
    now = int(time.time())
    async with hostile_relay() as relay, directory_on(relay.url) as directory:
        relay.events = [busy(at=now), *written(at=now)]
        async with directory.live():
            assert directory.known()[0].capacity == capacity.decode(relay.events[0], now=now)
            relay.events[0] = busy(at=now + 1, capacity=0, state="draining")
            await relay.die()
            await relay.start()
            async with asyncio.timeout(10):
                while (said := directory.known()[0].capacity) is None or said.state != "draining":
                    await asyncio.sleep(0.02)


def said(board: Board, now: int = NOW + 10) -> Capacity | None:
    (found,) = board.announcements(now)
    return board.capacity(found.pubkey, found.identifier, now)


def test_the_newest_word_counts_until_it_is_stale_or_taken_back() -> None:
    elder, newer = busy(capacity=1), busy(at=NOW + 5, capacity=2)
    for events in ((elder, newer), (newer, elder)):
        board = filled(*events, EVENTS[0])
        assert said(board) == capacity.decode(newer, now=NOW)
        assert said(board, NOW + 5 + STALE_S) is None
    for tags in ([["e", newer.id]], [["a", newer.address()]]):
        gone = ALICE.sign(kind=5, content="", created_at=NOW + 6, tags=tags)
        assert said(filled(newer, EVENTS[0], gone)) is None
        assert said(filled(gone, newer, EVENTS[0])) is None
        forged = BOB.sign(kind=5, content="", created_at=NOW + 6, tags=tags)
        assert said(filled(newer, EVENTS[0], forged)) is not None
    assert said(filled(busy(BOB), busy(d="another"), busy(at=NOW + 10**4), EVENTS[0])) is None
    nonsense = ALICE.sign(kind=31900, content="", created_at=NOW, tags=[["d", "x"], ["capacity", "-1"]])
    assert said(filled(nonsense, EVENTS[0])) is None


def test_a_crowd_of_figures_has_a_bound_and_who_answered_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_FIGURES", 20)
    kept = Figures()
    kept.put(busy(), NOW)
    for n in range(30):
        kept.put(busy(BOB, d=f"{n}", at=NOW + n), NOW + n, {ALICE.pubkey})
    assert len(kept) == 1 + figures.MAX_OF_ONE_AUTHOR
    for _ in range(30):
        kept.put(busy(Signer.generate()), NOW, {ALICE.pubkey})
    assert len(kept) == 20
    assert kept.of(ALICE.pubkey, "x", NOW) is not None
    assert sum(map(len, kept._by_author.values())) == 20


def test_the_last_sign_of_life_is_the_latest_of_all() -> None:
    (announced,) = filled(*EVENTS).announcements(NOW)
    figures_ = capacity.decode(busy(at=NOW + 60), now=NOW + 60)
    assert Provider(announced, None).seen_at == NOW
    assert Provider(announced, None, capacity=figures_).seen_at == NOW + 60
    assert Provider(announced, "https://x", answered_at=NOW + 90.5, capacity=figures_).seen_at == NOW + 90
