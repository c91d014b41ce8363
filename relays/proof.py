"""Proof of the key behind a URL: who holds it signs that URL and a number of the asker's choice.

`POST /v1/proof {"nonce", "url"}` at a node is answered with an event of kind 27236 that is never published, in the manner of
NIP-98: tags `u`, `nonce` and `expiration` (NIP-40), no content. A node signs for URLs of its own alone, so an announcement
that names another's key gains nothing by passing the question on to that key's node.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from relays import kinds
from relays.announcement import MAX_CLOCK_SKEW_S
from relays.errors import InvalidEvent, InvalidProof
from relays.event import Event, Signer, expiration

PATH: Final = "/v1/proof"
LIFETIME_S: Final = 60
NONCE: Final = re.compile(r"[0-9a-f]{32,64}")
MAX_URL_CHARS: Final = 2048
_PORTS: Final = {"http": 80, "https": 443}


def base_of(url: str) -> str:
    """A node's URL in the one form that is signed and compared: scheme and host in small letters, no usual port, no `/v1`
    and no slash at the end. Raises InvalidProof."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidProof("the URL cannot be read") from error
    if parts.scheme not in _PORTS or not parts.hostname or len(url) > MAX_URL_CHARS or not url.isprintable():
        raise InvalidProof("the URL is not one of a node")
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidProof("the URL is more than the base of one")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = host if port is None or port == _PORTS[parts.scheme] else f"{host}:{port}"
    return f"{parts.scheme}://{place}{parts.path}".rstrip("/").removesuffix("/v1").rstrip("/")


def encode(signer: Signer, *, url: str, nonce: str, now: int) -> Event:
    """The signed answer. Raises InvalidProof for a URL or nonce that is none; whose URL it is the signer's matter."""
    if not NONCE.fullmatch(nonce):
        raise InvalidProof("'nonce' is 32 to 64 hex digits, in small letters")
    tags = [["u", base_of(url)], ["nonce", nonce], [kinds.TAG_EXPIRATION, str(now + LIFETIME_S)]]
    return signer.sign(kind=kinds.PROOF, content="", created_at=now, tags=tags)


def verify(event: Event, *, pubkey: str, url: str, nonce: str, now: int) -> None:
    """Raise InvalidProof unless a verified event proves that `pubkey` answers at `url`, to whoever has just made up `nonce`.

    That makes it fresh, so clocks may differ by a quarter of an hour.
    """
    if event.kind != kinds.PROOF:
        raise InvalidProof(f"kind {event.kind} is not a proof")
    if event.pubkey != pubkey:
        raise InvalidProof("signed by another key than the announced one")
    if event.values("nonce") != (nonce,):
        raise InvalidProof("the answer to another question")
    if event.values(kinds.TAG_URL) != (base_of(url),):
        raise InvalidProof("it is for another URL")
    try:
        expires_at = expiration(event)
    except InvalidEvent as error:
        raise InvalidProof(str(error)) from error
    if expires_at is None or not event.created_at < expires_at <= event.created_at + LIFETIME_S:
        raise InvalidProof("it does not expire as proofs do")
    if not event.created_at - MAX_CLOCK_SKEW_S <= now < expires_at + MAX_CLOCK_SKEW_S:
        raise InvalidProof("expired, or dated in the future")
