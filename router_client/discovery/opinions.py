"""What the user's circle says of nodes: contact lists and reviews, read from relays for the keys that count and no others.

The circle is whom the user follows and whom those follow. Who is outside has no weight and is never asked for, so that no
number of strangers makes this slow or large.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from relays import kinds
from relays.contacts import contacts
from relays.errors import InvalidReview
from relays.event import Event
from relays.filters import Filter
from relays.pool import RelayPool
from relays.review import Review, decode, newest
from router_client.discovery.people import People
from router_client.discovery.shelf import Shelf
from router_client.discovery.trust import Deeds, Own, Trust, trust_of

TTL_S: Final = 3600.0
AGAIN_S: Final = 60.0
"""When no relay answered, the next look comes sooner."""
MAX_CIRCLE: Final = 5000
"""Keys at distance 2; each friend's are taken in turn, so that none crowds out another's."""
MAX_REVIEWS: Final = 20_000
AUTHORS_AT_ONCE: Final = 500
DEADLINE_S: Final = 5.0
LOOK_DEADLINE_S: Final = 12.0
"""For all that one look asks. Whom it did not come to is known as before, and has another chance in the next look."""
OPINIONS: Final = [kinds.REVIEW, kinds.RECOMMENDATION]
TAKEN_BACK: Final = {"#k": [str(kinds.REVIEW), str(kinds.RECOMMENDATION)]}
GRACE_S: Final = 1.5
"""For the others, once a relay has told what it has."""


class Said(msgspec.Struct, frozen=True):
    """What was read from relays."""

    at: float = 0.0
    followed: frozenset[str] = frozenset()
    """For whom."""
    follows: dict[str, tuple[str, ...]] = {}
    reviews: tuple[Review, ...] = ()


class Opinions:
    """The user's lists, the circle's words and the node's deeds, as trust in each node."""

    def __init__(
        self,
        pool: RelayPool,
        people: People,
        shelf: Shelf | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._people = people
        self._shelf = shelf
        self._clock = clock
        self._monotonic = monotonic
        self._own = people.own()
        self._said = shelf.facts("said", Said).get("", Said()) if shelf else Said()
        self._deeds = shelf.facts("deeds", Deeds) if shelf else {}
        self._of_node: dict[str, list[Review]] = {}
        self._silent: set[str] = set()
        """Relays that failed in this look: they are not waited for again and again."""
        self._is_whole = True
        """Whether it came to everybody."""
        self._sort()

    @property
    def own(self) -> Own:
        return self._own

    def of(self, node: str) -> Trust:
        return trust_of(
            node, self._own, self._said.follows, self._of_node.get(node, ()), self._deeds.get(node, Deeds())
        )

    def deeds(self, node: str) -> Deeds:
        return self._deeds.get(node, Deeds())

    async def note(self, node: str, deeds: Deeds) -> None:
        """What the node has done by now."""
        self._deeds[node] = deeds
        if self._shelf is not None:
            await self._shelf.state("deeds", {node: deeds})

    async def look(self, *, again: bool = False) -> None:
        """Read the lists anew, and what the circle says if that is old or the circle another. Relays that are silent leave
        what was known."""
        self._own = self._people.own()
        said, now = self._said, self._clock()
        if not self._own.followed:
            self._said = Said()
        elif again or said.followed != self._own.followed or not now - TTL_S < said.at <= now:
            await self._read()
        self._sort()

    async def _read(self) -> None:
        now, friends = int(self._clock()), self._own.followed
        self._silent, self._is_whole = set(), True
        until = self._monotonic() + LOOK_DEADLINE_S
        lists = await self._by_authors(friends, until, {"kinds": [kinds.CONTACTS]})
        follows = _within(self._said.follows | contacts(lists, now=now), friends)
        circle = friends.union(*follows.values())
        said = await self._by_authors(circle, until, {"kinds": [kinds.DELETION], **TAKEN_BACK}, {"kinds": OPINIONS})
        taken_back = {(e.pubkey, id_) for e in said if e.kind == kinds.DELETION for id_ in e.values("e")}
        reviews = []
        for event in said:
            try:
                reviews.append(decode(event, now=now))
            except InvalidReview:
                continue
        kept = [review for review in self._said.reviews if review.author in circle]
        standing = [each for each in newest([*kept, *reviews]) if (each.author, each.id) not in taken_back]
        latest = sorted(standing, key=lambda review: -review.created_at)[:MAX_REVIEWS]
        is_heard = not self._silent.issuperset(self._pool.urls)
        at = now if is_heard and self._is_whole else now - TTL_S + AGAIN_S
        self._said = Said(float(at), friends, follows, tuple(latest))
        if self._shelf is not None:
            await self._shelf.state("said", {"": self._said})

    async def _by_authors(self, authors: Collection[str], until: float, *wanted: Filter) -> list[Event]:
        """What relays have of these authors, some at a time in whatever order, as far as the time goes."""
        found: list[Event] = []
        shuffled = random.sample(sorted(authors), len(authors))
        for first in range(0, len(shuffled), AUTHORS_AT_ONCE):
            left_s = min(DEADLINE_S, until - self._monotonic())
            if left_s <= 0:
                self._is_whole = False
                break
            asked = [{**each, "authors": sorted(shuffled[first : first + AUTHORS_AT_ONCE])} for each in wanted]
            told = await self._pool.query(*asked, deadline_s=left_s, grace_s=GRACE_S, skip=self._silent)
            found += told.events
            self._silent |= set(told.failures)
            if len(found) > MAX_REVIEWS:
                break
        return found

    def _sort(self) -> None:
        self._of_node = {}
        for review in self._said.reviews:
            self._of_node.setdefault(review.node, []).append(review)


def _within(follows: dict[str, tuple[str, ...]], friends: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The lists of the friends, each cut to its share of the circle."""
    mine = {friend: follows[friend] for friend in friends if friend in follows}
    share = MAX_CIRCLE // max(1, len(mine))
    return {friend: keys[:share] for friend, keys in mine.items()}
