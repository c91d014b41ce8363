"""Capacity: how busy and how well a node is, every few minutes (Pura's capacity attestations, kind 31900).

Pura's tags are `d`, `capacity`, `latency_ms`, `error_rate_bps`, `price_msats`, `max_concurrent` and `model`: whole numbers,
but for the names. Ours beside them are `in_flight`, `tokens_per_s`, `state` and `expiration` (NIP-40). What was not measured
yet has no tag. It is stale after ten minutes, whether it says so or not.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from relays import kinds
from relays.announcement import MAX_CLOCK_SKEW_S
from relays.errors import InvalidCapacity, InvalidEvent, MoneyError
from relays.event import Event, Signer, expiration
from relays.money import msat
from relays.pricing import Usage

STALE_S: Final = 600
MAX_REQUESTS: Final = 1_000_000
MAX_LATENCY_MS: Final = 3_600_000
MAX_BPS: Final = 10_000
MAX_TOKENS_PER_S: Final = 1_000_000
MAX_MODEL_CHARS: Final = 1000
TYPICAL: Final = Usage(1000, 1000)
"""The request whose price is told."""

State = Literal["serving", "draining"]


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself now. None: not measured, or not said."""

    pubkey: str
    identifier: str
    """The `d` of its announcement."""
    capacity: int
    """Requests that it would take now beside those that run."""
    max_concurrent: int
    in_flight: int | None = None
    latency_ms: int | None = None
    """From a request to its stream's first word."""
    tokens_per_s: int | None = None
    """Written, in one stream."""
    error_rate_bps: int | None = None
    """Requests that failed here, in ten-thousandths."""
    model: str = ""
    price_msats: int | None = None
    """For 1,000 tokens read and 1,000 written by `model`."""
    state: State = "serving"
    created_at: int
    expires_at: int

    @property
    def has_room(self) -> bool:
        """Whether it would take a request now."""
        return self.state == "serving" and self.capacity > 0

    @property
    def load(self) -> float:
        """How much of it is taken, from 0 to 1."""
        return 1.0 if not self.has_room else 1 - min(1.0, self.capacity / max(1, self.max_concurrent))


def encode(capacity: Capacity, signer: Signer) -> Event:
    """The signed event. The signer's key must be the node's."""
    if signer.pubkey != capacity.pubkey:
        raise InvalidCapacity("a capacity is signed by the provider it tells of")
    numbers = {name: getattr(capacity, name) for name in _BOUNDS}
    tags = [[kinds.TAG_IDENTIFIER, capacity.identifier]]
    tags += [[name, str(number)] for name, number in numbers.items() if number is not None]
    tags += [["model", capacity.model]] if capacity.model else []
    tags += [["state", capacity.state], [kinds.TAG_EXPIRATION, str(capacity.expires_at)]]
    return signer.sign(kind=kinds.CAPACITY, content="", created_at=capacity.created_at, tags=tags)


def decode(event: Event, *, now: int) -> Capacity:
    """Read a verified event. Raises InvalidCapacity: wrong kind, stale, dated ahead, or with a figure that cannot be."""
    if event.kind != kinds.CAPACITY:
        raise InvalidCapacity(f"kind {event.kind} is not a capacity")
    if event.created_at > now + MAX_CLOCK_SKEW_S:
        raise InvalidCapacity("dated in the future")
    try:
        expires_at = min(expiration(event) or event.created_at + STALE_S, event.created_at + STALE_S)
    except InvalidEvent as error:
        raise InvalidCapacity(str(error)) from error
    if expires_at <= now:
        raise InvalidCapacity("stale")
    numbers = {name: _number(event, name, most) for name, most in _BOUNDS.items()}
    if numbers["capacity"] is None or numbers["max_concurrent"] is None:
        raise InvalidCapacity("it says nothing of its capacity")
    state, model = event.value("state") or "serving", event.value("model") or ""
    if state not in get_args(State) or len(model) > MAX_MODEL_CHARS:
        raise InvalidCapacity("its state or model cannot be")
    found = {"model": model, "state": state, "created_at": event.created_at, "expires_at": expires_at}
    identity = {"pubkey": event.pubkey, "identifier": event.value(kinds.TAG_IDENTIFIER) or ""}
    return msgspec.convert({**identity, **found, **numbers}, type=Capacity)


_BOUNDS: Final[dict[str, int | None]] = {
    "capacity": MAX_REQUESTS,
    "latency_ms": MAX_LATENCY_MS,
    "error_rate_bps": MAX_BPS,
    "price_msats": None,
    "max_concurrent": MAX_REQUESTS,
    "in_flight": MAX_REQUESTS,
    "tokens_per_s": MAX_TOKENS_PER_S,
}
"""The largest that can be; of money what `msat` says."""


def _number(event: Event, name: str, most: int | None) -> int | None:
    text = event.value(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidCapacity(f"its {name} is no whole number")
    number = int(text)
    try:
        msat(number)
    except MoneyError as error:
        raise InvalidCapacity(f"its {name} cannot be") from error
    if most is not None and number > most:
        raise InvalidCapacity(f"its {name} cannot be")
    return number
