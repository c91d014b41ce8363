"""What others say of nodes: reviews (kind 38425, in use by Routstr's SDK) and recommendations (kind 38000, NIP-87's form).

A review has tags `["t", verdict]` and `["node", pubkey]`; of one author on one node the newest counts. A recommendation has
`["k", "38421"]`, `["d", id]`, `["u", url]` and `["a", "38421:<pubkey>:<id>", relay]`, with words as its content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from relays import kinds
from relays.announcement import MAX_CLOCK_SKEW_S
from relays.errors import InvalidReview
from relays.event import Event, Signer

POSITIVE: Final = ("lgtm", "lgtm2", "trusted", "verified")
NEGATIVE: Final = ("suspicious", "avoid", "blacklisted", "removed")
MAX_WORDS: Final = 2000
_KEY: Final = re.compile(r"[0-9a-f]{64}")


class Review(msgspec.Struct, frozen=True):
    """One author's opinion of one node."""

    author: str
    node: str
    verdict: str
    created_at: int
    id: str
    words: str = ""

    @property
    def is_positive(self) -> bool:
        return self.verdict in POSITIVE


def encode(node: str, verdict: str, signer: Signer, created_at: int, words: str = "") -> Event:
    """A signed review. Raises InvalidReview for a verdict that nobody knows."""
    if verdict not in POSITIVE + NEGATIVE:
        raise InvalidReview(f"a verdict is one of {', '.join(POSITIVE + NEGATIVE)}")
    # Addressable by the node, so that relays keep the newest alone.
    tags = [["d", node], ["t", verdict], ["node", node]]
    return signer.sign(kind=kinds.REVIEW, content=words, created_at=created_at, tags=tags)


def decode(event: Event, *, now: int) -> Review:
    """Read a verified event of either kind; a recommendation is the verdict `trusted`. Raises InvalidReview."""
    if event.created_at > now + MAX_CLOCK_SKEW_S:
        raise InvalidReview("dated in the future")
    if event.kind == kinds.REVIEW:
        node, verdict = event.value("node") or "", event.value("t") or ""
    elif event.kind == kinds.RECOMMENDATION and str(kinds.PROVIDER_ANNOUNCEMENT) in event.values("k"):
        kind, _, rest = (event.value("a") or "").partition(":")
        node, verdict = rest.partition(":")[0], "trusted" if kind == str(kinds.PROVIDER_ANNOUNCEMENT) else ""
    else:
        raise InvalidReview(f"kind {event.kind} is no review of a node")
    if not _KEY.fullmatch(node) or verdict not in POSITIVE + NEGATIVE:
        raise InvalidReview("it names no node, or no verdict that is known")
    return Review(event.pubkey, node, verdict, event.created_at, event.id, event.content[:MAX_WORDS])


def recommendation(
    node: str, identifier: str, url: str, relay: str, signer: Signer, created_at: int, words: str
) -> Event:
    """A signed recommendation of an announced node."""
    address = f"{kinds.PROVIDER_ANNOUNCEMENT}:{node}:{identifier}"
    tags = [["k", str(kinds.PROVIDER_ANNOUNCEMENT)], ["d", identifier], ["u", url], ["a", address, relay]]
    return signer.sign(kind=kinds.RECOMMENDATION, content=words, created_at=created_at, tags=tags)


def newest(reviews: Iterable[Review]) -> list[Review]:
    """Of each author on each node the newest; of equal dates the lower id, as for all that replaces (NIP-01)."""
    found: dict[tuple[str, str], Review] = {}
    for review in reviews:
        elder = found.get((review.author, review.node))
        if elder is None or (review.created_at, elder.id) > (elder.created_at, review.id):
            found[review.author, review.node] = review
    return list(found.values())
