"""The events of a response that is known as a whole, such as a cascade's: each text and each call in one piece. Pure.

What a node wrote may be of any shape: what is not understood comes as it is, in the events around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from relays.errors import InvalidJson
from relays.jsontext import from_json
from router_client.buying.answer import Answer

Json = dict[str, Any]
_TEXTS: Final = {"output_text": "text", "refusal": "refusal"}
"""Parts of a message, and where each has its text."""


def retold(answer: Answer) -> tuple[list[Json], Json]:
    """The events before the last, and the last without its `response`."""
    body = answer.body or {}
    begun = {**body, "status": "in_progress", "output": [], "usage": None}
    events: list[Json] = [{"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")]
    for place, item in enumerate(_output(body)):
        events += _item(place, item)
    is_cut = bytes(body.get("status", b"")) == b'"incomplete"'
    last = {"type": "response.incomplete" if is_cut else "response.completed"}
    *before, end = [{**event, "sequence_number": number} for number, event in enumerate([*events, last])]
    return before, end


def _output(body: Json) -> list[Json]:
    try:
        return from_json(bytes(body.get("output", b"[]")), list[Json])
    except InvalidJson:
        return []


def _item(place: int, item: Json) -> Iterator[Json]:
    empty = item | {"status": "in_progress"} if "status" in item else dict(item)
    said, parts = item.get("arguments"), item.get("content")
    if item.get("type") == "message":
        empty["content"] = []
    elif item.get("type") == "function_call":
        empty["arguments"] = ""
    where = {"item_id": item.get("id"), "output_index": place}
    yield {"type": "response.output_item.added", "output_index": place, "item": empty}
    if item.get("type") == "message" and isinstance(parts, list):
        for number, part in enumerate(parts):
            if isinstance(part, dict):
                yield from _part({**where, "content_index": number}, part)
    elif item.get("type") == "function_call" and isinstance(said, str):
        kind = "response.function_call_arguments"
        yield {"type": f"{kind}.delta", **where, "delta": said}
        yield {"type": f"{kind}.done", **where, "name": item.get("name"), "arguments": said}
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


def _part(where: Json, part: Json) -> Iterator[Json]:
    kind, field = part.get("type"), _TEXTS.get(str(part.get("type")))
    said = part.get(field) if field is not None else None
    if field is None or not isinstance(said, str):
        yield {"type": "response.content_part.added", **where, "part": part}
    else:
        more: Json = {"logprobs": []} if field == "text" else {}
        yield {"type": "response.content_part.added", **where, "part": part | {field: ""}}
        yield {"type": f"response.{kind}.delta", **where, "delta": said, **more}
        yield {"type": f"response.{kind}.done", **where, field: said, **more}
    yield {"type": "response.content_part.done", **where, "part": part}
