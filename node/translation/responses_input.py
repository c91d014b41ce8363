"""The input of OpenAI's Responses, a text or a list of items, as the messages of a chat. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from node.translation.reading import bad, mapping, name, objects, shown, text

Json = dict[str, Any]
Placed = tuple[str, Json]
"""An item and where it stands in the request."""

_ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""Servers other than OpenAI's know no developers."""
_CALLS: Final = ("function_call", "reasoning")
"""What an assistant's turn has beside messages."""


def messages(given: object) -> list[Json]:
    """The conversation. Raises Refusal 400 for items that a chat has no words for."""
    if isinstance(given, str):
        return [{"role": "user", "content": text(given, "input")}]
    placed = [(f"input[{i}]", item) for i, item in enumerate(objects(given, "input"))]
    made: list[Json] = []
    for turn, items in groupby(placed, _turn):
        if turn == "assistant":
            made += _assistant(list(items))
        elif turn == "results":
            made += _results(list(items))
        else:
            made += [_message(where, item) for where, item in items]
    return made


def _turn(placed: Placed) -> str:
    """Whose an item is: results and an assistant's items in a row belong together."""
    where, item = placed
    kind = item.get("type", "message")
    if kind == "function_call_output":
        return "results"
    if kind in _CALLS:
        return "assistant"
    if kind != "message":
        raise bad(f"'{where}' of type {shown(kind)} cannot be passed on to this model's server: leave it out")
    return _role(item, where)


def _role(item: Json, where: str) -> str:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad(f"'{where}.role' is {shown(role)}: use system, developer, user or assistant")
    return _ROLES[role]


def _message(where: str, item: Json) -> Json:
    role, content = _role(item, where), _parts(item.get("content"), f"{where}.content")
    if role == "system" or all(part["type"] == "text" for part in content):  # what every server reads
        return {"role": role, "content": _text(content, f"{where}.content")}
    return {"role": role, "content": content}


def _assistant(items: list[Placed]) -> Iterator[Json]:
    """One message. Thoughts are left out: servers of chat do not take them back."""
    said, calls = [], []
    for where, item in items:
        kind = item.get("type", "message")
        if kind == "message":
            said.append(_text(_parts(item.get("content"), f"{where}.content"), f"{where}.content"))
        elif kind == "function_call":
            given = text(item.get("arguments"), f"{where}.arguments")
            function = {"name": name(item.get("name"), f"{where}.name"), "arguments": given}
            call_id = name(item.get("call_id"), f"{where}.call_id")
            calls.append({"id": call_id, "type": "function", "function": function})
    written = "\n\n".join(each for each in said if each)
    if calls:
        yield {"role": "assistant", "content": written or None, "tool_calls": calls}
    elif written:
        yield {"role": "assistant", "content": written}


def _results(items: list[Placed]) -> Iterator[Json]:
    """Each a message of its own; what is no text in them comes after, since results of chat are text."""
    others: list[Json] = []
    for where, item in items:
        call_id = name(item.get("call_id"), f"{where}.call_id")
        parts = _parts(item.get("output"), f"{where}.output")
        shown_text = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
        if media := [part for part in parts if part["type"] != "text"]:
            shown_text = shown_text or "The result is in the next message."
            others += [{"type": "text", "text": f"From the result of tool call {call_id}:"}, *media]
        yield {"role": "tool", "tool_call_id": call_id, "content": shown_text}
    if others:
        yield {"role": "user", "content": others}


def _parts(content: object, where: str) -> list[Json]:
    """A content as chat's parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise bad(f"'{where}' is a string or a list of parts")
    return [_part(part, f"{where}[{i}]") for i, part in enumerate(objects(content, where))]


def _part(part: Json, where: str) -> Json:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": text(part.get("text"), f"{where}.text")}
    if kind == "refusal":
        return {"type": "text", "text": text(part.get("refusal"), f"{where}.refusal")}
    if kind == "input_image":
        image: Json = {"url": name(part.get("image_url"), f"{where}.image_url")}
        if part.get("detail") is not None:
            image["detail"] = text(part["detail"], f"{where}.detail")
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        file: Json = {"file_data": name(part.get("file_data"), f"{where}.file_data")}
        if part.get("filename") is not None:
            file["filename"] = text(part["filename"], f"{where}.filename")
        return {"type": "file", "file": file}
    if kind == "input_audio":
        return {"type": kind, kind: mapping(part.get(kind), f"{where}.{kind}")}
    raise bad(f"'{where}' of type {shown(kind)} cannot be passed on to this model's server: send text, images or files")


def _text(parts: list[Json], where: str) -> str:
    """Parts that are all text."""
    if any(part["type"] != "text" for part in parts):
        raise bad(f"'{where}' is text for this role")
    return "\n\n".join(part["text"] for part in parts)
