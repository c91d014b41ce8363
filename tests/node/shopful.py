"""A model's server with every endpoint, in OpenAI's and Anthropic's forms; keeps what it was asked. Its answers have the
shapes of the providers' documentation; real models serve `test_chat.py` and `test_real_endpoints.py`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.strangers import served

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PIXEL = base64.b64encode(b"not really a picture").decode()
WORDS = ["Two", " and", " two", " is", " four", "."]
CHAT_USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 6,
    "total_tokens": 26,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
RESPONSES_USAGE = {
    "input_tokens": 20,
    "output_tokens": 6,
    "total_tokens": 26,
    "input_tokens_details": {"cached_tokens": 8},
    "output_tokens_details": {"reasoning_tokens": 2},
}
BREAK_S = 0.05
"""Before a connection is cut: a reader that is told of both at once throws away what came."""
IMAGE_USAGE = {"input_tokens": 10, "output_tokens": 1000, "total_tokens": 1010}


class Shopful:
    """`fails` makes the next answers errors of that status."""

    def __init__(self, models: list[str]) -> None:
        self.models = models
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.fails: list[int] = []
        self.listless = False
        """Whether it gives no list of its models."""
        self.streamless = False
        """Whether it passes over the wish for a stream of a transcript."""
        self.may = asyncio.Event()
        """It says nothing before; set unless a test clears it."""
        self.may.set()
        self.words = WORDS
        """What it says in a chat."""
        self.usage = True
        """Whether it reports any."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1")
        if path == "/models" and self.listless:
            return web.Response(status=503)
        if path == "/models":
            return web.json_response(
                {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
            )
        multipart = request.content_type == "multipart/form-data"
        body = await _form(request) if multipart else await request.json()
        self.asked.append((path, body))
        self.headers.append(dict(request.headers))
        await self.may.wait()
        if self.fails:
            return web.json_response({"error": {"message": "no", "type": "server_error"}}, status=self.fails.pop(0))
        answer = getattr(self, path.strip("/").replace("/", "_"), None)
        if answer is None:
            return web.json_response({"error": {"message": "unknown path"}}, status=404)
        made = answer(body)
        if isinstance(made, bytes):
            return web.Response(body=made, content_type="audio/mpeg")
        if isinstance(made, str):
            return web.Response(text=made, content_type="text/plain")
        if isinstance(made, list):
            return await streamed(request, made)
        if not self.usage:
            made.pop("usage", None)
        return web.json_response(made)

    def chat_completions(self, body: dict[str, Any]) -> Any:
        head = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
        if body.get("stream"):
            chunk = {**head, "object": "chat.completion.chunk"}
            events = [{**chunk, "choices": [_delta({"role": "assistant", "content": word})]} for word in self.words]
            events.append({**chunk, "choices": [_delta({}, "stop")]})
            if self.usage and body.get("stream_options", {}).get("include_usage"):
                events.append({**chunk, "choices": [], "usage": CHAT_USAGE})
            return [*events, "[DONE]"]
        message = {"role": "assistant", "content": "".join(self.words)}
        choices = [
            {"index": index, "message": message, "finish_reason": "stop", "logprobs": None}
            for index in range(body.get("n") or 1)
        ]
        return {**head, "object": "chat.completion", "choices": choices, "usage": CHAT_USAGE}

    def completions(self, body: dict[str, Any]) -> Any:
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        if body.get("stream"):
            events: list[Any] = [
                {**head, "choices": [{"index": 0, "text": word, "finish_reason": None, "logprobs": None}]}
                for word in WORDS
            ]
            return [*events, {**head, "choices": [], "usage": CHAT_USAGE}, "[DONE]"]
        choice = {"index": 0, "text": "".join(WORDS), "finish_reason": "stop", "logprobs": None}
        return {**head, "choices": [choice], "usage": CHAT_USAGE}

    def responses(self, body: dict[str, Any]) -> Any:
        text = {"type": "output_text", "text": "".join(self.words), "annotations": []}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
        whole: dict[str, Any] = {
            **{"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": body["model"]},
            **{"output": [item], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None},
            "usage": RESPONSES_USAGE,
        }
        if not body.get("stream"):
            return whole
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            *({"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in self.words),
            {"type": "response.output_text.done", **place, "text": "".join(self.words), "logprobs": []},
            {"type": "response.completed", "response": whole},
        ]
        return [{**event, "sequence_number": number} for number, event in enumerate(events)]

    def messages(self, body: dict[str, Any]) -> Any:
        usage = {"input_tokens": 12, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3, "output_tokens": 6}
        whole: dict[str, Any] = {
            **{"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"]},
            **{"content": [{"type": "text", "text": "".join(WORDS)}], "stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage,
        }
        if not body.get("stream"):
            return whole
        start = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
        return [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
                for word in WORDS
            ),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 6},
            },
            {"type": "message_stop"},
        ]

    def messages_count_tokens(self, _: dict[str, Any]) -> Any:
        return {"input_tokens": 14}

    def embeddings(self, body: dict[str, Any]) -> Any:
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vector: Any = [0.25, -0.5]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(b"\0\0\x80\x3e\0\0\0\xbf").decode()
        data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(texts))]
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        return {"object": "list", "data": data, "model": body["model"], "usage": usage}

    def moderations(self, body: dict[str, Any]) -> Any:
        result = {"flagged": False, "categories": {}, "category_scores": {}, "category_applied_input_types": {}}
        return {"id": "modr-1", "model": body["model"], "results": [result]}

    def rerank(self, body: dict[str, Any]) -> Any:
        results = [{"index": index, "relevance_score": 0.5} for index in range(len(body["documents"]))]
        return {"model": body["model"], "results": results, "usage": {"total_tokens": 30}}

    def images_generations(self, body: dict[str, Any]) -> Any:
        if body.get("stream"):
            done = {"type": "image_generation.completed", "b64_json": PIXEL, "created_at": 1, "usage": IMAGE_USAGE}
            return [{"type": "image_generation.partial_image", "b64_json": PIXEL, "partial_image_index": 0}, done]
        data = [{"b64_json": PIXEL} for _ in range(int(body.get("n") or 1))]
        return {"created": 1, "data": data, "usage": IMAGE_USAGE}

    images_edits = images_generations

    def audio_speech(self, _: dict[str, Any]) -> Any:
        return b"ID3 sound"

    def audio_transcriptions(self, body: dict[str, Any]) -> Any:
        if body.get("response_format") == "text":
            return "".join(WORDS)
        if body.get("stream") == "true" and not self.streamless:
            events: list[Any] = [{"type": "transcript.text.delta", "delta": word} for word in WORDS]
            usage = {"type": "tokens", "input_tokens": 30, "output_tokens": 6, "total_tokens": 36}
            return [*events, {"type": "transcript.text.done", "text": "".join(WORDS), "usage": usage}, "[DONE]"]
        return {"text": "".join(WORDS), "usage": {"type": "duration", "seconds": 3}}

    audio_translations = audio_transcriptions


def _delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


async def _form(request: web.Request) -> dict[str, Any]:
    fields = await request.post()
    return {name: value.file.read() if isinstance(value, web.FileField) else value for name, value in fields.items()}


async def streamed(request: web.Request, events: list[Any], *, breaks: bool = False) -> web.StreamResponse:
    """The events as a stream, which ends; if it `breaks`, as a connection that is cut."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
        data = event if isinstance(event, str) else json.dumps(event)
        await response.write(f"{name}data: {data}\n\n".encode())
    if breaks:
        await asyncio.sleep(BREAK_S)
        assert request.transport is not None
        request.transport.close()
    else:
        await response.write_eof()
    return response


@asynccontextmanager
async def handled_by(handle: Handler) -> AsyncIterator[str]:
    """The URL of a server that gives every request to `handle`."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", handle)
    async with served(app) as where:
        yield f"http://{where}"


@asynccontextmanager
async def running_shopful(*models: str) -> AsyncIterator[tuple[Shopful, str]]:
    """It, and its URL with `/v1`."""
    server = Shopful(list(models))
    async with handled_by(server.handle) as url:
        yield server, f"{url}/v1"
