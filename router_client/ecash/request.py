"""Payment requests: what a seller asks for, as `creqA…` (NUT-18, CBOR) and `CREQB1…` (NUT-26, bech32m), read and written."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import cbor2
import msgspec

from relays.money import MAX_MSAT
from router_client.ecash import late
from router_client.ecash.locks import TAGS
from router_client.errors import RequestUnreadable

MAX_REQUEST_CHARS = 8192
MAX_LISTED = 50

Text = Annotated[str, msgspec.Meta(max_length=1024)]
Tag = tuple[Text, ...]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=MAX_LISTED)]


class Lock(msgspec.Struct, frozen=True):
    """The spending condition that is asked for (NUT-10): its kind, what it names, and tags."""

    kind: Text
    data: Text
    tags: Tags = ()


class Transport(msgspec.Struct, frozen=True):
    """A way to send the token; without any, it goes in the reply (in-band)."""

    kind: Text
    target: Text
    tags: Tags = ()


class PaymentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. `amount` is in `unit`; a field that is None is left to the payer."""

    id: Text | None = None
    amount: Annotated[int, msgspec.Meta(ge=0, le=MAX_MSAT)] | None = None
    unit: Annotated[str, msgspec.Meta(min_length=1, max_length=32)] | None = None
    single_use: bool | None = None
    mints: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_LISTED)] = ()
    description: Text | None = None
    transports: Annotated[tuple[Transport, ...], msgspec.Meta(max_length=MAX_LISTED)] = ()
    lock: Lock | None = None


def locked_to(key: str) -> Lock:
    """The lock that `Wallet.accept_locked` takes: to this public key and with no other way out (NUT-11)."""
    return Lock("P2PK", key, tuple(tuple(tag) for tag in TAGS))


def encode_a(request: PaymentRequest) -> str:
    """`creqA…` (NUT-18). Raises RequestUnreadable for what cannot be written."""
    return _written(late.nut18().serialize, request)


def encode_b(request: PaymentRequest) -> str:
    """`CREQB1…` (NUT-26), in capitals for QR codes. Raises RequestUnreadable for what cannot be written."""
    return _written(late.nut26().serialize, request)


def decode(text: str) -> PaymentRequest:
    """Read either form. Raises RequestUnreadable."""
    text = text.strip()
    if len(text) > MAX_REQUEST_CHARS:
        raise RequestUnreadable(f"the payment request is longer than {MAX_REQUEST_CHARS} characters")
    if text[:5].lower() != "creqa" and text[:6].lower() != "creqb1":
        raise RequestUnreadable("not a payment request: expected creqA… or creqB1…")
    try:
        if text[:5].lower() == "creqa":
            return _from_wire(_cbor(text[5:]))
        return _from_wire(late.nut26().deserialize(text).model_dump(exclude_none=True))
    except Exception as error:  # cashu lets base64, CBOR, struct, pydantic and bare errors through
        raise RequestUnreadable("the payment request cannot be read: was it copied whole?") from error


def _cbor(data: str) -> dict[str, Any]:
    """The CBOR of either alphabet of base64, padded or not, without fields that are null or undefined.

    cashu's own reader takes neither undefined nor the other alphabet, both of which NUT-18's vectors have.
    """
    plain = data.replace("+", "-").replace("/", "_").rstrip("=")
    raw = cbor2.loads(base64.b64decode(plain + "=" * (-len(plain) % 4), altchars="-_", validate=True))
    for fields in (raw, raw.get("nut10") or {}, *(raw.get("t") or [])):
        for name in [name for name, value in fields.items() if value is None or value is cbor2.undefined]:
            del fields[name]
    return dict(raw)


def _written(write: Any, request: PaymentRequest) -> str:
    try:
        msgspec.convert(msgspec.to_builtins(request), type=PaymentRequest)  # the bounds that a reader sets
        return str(write(late.base().PaymentRequest.model_validate(_to_wire(request))))
    except Exception as error:  # as in `decode`
        raise RequestUnreadable("the payment request holds what cannot be written") from error


def _to_wire(request: PaymentRequest) -> dict[str, Any]:
    """With the one-letter names of NUT-18; empty lists are left out."""
    wire: dict[str, Any] = {
        "i": request.id,
        "a": request.amount,
        "u": request.unit,
        "s": request.single_use,
        "m": list(request.mints),
        "d": request.description,
        "t": [_drop({"t": way.kind, "a": way.target, "g": _lists(way.tags)}) for way in request.transports],
        "nut10": None,
    }
    if request.lock is not None:
        wire["nut10"] = _drop({"k": request.lock.kind, "d": request.lock.data, "t": _lists(request.lock.tags)})
    return _drop(wire)


def _from_wire(wire: dict[str, Any]) -> PaymentRequest:
    lock = wire.get("nut10")
    fields = {
        "id": wire.get("i"),
        "amount": wire.get("a"),
        "unit": wire.get("u"),
        "single_use": wire.get("s"),
        "mints": wire.get("m", []),
        "description": wire.get("d"),
        "transports": [{"kind": way["t"], "target": way["a"], "tags": way.get("g", [])} for way in wire.get("t", [])],
        "lock": lock and {"kind": lock["k"], "data": lock["d"], "tags": lock.get("t", [])},
    }
    return msgspec.convert(fields, type=PaymentRequest)


def _drop(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != []}


def _lists(tags: tuple[Tag, ...]) -> list[list[str]]:
    return [list(tag) for tag in tags]
