"""Nostr events (NIP-01): parse, check id and signature, sign. Keys in their NIP-19 forms.

The only module that imports pynostr, which is used for the forms of keys, and only when one is read or written: it takes a
tenth of a second to import. Ids are computed here, since pynostr ignores the id it receives.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import msgspec

from relays.errors import InvalidEvent, InvalidJson, InvalidKey
from relays.jsontext import from_json, shaped
from relays.schnorr import SigningKey, verified

MAX_EVENT_BYTES = 128 * 1024
"""Larger events are refused before they are parsed: ours are a few KiB."""

MAX_KIND = 65535
SECRET_BYTES = 32


@cache
def _forms() -> Any:
    """NIP-19."""
    return import_module("pynostr.key")


class Event(msgspec.Struct, frozen=True):
    """A signed event, as relays carry it. Those of `parse_event` and `Signer.sign` are verified."""

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: tuple[tuple[str, ...], ...]
    content: str
    sig: str

    def values(self, name: str) -> tuple[str, ...]:
        """The first value of every tag called `name`, in order."""
        return tuple([tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == name])

    def value(self, name: str) -> str | None:
        """The first value of the first tag called `name`, if there is one."""
        for tag in self.tags:
            if len(tag) > 1 and tag[0] == name:
                return tag[1]
        return None

    def address(self) -> str:
        """`kind:pubkey:d`, the address under which an addressable event replaces its elder (NIP-01)."""
        return f"{self.kind}:{self.pubkey}:{self.value('d') or ''}"


def expiration(event: Event) -> int | None:
    """When it expires (NIP-40), if it does. Raises InvalidEvent for what is no date."""
    text = event.value("expiration")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise InvalidEvent("the expiration is not a date")
    return int(text)


def event_id(pubkey: str, created_at: int, kind: int, tags: Sequence[Sequence[str]], content: str) -> str:
    """The id: SHA-256 over the canonical JSON array, in hex (NIP-01). Raises InvalidEvent on unencodable text."""
    try:  # msgspec writes what NIP-01 asks for: no spaces, and no escapes but the necessary
        canonical = msgspec.json.encode([0, pubkey, created_at, kind, tags, content])
    except UnicodeEncodeError as error:
        raise InvalidEvent("the event holds text that is not Unicode") from error
    return hashlib.sha256(canonical).hexdigest()


def verify_event(event: Event) -> None:
    """Raise InvalidEvent unless the id is the hash of the event and the signature is its author's."""
    # What costs least to check comes first: a signature takes as long as hashing a hundred events.
    if not 0 <= event.kind <= MAX_KIND or event.created_at < 0:
        raise InvalidEvent("kind or date out of range")
    if len(event.pubkey) != 64 or len(event.sig) != 128 or event.pubkey != event.pubkey.lower():
        raise InvalidEvent("key or signature has the wrong form")
    if event_id(event.pubkey, event.created_at, event.kind, event.tags, event.content) != event.id:
        raise InvalidEvent("the id is not the hash of the event")
    try:
        genuine = verified(bytes.fromhex(event.pubkey), bytes.fromhex(event.sig), bytes.fromhex(event.id))
    except ValueError as error:  # not hex
        raise InvalidEvent("key or signature is malformed") from error
    if not genuine:
        raise InvalidEvent("the signature is not the author's")


def read_event(raw: object) -> Event:
    """An event from JSON text, bytes or a decoded object, of the right form and not yet verified. Raises InvalidEvent."""
    try:
        if not isinstance(raw, (str, bytes)):
            return shaped(raw, Event)
        if len(raw) > MAX_EVENT_BYTES:
            raise InvalidEvent(f"the event is larger than {MAX_EVENT_BYTES} bytes")
        return from_json(raw, Event)
    except InvalidJson as error:
        raise InvalidEvent("not a Nostr event") from error


def parse_event(raw: object) -> Event:
    """The same with id and signature checked. Raises InvalidEvent."""
    event = read_event(raw)
    verify_event(event)
    return event


def to_json(event: Event) -> str:
    """The event as compact JSON."""
    return msgspec.json.encode(event).decode()


class Signer:
    """A private key that signs events. Never shows itself: `repr` has the public key only."""

    def __init__(self, secret: bytes) -> None:
        try:
            self._secret, self._signing = secret, SigningKey(secret)
        except ValueError as error:
            raise InvalidKey("not a private key") from error
        self.pubkey: str = self._signing.public.hex()

    @classmethod
    def generate(cls) -> Signer:
        """A new random key."""
        return cls(secrets.token_bytes(SECRET_BYTES))  # one in 2^127 is no key, and is refused

    @classmethod
    def parse(cls, text: str) -> Signer:
        """From `nsec1…` (NIP-19) or 64 hex digits. Raises InvalidKey without repeating the text."""
        text = text.strip()
        try:
            secret = _forms().PrivateKey.from_nsec(text).raw_secret if text.startswith("nsec1") else bytes.fromhex(text)
        except (ValueError, TypeError) as error:
            raise InvalidKey("not a private key: expected nsec1… or 64 hex digits") from error
        if len(secret) != SECRET_BYTES:
            raise InvalidKey("not a private key: expected nsec1… or 64 hex digits")
        return cls(secret)

    @property
    def npub(self) -> str:
        return npub(self.pubkey)

    def nsec(self) -> str:
        """The secret itself, for the one who keeps it."""
        return str(_forms().PrivateKey(self._secret).nsec)

    def secret_for(self, purpose: str) -> bytes:
        """32 secret bytes for one purpose, made from the key: the same every time, and of no use for any other."""
        return hmac.digest(self._secret, f"satroute {purpose}".encode(), hashlib.sha256)

    def sign(self, *, kind: int, content: str, created_at: int, tags: Iterable[Sequence[str]] = ()) -> Event:
        """A new signed event; `created_at` in Unix seconds."""
        frozen = tuple(tuple(tag) for tag in tags)
        identity = event_id(self.pubkey, created_at, kind, frozen, content)
        signature = self._signing.sign(bytes.fromhex(identity))
        return Event(identity, self.pubkey, created_at, kind, frozen, content, signature.hex())

    def __repr__(self) -> str:
        return f"Signer({self.npub})"


def npub(pubkey_hex: str) -> str:
    """A public key in its NIP-19 form. Raises InvalidKey."""
    try:
        return str(_forms().PublicKey.from_hex(pubkey_hex).bech32())
    except (ValueError, TypeError) as error:
        raise InvalidKey("not a public key: expected 64 hex digits") from error


def pubkey_of(text: str) -> str:
    """Hex of a public key given as `npub1…` or 64 hex digits. Raises InvalidKey."""
    text = text.strip()
    try:
        raw = _forms().PublicKey.from_npub(text).raw_bytes if text.startswith("npub1") else bytes.fromhex(text)
    except (ValueError, TypeError) as error:
        raise InvalidKey("not a public key: expected npub1… or 64 hex digits") from error
    if len(raw) != 32:
        raise InvalidKey("not a public key: expected npub1… or 64 hex digits")
    return raw.hex()
