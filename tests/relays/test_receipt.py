"""A receipt binds a node to request, model, usage, price and cost; a client finds every way in which it can be wrong."""

from typing import Any

import pytest

from relays.errors import InvalidEvent, InvalidReceipt
from relays.event import Signer, parse_event
from relays.pricing import ModelPrice, Usage
from relays.receipt import SSE_PREFIX, Receipt, decode, encode, from_header, to_header, to_sse, verify
from tests.relays.golden import EVENTS, SECRET

SIGNER = Signer.parse(SECRET)
PRICE = ModelPrice(2_000_000, 8_000_000, 5)
FIELDS: dict[str, Any] = {
    "request_id": "req_1",
    "model": "smollm2-135m",
    "usage": Usage(31, 5),
    "metered": "upstream",
    "outcome": "complete",
    "price": PRICE,
    "hold_msat": 264,
    "cost_msat": 107,
    "balance_msat": 893,
}
AGREED: dict[str, Any] = {
    "pubkey": SIGNER.pubkey,
    "request_id": "req_1",
    "model": "smollm2-135m",
    "price": PRICE,
    "hold_msat": 264,
    "most": Usage(64, 5000),
}


def test_golden_vector_both_directions() -> None:
    event = parse_event(EVENTS["receipt"])
    assert decode(event) == Receipt(**FIELDS)
    assert encode(Receipt(**FIELDS), SIGNER, 1_700_000_000).id == EVENTS["receipt"]["id"]


def test_it_survives_the_header_and_the_stream() -> None:
    event = encode(Receipt(**FIELDS), SIGNER, 1)
    assert from_header(to_header(event)) == event
    line = to_sse(event).decode()
    assert line.endswith("\n\n")
    assert parse_event(line.removeprefix(SSE_PREFIX)) == event


def test_a_true_receipt_verifies() -> None:
    assert verify(encode(Receipt(**FIELDS), SIGNER, 1), **AGREED).cost_msat == 107


def test_a_cost_beyond_the_hold_is_charged_at_the_hold() -> None:
    receipt = Receipt(**FIELDS | {"usage": Usage(31, 5000), "cost_msat": 264})
    assert verify(encode(receipt, SIGNER, 1), **AGREED).cost_msat == 264


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"request_id": "req_2"}, "another request"),
        ({"model": "gpt-4o"}, "another model"),
        ({"price": ModelPrice(2_000_000, 8_000_001, 5)}, "higher price"),
        ({"hold_msat": 265}, "more than"),
        ({"cost_msat": 108}, "price of the usage"),
        ({"cost_msat": 106}, "price of the usage"),
        ({"usage": Usage(31, 6)}, "price of the usage"),
        ({"usage": Usage(65, 5), "cost_msat": 175}, "more than this request"),
        ({"usage": Usage(31, 5001), "cost_msat": 264}, "more than this request"),
    ],
)
def test_a_false_receipt_is_found_out(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidReceipt, match=reason):
        verify(encode(Receipt(**FIELDS | change), SIGNER, 1), **AGREED)


def test_another_signer_is_found_out() -> None:
    with pytest.raises(InvalidReceipt, match="another key"):
        verify(encode(Receipt(**FIELDS), Signer.generate(), 1), **AGREED)


@pytest.mark.parametrize("content", ["", "{}", '{"v":1}', EVENTS["receipt"]["content"].replace('"v":1', '"v":2')])
def test_what_is_no_receipt_is_refused(content: str) -> None:
    with pytest.raises(InvalidReceipt):
        decode(SIGNER.sign(kind=8421, content=content, created_at=1))


@pytest.mark.parametrize("text", ["", "!", "e30=", "é"])
def test_a_broken_header_is_refused(text: str) -> None:
    with pytest.raises(InvalidEvent):
        from_header(text)
