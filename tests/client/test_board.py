"""The board holds the newest of each address, whatever relays serve in whatever order, and never more than its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relays.announcement import MAX_CLOCK_SKEW_S, withdrawal
from relays.event import Event, Signer
from router_client.discovery import board as boards
from router_client.discovery.board import Board, Notice
from tests.client.test_discovery import ALICE, BOB, NOW, announcement


def names(board: Board, now: int = NOW + 10) -> list[str]:
    return sorted(each.name for each in board.announcements(now))


def filled(*events: Event, now: int = NOW + 10) -> Board:
    board = Board()
    for event in events:
        board.put(event, now)
    return board


OLD, NEW = announcement(name="old"), announcement(at=NOW + 5, name="new")
HISTORY = (
    OLD,
    NEW,
    withdrawal(OLD, ALICE, NOW + 1),
    withdrawal(NEW, BOB, NOW + 6),
    announcement(BOB, name="bob", expires=NOW + 20),
    announcement(BOB, at=NOW + 10_000, name="from the future"),
    ALICE.sign(kind=1, content="", created_at=NOW, tags=[["u", "https://x"]]),
)


@given(st.lists(st.sampled_from(HISTORY), max_size=20).map(lambda more: [*more, *HISTORY]).flatmap(st.permutations))
def test_whatever_the_order_and_however_often(events: list[Event]) -> None:
    board = filled(*events)
    assert names(board) == ["bob", "new"]
    assert names(board, NOW + 20) == ["new"]
    assert board.bytes == sum(notice.size for notice in board._notices.values())
    assert board._ids == {notice.id for notice in board._notices.values()}


def test_a_stale_relay_brings_nothing_back_after_a_deletion_or_an_expiry() -> None:
    board = filled(announcement(name="old"), announcement(at=NOW + 5, name="new", expires=NOW + 8), now=NOW)
    assert names(board, NOW + 9) == []
    assert not board.put(announcement(name="old"), NOW + 9)
    assert names(board, NOW + 9) == []
    gone = filled(NEW)
    assert gone.put(withdrawal(NEW, ALICE, NOW + 6), NOW + 10)
    assert not gone.put(OLD, NOW + 10)
    assert not gone.put(NEW, NOW + 10)
    assert names(gone) == []


@pytest.mark.parametrize("tag", ["e", "a"])
def test_a_deletion_that_comes_first_counts_by_each_of_its_tags(tag: str) -> None:
    whole = withdrawal(OLD, ALICE, NOW + 1)
    tags = [each for each in whole.tags if each[0] == tag]
    part = ALICE.sign(kind=5, content="", created_at=NOW + 1, tags=tags)
    assert names(filled(part, OLD)) == []
    forged = BOB.sign(kind=5, content="", created_at=NOW + 1, tags=tags)
    assert names(filled(forged, OLD)) == names(filled(OLD, forged)) == ["old"]


def test_dates_from_the_future_change_nothing() -> None:
    ahead = announcement(at=NOW + MAX_CLOCK_SKEW_S + 11, name="ahead")
    board = filled(OLD, ahead, withdrawal(OLD, ALICE, NOW + MAX_CLOCK_SKEW_S + 11))
    assert names(board) == ["old"]
    assert board.put(ahead, NOW + 20)


def test_one_author_has_a_share_and_the_newest_of_it_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MAX_OF_ONE_AUTHOR", 3)
    mine = [
        ALICE.sign(kind=38421, content="", created_at=NOW + n, tags=[["d", str(n)], ["u", "https://x"]])
        for n in range(9)
    ]
    board = filled(*mine, announcement(BOB, name="bob"))
    assert sorted(each.identifier for each in board.announcements(NOW + 10) if not each.name) == ["6", "7", "8"]
    assert "bob" in names(board)


def test_one_author_has_a_share_of_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MAX_BYTES_OF_ONE_AUTHOR", 5000)
    huge = [
        ALICE.sign(kind=38421, content="x" * 2000, created_at=NOW + n, tags=[["d", str(n)], ["u", "https://x"]])
        for n in range(5)
    ]
    assert len(filled(*huge)) == 2


def test_all_together_have_a_bound_and_who_is_trusted_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MAX_NOTICES", 5)
    board = filled(announcement(name="alice"))
    board.protect({ALICE.pubkey})
    for n in range(20):
        board.put(announcement(Signer.generate(), name=f"{n}"), NOW)
    assert names(board) == sorted(["alice", "16", "17", "18", "19"])
    monkeypatch.setattr(boards, "MAX_BYTES", 0)
    board.put(announcement(Signer.generate(), name="last"), NOW)
    assert board.bytes == 0
    assert len(board) == 0


def test_deletions_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MAX_DELETED", 3)
    board = Board()
    for n in range(10):
        tags = [["e", f"{n}"], ["a", f"38421:{ALICE.pubkey}:{n}"]]
        board.put(ALICE.sign(kind=5, content="", created_at=NOW, tags=tags), NOW)
    assert len(board._deleted_ids) == len(board._deleted_until) == 3


def test_it_says_what_changed_until_that_is_written() -> None:
    board = filled(OLD, NEW)
    (notice,) = board.written()
    assert isinstance(notice, Notice)
    assert notice.event == NEW
    assert not board.changed
    assert next(iter(board._notices.values())).event is None
    board.put(withdrawal(NEW, ALICE, NOW + 6), NOW + 10)
    (notice,) = board.written()
    assert isinstance(notice, Notice)
    assert notice.said is None


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), max_size=30))
def test_its_sums_hold_under_any_churn(steps: list[tuple[int, int, bool]]) -> None:
    signers = [Signer(bytes([n + 1] * 32)) for n in range(4)]
    board = Board()
    for who, at, leaves in steps:
        made = announcement(signers[who], at=NOW + at, name=f"{who}")
        board.put(withdrawal(made, signers[who], NOW + at) if leaves else made, NOW + 10)
        assert board.bytes == sum(notice.size for notice in board._notices.values())
        assert sorted(a for mine in board._by_author.values() for a in mine) == sorted(board._notices)
