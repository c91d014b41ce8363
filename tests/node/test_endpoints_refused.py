"""What a model's server refuses: a call that it has not, a prompt that is too long."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from aiohttp import web

from tests.conftest import DEAD_MINT
from tests.node.harness import PRICES, Running, bearer, granted_key, running_node
from tests.node.shopful import handled_by


def failures(running: Running) -> int | None:
    """As they are announced."""
    return running.node.completions._pulse.error_rate_bps


@pytest.mark.parametrize(
    ("status", "told"), [(404, (404, "not_found")), (405, (400, "invalid_request")), (501, (400, "invalid_request"))]
)
async def test_a_call_that_the_models_server_has_not_is_the_callers_mistake(
    folder: Path, http: httpx.AsyncClient, status: int, told: tuple[int, str]
) -> None:
    """Embeddings of a model for chats, as llama.cpp refuses them with 501: anybody could have spoilt the share of failures
    that the node announces, for nothing."""

    async def handle(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"data": [{"id": "m", "context_length": 4096}]})
        return web.json_response({"error": {"message": "This server does not support embeddings"}}, status=status)

    async with (
        handled_by(handle) as url,
        running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=f"{url}/v1", **PRICES) as running,
    ):
        key, text = await granted_key(running.node, 1_000_000)
        for path, more in (("embeddings", {"input": "hi"}), ("completions", {"prompt": "hi", "stream": True})):
            reply = await http.post(f"{running.url}/v1/{path}", json={"model": "m", **more}, headers=bearer(text))
            assert (reply.status_code, reply.json()["error"]["code"]) == told
            assert "not served at this endpoint" in reply.json()["error"]["message"]
        assert failures(running) is None
        chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        reply = await http.post(f"{running.url}/v1/chat/completions", json=chat, headers=bearer(text))
        if status == 404:
            assert reply.status_code == 502, "a server without chats has the wrong URL, or lost its model"
            assert failures(running) == 10_000
        assert (await running.node.ledger.account(key.account)).available_msat == 1_000_000


@pytest.mark.parametrize(
    "words",
    [
        "request (9031 tokens) exceeds the available context size (2048 tokens), try increasing it",  # llama.cpp
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 9031 tokens.",  # OpenAI
        "prompt is too long: 9031 tokens > 4096 maximum",  # Anthropic
        "The input token count (9031) exceeds the maximum number of tokens allowed (4096).",  # Google
    ],
)
async def test_a_prompt_that_is_too_long_has_openais_code(folder: Path, http: httpx.AsyncClient, words: str) -> None:
    """By which programs know that they have to shorten it."""

    async def handle(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"data": [{"id": "m", "context_length": 4096}]})
        return web.json_response({"error": {"message": words}}, status=400)

    async with (
        handled_by(handle) as url,
        running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=f"{url}/v1", **PRICES) as running,
    ):
        _, text = await granted_key(running.node, 1_000_000)
        chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        reply = await http.post(f"{running.url}/v1/chat/completions", json=chat, headers=bearer(text))
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (400, "context_length_exceeded")
        assert words in error["message"]
