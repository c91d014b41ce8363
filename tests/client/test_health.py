"""What nodes did is kept as waits, speed, failures and room; what they tell of themselves counts until it is measured."""

from __future__ import annotations

import msgspec
import pytest

from relays.capacity import Capacity, State
from router_client.routing.health import COOL_S, MOST_COOL_S, NEWS_KEPT, UNKNOWN_LOAD, USUAL_ERRORS, Healths
from tests.client.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def healths(clock: Clock) -> Healths:
    return Healths(clock, clock)


def told(free: int, most: int, *, state: State = "serving", expires_at: int = 2000) -> Capacity:
    return Capacity(
        pubkey="n",
        identifier="",
        capacity=free,
        max_concurrent=most,
        latency_ms=4000,
        tokens_per_s=20,
        error_rate_bps=500,
        state=state,
        created_at=1000,
        expires_at=expires_at,
    )


def test_what_is_measured_counts_more_than_what_is_told(healths: Healths) -> None:
    before = healths.outlook("n", told(5, 10))
    assert (before.wait_s, before.speed, before.errors, before.load) == (4.0, 20, 0.05, 0.5)
    healths.began("n")
    healths.served("n", 2.0, 101, 12.0)
    after = healths.outlook("n", told(5, 10))
    assert (after.wait_s, after.speed) == (2.0, 10.0)
    assert after.errors < 0.05


def test_fine_figures_gain_nothing(healths: Healths) -> None:
    boast = msgspec.structs.replace(told(64, 64), latency_ms=1, tokens_per_s=1000, error_rate_bps=0)
    assert healths.outlook("n", boast) == healths.outlook("n")


def test_what_is_stale_is_not_believed(healths: Healths, clock: Clock) -> None:
    clock.now = 2000.0
    assert healths.outlook("n", told(0, 10)).load == UNKNOWN_LOAD


def test_requests_under_way_take_room_that_was_told_to_be_free(healths: Healths) -> None:
    for _ in range(3):
        healths.began("n")
    assert healths.outlook("n", told(5, 10)).load == pytest.approx(0.8)


def test_a_node_that_says_it_is_full_gets_less_and_then_slowly_more(healths: Healths) -> None:
    for _ in range(10):
        healths.began("n")
    healths.busy("n")
    assert healths.of("n").room == pytest.approx(7.0)
    assert healths.outlook("n").load == 1.0
    assert healths.outlook("n").cools_s == 0, "it is no fault"
    assert 0.25 <= healths.outlook("n").full_s <= 0.75
    for _ in range(9):
        healths.served("n", 1.0, 10, 2.0)
    room = healths.of("n").room
    assert room is not None
    assert 7.0 < room < 8.0
    healths.began("n")
    healths.busy("n", 30.0)
    assert healths.outlook("n").full_s == 30.0


def test_failures_cool_down_twice_as_long_each_time_and_a_success_ends_that(healths: Healths, clock: Clock) -> None:
    pauses = []
    for _ in range(8):
        healths.began("n")
        healths.failed("n")
        pauses.append(healths.outlook("n").cools_s)
    assert pauses[:3] == [COOL_S, 2 * COOL_S, 4 * COOL_S]
    assert pauses[-1] == MOST_COOL_S
    assert healths.outlook("n").errors > 0.8
    clock.now += 6000
    assert healths.outlook("n").errors == pytest.approx(USUAL_ERRORS, abs=0.01), "what is long ago does not count"
    healths.began("n")
    healths.served("n", 1.0, 10, 2.0)
    assert healths.outlook("n").cools_s == 0


def test_whoever_drains_is_known(healths: Healths) -> None:
    assert healths.outlook("n", told(5, 10, state="draining")).stops
    assert not healths.outlook("n", told(0, 10)).stops


def test_news_are_told_once_and_too_many_are_all(healths: Healths) -> None:
    seen = healths.changes
    healths.began("a")
    healths.left("a")
    healths.began("b")
    assert healths.changed_since(seen) == {"a", "b"}
    assert healths.changed_since(healths.changes) == set()
    for _ in range(NEWS_KEPT + 1):
        healths.began("c")
    assert healths.changed_since(seen) is None
