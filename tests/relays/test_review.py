"""Reviews, recommendations and contact lists as they are on the wire; whatever else comes is refused."""

from __future__ import annotations

import pytest

from relays import review
from relays.contacts import MAX_CONTACTS, contacts
from relays.errors import InvalidReview
from relays.event import Signer, parse_event, to_json
from relays.review import Review, newest

NOW = 1_700_000_000
ALICE, BOB, NODE = Signer.generate(), Signer.generate(), Signer.generate().pubkey


@pytest.mark.parametrize("verdict", review.POSITIVE + review.NEGATIVE)
def test_a_review_goes_round(verdict: str) -> None:
    event = parse_event(to_json(review.encode(NODE, verdict, ALICE, NOW, "words")))
    assert (event.kind, event.values("t"), event.values("node")) == (38425, (verdict,), (NODE,))
    read = review.decode(event, now=NOW)
    assert read == Review(ALICE.pubkey, NODE, verdict, NOW, event.id, "words")
    assert read.is_positive is (verdict in ("lgtm", "lgtm2", "trusted", "verified"))


def test_a_recommendation_is_one_of_trust() -> None:
    event = review.recommendation(NODE, "satroute", "https://n.example", "wss://r.example", ALICE, NOW, "good")
    assert ("a", f"38421:{NODE}:satroute", "wss://r.example") in event.tags
    assert event.kind == 38000
    assert review.decode(event, now=NOW).verdict == "trusted"
    assert review.decode(event, now=NOW).node == NODE


@pytest.mark.parametrize(
    "tags",
    [
        [],
        [["t", "lgtm"]],
        [["node", NODE]],
        [["node", NODE], ["t", "meh"]],
        [["node", NODE[:-1]], ["t", "lgtm"]],
        [["node", "G" * 64], ["t", "lgtm"]],
    ],
)
def test_what_names_no_node_or_verdict_is_no_review(tags: list[list[str]]) -> None:
    with pytest.raises(InvalidReview):
        review.decode(ALICE.sign(kind=38425, content="", created_at=NOW, tags=tags), now=NOW)


@pytest.mark.parametrize(
    "tags", [[["k", "38421"]], [["a", f"38421:{NODE}:x"]], [["k", "38172"], ["a", f"38172:{NODE}:x"]]]
)
def test_recommendations_of_mints_are_none_of_nodes(tags: list[list[str]]) -> None:
    with pytest.raises(InvalidReview):
        review.decode(ALICE.sign(kind=38000, content="", created_at=NOW, tags=tags), now=NOW)


def test_dates_from_the_future_are_refused() -> None:
    with pytest.raises(InvalidReview, match="future"):
        review.decode(review.encode(NODE, "lgtm", ALICE, NOW + 10_000), now=NOW)
    with pytest.raises(InvalidReview, match="verdict"):
        review.encode(NODE, "great", ALICE, NOW)


def test_the_newest_of_an_author_on_a_node_counts() -> None:
    old, new = Review("a", "n", "lgtm", 1, "1"), Review("a", "n", "avoid", 2, "2")
    tie, other = Review("a", "n", "lgtm", 2, "3"), Review("b", "n", "lgtm", 1, "4")
    assert newest([old, new, tie, other]) == newest([tie, new, other, old]) == [new, other]


def test_the_newest_contact_list_counts_and_has_a_bound() -> None:
    def following(signer: Signer, at: int, *keys: str) -> object:
        return signer.sign(kind=3, content="", created_at=at, tags=[["p", key] for key in keys])

    many = [f"{n:064x}" for n in range(3 * MAX_CONTACTS)]
    events = [following(ALICE, NOW, NODE), following(ALICE, NOW - 1, BOB.pubkey), following(BOB, NOW, *many, "broken")]
    events.append(following(ALICE, NOW + 10_000, BOB.pubkey))
    found = contacts(events, now=NOW)  # type: ignore[arg-type]
    assert found[ALICE.pubkey] == (NODE,)
    assert len(found[BOB.pubkey]) == MAX_CONTACTS
