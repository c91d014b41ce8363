"""Reading what a caller sent, field by field: whatever is not as it should be is refused with 400, by its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from node.errors import Refusal
from relays import payment
from relays.jsontext import MAX_DEPTH, too_deep

_NOTHING: Final[Mapping[str, tuple[object, ...]]] = MappingProxyType({})


def bad(message: str) -> Refusal:
    """400 with what is wrong and what to do."""
    return Refusal(400, payment.INVALID_REQUEST, message)


def shown(value: object) -> str:
    """A stranger's value for a message: short, and never a whole nest."""
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


def check_fields(
    body: Mapping[str, Any], known: Collection[str], neutral: Mapping[str, tuple[object, ...]] = _NOTHING
) -> None:
    """Refuse what cannot be translated and would change the answer. `neutral` has values that change nothing."""
    if too_deep(dict(body)):
        raise bad(f"the request nests deeper than {MAX_DEPTH} levels: make it flatter")
    for field, value in body.items():
        if field not in known and value is not None and value not in neutral.get(field, ()):
            raise bad(f"{shown(field)} cannot be passed on to this model's server: leave it out")


def text(value: object, where: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise bad(f"'{where}' is a string")
    return value


def name(value: object, where: str) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise bad(f"'{where}' is missing: a string that is not empty")
    return value


def mapping(value: object, where: str) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise bad(f"'{where}' is an object")
    return value


def shallow(value: object, where: str) -> dict[str, Any]:
    """An object that can be written again, however it came."""
    if too_deep(mapping(value, where)):
        raise bad(f"'{where}' nests deeper than {MAX_DEPTH} levels: make it flatter")
    return mapping(value, where)


def objects(value: object, where: str) -> list[dict[str, Any]]:
    """A list of objects; nothing is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise bad(f"'{where}' is a list of objects")
    return value


def flag(value: object, where: str) -> bool:
    """A boolean; nothing is false."""
    if not isinstance(value, bool | None):
        raise bad(f"'{where}' is true or false")
    return bool(value)


def count(value: object, where: str) -> int:
    """A whole number from 1."""
    if type(value) is not int or value < 1:
        raise bad(f"'{where}' is a whole number from 1")
    return value


def messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation, which has at least one message."""
    found = objects(body.get("messages"), "messages")
    if not found:
        raise bad("'messages' is missing: a list of at least one message")
    return found


def sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """What both languages say alike. Anthropic's temperatures end at 1: a higher one is not quietly lowered."""
    said: dict[str, Any] = {}
    for field in ("temperature", "top_p"):
        value = body.get(field)
        if value is None:
            continue
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise bad(f"'{field}' is a number from 0 to 1 for this model")
        said[field] = value
    top_k = body.get("top_k")
    if not isinstance(top_k, int | None) or isinstance(top_k, bool):
        raise bad("'top_k' is a whole number")
    # Servers that know it take 0 and -1 as "all".
    return said | ({"top_k": top_k} if top_k is not None and top_k > 0 else {})


def stops(value: object, where: str) -> list[str]:
    """Where to stop: strings, or one of them. Anthropic's servers refuse blank ones."""
    found = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(stop, str) for stop in found):
        raise bad(f"'{where}' is a string or a list of strings")
    if not all(stop.strip() for stop in found):
        raise bad(f"'{where}' holds a string of nothing but white space: leave it out")
    return found


def json_text(value: object, where: str) -> str:
    """A caller's value as JSON text."""
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise bad(f"'{where}' cannot be written as JSON") from error
