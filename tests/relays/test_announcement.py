"""An announcement of ours is a plain RIP-02 event with an offer that others can ignore; theirs are read as well."""

import json
from typing import Any

import msgspec
import pytest

from relays.announcement import Announcement, ModelOffer, decode, encode, withdrawal
from relays.bounds import ModelLimits
from relays.errors import InvalidAnnouncement
from relays.event import Event, Signer, parse_event
from relays.pricing import ModelPrice
from tests.relays.golden import EVENTS, SECRET

NOW = 1_700_000_000
SIGNER = Signer.parse(SECRET)
OURS = Announcement(
    pubkey=SIGNER.pubkey,
    identifier="satroute",
    urls=("https://node.example", "http://abc.onion"),
    mints=("https://mint.example",),
    version="0.1.0",
    name="golden",
    about="A node",
    models=(ModelOffer("smollm2-135m", ModelLimits(2048, 1024), ModelPrice(2_000_000, 8_000_000, 5)),),
    created_at=NOW,
    expires_at=NOW + 3600,
)


def test_golden_vector_both_directions() -> None:
    golden = EVENTS["announcement"]
    assert encode(OURS, SIGNER).id == golden["id"]
    assert decode(parse_event(golden), now=NOW) == OURS


def test_a_plain_routstr_announcement_is_a_provider_without_an_offer() -> None:
    plain = decode(parse_event(EVENTS["routstr_announcement"]), now=NOW)
    assert plain.urls == ("https://plain.example", "http://abcdefghijklmnop.onion")
    assert plain.mints == ("https://mint.example",)
    assert (plain.name, plain.models, plain.expires_at) == ("Plain node", None, None)


def test_the_withdrawal_is_the_golden_deletion() -> None:
    assert withdrawal(encode(OURS, SIGNER), SIGNER, NOW + 100).id == EVENTS["deletion"]["id"]


def test_only_the_provider_signs_its_announcement() -> None:
    with pytest.raises(InvalidAnnouncement):
        encode(OURS, Signer.generate())


def changed(*, content: object = None, tags: list[list[str]] | None = None, kind: int = 38421, at: int = NOW) -> Event:
    golden = EVENTS["announcement"]
    text = golden["content"] if content is None else content if isinstance(content, str) else json.dumps(content)
    return SIGNER.sign(kind=kind, content=text, created_at=at, tags=golden["tags"] if tags is None else tags)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (changed(kind=1), "kind"),
        (changed(tags=[["d", "x"]]), "URL"),
        (changed(tags=[["d", "x"], ["u", "ftp://x"]]), "URL"),
        (changed(tags=[["d", "x"], ["u"]]), "URL"),
        (changed(tags=[["d", "x"], ["u", "https://" + "x" * 3000]]), "URL"),
        (changed(at=NOW + 3600), "future"),
        (changed(tags=[["u", "https://x"], ["expiration", str(NOW)]]), "expired"),
        (changed(tags=[["u", "https://x"], ["expiration", "soon"]]), "date"),
        (changed(tags=[["u", "https://x"], ["expiration", "9" * 5000]]), "date"),
    ],
)
def test_what_is_no_provider_is_refused(event: Event, reason: str) -> None:
    with pytest.raises(InvalidAnnouncement, match=reason):
        decode(event, now=NOW)


@pytest.mark.parametrize(
    "content", ["", "free text", "[]", "{", '{"name":3}', '{"satroute":7}', '{"satroute":{"v":2}}']
)
def test_free_content_costs_the_offer_not_the_place(content: str) -> None:
    assert decode(changed(content=content), now=NOW).models is None


OFFER: dict[str, Any] = json.loads(EVENTS["announcement"]["content"])["satroute"]


@pytest.mark.parametrize(
    "price",
    [
        {"prompt_msat_per_mtok": -1, "completion_msat_per_mtok": 1},
        {"prompt_msat_per_mtok": 1.5, "completion_msat_per_mtok": 1},
        {"prompt_msat_per_mtok": 10**30, "completion_msat_per_mtok": 1},
        {"completion_msat_per_mtok": 1},
        {},
        None,
    ],
)
def test_a_broken_price_is_never_zero(price: object) -> None:
    offer = OFFER | {"models": [OFFER["models"][0] | {"price": price}]}
    with pytest.raises(InvalidAnnouncement, match="offer"):
        decode(changed(content={"satroute": offer}), now=NOW)


def test_unknown_fields_of_a_later_offer_are_ignored() -> None:
    model = OFFER["models"][0] | {"quality": 3}
    event = changed(content={"satroute": OFFER | {"models": [model], "more": 1}})
    assert decode(event, now=NOW).models == msgspec.convert(OFFER["models"], type=tuple[ModelOffer, ...])


@pytest.mark.parametrize(
    ("said", "read"), [("CH", "CH"), ("ch", "CH"), ("Europe", None), ("\u00c4\u00d6", None), ("", None)]
)
def test_a_region_is_a_country_or_not_known(said: str, read: str | None) -> None:
    event = encode(msgspec.structs.replace(OURS, region=said), SIGNER)
    assert decode(event, now=NOW).region == read
