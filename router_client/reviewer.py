"""The user's own reviews, of what was measured: published when asked for, under a key that is made for this alone.

The key is no other key of the user's and pays for nothing: who buys what is nobody's business but the node's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from relays.errors import InvalidKey
from relays.event import Event, Signer
from relays.pool import RelayPool
from relays.review import encode
from router_client.errors import StorageError
from router_client.trust import Deeds

ENOUGH_CALLS: Final = 4
"""Fewer that failed may have been anybody's fault."""


class Reviewer:
    """Publishes under the key in the file at `path`, which is made when there is none."""

    def __init__(self, pool: RelayPool, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._path = path
        self._clock = clock

    async def publish(self, node: str, deeds: Deeds) -> Event | None:
        """The review of the node by what it did, on all relays; None where that says nothing yet. Raises StorageError."""
        verdict = verdict_of(deeds)
        if verdict is None:
            return None
        words = msgspec.json.encode(deeds).decode()
        event = encode(node, verdict, self._signer(), int(self._clock()), words)
        await self._pool.publish(event)
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


def verdict_of(deeds: Deeds) -> str | None:
    """The word for it, as others understand it."""
    if deeds.cheated:
        return "avoid"
    if deeds.served + deeds.failed >= ENOUGH_CALLS and deeds.failed > deeds.served:
        return "suspicious"
    return "verified" if deeds.served else None
