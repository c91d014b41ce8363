"""However many models a node sells, each is announced, and no event is larger than relays take."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relays import announcement as announcements
from relays import kinds, pages
from relays.announcement import Announcement, ModelOffer
from relays.bounds import ModelLimits
from relays.errors import InvalidAnnouncement
from relays.event import Event, Signer, parse_event, to_json
from relays.pages import MAX_BYTES, Page, decode, encode_all, with_pages
from relays.pool import RelayPool
from relays.pricing import ModelPrice, SizePrice
from tests.relays.golden import SECRET

NOW = 1_700_000_000
SIGNER = Signer.parse(SECRET)
MODEL = ModelOffer("model", ModelLimits(2048, 1024), ModelPrice(2_000_000, 8_000_000, 5))


def announced(*models: ModelOffer, at: int = NOW, about: str = "A node", signer: Signer = SIGNER) -> Announcement:
    return Announcement(
        pubkey=signer.pubkey,
        identifier="satroute",
        urls=("https://node.example",),
        mints=("https://mint.example",),
        version="0.1.0",
        name="golden",
        about=about,
        models=models,
        created_at=at,
        expires_at=at + 3600,
    )


def many(number: int, name: str = "maker/model-{}") -> tuple[ModelOffer, ...]:
    return tuple(
        msgspec.structs.replace(MODEL, id=name.format(n), features=("tools", "vision"), input=("text", "image"))
        for n in range(number)
    )


def read(events: tuple[Event, ...], now: int = NOW) -> Announcement:
    """As a client does that has what the relays have."""
    head, *rest = (parse_event(to_json(event)) for event in events)
    return with_pages(announcements.decode(head, now=now), [decode(page, now=now) for page in rest])


@settings(max_examples=25)
@example(0, "m{}")
@example(6000, "maker/model-{}")
@given(st.integers(0, 6000), st.sampled_from(["{}", 'quo"te\\{}', "模型-{}", "x" * 190 + "{}"]))
def test_every_model_is_announced_in_events_that_relays_take(number: int, name: str) -> None:
    made = announced(*many(number, name))
    events = encode_all(made, SIGNER)
    assert max(len(to_json(event).encode()) for event in events) <= MAX_BYTES
    assert msgspec.structs.replace(read(events), pages=0) == made
    assert len({event.address() for event in events}) == len(events)
    tagged = [model for event in events for model in event.values(kinds.TAG_MODEL)]
    assert tagged == [model.id for model in made.models or ()]


def test_events_are_filled_and_the_first_models_come_first() -> None:
    head, *rest = encode_all(announced(*many(2000)), SIGNER)
    assert [len(to_json(event).encode()) > MAX_BYTES - 400 for event in (head, *rest)] == [True] * len(rest) + [False]
    assert head.values(kinds.TAG_MODEL)[0] == "maker/model-0"
    assert json.loads(head.content)["satroute"]["pages"] == len(rest)
    assert [page.value("d") for page in rest] == [f"satroute/{n}" for n in range(1, len(rest) + 1)]


def test_others_do_not_take_a_page_for_a_provider_nor_we_a_provider_for_a_page() -> None:
    head, page, *_ = encode_all(announced(*many(1000)), SIGNER)
    assert page.values(kinds.TAG_URL) == ()
    assert page.values(kinds.TAG_ADDRESS) == (head.address(),)
    with pytest.raises(InvalidAnnouncement, match="URL"):
        announcements.decode(page, now=NOW)
    named_like_one = msgspec.structs.replace(announced(), identifier="satroute/1")
    for provider in (head, announcements.encode(named_like_one, SIGNER)):
        with pytest.raises(InvalidAnnouncement, match="page"):
            decode(provider, now=NOW)
    with pytest.raises(InvalidAnnouncement, match="expired"):
        decode(page, now=NOW + 3600)
    with pytest.raises(InvalidAnnouncement, match="future"):
        decode(page, now=NOW - 3600)


def page(number: int, *models: ModelOffer, at: int = NOW, pubkey: str = SIGNER.pubkey) -> Page:
    return Page(pubkey=pubkey, identifier=f"satroute/{number}", models=models, created_at=at, expires_at=None)


def test_of_a_model_in_two_events_the_newer_word_counts() -> None:
    dearer = msgspec.structs.replace(MODEL, price=ModelPrice(9_000_000, 9_000_000))
    head = msgspec.structs.replace(announced(MODEL), pages=2)
    assert with_pages(head, [page(1, dearer, at=NOW + 1)]).models == (dearer,)
    assert with_pages(head, [page(1, dearer, at=NOW - 1)]).models == (MODEL,)
    assert with_pages(head, [page(1, dearer)]).models == (MODEL,)
    bare = msgspec.structs.replace(head, models=())
    assert with_pages(bare, [page(2, dearer), page(1, MODEL)]).models == (MODEL,), "in whatever order relays send them"


def test_pages_of_others_and_of_before_are_left_out() -> None:
    other = msgspec.structs.replace(MODEL, id="other")
    head = msgspec.structs.replace(announced(MODEL), pages=1)
    assert with_pages(head, [page(2, other), page(1, other, pubkey="f" * 64)]).models == (MODEL,)
    assert with_pages(head, [page(1, other)]).models == (MODEL, other)
    plain = msgspec.structs.replace(head, models=None, pages=0)
    assert with_pages(plain, [page(1, other)]) == plain


def test_what_is_larger_than_a_page_is_left_out_alone() -> None:
    sizes = tuple(SizePrice(f"{n}x{n}", n) for n in range(3000))
    huge = ModelOffer("huge", MODEL.limits, ModelPrice(1, 1, image_sizes=sizes))
    assert read(encode_all(announced(huge, MODEL), SIGNER)).models == (MODEL,)


def test_an_announcement_without_room_for_a_model_says_what_to_shorten() -> None:
    with pytest.raises(InvalidAnnouncement, match="DESCRIPTION"):
        encode_all(announced(MODEL, about="x" * 70_000), SIGNER)


def test_the_rest_beyond_the_last_page_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_PAGES", 2)
    events = encode_all(announced(*many(2000)), SIGNER)
    assert len(events) == 3
    found = read(events).models
    assert found == many(2000)[: len(found or ())]
    assert len(found or ()) > 500


async def test_a_relay_takes_and_finds_every_page(relay_url: str) -> None:
    signer, now = Signer.generate(), int(time.time())
    made = announced(*many(6000), at=now, signer=signer)
    events = encode_all(made, signer)
    async with RelayPool([relay_url]) as pool:
        for event in events:
            assert (await pool.publish(event))[relay_url].accepted
        by_model = await pool.query({"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "#m": ["maker/model-5999"]})
        assert events[-1] in by_model.events
        head = announcements.decode(events[0], now=now)
        found = await pool.query({"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "authors": [signer.pubkey]})
        rest = [decode(event, now=now) for event in found.events if not event.values(kinds.TAG_URL)]
        whole = with_pages(head, rest)
        assert {model.id: model for model in whole.models or ()} == {model.id: model for model in made.models or ()}


def test_the_decoder_is_bounded() -> None:
    event = encode_all(announced(MODEL), SIGNER)[0]
    content = json.loads(event.content)
    for wrong in (-1, 101, 1.5, "2"):
        content["satroute"]["pages"] = wrong
        broken = SIGNER.sign(kind=event.kind, content=json.dumps(content), created_at=NOW, tags=event.tags)
        with pytest.raises(InvalidAnnouncement, match="offer"):
            announcements.decode(broken, now=NOW)
