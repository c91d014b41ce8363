"""What the node publishes to Nostr relays, and what each relay said to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from node.config import Settings
from node.shop.catalogue import Catalogue
from node.version import VERSION
from relays.announcement import Announcement, encode, withdrawal
from relays.event import Event, Signer
from relays.pool import Published, RelayPool

log = logging.getLogger(__name__)

LIFETIME_S = 3600
"""An announcement expires after this (NIP-40) unless it is published again."""
IDENTIFIER = "satroute"


class Announcer:
    """Publishes the node's announcement; with no relays it stays silent."""

    def __init__(
        self,
        settings: Settings,
        signer: Signer,
        catalogue: Catalogue,
        pool: RelayPool,
        lock: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._signer = signer
        self._catalogue = catalogue
        self._pool = pool
        self._lock = lock
        self._clock = clock
        self._answers: dict[str, Published] = {}
        self._latest: Event | None = None

    def event(self) -> Event:
        """The announcement as it would be published now; newer than the one before, so that it replaces it."""
        now = int(self._clock())
        if self._latest is not None:
            now = max(now, self._latest.created_at + 1)
        settings = self._settings
        announcement = Announcement(
            pubkey=self._signer.pubkey,
            identifier=IDENTIFIER,
            urls=tuple(url for url in (settings.http_url, settings.onion_url) if url),
            mints=settings.cashu_mints,
            version=VERSION,
            name=settings.name,
            about=settings.description,
            models=tuple(model.offer for model in self._catalogue.all()),
            created_at=now,
            expires_at=now + LIFETIME_S,
            lock=self._lock(),
        )
        return encode(announcement, self._signer)

    async def publish(self) -> None:
        """Publish to every relay and note each one's answer."""
        if not self._pool.urls or not len(self._catalogue):
            return
        self._latest = await asyncio.to_thread(self.event)  # of thousands of models it takes a while
        self._answers = await self._pool.publish(self._latest)
        for url, answer in self._answers.items():
            if not answer.accepted:
                log.warning("relay %s did not take the announcement: %s", url, answer.words)

    async def publish_where_missing(self) -> None:
        """Try again with the relays that did not take the latest announcement."""
        if self._latest is None or any(not answer.accepted for answer in self._answers.values()):
            await self.publish()

    async def withdraw(self) -> None:
        """Take the announcement back (NIP-09): the node is going."""
        if self._latest is not None:
            await self._pool.publish(withdrawal(self._latest, self._signer, int(self._clock())), deadline_s=3)

    def relay_states(self) -> dict[str, str]:
        """Each relay's latest answer, for people."""
        states = dict.fromkeys(self._pool.urls, "not asked yet")
        for url, answer in self._answers.items():
            states[url] = "accepted" if answer.accepted else answer.words
        return states
