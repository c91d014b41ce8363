"""Announcements of many models: what one event has no room for stands in further ones, so that no relay refuses any of them
for its size.

A page is an event of the announcement's own kind (RIP-02, kind 38421), without a `u` tag: others do not take it for a
provider. Its `d` is the announcement's with a number, its `a` tag the announcement's address. Relays filter it by its `m`
tags as they do the announcement; a reader asks for all of an author's at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from relays import kinds
from relays.announcement import (
    MAX_PAGES,
    OFFER_VERSION,
    Announcement,
    ModelOffer,
    content_of,
    encode,
    in_force,
    offer_in,
)
from relays.errors import InvalidAnnouncement
from relays.event import Event, Signer, to_json

MAX_BYTES: Final = 60_000
"""Of an event's JSON: relays in use take 64 KiB and more."""
MAX_MODELS: Final = 1_500
"""In one event: relays in use take 2,000 tags and more."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a provider's models."""

    pubkey: str
    identifier: str
    models: tuple[ModelOffer, ...]
    created_at: int
    expires_at: int | None


def identifiers(announcement: Announcement) -> tuple[str, ...]:
    """The `d` of each of its pages. A reader asks relays for them by kind and author alone: of several `#d` with an author,
    rust-nostr's relay (nostr-sdk 0.45) answers one."""
    return tuple(f"{announcement.identifier}/{number}" for number in range(1, announcement.pages + 1))


def encode_all(announcement: Announcement, signer: Signer) -> tuple[Event, ...]:
    """The announcement with as many of its models as it has room for, the first ones first, and pages with the rest.

    A model that is larger than a page, and what is beyond the last page, is left out. Raises InvalidAnnouncement when there
    is no room even without models.
    """
    bare = msgspec.structs.replace(announcement, models=None if announcement.models is None else (), pages=MAX_PAGES)
    head_bytes = len(to_json(encode(bare, signer)).encode())
    if head_bytes > MAX_BYTES:
        raise InvalidAnnouncement(
            f"the announcement takes {head_bytes} bytes without any model, relays take {MAX_BYTES}: shorten DESCRIPTION"
        )
    page_bytes = len(to_json(_page(bare, MAX_PAGES, (), signer)).encode())
    first, *rest = _groups(announcement.models or (), head_bytes, page_bytes)
    if announcement.models is None:
        return (encode(announcement, signer),)
    rest = rest[:MAX_PAGES]
    head = msgspec.structs.replace(announcement, models=first, pages=len(rest))
    pages = (_page(announcement, number, models, signer) for number, models in enumerate(rest, 1))
    return (encode(head, signer), *pages)


def _groups(models: Iterable[ModelOffer], head_bytes: int, page_bytes: int) -> list[tuple[ModelOffer, ...]]:
    """The models of each event, in order; the first may be empty."""
    groups: list[list[ModelOffer]] = [[]]
    size = head_bytes
    for model in models:
        bytes_ = _bytes(model)
        if page_bytes + bytes_ > MAX_BYTES:
            continue
        if size + bytes_ > MAX_BYTES or len(groups[-1]) == MAX_MODELS:
            groups.append([])
            size = page_bytes
        groups[-1].append(model)
        size += bytes_
    return [tuple(group) for group in groups]


def _bytes(model: ModelOffer) -> int:
    """What a model adds to an event: its tag, and itself as JSON inside of JSON; each with a comma, no quotes around."""
    tag = msgspec.json.encode([kinds.TAG_MODEL, model.id])
    inside = msgspec.json.encode(msgspec.json.encode(model).decode())
    return len(tag) + 1 + len(inside) - 2 + 1


def _page(announcement: Announcement, number: int, models: tuple[ModelOffer, ...], signer: Signer) -> Event:
    address = f"{kinds.PROVIDER_ANNOUNCEMENT}:{announcement.pubkey}:{announcement.identifier}"
    tags = [[kinds.TAG_IDENTIFIER, f"{announcement.identifier}/{number}"], [kinds.TAG_ADDRESS, address]]
    tags += [[kinds.TAG_MODEL, model.id] for model in models]
    if announcement.expires_at is not None:
        tags += [[kinds.TAG_EXPIRATION, str(announcement.expires_at)]]
    content = msgspec.json.encode({"satroute": {"v": OFFER_VERSION, "models": models}}).decode()
    return signer.sign(kind=kinds.PROVIDER_ANNOUNCEMENT, content=content, created_at=announcement.created_at, tags=tags)


def decode(event: Event, *, now: int) -> Page:
    """Read a verified event. Raises InvalidAnnouncement: no page, dated ahead, expired, or of an unknown version."""
    identifier = event.value(kinds.TAG_IDENTIFIER) or ""
    if event.kind != kinds.PROVIDER_ANNOUNCEMENT or "/" not in identifier or event.values(kinds.TAG_URL):
        raise InvalidAnnouncement("not a page of an announcement")
    expires_at = in_force(event, now=now)
    if (offer := offer_in(content_of(event))) is None:
        raise InvalidAnnouncement("the page has no offer of a known version")
    return Page(
        pubkey=event.pubkey,
        identifier=identifier,
        models=offer.models,
        created_at=event.created_at,
        expires_at=expires_at,
    )


def with_pages(announcement: Announcement, pages: Iterable[Page]) -> Announcement:
    """The announcement with the models of those of its pages that are there. Pages are published one by one: of a model
    that is in two of them, the newer word counts."""
    if announcement.models is None:
        return announcement
    listed = identifiers(announcement)
    ours = [page for page in pages if page.pubkey == announcement.pubkey and page.identifier in listed]
    ours.sort(key=lambda page: listed.index(page.identifier))
    found: dict[str, tuple[int, ModelOffer]] = {}
    for at, models in (
        (announcement.created_at, announcement.models),
        *((page.created_at, page.models) for page in ours),
    ):
        for model in models:
            if model.id not in found or found[model.id][0] < at:
                found[model.id] = (at, model)
    return msgspec.structs.replace(announcement, models=tuple(model for _, model in found.values()))
