"""What the node publishes to Nostr relays: its announcement with the pages of it and its capacity, taken back when it stops;
who it is and where it publishes, which stay."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from node.config import Settings
from node.gauge import Gauge, is_news
from node.outbox import Outbox
from node.shop.catalogue import Catalogue
from node.version import VERSION
from relays import kinds
from relays.announcement import Announcement, ModelOffer, NodeLimits
from relays.capacity import Capacity, State
from relays.capacity import encode as encode_capacity
from relays.deletion import deletion
from relays.event import Event, Signer
from relays.pages import encode_all
from relays.pool import DEADLINE_S, RelayPool
from relays.profile import profile, relay_list
from relays.proof import base_of
from router_client.discovery.board import Board

log = logging.getLogger(__name__)

LIFETIME_S: Final = 3600
"""An announcement expires after this (NIP-40) unless it is published again."""
RENEW_S: Final = LIFETIME_S // 3
"""What is older is published again though nothing has changed."""
CAPACITY_EVERY_S: Final = 300
"""However little has changed: it is stale after twice as long."""
LAST_WORD_S: Final = 3.0
"""A node that goes does not wait longer for relays."""
PAYMENTS: Final = ("key", "cashu", "x-cashu", "lightning")
"""Ways to pay that the HTTP room has."""
L402: Final = "l402"
"""The one that an operator switches on."""


class Announcer:
    """Publishes what the node is and sells; with no relays it stays silent."""

    def __init__(
        self,
        settings: Settings,
        signer: Signer,
        catalogue: Catalogue,
        pool: RelayPool,
        gauge: Gauge,
        lock: Callable[[], str | None] = lambda: None,
        wanted: Callable[[], Mapping[str, int]] = dict,
        clock: Callable[[], float] = time.time,
        board: Board | None = None,
    ) -> None:
        """`wanted`: how often each model was asked for. `board`: what relays have, that others of this key may have said."""
        self._settings = settings
        self._signer = signer
        self._catalogue = catalogue
        self._pool = pool
        self._gauge = gauge
        self._lock = lock
        self._wanted = wanted
        self._clock = clock
        self._board = board
        self._identifier = identifier_of(settings.announced_urls)
        self._outbox = Outbox(pool)
        self._making = asyncio.Lock()
        self._made_of: object = None
        self._last_date = 0
        self._first_model = ""
        self._capacity: Capacity | None = None
        self._serves: State = "serving"
        self._gone = asyncio.Event()

    def announcement(self) -> Announcement:
        """The announcement as it would be published now, whole; of thousands of models it takes a while."""
        now, settings = self._date(), self._settings
        models = [model.offer for model in self._catalogue.all() if self._catalogue.is_open(model)]
        return Announcement(
            pubkey=self._signer.pubkey,
            identifier=self._identifier,
            urls=settings.announced_urls,
            mints=settings.cashu_mints,
            version=VERSION,
            name=settings.name,
            about=settings.description,
            models=tuple(most_wanted_first(models, self._wanted())),
            created_at=now,
            expires_at=now + LIFETIME_S,
            lock=self._lock(),
            limits=NodeLimits(
                max_body_bytes=settings.max_body_bytes,
                concurrent_requests=settings.max_requests_per_key,
                requests_per_minute=settings.requests_per_minute or None,
                tokens_per_minute=settings.tokens_per_minute or None,
            ),
            payments=(*PAYMENTS, L402) if settings.l402 else PAYMENTS,
            region=settings.region or None,
        )

    def events(self) -> tuple[Event, ...]:
        """All that would be published now, the announcement first, but for the capacity."""
        whole = self.announcement()
        events = encode_all(whole, self._signer)
        if left_out := len(whole.models or ()) - sum(len(event.values(kinds.TAG_MODEL)) for event in events):
            log.warning("%d models are not announced: they are too large, or too many", left_out)
        return (*events, *self._identity(whole.created_at))

    def capacity(self, model: str) -> Event:
        """What would be published of the node's capacity now; with the price of one model."""
        return encode_capacity(self._gauge.read(self._identifier, model, self._serves, self._date()), self._signer)

    def _identity(self, now: int) -> tuple[Event, ...]:
        """Who it is and where it publishes. A key that the operator brought may have a profile, which is the operator's."""
        settings, signer = self._settings, self._signer
        if not settings.publishes_profile:
            return ()
        site = settings.http_url or settings.onion_url
        return (
            profile(signer, now, name=settings.name, about=settings.description, website=site),
            relay_list(signer, now, settings.relays),
        )

    async def publish(self) -> None:
        """Publish everything, whether it has changed or not; the capacity if it is news."""
        await self._publish(renew=True)
        await self.publish_capacity()

    async def publish_changes(self) -> None:
        """Publish what has changed since it was published last, if anything has; and all, if another instance of this node
        has taken it back."""
        if (until := self._withdrawn_at()) >= 0:
            log.info("another instance of this node has stopped: what it took back is published again")
            self._last_date, self._capacity = max(self._last_date, until), None
            await self.publish()
        elif self._made_of != self._state():
            await self._publish(renew=False)

    async def publish_capacity(self) -> None:
        """Publish the node's capacity if it has changed by a fifth, or is due."""
        now, last = self._date(), self._capacity
        if (said := self._said_by_another(now)) is not None:
            last, now = None, max(now, said.created_at + 1)
        if self._gone.is_set() or not self._first_model:  # nothing is announced
            return
        seen = self._gauge.read(self._identifier, self._first_model, self._serves, now)
        if last is None or is_news(last, seen) or now - last.created_at >= CAPACITY_EVERY_S:
            self._capacity, self._last_date = seen, now
            self._outbox.store(encode_capacity(seen, self._signer))
            await self._outbox.offer(LAST_WORD_S if self._serves == "draining" else DEADLINE_S)

    async def drain(self) -> None:
        """Say that the node ends what it began, and begins nothing more."""
        self._serves = "draining"
        await self.publish_capacity()

    async def retry(self) -> None:
        """Offer relays again what they have not taken, those whose pause is over."""
        await self._outbox.offer()

    async def withdraw(self) -> None:
        """Take back what is published (NIP-09): the node is going."""
        self._gone.set()
        published = self._outbox.events
        self._outbox.drop(published)
        if taken_back := [event for event in published if event.kind in (kinds.PROVIDER_ANNOUNCEMENT, kinds.CAPACITY)]:
            await self._pool.publish(deletion(taken_back, self._signer, self._date()), LAST_WORD_S)

    def relay_states(self) -> dict[str, str]:
        """How it stands with each relay, for people."""
        return self._outbox.states()

    async def _publish(self, *, renew: bool) -> None:
        async with self._making:
            before = self._outbox.events
            if self._gone.is_set() or not self._pool.urls or not (len(self._catalogue) or before):
                return
            state = self._state()
            events = await asyncio.to_thread(self.events)
            if self._gone.is_set():
                return
            self._made_of, self._last_date = state, events[0].created_at
            self._first_model = next(iter(events[0].values(kinds.TAG_MODEL)), self._first_model)
            left = [
                event for event in before if _is_page(event) and event.address() not in {e.address() for e in events}
            ]
            self._outbox.drop(left)
            if left:  # others would take what they say for our word until it expires
                events = (*events, deletion(left, self._signer, self._last_date))
            self._outbox.store(*(events if renew else _news(events, before)))
        await self._outbox.offer()

    def _withdrawn_at(self) -> int:
        """The date of a deletion of what this node offers relays; -1 without one."""
        if self._board is None or self._gone.is_set():
            return -1
        until = {event: self._board.withdrawn_at(event.address()) for event in self._outbox.events}
        return max((at for event, at in until.items() if at >= event.created_at), default=-1)

    def _said_by_another(self, now: int) -> Capacity | None:
        """The capacity of an instance that stops, where this one still serves."""
        if self._board is None or self._serves != "serving":
            return None
        said = self._board.capacity(self._signer.pubkey, self._identifier, now)
        return said if said is not None and said.state == "draining" else None

    def _state(self) -> object:
        """Another one whenever the announcement would be."""
        return (self._catalogue.state, self._lock())

    def _date(self) -> int:
        """Newer than what was published before, so that it takes its place."""
        return max(int(self._clock()), self._last_date + 1)


def identifier_of(urls: Sequence[str]) -> str:
    """The `d` of the node that is reached there. Nodes with one key are told apart by where they are, and do not take each
    other's place; instances behind one URL are one node."""
    return "satroute" if not urls else f"satroute-{hashlib.sha256(base_of(urls[0]).encode()).hexdigest()[:8]}"


def most_wanted_first(models: Iterable[ModelOffer], wanted: Mapping[str, int]) -> list[ModelOffer]:
    """Those that were asked for most, then the cheapest."""
    return sorted(
        models,
        key=lambda model: (
            -wanted.get(model.id, 0),
            model.price.prompt_msat_per_mtok + model.price.completion_msat_per_mtok + model.price.request_msat,
            model.id,
        ),
    )


def _is_page(event: Event) -> bool:
    return event.kind == kinds.PROVIDER_ANNOUNCEMENT and not event.values(kinds.TAG_URL)


def _news(events: Iterable[Event], before: Iterable[Event]) -> list[Event]:
    """Those that say something else than the one before at their address, or are due to be renewed."""
    known = {event.address(): event for event in before}

    def is_news(event: Event) -> bool:
        elder = known.get(event.address())
        return elder is None or _said(elder) != _said(event) or event.created_at - elder.created_at >= RENEW_S

    return [event for event in events if is_news(event)]


def _said(event: Event) -> object:
    return event.content, [tag for tag in event.tags if tag[0] != kinds.TAG_EXPIRATION]
