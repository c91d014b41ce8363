"""Provider announcements (RIP-02, kind 38421): what a node publishes and a client reads.

The event is plain RIP-02: tags `d`, `u`, `mint`, `version`, content `{"name","about"}`. Ours adds to the content an
object `satroute` with models, limits and prices in msat, and one `m` tag per model; others can ignore both.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from relays import kinds
from relays.bounds import ModelLimits
from relays.errors import InvalidAnnouncement, InvalidJson
from relays.event import Event, Signer
from relays.jsontext import from_json, shaped
from relays.pricing import ModelPrice

OFFER_VERSION = 1
MAX_URLS = 8
"""More ways to reach one node are not read."""
MAX_CLOCK_SKEW_S = 15 * 60
"""Events dated further ahead than this are refused."""


class ModelOffer(msgspec.Struct, frozen=True):
    """One model for sale: its name, limits and price."""

    id: str
    limits: ModelLimits
    price: ModelPrice


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """A provider as announced. `models` is None when the event carries no offer of ours (a plain RIP-02 node)."""

    pubkey: str
    identifier: str
    urls: tuple[str, ...]
    mints: tuple[str, ...]
    version: str
    name: str
    about: str
    models: tuple[ModelOffer, ...] | None
    created_at: int
    expires_at: int | None
    lock: str | None = None
    """Public key (compressed, hex) that ecash may be locked to (NUT-11): it is accepted without asking the mint."""


def encode(announcement: Announcement, signer: Signer) -> Event:
    """The signed event. The signer's key must be the announcement's."""
    if signer.pubkey != announcement.pubkey:
        raise InvalidAnnouncement("an announcement is signed by the provider it names")
    tags = [[kinds.TAG_IDENTIFIER, announcement.identifier]]
    tags += [[kinds.TAG_URL, url] for url in announcement.urls]
    tags += [[kinds.TAG_MINT, mint] for mint in announcement.mints]
    tags += [[kinds.TAG_VERSION, announcement.version]]
    content: dict[str, Any] = {"name": announcement.name, "about": announcement.about}
    if announcement.models is not None:
        tags += [[kinds.TAG_MODEL, model.id] for model in announcement.models]
        offer: dict[str, Any] = {"v": OFFER_VERSION, "models": announcement.models}
        content["satroute"] = offer if announcement.lock is None else {**offer, "lock": announcement.lock}
    if announcement.expires_at is not None:
        tags += [[kinds.TAG_EXPIRATION, str(announcement.expires_at)]]
    return signer.sign(
        kind=kinds.PROVIDER_ANNOUNCEMENT,
        content=msgspec.json.encode(content).decode(),
        created_at=announcement.created_at,
        tags=tags,
    )


def withdrawal(announcement: Event, signer: Signer, created_at: int) -> Event:
    """The deletion request that takes an announcement back (NIP-09)."""
    tags = [["e", announcement.id], ["a", announcement.address()], ["k", str(announcement.kind)]]
    return signer.sign(kind=kinds.DELETION, content="", created_at=created_at, tags=tags)


def decode(event: Event, *, now: int) -> Announcement:
    """Read a verified event. Raises InvalidAnnouncement: wrong kind, no `u` tag, dated ahead, or expired (NIP-40)."""
    if event.kind != kinds.PROVIDER_ANNOUNCEMENT:
        raise InvalidAnnouncement(f"kind {event.kind} is not a provider announcement")
    urls = tuple(url for url in event.values(kinds.TAG_URL) if url.startswith(("http://", "https://")))[:MAX_URLS]
    if not urls:
        raise InvalidAnnouncement("without a URL it is not a provider")
    if event.created_at > now + MAX_CLOCK_SKEW_S:
        raise InvalidAnnouncement("dated in the future")
    expires_at = _expiration(event)
    if expires_at is not None and expires_at <= now:
        raise InvalidAnnouncement("expired")
    content = _content(event.content)
    offer = _offer(content.get("satroute"))
    return Announcement(
        pubkey=event.pubkey,
        identifier=event.value(kinds.TAG_IDENTIFIER) or "",
        urls=urls,
        mints=event.values(kinds.TAG_MINT),
        version=event.value(kinds.TAG_VERSION) or "",
        name=_text(content.get("name")),
        about=_text(content.get("about")),
        models=None if offer is None else offer.models,
        lock=None if offer is None else offer.lock,
        created_at=event.created_at,
        expires_at=expires_at,
    )


def _expiration(event: Event) -> int | None:
    text = event.value(kinds.TAG_EXPIRATION)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise InvalidAnnouncement("the expiration is not a date")
    return int(text)


def _content(text: str) -> dict[str, Any]:
    """RIP-02 nodes in the wild have free text here: that costs them their name, not their place."""
    try:
        return from_json(text, dict[str, Any])
    except InvalidJson:
        return {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class _Offer(msgspec.Struct):
    v: int
    models: tuple[ModelOffer, ...]
    lock: Annotated[str, msgspec.Meta(pattern="^0[23][0-9a-f]{64}$")] | None = None


def _offer(raw: object) -> _Offer | None:
    """The offer, or None when there is none or it is of a version we do not know. A broken one is refused whole."""
    if not isinstance(raw, dict) or raw.get("v") != OFFER_VERSION:
        return None
    try:
        return shaped(raw, _Offer)
    except InvalidJson as error:
        raise InvalidAnnouncement(f"the offer cannot be read: {error}") from error
