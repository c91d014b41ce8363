"""Receipts: what a request used and cost, signed by the node with its Nostr key.

A receipt is a Nostr event of kind 8421 whose content is the JSON of `Receipt`. It is handed to the caller in a header, in
an SSE comment and at `GET /v1/receipts/{id}`, and is never published. The client checks it with `verify`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal

import msgspec

from relays import kinds
from relays.errors import InvalidJson, InvalidReceipt, MoneyError
from relays.event import Event, Signer, parse_event, to_json
from relays.jsontext import from_json
from relays.money import MAX_MSAT, msat
from relays.pricing import ModelPrice, Usage, at_most, cost

RECEIPT_VERSION = 1
SSE_PREFIX = ": satroute-receipt "
"""A comment line to every SSE parser; to ours, the receipt of the stream."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The account of one request. `cost_msat` is the price of the usage, never above `hold_msat`."""

    v: int = RECEIPT_VERSION
    request_id: str
    model: str
    usage: Usage
    metered: Literal["upstream", "counted"]
    """Who counted the tokens: the upstream, or the node from what was streamed."""
    outcome: Literal["complete", "aborted", "interrupted"]
    """Served to the end; left by the caller; or cut off by the upstream or a timeout."""
    price: ModelPrice
    hold_msat: int
    cost_msat: int
    balance_msat: int

    def __post_init__(self) -> None:
        for amount_msat in (self.hold_msat, self.cost_msat, self.balance_msat):
            if type(amount_msat) is not int or not 0 <= amount_msat <= MAX_MSAT:  # one is made for every request
                msat(amount_msat)


def encode(receipt: Receipt, signer: Signer, created_at: int) -> Event:
    """The signed receipt."""
    content = msgspec.json.encode(receipt).decode()
    return signer.sign(
        kind=kinds.RECEIPT, content=content, created_at=created_at, tags=[["request", receipt.request_id]]
    )


def decode(event: Event) -> Receipt:
    """The receipt inside a verified event. Raises InvalidReceipt."""
    if event.kind != kinds.RECEIPT:
        raise InvalidReceipt(f"kind {event.kind} is not a receipt")
    try:
        receipt = from_json(event.content, Receipt)
    except InvalidJson as error:
        raise InvalidReceipt(f"the receipt cannot be read: {error}") from error
    if receipt.v != RECEIPT_VERSION:
        raise InvalidReceipt(f"receipt version {receipt.v} is not known")
    return receipt


def to_header(event: Event) -> str:
    """For an HTTP header: the event's JSON in base64url."""
    return base64.urlsafe_b64encode(to_json(event).encode()).decode()


def from_header(text: str) -> Event:
    """The inverse of `to_header`, with id and signature checked. Raises InvalidEvent."""
    try:
        return parse_event(base64.urlsafe_b64decode(text))
    except (binascii.Error, ValueError) as error:
        raise InvalidReceipt("the receipt header cannot be read") from error


def to_sse(event: Event) -> bytes:
    """For a stream: one SSE comment."""
    return f"{SSE_PREFIX}{to_json(event)}\n\n".encode()


def verify(
    event: Event, *, pubkey: str, request_id: str, model: str, price: ModelPrice, hold_msat: int, most: Usage
) -> Receipt:
    """Check a receipt against what was agreed before paying; returns it, or raises InvalidReceipt with the reason.

    The signature is checked when the event is parsed; here: the right node signed, for this request and model, at no more
    than the announced price (one of the node's upstreams may be cheaper), for no more than the hold and the usage that the
    caller computed as the most, and the sum is the price of the usage.
    """
    receipt = decode(event)
    if event.pubkey != pubkey:
        raise InvalidReceipt("signed by another key than the node's")
    if receipt.request_id != request_id:
        raise InvalidReceipt("for another request")
    if receipt.model != model:
        raise InvalidReceipt(f"for another model: {receipt.model}")
    if not at_most(receipt.price, price):
        raise InvalidReceipt("at a higher price than announced")
    if receipt.hold_msat > hold_msat:
        raise InvalidReceipt(f"held {receipt.hold_msat} msat, which is more than the {hold_msat} msat agreed")
    if not receipt.usage.within(most):
        raise InvalidReceipt(f"{receipt.usage} is more than this request can use")
    try:
        due_msat = cost(receipt.usage, receipt.price)
    except MoneyError as error:
        raise InvalidReceipt("the usage cannot be") from error
    if receipt.cost_msat != min(due_msat, receipt.hold_msat):
        raise InvalidReceipt("the cost is not the price of the usage")
    return receipt
