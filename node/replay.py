"""Requests that their callers name by an `Idempotency-Key`: run once, paid once, answered the same again.

The name and the account make the request's id, and the ledger holds an id once. The answer is kept sealed under the
caller's own credential and name, which the node does not store: a stolen database holds no answers.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

import msgspec

from node.errors import Refusal
from node.ledger.ledger import Ledger
from node.ledger.model import DuplicateHold, Key
from relays import payment
from router_client.disk.seal import seal, secret_of, unseal

KEEP_S: Final = 24 * 3600
KEEPING_S: Final = 5
"""An answer is charged first and kept then, with its receipt: so much later it is there, or it never will be."""
_TOO_LONG: Final = b""
"""Kept in place of an answer that is not."""
MAX_KEPT_BYTES: Final = 1024 * 1024
MAX_NAME_CHARS: Final = 255
MAX_ATTEMPTS: Final = 20
"""A request that failed and cost nothing may be repeated under its name this often."""


class Kept(msgspec.Struct, frozen=True):
    """An answer as it was given: headers without those of the connection."""

    headers: list[tuple[str, str]]
    body: bytes
    is_stream: bool


def check_name(name: str) -> None:
    """Raise Refusal 400 for a name that cannot be one."""
    if len(name) > MAX_NAME_CHARS:
        raise Refusal(400, payment.INVALID_REQUEST, f"'Idempotency-Key' has at most {MAX_NAME_CHARS} characters")


class NamedRequest(msgspec.Struct, frozen=True):
    """A request with its caller's name for it."""

    base_id: str
    fingerprint: str
    secret: bytes

    @classmethod
    def of(cls, key: Key, credential: str, name: str, body: bytes) -> NamedRequest:
        """Raises Refusal 400 for a name that cannot be one."""
        check_name(name)
        base_id = hashlib.sha256(f"{key.account}\n{name}".encode()).hexdigest()[:24]
        return cls(f"req_{base_id}", hashlib.sha256(body).hexdigest(), secret_of(credential, name))

    def id_of_attempt(self, number: int) -> str:
        """The request id: a repetition after a failure that cost nothing is a request of its own in the books."""
        return self.base_id if number == 1 else f"{self.base_id}-{number}"


class Replays:
    """Keeps answers and gives them again."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def keep(self, named: NamedRequest, request_id: str, kept: Kept) -> None:
        """Keep an answer that was charged, unless it is very long."""
        sealed = _TOO_LONG
        if len(kept.body) <= MAX_KEPT_BYTES:
            sealed = await asyncio.to_thread(_seal, named.secret, request_id, kept)
        await self._ledger.keep_answer(request_id, sealed, KEEP_S)

    async def earlier(self, named: NamedRequest, request_id: str, duplicate: DuplicateHold) -> Kept | None:
        """The answer of the request that holds this id; None when that one failed and cost nothing.

        Raises Refusal: 422 for another request under the same name, 409 while it runs or when its answer is not kept.
        """
        if duplicate.fingerprint != named.fingerprint:
            raise Refusal(
                422, payment.IDEMPOTENCY_MISMATCH, "this Idempotency-Key was used for another request: choose a new one"
            )
        if duplicate.state in ("voided", "expired"):
            return None
        if duplicate.state == "pending":
            raise _running()
        sealed = await self._ledger.answer(request_id)
        if sealed is None and await self._ledger.is_just_posted(request_id, KEEPING_S):
            raise _running()
        kept = None if not sealed else await asyncio.to_thread(_open, named.secret, request_id, sealed)
        if kept is None:
            raise Refusal(
                409,
                payment.REQUEST_DONE,
                f"the request of this Idempotency-Key was served and paid before, and its answer is not kept any more; "
                f"GET /v1/receipts/{request_id} has its receipt",
                headers={"x-should-retry": "false"},
            )
        return kept


def _running() -> Refusal:
    return Refusal(
        409,
        payment.REQUEST_RUNNING,
        "the request of this Idempotency-Key is running: ask again when it is done",
        headers={"retry-after": "2"},
    )


def _seal(secret: bytes, request_id: str, kept: Kept) -> bytes:
    return seal(secret, request_id, msgspec.msgpack.encode(kept))


def _open(secret: bytes, request_id: str, sealed: bytes) -> Kept | None:
    """None for an answer that was sealed under another credential."""
    plain = unseal(secret, request_id, sealed)
    return None if plain is None else msgspec.msgpack.decode(plain, type=Kept)
