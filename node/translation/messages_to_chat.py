"""Callers of Anthropic's Messages API at upstreams that speak OpenAI's chat completions. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Final

import msgspec

from node.errors import UpstreamUnreachable
from node.translation import endings, media, tokens, tools
from node.translation.answers import fields, items, read, read_answer, reasoned, said, word
from node.translation.messages_stream import MessagesStream
from node.translation.reading import (
    bad,
    check_fields,
    count,
    flag,
    json_text,
    mapping,
    messages,
    name,
    objects,
    sampling,
    shown,
    stops,
    text,
)
from relays.endpoints import CHAT

_TRANSLATED: Final = frozenset(
    {
        *("model", "messages", "system", "max_tokens", "stream", "temperature", "top_p", "top_k", "stop_sequences"),
        *("tools", "tool_choice", "thinking", "output_config", "metadata"),
    }
)
_HINTS: Final = frozenset(
    {
        *("cache_control", "context_management", "diagnostics", "service_tier", "speed"),
        *("user_profile_id", "workspace_id", "anthropic_version", "anthropic_beta", "betas"),
    }
)
"""Left out, since the answer stays what was asked for: wishes about caches, speed and accounts at Anthropic."""
_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {"mcp_servers": ([],), "inference_geo": ("global",)}
_MAX_USER: Final = 64
"""OpenAI's servers refuse a longer `user`, and Claude Code's is longer."""
_NO_OBJECT: Final = "INVALID_JSON"
_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")

Json = dict[str, Any]
Placed = tuple[str, Json]
"""A block and where it stands in the request."""


class MessagesToChat:
    """Translates requests to chat completions and their answers to messages.

    `max_tokens_field` is for upstreams that know OpenAI's newer name alone, `max_completion_tokens`.
    """

    def __init__(self, max_tokens_field: str = "max_tokens") -> None:
        self._max_tokens_field = max_tokens_field

    def request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request as a chat completion. Raises Refusal 400 for what that cannot say."""
        check_fields(body, _TRANSLATED | _HINTS, _NEUTRAL)
        conversation = list(_conversation(messages(body)))
        if not conversation:
            raise bad("'messages' holds nothing to answer: send a user message")
        chat: Json = {
            "model": name(body.get("model"), "model"),
            "messages": [*_system(body.get("system"), "system"), *conversation],
            self._max_tokens_field: count(body.get("max_tokens"), "max_tokens"),
            **sampling(body),
        }
        if found := stops(body.get("stop_sequences"), "stop_sequences"):
            chat["stop"] = found
        chat |= tools.for_chat(body) | _output(body) | _user(body.get("metadata"))
        if flag(body.get("stream"), "stream"):
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
        return chat

    def answer(self, body: bytes) -> bytes:
        """A chat completion as a message. Raises UpstreamUnreachable."""
        chat = read_answer(body, CHAT)
        choice = next(iter(items(chat.get("choices"))), {})
        message = choice.get("message")
        if not isinstance(message, dict):
            raise UpstreamUnreachable("the upstream answered without a choice that has a message")
        cut = choice.get("finish_reason") == "length"
        calls = [_tool_use(call, i, chat, cut=cut) for i, call in enumerate(items(message.get("tool_calls")))]
        refusal = said(message.get("refusal"))
        written = said(message.get("content")) + refusal
        thought = reasoned(message)
        answer: Json = {
            "id": "msg_" + word(chat.get("id")),
            "type": "message",
            "role": "assistant",
            "model": word(chat.get("model")),
            "content": [
                *([{"type": "thinking", "thinking": thought, "signature": ""}] if thought else []),
                *([{"type": "text", "text": written}] if written else []),
                *calls,
            ],
            "stop_reason": endings.stop_reason(choice.get("finish_reason"), called=bool(calls), refused=bool(refusal)),
            "stop_sequence": None,
        }
        if (usage := tokens.from_chat(chat.get("usage"))) is not None:
            answer["usage"] = tokens.for_messages(usage)
        return msgspec.json.encode(answer)

    def stream(self) -> MessagesStream:
        """For one streamed answer."""
        return MessagesStream()


def _system(content: object, where: str) -> list[Json]:
    """A system prompt, of one or several blocks, as one message."""
    found = [each for each in media.texts(content, where) if each]
    return [{"role": "system", "content": "\n\n".join(found)}] if found else []


def _conversation(found: list[Json]) -> Iterator[Json]:
    """Messages in a row of the same role are one turn at Anthropic's; OpenAI wants results right after their calls."""
    numbered = [(message.get("role"), f"messages[{i}]", message) for i, message in enumerate(found)]
    for role, turn in groupby(numbered, lambda each: each[0]):
        if role == "system":
            for _, where, message in turn:
                yield from _system(message.get("content"), f"{where}.content")
            continue
        blocks = [block for _, where, message in turn for block in _blocks(message, where)]
        if role == "user":
            yield from _user_turn(blocks)
        elif role == "assistant":
            yield from _assistant_turn(blocks)
        else:
            raise bad(f"a message has the role {shown(role)}: use user or assistant")


def _blocks(message: Json, where: str) -> list[Placed]:
    content = message.get("content")
    if isinstance(content, str):
        return [(f"{where}.content", {"type": "text", "text": content})]
    if not isinstance(content, list):
        raise bad(f"'{where}.content' is a string or a list of blocks")
    return [(f"{where}.content[{i}]", block) for i, block in enumerate(objects(content, f"{where}.content"))]


def _user_turn(blocks: list[Placed]) -> Iterator[Json]:
    """Results first, each a message of its own; images in them come after, since OpenAI's results are text."""
    parts: list[Json] = []
    for where, block in blocks:
        if block.get("type") != "tool_result":
            parts += media.part(block, where)
            continue
        call_id = name(block.get("tool_use_id"), f"{where}.tool_use_id")
        result = media.parts(block["content"], f"{where}.content") if block.get("content") is not None else []
        shown_text = "\n\n".join(each["text"] for each in result if each["type"] == "text")
        if others := [each for each in result if each["type"] != "text"]:
            shown_text = shown_text or "The result is in the next message."
            parts += [{"type": "text", "text": f"From the result of tool call {call_id}:"}, *others]
        if flag(block.get("is_error"), f"{where}.is_error"):
            shown_text = f"Error: {shown_text}"
        yield {"role": "tool", "tool_call_id": call_id, "content": shown_text}
    if len(parts) == 1 and parts[0]["type"] == "text":
        yield {"role": "user", "content": parts[0]["text"]}  # what every server reads
    elif parts:
        yield {"role": "user", "content": parts}


def _assistant_turn(blocks: list[Placed]) -> Iterator[Json]:
    """One message. Thoughts are left out: they are signed for Anthropic's servers and mean nothing to others."""
    written, calls = "", []
    for where, block in blocks:
        kind = block.get("type")
        if kind == "text":
            written += text(block.get("text"), f"{where}.text")
        elif kind == "tool_use":
            arguments = json_text(mapping(block.get("input"), f"{where}.input"), f"{where}.input")
            function = {"name": name(block.get("name"), f"{where}.name"), "arguments": arguments}
            calls.append({"id": name(block.get("id"), f"{where}.id"), "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking"):
            raise bad(f"'{where}' of type {shown(kind)} cannot be passed on to this model's server: leave it out")
    if calls:
        yield {"role": "assistant", "content": written or None, "tool_calls": calls}
    elif written:
        yield {"role": "assistant", "content": written}


def _output(body: Mapping[str, Any]) -> Json:
    """How hard to think, and in which form to answer."""
    config = mapping(body.get("output_config") or {}, "output_config")
    said: Json = {}
    if (effort := _effort(mapping(body.get("thinking") or {}, "thinking"), config.get("effort"))) is not None:
        said["reasoning_effort"] = effort
    if config.get("format") is not None:
        form = mapping(config["format"], "output_config.format")
        if form.get("type") != "json_schema":
            raise bad("'output_config.format.type' is json_schema")
        schema = mapping(form.get("schema"), "output_config.format.schema")
        # Anthropic promises the schema, so it is asked for as strictly here.
        json_schema = {"name": "answer", "schema": schema, "strict": True}
        said["response_format"] = {"type": "json_schema", "json_schema": json_schema}
    return said


def _effort(thinking: Json, effort: object) -> str | None:
    if effort is not None and effort not in _EFFORTS:
        raise bad(f"'output_config.effort' is one of {', '.join(_EFFORTS)}")
    kind = thinking.get("type", "unsaid")
    if kind == "enabled":
        budget = count(thinking.get("budget_tokens"), "thinking.budget_tokens")
        return "low" if budget < 4096 else "medium" if budget < 16384 else "high"
    if kind in ("adaptive", "between_tools"):
        return str(effort or "medium")
    if kind not in ("disabled", "unsaid"):
        raise bad("'thinking.type' is enabled, adaptive or disabled")
    return str(effort) if effort and kind == "unsaid" else None


def _user(metadata: object) -> Json:
    user = mapping(metadata or {}, "metadata").get("user_id")
    return {"user": user} if isinstance(user, str) and 0 < len(user) <= _MAX_USER else {}


def _tool_use(call: Json, number: int, chat: Json, *, cut: bool) -> Json:
    function = fields(call.get("function"))
    if not (called := word(function.get("name"))):
        raise UpstreamUnreachable("the upstream called a tool without a name")
    call_id = word(call.get("id"), f"toolu_{word(chat.get('id'))}_{number}")
    return {"type": "tool_use", "id": call_id, "name": called, "input": _input(function.get("arguments"), cut=cut)}


def _input(arguments: object, *, cut: bool) -> Json:
    """A call's arguments. What is no object is put in one, as Anthropic's documentation of tools does: the model has written
    it, and the upstream is paid for it. Half of them, in an answer that was cut off, are left out: its stop reason tells."""
    if isinstance(arguments, dict):
        return arguments
    if not isinstance(arguments, str) or not arguments.strip():
        return {}
    try:
        return read(arguments.encode())
    except UpstreamUnreachable:
        return {} if cut else {_NO_OBJECT: arguments}
