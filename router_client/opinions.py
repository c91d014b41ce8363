"""What the user's circle says of nodes: contact lists and reviews, read from relays for the keys that count and no others.

The circle is whom the user follows and whom those follow. Who is outside has no weight and is never asked for, so that no
number of strangers makes this slow or large.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from relays import kinds
from relays.contacts import contacts
from relays.errors import InvalidReview
from relays.event import Event
from relays.pool import RelayPool
from relays.review import Review, decode, newest
from router_client.people import People
from router_client.shelf import Shelf
from router_client.trust import Deeds, Own, Trust, trust_of

TTL_S: Final = 3600.0
MAX_CIRCLE: Final = 5000
"""Keys at distance 2; each friend's are taken in turn, so that none crowds out another's."""
MAX_REVIEWS: Final = 20_000
AUTHORS_AT_ONCE: Final = 500
DEADLINE_S: Final = 5.0


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
        self, pool: RelayPool, people: People, shelf: Shelf | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._pool = pool
        self._people = people
        self._shelf = shelf
        self._clock = clock
        self._own = people.own()
        self._said = shelf.facts("said", Said).get("", Said()) if shelf else Said()
        self._deeds = shelf.facts("deeds", Deeds) if shelf else {}
        self._of_node: dict[str, list[Review]] = {}
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
        lists = await self._by_authors(sorted(friends), [kinds.CONTACTS])
        follows = contacts(lists, now=now) or {k: v for k, v in self._said.follows.items() if k in friends}
        follows = _within(follows, friends)
        circle = friends.union(*follows.values())
        reviews = []
        for event in await self._by_authors(sorted(circle), [kinds.REVIEW, kinds.RECOMMENDATION]):
            try:
                reviews.append(decode(event, now=now))
            except InvalidReview:
                continue
        kept = [review for review in self._said.reviews if review.author in circle]
        latest = sorted(newest([*kept, *reviews]), key=lambda review: -review.created_at)[:MAX_REVIEWS]
        self._said = Said(float(now), friends, follows, tuple(latest))
        if self._shelf is not None:
            await self._shelf.state("said", {"": self._said})

    async def _by_authors(self, authors: list[str], wanted: list[int]) -> list[Event]:
        found: list[Event] = []
        for first in range(0, len(authors), AUTHORS_AT_ONCE):
            asked = {"kinds": wanted, "authors": authors[first : first + AUTHORS_AT_ONCE]}
            found += (await self._pool.query(asked, deadline_s=DEADLINE_S)).events
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
