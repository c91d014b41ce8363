"""A model's server that also calls tools, thinks, keeps to a schema and tells probabilities, in chat's language and in
Anthropic's; all else is Shopful's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from relays.pricing import Usage
from tests.node.shopful import CHAT_USAGE, WORDS, Shopful, handled_by, streamed

CHAT_USED: Final = Usage(20, 6, cached_tokens=8, reasoning_tokens=2)
MESSAGES_USAGE: Final = {
    "input_tokens": 12,
    "cache_read_input_tokens": 5,
    "cache_creation_input_tokens": 3,
    "output_tokens": 6,
}
MESSAGES_USED: Final = Usage(20, 6, cached_tokens=5, cache_write_tokens=3)
CALLS: Final = (("call_1", "weather", {"city": "Lisbon"}), ("call_2", "weather", {"city": "Porto"}))
BEFORE_CALLS: Final = "Let me look."
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
BY_SCHEMA: Final = {"city": "Lisbon", "degrees": 21}
THOUGHT: Final = ["A sum.", " Easy."]
LOGPROB: Final = -0.25
BREAKS_AFTER: Final = 5
"""Events: by then something was said."""


class Toolful(Shopful):
    """With tools it calls two, once; with their results it says them again. `breaks` cuts its streams off."""

    def __init__(self, models: list[str]) -> None:
        super().__init__(models)
        self.breaks = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        answer = getattr(self, request.path.removeprefix("/v1/").replace("/", "_"), None)
        if not self.breaks or request.method != "POST" or answer is None:
            return await super().handle(request)
        events = answer(await request.json())
        return await streamed(request, events[:BREAKS_AFTER], breaks=True)

    def chat_completions(self, body: dict[str, Any]) -> Any:
        results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
        thinks, calls = "reasoning_effort" in body, bool(body.get("tools")) and not results
        words = _words(calls, results, "response_format" in body)
        head = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
        finish = "tool_calls" if calls else "stop"
        logprobs = {"content": [_probable(word) for word in words]} if body.get("logprobs") else None
        if not body.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": "".join(words)}
            if thinks:
                message["reasoning_content"] = "".join(THOUGHT)
            if calls:
                message["tool_calls"] = [_function(*call) for call in CALLS]
            choices = [
                {"index": index, "message": message, "finish_reason": finish, "logprobs": logprobs}
                for index in range(body.get("n") or 1)
            ]
            return {**head, "object": "chat.completion", "choices": choices, "usage": _usage_of(len(choices))}
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": piece} for piece in THOUGHT if thinks]
        deltas += [{"content": word} for word in words]
        for number, (call_id, name, arguments) in enumerate(CALLS if calls else ()):
            begun = {"index": number, **_function(call_id, name, None)}
            pieces = [{"index": number, "function": {"arguments": piece}} for piece in _pieces(arguments)]
            deltas += [{"tool_calls": [piece]} for piece in (begun, *pieces)]
        ends: list[tuple[dict[str, Any], str | None]] = [*((delta, None) for delta in deltas), ({}, finish)]
        chunk = {**head, "object": "chat.completion.chunk"}
        events: list[Any] = [
            {**chunk, "choices": [{"index": index, "delta": delta, "finish_reason": end}]}
            for delta, end in ends
            for index in range(body.get("n") or 1)
        ]
        if body.get("stream_options", {}).get("include_usage"):
            events.append({**chunk, "choices": [], "usage": _usage_of(body.get("n") or 1)})
        return [*events, "[DONE]"]

    def messages(self, body: dict[str, Any]) -> Any:
        results = [text for message in body["messages"] for text in _results(message["content"])]
        calls = bool(body.get("tools")) and not results
        words = _words(calls, results, "format" in body.get("output_config", {}))
        blocks: list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = []
        """Each as it begins, as it is when complete, and the deltas between."""
        if body.get("thinking", {}).get("type") == "enabled":
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in THOUGHT]
            signed = {"thinking": "".join(THOUGHT), "signature": "c2lnbmVk"}
            deltas.append({"type": "signature_delta", "signature": signed["signature"]})
            blocks.append((empty, {**empty, **signed}, deltas))
        text = {"type": "text", "text": ""}
        blocks.append((text, {**text, "text": "".join(words)}, [{"type": "text_delta", "text": w} for w in words]))
        for call_id, name, arguments in CALLS if calls else ():
            use = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *_pieces(arguments))]
            blocks.append((use, {**use, "input": arguments}, deltas))
        end = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"]}
        if not body.get("stream"):
            return {**head, "content": [whole for _, whole, _ in blocks], **end, "usage": MESSAGES_USAGE}
        begun = {"stop_reason": None, "stop_sequence": None, "usage": {**MESSAGES_USAGE, "output_tokens": 1}}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": {**head, "content": [], **begun}}]
        for index, (start, _, deltas) in enumerate(blocks):
            events.append({"type": "content_block_start", "index": index, "content_block": start})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        last = {"type": "message_delta", "delta": end, "usage": {"output_tokens": MESSAGES_USAGE["output_tokens"]}}
        return [*events, last, {"type": "message_stop"}]


def _usage_of(answers: int) -> dict[str, Any]:
    written = answers * CHAT_USED.completion_tokens
    return {**CHAT_USAGE, "completion_tokens": written, "total_tokens": CHAT_USED.prompt_tokens + written}


def _words(calls: bool, results: list[str], by_schema: bool) -> list[str]:
    if calls:
        return [BEFORE_CALLS]
    if results:
        return ["It is ", " and ".join(results)]
    return _pieces(BY_SCHEMA) if by_schema else WORDS


def _pieces(value: Any) -> list[str]:
    text = json.dumps(value)
    return [text[:4], text[4:9], text[9:]]


def _function(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    said = "" if arguments is None else json.dumps(arguments)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": said}}


def _probable(word: str) -> dict[str, Any]:
    return {"token": word, "logprob": LOGPROB, "bytes": list(word.encode()), "top_logprobs": []}


def _results(content: Any) -> Iterable[str]:
    """The texts of the tool results in a message of Anthropic's."""
    for block in content if isinstance(content, list) else ():
        if block["type"] == "tool_result":
            inner = block["content"]
            yield inner if isinstance(inner, str) else "".join(part["text"] for part in inner)


@asynccontextmanager
async def running_toolful(*models: str) -> AsyncIterator[tuple[Toolful, str]]:
    """It, and its URL with `/v1`."""
    server = Toolful(list(models))
    async with handled_by(server.handle) as url:
        yield server, f"{url}/v1"
