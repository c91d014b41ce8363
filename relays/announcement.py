"""Provider announcements (RIP-02, kind 38421): what a node publishes and a client reads.

The event is plain RIP-02: tags `d`, `u`, `mint`, `version`, content `{"name","about"}`. Ours adds to the content an
object `satroute` with models, limits and prices in msat, and one `m` tag per model; others can ignore both. Models that one
event has no room for are in `pages`. docs/protocol.md has all of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from relays import kinds
from relays.bounds import ModelLimits
from relays.deletion import deletion
from relays.errors import InvalidAnnouncement, InvalidEvent, InvalidJson
from relays.event import Event, Signer, expiration
from relays.jsontext import from_json, shaped
from relays.pricing import ModelPrice

OFFER_VERSION = 1
MAX_URLS = 8
MAX_URL_CHARS = 2048
"""More ways to reach one node, and longer ones, are not read."""
MAX_CLOCK_SKEW_S = 15 * 60
"""Events dated further ahead than this are refused."""


MAX_PAGES: Final = 100
MAX_LIMIT: Final = 10**15
COUNTRY_CHARS: Final = 2


class ModelOffer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model for sale: its name, limits and price, and what is known of it beside."""

    id: str
    limits: ModelLimits
    price: ModelPrice
    input: tuple[str, ...] = ("text",)
    """Modalities that it reads, in OpenRouter's words: text, image, audio, video, file."""
    output: tuple[str, ...] = ("text",)
    endpoints: tuple[str, ...] | None = None
    """Where it is served, by the names of `endpoints.ENDPOINTS`; None where nobody knows."""
    features: tuple[str, ...] | None = None
    """Which of tools, vision, json and reasoning it has; None where nobody knows."""


Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class NodeLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node takes of one account; None: as much as is paid for."""

    max_body_bytes: Limit | None = None
    concurrent_requests: Limit | None = None
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None


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
    limits: NodeLimits | None = None
    payments: tuple[str, ...] | None = None
    """Ways to pay: `key`, `cashu` as the bearer, `x-cashu`, `lightning`, `l402`; None where it is not said."""
    pages: int = 0
    """How many events beside this one hold models; see `pages`."""
    region: str | None = None
    """The country that the node says it stands in (ISO 3166-1, two letters): nobody can check that."""


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
        content["satroute"] = _Offer(
            v=OFFER_VERSION,
            models=announcement.models,
            lock=announcement.lock,
            limits=announcement.limits,
            payments=announcement.payments,
            pages=announcement.pages,
            region=announcement.region,
        )
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
    return deletion((announcement,), signer, created_at)


def decode(event: Event, *, now: int) -> Announcement:
    """Read a verified event. Raises InvalidAnnouncement: wrong kind, no `u` tag, dated ahead, or expired (NIP-40)."""
    if event.kind != kinds.PROVIDER_ANNOUNCEMENT:
        raise InvalidAnnouncement(f"kind {event.kind} is not a provider announcement")
    urls = tuple(filter(_is_url, event.values(kinds.TAG_URL)))[:MAX_URLS]
    if not urls:
        raise InvalidAnnouncement("without a URL it is not a provider")
    expires_at = in_force(event, now=now)
    content = content_of(event)
    offer = offer_in(content)
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
        limits=None if offer is None else offer.limits,
        payments=None if offer is None else offer.payments,
        pages=0 if offer is None else offer.pages,
        region=None if offer is None else region_of(offer.region),
        created_at=event.created_at,
        expires_at=expires_at,
    )


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://")) and len(text) <= MAX_URL_CHARS


def in_force(event: Event, *, now: int) -> int | None:
    """When it expires (NIP-40). Raises InvalidAnnouncement for one that is dated ahead, or has expired."""
    if event.created_at > now + MAX_CLOCK_SKEW_S:
        raise InvalidAnnouncement("dated in the future")
    try:
        expires_at = expiration(event)
    except InvalidEvent as error:
        raise InvalidAnnouncement(str(error)) from error
    if expires_at is not None and expires_at <= now:
        raise InvalidAnnouncement("expired")
    return expires_at


def content_of(event: Event) -> dict[str, Any]:
    """RIP-02 nodes in the wild have free text here: that costs them their name, not their place."""
    try:
        return from_json(event.content, dict[str, Any])
    except InvalidJson:
        return {}


def region_of(text: str | None) -> str | None:
    """A country's code in capitals; None for what is none."""
    known = text is not None and len(text) == COUNTRY_CHARS and text.isascii() and text.isalpha()
    return text.upper() if known and text is not None else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class _Offer(msgspec.Struct, omit_defaults=True):
    v: int
    models: tuple[ModelOffer, ...]
    lock: Annotated[str, msgspec.Meta(pattern="^0[23][0-9a-f]{64}$")] | None = None
    limits: NodeLimits | None = None
    payments: tuple[str, ...] | None = None
    pages: Annotated[int, msgspec.Meta(ge=0, le=MAX_PAGES)] = 0
    region: str | None = None


def offer_in(content: dict[str, Any]) -> _Offer | None:
    """The offer, or None when there is none or it is of a version we do not know. Raises InvalidAnnouncement for a broken
    one: it is refused whole."""
    raw = content.get("satroute")
    if not isinstance(raw, dict) or raw.get("v") != OFFER_VERSION:
        return None
    try:
        return shaped(raw, _Offer)
    except InvalidJson as error:
        raise InvalidAnnouncement(f"the offer cannot be read: {error}") from error
