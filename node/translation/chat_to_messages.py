"""Callers of OpenAI's chat completions at upstreams that speak Anthropic's Messages API. Pure but for its clock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, Final

import msgspec

from node.errors import UpstreamUnreachable
from node.translation import endings, media, thinking, tokens, tools
from node.translation.answers import arguments, items, read_answer, said, word
from node.translation.chat_stream import ChatStream
from node.translation.reading import (
    bad,
    check_fields,
    count,
    flag,
    mapping,
    messages,
    name,
    objects,
    sampling,
    shallow,
    shown,
    stops,
    text,
)
from relays.endpoints import MESSAGES
from relays.errors import InvalidJson
from relays.jsontext import from_json

_TRANSLATED: Final = frozenset(
    {
        *("model", "messages", "max_tokens", "max_completion_tokens", "stream", "temperature", "top_p", "top_k"),
        *("stop", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
        *("user", "safety_identifier"),
    }
)
_HINTS: Final = frozenset(
    {
        *("stream_options", "seed", "metadata", "service_tier", "prediction"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    }
)
"""Left out, since the answer stays what was asked for. `seed` is never a promise; usage is streamed in any case."""
_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "n": (1,),
    "store": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "functions": ([],),
    "function_call": ("auto", "none"),
}
_MAX_USER: Final = 256
_STRANGE_IN_IDS: Final = re.compile(r"[^a-zA-Z0-9_-]")
"""Anthropic's servers refuse ids with anything else, which other models' servers make."""

Json = dict[str, Any]


class ChatToMessages:
    """Translates chat completions to messages and their answers back.

    Anthropic's servers want `max_tokens`: `default_max_tokens` stands in for callers who set no limit.
    """

    def __init__(self, default_max_tokens: int, clock: Callable[[], float] = time.time) -> None:
        self._default_max_tokens = default_max_tokens
        self._clock = clock

    def request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request as a message. Raises Refusal 400 for what that cannot say."""
        check_fields(body, _TRANSLATED | _HINTS, _NEUTRAL)
        found = messages(body)
        turns = _turns(found)
        if not turns:
            raise bad("'messages' holds nothing to answer: send a user message")
        asked: Json = {
            "model": name(body.get("model"), "model"),
            "max_tokens": self._max_tokens(body),
            "messages": turns,
            **sampling(body),
        }
        if system := _system(found):
            asked["system"] = system
        if stop := stops(body.get("stop"), "stop"):
            asked["stop_sequences"] = stop
        asked |= tools.for_messages(body) | _format(body.get("response_format")) | _user(body)
        asked |= thinking.for_messages(body.get("reasoning_effort"), asked)
        if flag(body.get("stream"), "stream"):
            asked["stream"] = True
        return asked

    def answer(self, body: bytes) -> bytes:
        """A message as a chat completion. Raises UpstreamUnreachable."""
        message = read_answer(body, MESSAGES)
        if not isinstance(message.get("content"), list) or message.get("type", "message") != "message":
            raise UpstreamUnreachable("the upstream answered without a message's content")
        blocks = items(message["content"])
        written = "".join(said(block.get("text")) for block in blocks if block.get("type") == "text")
        thought = "".join(said(block.get("thinking")) for block in blocks if block.get("type") == "thinking")
        answer_id = "chatcmpl-" + word(message.get("id"))
        calls = [_tool_call(block, i, answer_id) for i, block in enumerate(_of_type(blocks, "tool_use"))]
        reply: Json = {"role": "assistant", "content": written or (None if calls else ""), "refusal": None}
        if thought:
            reply["reasoning_content"] = thought
        if calls:
            reply["tool_calls"] = calls
        finish = endings.finish_reason(message.get("stop_reason"), called=bool(calls))
        answer: Json = {
            "id": answer_id,
            "object": "chat.completion",
            "created": int(self._clock()),
            "model": word(message.get("model")),
            "choices": [{"index": 0, "message": reply, "logprobs": None, "finish_reason": finish}],
        }
        if (usage := tokens.from_messages(message.get("usage"))) is not None:
            answer["usage"] = tokens.for_chat(usage)
        return msgspec.json.encode(answer)

    def stream(self) -> ChatStream:
        """For one streamed answer."""
        return ChatStream(int(self._clock()))

    def _max_tokens(self, body: Mapping[str, Any]) -> int:
        for field in ("max_completion_tokens", "max_tokens"):
            if body.get(field) is not None:
                return count(body[field], field)
        return self._default_max_tokens


def _system(found: list[Json]) -> str:
    """System messages from anywhere, in their order: Anthropic has one place for them."""
    places = [(f"messages[{i}].content", each) for i, each in enumerate(found) if _is_system(each)]
    return "\n\n".join(
        said for where, each in places for said in media.texts(each.get("content"), where) if said.strip()
    )


def _is_system(message: Json) -> bool:
    return message.get("role") in ("system", "developer")


def _turns(found: list[Json]) -> list[Json]:
    """The conversation without its system messages. Results are the user's; the same role in a row is one turn."""
    placed = [_turn(each, f"messages[{i}]") for i, each in enumerate(found) if not _is_system(each)]
    grouped = groupby((turn for turn in placed if turn[1]), lambda turn: turn[0])
    return [{"role": role, "content": [block for _, blocks in group for block in blocks]} for role, group in grouped]


def _turn(message: Json, where: str) -> tuple[str, list[Json]]:
    """A role, and the blocks of one message."""
    role, content = message.get("role"), message.get("content")
    if role == "user":
        return "user", media.blocks(content, f"{where}.content")
    if role == "tool":
        return "user", [_tool_result(message, where)]
    if role != "assistant":
        raise bad(f"'{where}.role' is {shown(role)}: use system, developer, user, assistant or tool")
    for field in ("function_call", "audio"):
        if message.get(field) is not None:
            raise bad(f"'{where}.{field}' cannot be passed on to this model's server: use 'tool_calls' and text")
    calls = objects(message.get("tool_calls"), f"{where}.tool_calls")
    used = [_tool_use(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    written = media.blocks(content, f"{where}.content")
    if any(block["type"] != "text" for block in written):
        raise bad(f"'{where}.content' of an assistant is text")
    return "assistant", [*written, *used]


def _tool_use(call: Json, where: str) -> Json:
    if call.get("type", "function") != "function":
        raise bad(f"'{where}.type' is function")
    function = mapping(call.get("function"), f"{where}.function")
    arguments = text(function.get("arguments") or "", f"{where}.function.arguments")
    return {
        "type": "tool_use",
        "id": _id(call.get("id"), f"{where}.id"),
        "name": name(function.get("name"), f"{where}.function.name"),
        "input": _input(arguments, f"{where}.function.arguments"),
    }


def _input(arguments: str, where: str) -> Json:
    """Arguments are JSON text at OpenAI's, which may be nothing, and an object at Anthropic's."""
    try:
        found = from_json(arguments) if arguments.strip() else {}
    except InvalidJson as error:
        raise bad(f"'{where}' is not JSON: {error}") from error
    return shallow(found, where)


def _tool_result(message: Json, where: str) -> Json:
    content = media.blocks(message.get("content"), f"{where}.content")
    result = {"type": "tool_result", "tool_use_id": _id(message.get("tool_call_id"), f"{where}.tool_call_id")}
    return result | ({"content": content} if content else {})


def _id(value: object, where: str) -> str:
    return _STRANGE_IN_IDS.sub("_", name(value, where))


def _format(response_format: object) -> Json:
    form = mapping(response_format or {}, "response_format")
    if form.get("type", "text") == "text":
        return {}
    if form.get("type") != "json_schema":
        raise bad("'response_format' is text or json_schema for this model: give the schema that you want")
    described = mapping(form.get("json_schema"), "response_format.json_schema")
    schema = mapping(described.get("schema"), "response_format.json_schema.schema")
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def _user(body: Mapping[str, Any]) -> Json:
    """Anthropic's servers refuse names that are long, or look like a mail address; it is a hint, so those stay here."""
    user = body.get("safety_identifier") or body.get("user")
    if not isinstance(user, str) or not 0 < len(user) <= _MAX_USER or "@" in user:
        return {}
    return {"metadata": {"user_id": user}}


def _of_type(blocks: list[Json], kind: str) -> list[Json]:
    return [block for block in blocks if block.get("type") == kind]


def _tool_call(block: Json, number: int, answer_id: str) -> Json:
    if not (called := word(block.get("name"))):
        raise UpstreamUnreachable("the upstream called a tool without a name")
    given = arguments(block.get("input")) or "{}"
    call_id = word(block.get("id"), f"call_{answer_id}_{number}")
    return {"id": call_id, "type": "function", "function": {"name": called, "arguments": given}}
