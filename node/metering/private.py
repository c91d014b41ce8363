"""What an upstream's report says of the operator's own account: what it cost there, and on whose key. Not for callers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from node import sse
from relays.errors import InvalidJson
from relays.jsontext import from_json

_PLACES: Final = ("response", "message")
"""Where a report may stand inside of an event."""
_MARKS: Final = re.compile(r"cost|byok|price|credit|balance", re.IGNORECASE)
"""In the names of OpenRouter's, xAI's, DeepInfra's and others' fields; no count of tokens has them."""
_NULLS: Final = (b',"usage":null', b', "usage": null', b',"usage": null', b'"usage":null,', b'"usage": null, ')
_SUSPECT: Final = re.compile(_MARKS.pattern.encode(), re.IGNORECASE)


def public(usage: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """A report without it."""
    return {name: value for name, value in usage.items() if not _MARKS.search(name)}


def public_event(event: bytes) -> bytes:
    """An event whose report is without it; as it is where there is none."""
    if _SUSPECT.search(event) is None:
        return event
    told = sse.read(event)
    try:
        top = from_json(b"" if told is None else told.data, dict[str, msgspec.Raw])
    except InvalidJson:
        return event
    changed = {name: cleaned for name in ("usage", *_PLACES) if (cleaned := _cleaned(name, top.get(name))) is not None}
    return sse.write({**top, **changed}, "" if told is None else told.name) if changed else event


def without_usage(event: bytes) -> bytes:
    """An event of chat without its report, which its caller did not ask for."""
    told = sse.read(event)
    try:
        top = from_json(b"" if told is None else told.data, dict[str, msgspec.Raw])
    except InvalidJson:
        return event
    left = {name: value for name, value in top.items() if name != "usage"}
    return sse.write(left, "" if told is None else told.name)


def without_nulls(events: bytes) -> bytes:
    """Events without the `usage` that is null in each of them, because the node asked for it: in a text a quotation mark
    stands behind a backslash, and no other field of theirs is called so."""
    for null in _NULLS:
        events = events.replace(null, b"")
    return events


def _cleaned(name: str, value: msgspec.Raw | None) -> msgspec.Raw | None:
    """The report, or what it stands in, if there is something to be left out."""
    try:
        fields = from_json(b"" if value is None else bytes(value), dict[str, msgspec.Raw])
    except InvalidJson:
        return None
    if name != "usage":
        usage = _cleaned("usage", fields.get("usage"))
        return None if usage is None else msgspec.Raw(msgspec.json.encode({**fields, "usage": usage}))
    kept = public(fields)
    return None if len(kept) == len(fields) else msgspec.Raw(msgspec.json.encode(kept))
