"""JSON of strangers: read into a type, with every way in which it can be broken as one error.

msgspec reports malformed JSON and wrong types by its own errors, but lets others through: bytes that are no UTF-8, nesting
deeper than the stack, numbers that overflow. Nothing that came over a wire is decoded anywhere but here.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar, overload

import msgspec

from relays.errors import InvalidJson

T = TypeVar("T")

MAX_DEPTH = 200
"""What nests deeper is nobody's honest request."""
MAX_ESCAPES = 1_000_000
"""Each may be looked at, which takes a fraction of a microsecond."""
MAX_FOLDED_BYTES = 1_000_000
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MARKS = re.compile(_STRING.pattern + rb"|[\[\]{}]", re.DOTALL)
_SURROGATES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
"""A backslash, two halves of a character, or one alone."""
_BROKEN = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


@overload
def from_json(raw: bytes | str) -> Any: ...
@overload
def from_json(raw: bytes | str, kind: type[T]) -> T: ...
def from_json(raw: bytes | str, kind: Any = Any) -> Any:
    """Decode JSON text as `kind`. Raises InvalidJson, whose words do not repeat the text."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except _BROKEN as error:
        raise InvalidJson(_words(error)) from error


def from_cut_json(raw: bytes) -> Any:
    """Decode JSON text whose strings may hold halves of characters. Raises InvalidJson."""
    try:
        return from_json(raw)
    except InvalidJson:
        whole = with_whole_characters(raw)
        if whole == raw:
            raise
        return from_json(whole)


def with_whole_characters(raw: bytes) -> bytes:
    """JSON text with U+FFFD in the place of halves of characters, which texts have that were cut in UTF-16."""
    if (b"\\ud" not in raw and b"\\uD" not in raw) or raw.count(b"\\") > MAX_ESCAPES:
        return raw
    return _SURROGATES.sub(lambda found: b"\\ufffd" if len(found[0]) == len(b"\\ufffd") else found[0], raw)


def folded(raw: bytes, levels: int) -> bytes:
    """JSON text in which what nests deeper than so many levels stands as a string, as it was written: that needs no stack to
    be read. What is too long is left as it is."""
    if len(raw) > MAX_FOLDED_BYTES:
        return raw
    depth = begin = end = 0
    pieces = []
    for found in _MARKS.finditer(raw):
        if found[0] in b"[{":
            begin = found.start() if depth == levels else begin
            depth += 1
        elif found[0] in b"]}":
            depth -= 1
            if depth == levels:
                pieces += [raw[end:begin], msgspec.json.encode(raw[begin : found.end()].decode(errors="replace"))]
                end = found.end()
    return b"".join([*pieces, raw[end:]])


def shaped(value: object, kind: type[T]) -> T:
    """A decoded value as `kind`. Raises InvalidJson."""
    try:
        return msgspec.convert(value, type=kind)
    except _BROKEN as error:
        raise InvalidJson(_words(error)) from error


def too_deep(value: object) -> bool:
    """Whether a decoded value nests deeper than `MAX_DEPTH`; without recursion of its own."""
    level = [value]
    for _ in range(MAX_DEPTH):
        children = (
            item.values() if isinstance(item, dict) else item if isinstance(item, list) else () for item in level
        )
        level = [child for group in children for child in group if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def has_many(raw: bytes, most: int) -> bool:
    """Whether JSON text has more than so many values, or so many strings, by what stands between them. In a fraction of the
    time that it takes to decode them: a few megabytes can hold millions, which nobody looks through in passing."""
    if _commas(raw) <= most:
        return False
    rest, strings = _STRING.subn(b"", raw, count=most + 1)
    return strings > most or _commas(rest) > most


def _commas(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _words(error: BaseException) -> str:
    if isinstance(error, msgspec.MsgspecError):
        return str(error)[:200]
    return "it is nested too deeply" if isinstance(error, RecursionError) else "it holds bytes that are no text"
