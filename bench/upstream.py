"""A model's server for benchmarks: answers every chat completion at once with the same few tokens.

uv run python bench/upstream.py PORT
"""

from __future__ import annotations

import sys

from aiohttp import web

MODEL = "bench"
ANSWER = (
    b'{"id":"x","object":"chat.completion","created":0,"model":"bench","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"hello"}}],"usage":{"prompt_tokens":8,"completion_tokens":4,"total_tokens":12}}'
)


async def models(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": MODEL, "context_length": 2048}]})


async def chat(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
