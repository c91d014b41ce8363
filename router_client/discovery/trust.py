"""How far a node is trusted, and why: the user's own word, then what was measured, then whom the user follows. Pure.

No authority, and no count of heads: who is not in the user's circle has no weight, and all whom one friend follows have
together half of that friend's, so that a thousand fresh keys weigh nothing and a thousand befriended by one fool little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from relays.review import Review

NEUTRAL_SCORE: Final = 0.5
REFUSED_BELOW: Final = 0.15
FRIEND_WEIGHT: Final = 1.0
CIRCLE_WEIGHT: Final = 0.5
DEED_WEIGHT: Final = 0.5
MOST_DEEDS_WEIGHT: Final = 6.0
"""A call that was served counts half a friend; a dozen of them as much as calls ever do."""
CHEATED_WEIGHT: Final = 20.0


class Deeds(msgspec.Struct, frozen=True):
    """What a node did for this user's money."""

    served: int = 0
    """Answers whose receipts held."""
    failed: int = 0
    cheated: int = 0
    """Receipts that did not hold, or change that was kept."""
    latency_ms: int = 0
    """Smoothed, of whole calls."""

    def after(self, *, served: bool = False, cheated: bool = False, latency_ms: int = 0) -> Deeds:
        """With one call more."""
        smooth = self.latency_ms + round(0.3 * (latency_ms - self.latency_ms)) if self.latency_ms else latency_ms
        return Deeds(
            self.served + served,
            self.failed + (not served and not cheated),
            self.cheated + cheated,
            smooth if latency_ms else self.latency_ms,
        )


class Own(msgspec.Struct, frozen=True):
    """The user's own list, as public keys in hex."""

    trusted: frozenset[str] = frozenset()
    blocked: frozenset[str] = frozenset()
    followed: frozenset[str] = frozenset()


class Trust(msgspec.Struct, frozen=True):
    """From 0 to 1, with what speaks for and against."""

    score: float = NEUTRAL_SCORE
    reasons: tuple[str, ...] = ()
    blocked: bool = False

    @property
    def refused(self) -> bool:
        """Not to be bought from."""
        return self.blocked or self.score < REFUSED_BELOW

    @property
    def factor(self) -> float:
        """What a price there is worth: 1 where nothing is known, 2/3 with full trust, 2 with none."""
        return 1 / (self.score + 0.5)


NOBODY: Final = Own()
NO_DEEDS: Final = Deeds()
NO_FOLLOWS: Final[Mapping[str, Iterable[str]]] = MappingProxyType({})


def trust_of(
    node: str,
    own: Own = NOBODY,
    follows: Mapping[str, Iterable[str]] = NO_FOLLOWS,
    reviews: Iterable[Review] = (),
    deeds: Deeds = NO_DEEDS,
) -> Trust:
    """Trust in the node with that key. `follows` holds whom each followed key follows; `reviews` are the newest on this
    node, of whomever: strangers' weigh nothing."""
    if node in own.blocked:
        return Trust(0.0, ("blocked by you",), blocked=True)
    if node in own.trusted:
        return Trust(1.0, ("trusted by you",))
    verdicts = {review.author: review.is_positive for review in reviews if review.author != node}
    reasons: list[str] = []
    good, weight = NEUTRAL_SCORE, 1.0  # what nothing is known of counts as one friend in doubt
    for friend in sorted(own.followed) if verdicts else ():
        if friend == node:
            continue
        if friend in verdicts:
            good, weight = good + FRIEND_WEIGHT * verdicts[friend], weight + FRIEND_WEIGHT
            continue
        circle = [verdicts[each] for each in set(follows.get(friend, ())) - own.followed if each in verdicts]
        if circle:
            good, weight = good + CIRCLE_WEIGHT * sum(circle) / len(circle), weight + CIRCLE_WEIGHT
    reasons += _said(verdicts, own, follows)
    if calls := deeds.served + deeds.failed:
        share = min(MOST_DEEDS_WEIGHT, calls * DEED_WEIGHT)
        good, weight = good + share * deeds.served / calls, weight + share
        reasons.append(f"{deeds.served} of {calls} calls served")
    if deeds.cheated:
        weight += CHEATED_WEIGHT * deeds.cheated
        reasons.append(f"cheated {deeds.cheated} times")
    return Trust(round(good / weight, 4), tuple(reasons))


def _said(verdicts: Mapping[str, bool], own: Own, follows: Mapping[str, Iterable[str]]) -> list[str]:
    """The heads behind it, for people."""
    beyond = {key for friend in own.followed for key in follows.get(friend, ())} - own.followed
    said = []
    for who, group in (("you follow", own.followed), ("they follow", beyond)):
        for word, wanted in (("recommended", True), ("warned of", False)):
            if count := sum(1 for author, verdict in verdicts.items() if author in group and verdict is wanted):
                said.append(f"{word} by {count} whom {who}")
    return said
