"""Events of others are read and checked as theirs; events of ours are read by others; anything forged is refused."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays.errors import InvalidEvent, InvalidKey
from relays.event import MAX_EVENT_BYTES, Signer, event_id, npub, parse_event, pubkey_of, to_json
from tests.relays.golden import EVENTS, SECRET


@pytest.mark.parametrize("name", EVENTS)
def test_golden_events_are_genuine(name: str) -> None:
    event = parse_event(EVENTS[name])
    assert json.loads(to_json(event)) == EVENTS[name]


@pytest.mark.parametrize("name", EVENTS)
def test_our_ids_are_the_golden_ones(name: str) -> None:
    golden = EVENTS[name]
    signed = Signer.parse(SECRET).sign(
        kind=golden["kind"], content=golden["content"], created_at=golden["created_at"], tags=golden["tags"]
    )
    assert (signed.id, signed.pubkey) == (golden["id"], golden["pubkey"])


def test_our_events_are_genuine_to_another_library() -> None:
    nostr_sdk = pytest.importorskip("nostr_sdk")
    event = Signer.generate().sign(kind=1, content='ü "\n\\ \u2028 \x01 ⚡', created_at=1, tags=[["d", "é"]])
    assert nostr_sdk.Event.from_json(to_json(event)).verify()


@pytest.mark.parametrize(
    "change",
    [
        {"content": "changed"},
        {"created_at": 1},
        {"kind": 2},
        {"tags": []},
        {"pubkey": "0" * 64},
        {"pubkey": "zz" * 32},
        {"id": "0" * 64},
        {"sig": "0" * 128},
        {"sig": "xx"},
        {"kind": 65536},
        {"created_at": -1},
        {"created_at": "now"},
        {"tags": [[1]]},
        {"tags": "no"},
    ],
)
def test_a_forged_event_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        parse_event(EVENTS["text"] | change)


def test_an_uppercase_key_is_not_a_second_author() -> None:
    signer = Signer.parse(SECRET)
    with pytest.raises(InvalidEvent):
        parse_event(EVENTS["text"] | {"pubkey": signer.pubkey.upper()})


@pytest.mark.parametrize("raw", ["", "[]", "null", "{", b"\xff", 3, None, [], '{"id":1}', "[" * 10_000])
def test_what_is_no_event_is_refused(raw: object) -> None:
    with pytest.raises(InvalidEvent):
        parse_event(raw)


def test_a_huge_event_is_refused_unread() -> None:
    with pytest.raises(InvalidEvent, match="larger"):
        parse_event(" " * (MAX_EVENT_BYTES + 1))


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(InvalidEvent):
        Signer.generate().sign(kind=1, content="\ud800", created_at=1)


def test_keys_in_all_forms() -> None:
    signer = Signer.parse(SECRET)
    assert Signer.parse(signer.nsec()).pubkey == signer.pubkey
    assert pubkey_of(signer.npub) == pubkey_of(signer.pubkey) == signer.pubkey
    assert npub(signer.pubkey).startswith("npub1")


@pytest.mark.parametrize("text", ["", "nsec1", "nsec1qqqq", "abc", "0" * 64, "g" * 64, "npub1xyz"])
def test_a_wrong_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        Signer.parse(text)
    assert len(text) < 6 or text not in str(caught.value)


def test_a_signer_does_not_show_its_secret() -> None:
    signer = Signer.parse(SECRET)
    assert SECRET not in repr(signer)
    assert "nsec" not in repr(signer)


@given(st.lists(st.lists(st.text(max_size=20), max_size=4), max_size=4), st.text(), st.integers(0, 2**40))
def test_ids_are_of_the_form_that_nip_01_asks_for(tags: list[list[str]], content: str, created_at: int) -> None:
    """Python's own writer, told to escape nothing that it need not, is the other opinion."""
    canonical = json.dumps([0, "a" * 64, created_at, 1, tags, content], separators=(",", ":"), ensure_ascii=False)
    assert event_id("a" * 64, created_at, 1, tags, content) == hashlib.sha256(canonical.encode()).hexdigest()
