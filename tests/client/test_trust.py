"""Trust is the user's own word, what was measured, and whom the user follows; numbers of strangers are nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays.event import Signer, npub
from relays.pool import QueryResult, RelayPool
from relays.review import Review
from router_client.discovery.opinions import AGAIN_S, LOOK_DEADLINE_S, Opinions
from router_client.discovery.people import People
from router_client.discovery.trust import NEUTRAL_SCORE, Deeds, Own, Trust, trust_of
from tests.client.clock import Clock

NODE = "node"


def reviews(*authors: str, verdict: str = "lgtm") -> list[Review]:
    return [Review(author, NODE, verdict, 1, author) for author in authors]


STRANGERS = [f"fresh{n}" for n in range(1000)]
FRIENDS = Own(followed=frozenset({"anna", "bert"}))


def test_what_nothing_is_known_of_is_neither_good_nor_bad() -> None:
    assert trust_of(NODE) == Trust(NEUTRAL_SCORE, ())
    assert trust_of(NODE).factor == 1


def test_the_users_own_word_is_the_last() -> None:
    blocked = Own(trusted=frozenset({NODE}), blocked=frozenset({NODE}))
    assert trust_of(NODE, blocked, {}, reviews("anna"), Deeds(served=100)).refused
    trusted = trust_of(NODE, Own(trusted=frozenset({NODE})), {}, reviews("anna", verdict="avoid"), Deeds(cheated=9))
    assert trusted.score == 1


def test_a_thousand_fresh_keys_that_praise_each_other_weigh_nothing() -> None:
    among_themselves = dict.fromkeys(STRANGERS, STRANGERS)
    for verdict in ("lgtm", "avoid"):
        crowd = reviews(*STRANGERS, verdict=verdict)
        assert trust_of(NODE, FRIENDS, among_themselves, crowd) == trust_of(NODE)


def test_all_whom_one_friend_follows_weigh_less_than_another_friend() -> None:
    taken_in = {"anna": STRANGERS}
    praised = trust_of(NODE, FRIENDS, taken_in, reviews(*STRANGERS))
    assert NEUTRAL_SCORE < praised.score < trust_of(NODE, FRIENDS, {}, reviews("bert")).score
    warned = trust_of(NODE, FRIENDS, taken_in, reviews(*STRANGERS) + reviews("bert", verdict="avoid"))
    assert warned.score < NEUTRAL_SCORE


def test_a_friends_own_word_replaces_that_of_those_the_friend_follows() -> None:
    mixed = reviews("anna", verdict="avoid") + reviews(*STRANGERS)
    assert trust_of(NODE, FRIENDS, {"anna": STRANGERS}, mixed).score == trust_of(NODE, FRIENDS, {}, mixed[:1]).score


def test_a_node_does_not_review_itself() -> None:
    for followed in ({NODE, "anna"}, {"anna"}):
        own = Own(followed=frozenset(followed))
        assert trust_of(NODE, own, {NODE: STRANGERS, "anna": [NODE]}, reviews(NODE, *STRANGERS)).score == NEUTRAL_SCORE


def test_what_was_measured_weighs_more_than_what_is_said_and_a_cheat_is_out() -> None:
    praised = reviews("anna", "bert")
    assert trust_of(NODE, FRIENDS, {}, praised, Deeds(failed=12)).score < NEUTRAL_SCORE
    cheat = trust_of(NODE, FRIENDS, {}, praised, Deeds(served=12, cheated=1))
    assert cheat.score < NEUTRAL_SCORE
    assert trust_of(NODE, deeds=Deeds(cheated=1)).refused
    assert trust_of(NODE, deeds=Deeds(served=3)).score > NEUTRAL_SCORE


def test_it_says_why() -> None:
    said = reviews("anna") + reviews("far", verdict="avoid") + reviews("stranger")
    trust = trust_of(NODE, FRIENDS, {"bert": ["far"]}, said, Deeds(served=2, failed=1, cheated=1))
    assert trust.reasons == (
        "recommended by 1 whom you follow",
        "warned of by 1 whom they follow",
        "2 of 3 calls served",
        "cheated 1 times",
    )


def test_calls_are_added_up() -> None:
    deeds = Deeds().after(served=True, latency_ms=100).after(latency_ms=0).after(served=True, latency_ms=200)
    assert deeds == Deeds(served=2, failed=1, latency_ms=130)
    assert deeds.after(cheated=True).cheated == 1


@given(
    st.sets(st.sampled_from("abcdef")),
    st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"))),
    st.dictionaries(st.sampled_from("abcdefgh"), st.booleans()),
    st.builds(Deeds, st.integers(0, 50), st.integers(0, 50), st.integers(0, 3)),
)
def test_it_is_a_score_whatever_is_said(
    followed: set[str], follows: dict[str, list[str]], said: dict[str, bool], deeds: Deeds
) -> None:
    written = [Review(author, NODE, "lgtm" if good else "avoid", 1, author) for author, good in said.items()]
    own = Own(followed=frozenset(followed))
    trust = trust_of(NODE, own, follows, written, deeds)
    assert 0 <= trust.score <= 1
    assert trust_of(NODE, own, follows, written[::-1], deeds).score == trust.score
    more = deeds.after(served=True)
    assert trust_of(NODE, own, follows, written, more).score >= trust.score or not deeds.failed + deeds.served


class Slow(RelayPool):
    """Each question takes as long as it may."""

    def __init__(self) -> None:
        super().__init__(["ws://127.0.0.1:9"])
        self.now = 0.0
        self.asked: set[str] = set()

    async def query(self, *filters: Any, deadline_s: float = 0.0, **_: Any) -> QueryResult:
        self.now += deadline_s
        self.asked.update(*(each["authors"] for each in filters))
        return QueryResult((), {})


async def test_a_look_at_a_huge_circle_ends_and_the_next_one_comes_to_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow relays kept all who wanted a node waiting for a minute and a half."""
    monkeypatch.setattr("router_client.discovery.opinions.AUTHORS_AT_ONCE", 5)
    people, clock = People(folder / "people.json"), Clock()
    friends = {Signer.generate().pubkey for _ in range(100)}
    own = {"followed": [npub(friend) for friend in friends]}
    (folder / "people.json").write_text(json.dumps(own))
    pool = Slow()
    opinions = Opinions(pool, people, clock=clock, monotonic=lambda: pool.now)
    await opinions.look()
    assert pool.now <= LOOK_DEADLINE_S
    assert 0 < len(pool.asked) < len(friends)
    for _ in range(100):
        clock.now += AGAIN_S + 1
        await opinions.look()
    assert pool.asked == friends
