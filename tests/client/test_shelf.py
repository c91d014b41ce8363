"""What the directory knows survives on disk, for its owner alone, and not for ever."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relays.announcement import withdrawal
from relays.event import Event
from router_client.discovery import shelf as shelves
from router_client.discovery.board import Board
from router_client.discovery.shelf import KEPT_S, Shelf
from router_client.discovery.trust import Deeds
from tests.client.clock import Clock
from tests.client.test_board import NEW, OLD, names
from tests.client.test_discovery import ALICE, BOB, NOW, announcement


@pytest.fixture
def clock() -> Clock:
    return Clock(float(NOW + 10))


@pytest.fixture
async def shelf(folder: Path, clock: Clock) -> AsyncIterator[Shelf]:
    opened = await Shelf.open(folder / "directory.db", clock)
    yield opened
    opened.close()


async def put(shelf: Shelf, board: Board, *events: Event) -> None:
    for event in events:
        board.put(event, NOW + 10)
    await shelf.store(board, [event for event in events if event.kind == 5])


def again(shelf: Shelf) -> Board:
    board = Board()
    shelf.fill(board)
    assert not board.changed
    return board


async def test_it_comes_back_as_it_was_and_belongs_to_its_owner(shelf: Shelf, folder: Path) -> None:
    await put(shelf, Board(), NEW, announcement(BOB, name="bob"))
    board = again(shelf)
    assert names(board) == ["bob", "new"]
    assert board.knows(NEW.id)
    assert {path.stat().st_mode & 0o777 for path in folder.glob("directory.db*")} == {0o600}


async def test_what_is_gone_stays_gone(shelf: Shelf) -> None:
    board = Board()
    await put(shelf, board, NEW)
    await put(shelf, board, withdrawal(NEW, ALICE, NOW + 6))
    later = again(shelf)
    assert names(later) == []
    for stale in (OLD, NEW):
        later.put(stale, NOW + 10)
    assert names(later) == []


async def test_a_deletion_whose_event_never_came_is_remembered(shelf: Shelf) -> None:
    await put(shelf, Board(), withdrawal(OLD, ALICE, NOW + 1))
    board = again(shelf)
    board.put(OLD, NOW + 10)
    assert names(board) == []


async def test_what_is_not_renewed_is_forgotten(shelf: Shelf, clock: Clock) -> None:
    board = Board()
    await put(shelf, board, OLD)
    clock.now += KEPT_S + 1
    assert names(again(shelf)) == []
    await put(shelf, board, announcement(BOB, at=NOW, name="bob"))
    assert names(again(shelf)) == ["bob"]
    clock.now -= KEPT_S + 1
    assert names(again(shelf)) == ["bob"], "it was deleted, not only left out"


async def test_it_has_a_bound(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "MAX_NOTICES", 1)
    monkeypatch.setattr(shelves, "MAX_DELETIONS", 1)
    monkeypatch.setattr(shelves, "MAX_FACTS", 2)
    await put(
        shelf, Board(), OLD, announcement(BOB), withdrawal(OLD, ALICE, NOW), withdrawal(announcement(BOB), BOB, NOW)
    )
    for table in ("notices", "deletions"):
        assert shelf._rows(f"SELECT count(*) FROM {table}") == [(1,)]
    await put(shelf, Board(), ALICE.sign(kind=5, content="x" * 40_000, created_at=NOW + 5, tags=[["e", OLD.id]]))
    assert shelf._rows("SELECT max(length(event)) < 2000 FROM deletions") == [(1,)], "a large one is not kept"
    await shelf.state("deeds", {str(n): Deeds(n) for n in range(5)})
    await shelf.state("other", {"0": Deeds()})
    assert len(shelf.facts("deeds", Deeds)) == 2
    assert len(shelf.facts("other", Deeds)) == 1


async def test_facts_replace_each_other_and_broken_ones_are_none(shelf: Shelf, folder: Path) -> None:
    await shelf.state("deeds", {"a": Deeds(1), "b": Deeds(2)})
    await shelf.state("deeds", {"a": Deeds(3)})
    assert shelf.facts("deeds", Deeds) == {"a": Deeds(3), "b": Deeds(2)}
    await put(shelf, Board(), OLD, NEW, announcement(BOB, name="bob"))
    with sqlite3.connect(folder / "directory.db") as conn:
        conn.execute("UPDATE facts SET fact = 'nonsense' WHERE about = 'a'")
        conn.execute("UPDATE notices SET event = '{}' WHERE pubkey = ?", (BOB.pubkey,))
    conn.close()
    assert shelf.facts("deeds", Deeds) == {"b": Deeds(2)}
    assert names(again(shelf)) == ["new"]
