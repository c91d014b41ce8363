"""The user's own reviews, of what was measured, and recommendations, published when asked for, under a key for this alone.

The key is no other key of the user's and pays for nothing: who buys what is nobody's business but the node's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from relays import kinds
from relays.announcement import Announcement
from relays.deletion import deletion
from relays.errors import InvalidKey, InvalidReview
from relays.event import Event, Signer
from relays.pool import RelayPool
from relays.review import MAX_WORDS, decode, encode, recommendation
from router_client.discovery.trust import Deeds
from router_client.errors import NotTaken, StorageError

ENOUGH_CALLS: Final = 4
"""Fewer that failed may have been anybody's fault."""


class Reviewer:
    """Publishes under the key in the file at `path`, which is made when there is none."""

    def __init__(self, pool: RelayPool, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._path = path
        self._clock = clock

    async def publish(self, node: str, deeds: Deeds) -> Event | None:
        """The review of the node by what it did, on all relays; None where that says nothing yet. Raises StorageError,
        NotTaken."""
        verdict = verdict_of(deeds)
        if verdict is None:
            return None
        words = msgspec.json.encode(deeds).decode()
        event = encode(node, verdict, self._signer(), int(self._clock()), words)
        return await self._told(event)

    async def recommend(self, announced: Announcement, words: str) -> Event:
        """A recommendation of the node (kind 38000, NIP-87's form), on all relays. Raises StorageError, NotTaken."""
        relay, url = next(iter(self._pool.urls), ""), announced.urls[0]
        now, signer = int(self._clock()), self._signer()
        return await self._told(
            recommendation(announced.pubkey, announced.identifier, url, relay, signer, now, words[:MAX_WORDS])
        )

    async def take_back(self, node: str) -> tuple[Event, ...]:
        """Delete what this key has said of the node at the relays (NIP-09); what that was. Raises StorageError, NotTaken."""
        signer, now = self._signer(), int(self._clock())
        said = {"kinds": [kinds.RECOMMENDATION, kinds.REVIEW], "authors": [signer.pubkey]}
        found = await self._pool.query(said)
        gone = tuple(event for event in found.events if _node_of(event, now) == node)
        if found.failures and not gone:
            raise NotTaken(
                "nothing of yours was found, and not all relays were asked: " + "; ".join(found.failures.values())
            )
        if gone:
            await self._told(deletion(gone, signer, max(now, *(event.created_at for event in gone))))
        return gone

    async def _told(self, event: Event) -> Event:
        answers = await self._pool.publish(event)
        if not any(answer.accepted for answer in answers.values()):
            raise NotTaken("no relay took it: " + "; ".join(answer.words for answer in answers.values()))
        return event

    def _signer(self) -> Signer:
        try:
            if self._path.exists():
                return Signer.parse(self._path.read_text())
            signer = Signer.generate()
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(signer.nsec() + "\n")
            return signer
        except (OSError, UnicodeDecodeError, InvalidKey) as error:
            raise StorageError(f"the key in {self._path} cannot be used: {error}") from error


def _node_of(event: Event, now: int) -> str:
    try:
        return decode(event, now=now).node
    except InvalidReview:
        return ""


def verdict_of(deeds: Deeds) -> str | None:
    """The word for it, as others understand it."""
    if deeds.cheated:
        return "avoid"
    if deeds.served + deeds.failed >= ENOUGH_CALLS and deeds.failed > deeds.served:
        return "suspicious"
    return "verified" if deeds.served else None
