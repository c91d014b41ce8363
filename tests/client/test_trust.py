"""Trust is the user's own word, what was measured, and whom the user follows; numbers of strangers are nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relays.review import Review
from router_client.trust import NEUTRAL_SCORE, Deeds, Own, Trust, trust_of

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
