"""Proofs of the key behind the node's own URLs, so many a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from math import ceil
from typing import Final

from node.errors import Refusal
from node.limits import Bucket
from relays import payment, proof
from relays.errors import InvalidProof
from relays.event import Event, Signer

PER_MINUTE: Final = 3000
"""A signature takes a tenth of a millisecond: nobody keeps the node from its work with these."""


class Proofs:
    """Signs for the URLs that the node announces, and for no other."""

    def __init__(
        self,
        signer: Signer,
        urls: Iterable[str],
        clock: Callable[[], float] = time.time,
        per_minute: int = PER_MINUTE,
    ) -> None:
        self._signer = signer
        self._bases = {proof.base_of(url) for url in urls}
        self._clock = clock
        self._bucket = Bucket(per_minute, clock())

    def answer(self, nonce: str, url: str) -> Event:
        """The proof. Raises Refusal: 400 for what cannot be asked, 403 for a URL that is not the node's, 429."""
        now = self._clock()
        if (wait_s := self._bucket.wait_s(1, now)) > 0:
            headers = {"retry-after": str(ceil(wait_s))}
            raise Refusal(429, payment.RATE_LIMITED, "too many proofs: try again in a second", headers=headers)
        self._bucket.take(1)
        try:
            base, event = proof.base_of(url), proof.encode(self._signer, url=url, nonce=nonce, now=int(now))
        except InvalidProof as error:
            raise Refusal(400, payment.INVALID_REQUEST, str(error)) from error
        if base not in self._bases:
            raise Refusal(
                403,
                payment.NOT_ALLOWED,
                "this is not a URL of this node: ask with one that it announces (GET /v1/info)",
            )
        return event
