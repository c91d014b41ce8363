"""JSON of strangers: read into a type, with every way in which it can be broken as one error.

msgspec reports malformed JSON and wrong types by its own errors, but lets others through: bytes that are no UTF-8, nesting
deeper than the stack, numbers that overflow. Nothing that came over a wire is decoded anywhere but here.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

import msgspec

from relays.errors import InvalidJson

T = TypeVar("T")

MAX_DEPTH = 200
"""What nests deeper is nobody's honest request."""
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


def _words(error: BaseException) -> str:
    if isinstance(error, msgspec.MsgspecError):
        return str(error)[:200]
    return "it is nested too deeply" if isinstance(error, RecursionError) else "it holds bytes that are no text"
