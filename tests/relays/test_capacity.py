"""A capacity says what it was told to say, is bounded in every figure, and is soon stale; Pura's are read as well."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays.capacity import (
    MAX_BPS,
    MAX_LATENCY_MS,
    MAX_REQUESTS,
    MAX_TOKENS_PER_S,
    STALE_S,
    Capacity,
    decode,
    encode,
)
from relays.errors import InvalidCapacity
from relays.event import Event, Signer, parse_event, to_json
from relays.money import MAX_MSAT
from tests.relays.golden import SECRET

NOW = 1_700_000_000
SIGNER = Signer.parse(SECRET)
OURS = Capacity(
    pubkey=SIGNER.pubkey,
    identifier="satroute",
    capacity=29,
    max_concurrent=32,
    in_flight=3,
    latency_ms=420,
    tokens_per_s=58,
    error_rate_bps=12,
    model="smollm2-135m",
    price_msats=10_005,
    created_at=NOW,
    expires_at=NOW + STALE_S,
)
PURAS = [
    *(["d", "node-1"], ["capacity", "500"], ["latency_ms", "120"], ["error_rate_bps", "25"]),
    *(["price_msats", "100"], ["max_concurrent", "10"], ["model", "llama-3.1-8b"]),
]


def maybe(most: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(0, most)


@given(
    st.builds(
        Capacity,
        pubkey=st.just(SIGNER.pubkey),
        identifier=st.text(max_size=20),
        capacity=st.integers(0, MAX_REQUESTS),
        max_concurrent=st.integers(0, MAX_REQUESTS),
        in_flight=maybe(MAX_REQUESTS),
        latency_ms=maybe(MAX_LATENCY_MS),
        tokens_per_s=maybe(MAX_TOKENS_PER_S),
        error_rate_bps=maybe(MAX_BPS),
        model=st.text(max_size=200),
        price_msats=maybe(MAX_MSAT),
        state=st.sampled_from(["serving", "draining"]),
        created_at=st.just(NOW),
        expires_at=st.integers(NOW + 1, NOW + STALE_S),
    )
)
def test_what_is_said_is_read(capacity: Capacity) -> None:
    assert decode(parse_event(to_json(encode(capacity, SIGNER))), now=NOW) == capacity


def with_tags(tags: list[list[str]], at: int = NOW, kind: int = 31900) -> Event:
    return SIGNER.sign(kind=kind, content="", created_at=at, tags=tags)


def changed(**tags: str) -> Event:
    kept = [list(tag) for tag in encode(OURS, SIGNER).tags if tag[0] not in tags]
    return with_tags(kept + [[name, text] for name, text in tags.items()])


def test_puras_own_are_read_without_what_is_ours() -> None:
    found = decode(with_tags(PURAS), now=NOW)
    assert (found.capacity, found.max_concurrent, found.latency_ms, found.price_msats) == (500, 10, 120, 100)
    assert (found.in_flight, found.tokens_per_s, found.state, found.expires_at) == (None, None, "serving", NOW + 600)


def test_figures_that_were_not_measured_have_no_tag() -> None:
    bare = msgspec.structs.replace(OURS, latency_ms=None, tokens_per_s=None, error_rate_bps=None)
    assert {tag[0] for tag in encode(bare, SIGNER).tags}.isdisjoint({"latency_ms", "tokens_per_s", "error_rate_bps"})


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (with_tags(PURAS, kind=31901), "kind"),
        (with_tags(PURAS, at=NOW - STALE_S), "stale"),
        (with_tags(PURAS, at=NOW + 3600), "future"),
        (changed(expiration=str(NOW)), "stale"),
        (changed(expiration="soon"), "date"),
        (with_tags(PURAS[:1]), "says nothing"),
        (changed(capacity="-1"), "whole number"),
        (changed(capacity="1.5"), "whole number"),
        (changed(capacity="٣"), "whole number"),
        (changed(capacity=str(MAX_REQUESTS + 1)), "cannot be"),
        (changed(max_concurrent=""), "whole number"),
        (changed(error_rate_bps="10001"), "cannot be"),
        (changed(latency_ms="9" * 5000), "whole number"),
        (changed(latency_ms="3600001"), "cannot be"),
        (changed(tokens_per_s="1000001"), "cannot be"),
        (changed(price_msats=str(MAX_MSAT + 1)), "cannot be"),
        (changed(in_flight="many"), "whole number"),
        (changed(state="asleep"), "state"),
        (changed(model="m" * 1001), "model"),
    ],
)
def test_what_cannot_be_is_refused(event: Event, reason: str) -> None:
    with pytest.raises(InvalidCapacity, match=reason):
        decode(event, now=NOW)


def test_it_is_stale_after_ten_minutes_whatever_it_says() -> None:
    forever: dict[str, Any] = {"expiration": str(NOW + 10**6)}
    assert decode(changed(**forever), now=NOW + STALE_S - 1).expires_at == NOW + STALE_S
    with pytest.raises(InvalidCapacity, match="stale"):
        decode(changed(**forever), now=NOW + STALE_S)


def test_only_the_provider_signs_its_capacity() -> None:
    with pytest.raises(InvalidCapacity):
        encode(OURS, Signer.generate())
