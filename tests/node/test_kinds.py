"""Each kind of upstream is called as its documentation says, with its own credential, and nothing is fetched by the node."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from node.config import Settings, load_settings
from node.errors import BadSettings
from node.upstream import kinds
from node.upstream.spec import UpstreamSpec
from node.upstream.specs import checked, read_specs
from relays.pricing import Usage
from relays.receipt import Receipt
from tests.conftest import DEAD_MINT
from tests.node.harness import PRICES, Running, bearer, granted_key, receipt_of, running_node
from tests.node.shopful import CHAT_USAGE, handled_by, running_shopful
from tests.node.toolful import running_toolful

GRANT_MSAT = 1_000_000
ASK = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "What is two and two?"}]}
GEMINI_USAGE = {
    "promptTokenCount": 20,
    "candidatesTokenCount": 4,
    "thoughtsTokenCount": 2,
    "totalTokenCount": 26,
    "cachedContentTokenCount": 8,
}
GEMINI = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "Four."}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": GEMINI_USAGE,
    "modelVersion": "m",
    "responseId": "r1",
}


class Recorder:
    """Answers by path, and keeps how it was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, str], Any]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.path_qs, dict(request.headers), body))
        answer = next((made for path, made in self.answers.items() if request.path_qs.startswith(path)), None)
        if answer is None:
            return web.json_response({"error": {"message": "unknown path"}}, status=404)
        if isinstance(answer, str):
            return web.Response(text=answer, content_type="application/json")
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="text/event-stream")
        return web.json_response(answer)


@asynccontextmanager
async def recording(answers: dict[str, Any]) -> AsyncIterator[tuple[Recorder, str]]:
    server = Recorder(answers)
    async with handled_by(server.handle) as url:
        yield server, url


@asynccontextmanager
async def node_of(folder: Path, spec: str) -> AsyncIterator[Running]:
    (folder / "upstreams.toml").write_text(f'[[upstream]]\nname = "one"\n{spec}\n')
    async with running_node(folder, cashu_mints=DEAD_MINT, upstreams_path=folder / "upstreams.toml", **PRICES) as node:
        yield node


async def ask(
    node: Running, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> tuple[httpx.Response, Receipt]:
    key, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1{path}", json=body, headers=bearer(text))
    assert reply.status_code == 200, reply.text
    receipt = receipt_of(reply)
    assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT - receipt.cost_msat
    return reply, receipt


CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Four."}, "finish_reason": "stop"}],
    "usage": CHAT_USAGE,
}


async def test_azure_by_deployment(folder: Path, http: httpx.AsyncClient) -> None:
    path = "/openai/deployments/m/chat/completions?api-version=2024-10-21"
    async with recording({path: CHAT}) as (server, url):
        spec = f'kind = "azure"\nbase_url = "{url}"\napi_key = "secret"\napi_version = "2024-10-21"\nmodels = ["m"]'
        async with node_of(folder, spec) as node:
            await ask(node, http, "/chat/completions", ASK)
    (asked,) = server.asked
    assert asked[0] == path
    assert asked[1]["api-key"] == "secret"
    assert "Authorization" not in asked[1]


async def test_azure_in_openais_form(folder: Path, http: httpx.AsyncClient) -> None:
    async with recording({"/openai/v1/chat/completions": CHAT}) as (server, url):
        spec = f'kind = "azure"\nbase_url = "{url}/openai/v1"\napi_key = "secret"\nmodels = ["m"]'
        async with node_of(folder, spec) as node:
            await ask(node, http, "/chat/completions", ASK)
    assert server.asked[0][1]["api-key"] == "secret"


MODELS = {"models": [{"name": "models/m", "inputTokenLimit": 4096, "outputTokenLimit": 512, "displayName": "M"}]}


@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses"])
async def test_gemini(folder: Path, http: httpx.AsyncClient, path: str) -> None:
    """Chat is translated, other languages by way of it; thoughts and what was cached are charged as such."""
    question = {"model": "m", "max_output_tokens": 50, "input": "What is two and two?"} if "resp" in path else ASK
    events = b"data: " + json.dumps(GEMINI).encode() + b"\r\n\r\n"
    answers = {
        "/v1beta/models?": MODELS,
        "/v1beta/models/m:generateContent": GEMINI,
        "/v1beta/models/m:streamGenerateContent?alt=sse": events,
    }
    async with recording(answers) as (server, url):
        async with node_of(folder, f'kind = "gemini"\nbase_url = "{url}/v1beta"\napi_key = "secret"') as node:
            assert node.node.catalogue.get("m").limits.context_length == 4096
            for stream in (False, True):
                reply, receipt = await ask(node, http, path, {**question, "stream": stream})
                assert receipt.usage == Usage(20, 6, cached_tokens=8, reasoning_tokens=2)
                assert (receipt.metered, receipt.outcome) == ("upstream", "complete")
                assert "Four." in reply.text
        assert [asked[0].partition(":")[2] for asked in server.asked[-2:]] == [
            "generateContent",
            "streamGenerateContent?alt=sse",
        ]
        assert all(asked[1]["x-goog-api-key"] == "secret" for asked in server.asked)
        assert server.asked[-1][2]["contents"] == [{"role": "user", "parts": [{"text": "What is two and two?"}]}]


async def test_geminis_pictures_reach_who_pays_for_them(folder: Path, http: httpx.AsyncClient) -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "eA=="}}
    content = {"role": "model", "parts": [{"text": "Here:"}, picture]}
    drawn = {**GEMINI, "candidates": [{"content": content, "finishReason": "STOP"}]}
    answers = {
        "/v1beta/models?": {"models": [{**MODELS["models"][0], "name": "models/m-image"}]},
        "/v1beta/models/m-image:generateContent": drawn,
        "/v1beta/models/m-image:streamGenerateContent?alt=sse": b"data: " + json.dumps(drawn).encode() + b"\r\n\r\n",
    }
    spec = 'kind = "gemini"\napi_key = "secret"\nbase_url = '
    async with recording(answers) as (_, url), node_of(folder, f'{spec}"{url}/v1beta"') as node:
        asked = {**ASK, "model": "m-image"}
        for stream in (False, True):
            reply, receipt = await ask(node, http, "/chat/completions", {**asked, "stream": stream})
            assert "data:image/png;base64,eA==" in reply.text
            assert (receipt.usage, receipt.metered) == (
                Usage(20, 6, cached_tokens=8, reasoning_tokens=2),
                "upstream",
            )
        key, text = await granted_key(node.node, GRANT_MSAT)
        reply = await http.post(f"{node.url}/v1/messages", json=asked, headers=bearer(text))
        assert reply.status_code == 400, "Anthropic's answers have no place for them"
        assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropic_natively_and_from_chat(folder: Path, http: httpx.AsyncClient, stream: bool) -> None:
    async with running_shopful("m") as (server, url):
        async with node_of(folder, f'kind = "anthropic"\nbase_url = "{url}"\napi_key = "secret"') as node:
            for path in ("/messages", "/chat/completions"):
                reply, receipt = await ask(node, http, path, {**ASK, "stream": stream})
                assert receipt.usage == Usage(20, 6, cached_tokens=5, cache_write_tokens=3)
                assert (receipt.metered, receipt.outcome) == ("upstream", "complete")
                assert "four" in reply.text
        assert [path for path, _ in server.asked] == ["/messages", "/messages"]
        assert all(headers["x-api-key"] == "secret" for headers in server.headers)
        assert all(headers["anthropic-version"] == "2023-06-01" for headers in server.headers)
        assert server.asked[1][1]["max_tokens"] == 50


@pytest.mark.parametrize("levels", [150, 250, 3_000])
async def test_a_tools_input_that_nests_deeply_is_delivered_and_paid(
    folder: Path, http: httpx.AsyncClient, levels: int
) -> None:
    """Over 200 levels it was lost, and free, though the upstream had made it: a caller could have that paid."""
    given = '{"a b": ' + '[{"]": ' * (levels // 2) + '"\\"}"' + "}]" * (levels // 2) + "}"
    said = (
        '{"type":"message","content":[{"type":"text","text":"Look: "},{"type":"tool_use","id":"t1","name":"f","input":'
        + given
        + '}],"stop_reason":"tool_use","usage":{"input_tokens":31,"output_tokens":5}}'
    )
    async with (
        recording({"/models": {"data": [{"id": "m"}]}, "/messages": said}) as (_, url),
        node_of(folder, f'kind = "anthropic"\nbase_url = "{url}"\napi_key = "secret"') as node,
    ):
        reply, receipt = await ask(node, http, "/chat/completions", ASK)
        message = reply.json()["choices"][0]["message"]
        assert message["content"] == "Look: "
        called = message["tool_calls"][0]["function"]
        assert called["name"] == "f"
        assert called["arguments"].replace(" ", "") == given.replace(" ", "")
        assert (receipt.usage, receipt.metered) == (Usage(31, 5), "upstream")
        reply, receipt = await ask(node, http, "/responses", {"model": "m", "input": "Hi.", "max_output_tokens": 50})
        assert reply.json()["output"][-1]["arguments"].replace(" ", "") == given.replace(" ", "")
        assert receipt.usage == Usage(31, 5)
        reply, receipt = await ask(node, http, "/messages", ASK)
        assert given in reply.text
        assert (receipt.usage, receipt.metered) == (Usage(31, 5), "upstream")


async def test_a_translated_stream_that_breaks_off_is_charged_by_the_prompt_that_was_told(
    folder: Path, http: httpx.AsyncClient
) -> None:
    """Anthropic tells what it read at the beginning; OpenAI's stream has no place for that before its end."""
    async with (
        running_toolful("m") as (server, url),
        node_of(folder, f'kind = "anthropic"\nbase_url = "{url}"\napi_key = "secret"') as node,
    ):
        server.breaks = True
        _, receipt = await ask(node, http, "/chat/completions", {**ASK, "stream": True})
    assert receipt.outcome == "interrupted"
    read = {name: getattr(receipt.usage, name) for name in ("prompt_tokens", "cached_tokens", "cache_write_tokens")}
    assert read == {"prompt_tokens": 20, "cached_tokens": 5, "cache_write_tokens": 3}
    assert receipt.usage.completion_tokens > 0


async def test_an_endpoint_that_a_kind_has_not_is_400_and_free(folder: Path, http: httpx.AsyncClient) -> None:
    async with running_shopful("m") as (server, url):
        async with node_of(folder, f'kind = "anthropic"\nbase_url = "{url}"\napi_key = "secret"') as node:
            key, text = await granted_key(node.node, GRANT_MSAT)
            body = {"model": "m", "input": "two"}
            reply = await http.post(f"{node.url}/v1/embeddings", json=body, headers=bearer(text))
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")
            assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT
        assert server.asked == []


async def test_an_images_url_is_passed_on_and_never_fetched(folder: Path, http: httpx.AsyncClient) -> None:
    """Elsewhere, the node fetches it, from inside the operator's network."""
    models = {"data": [{"id": "m", "architecture": {"input_modalities": ["text", "image"]}}]}
    answers = {"/v1/models": models, "/v1/chat/completions": CHAT}
    async with recording({"/": {}}) as (trap, trap_url), recording(answers) as (server, url):
        async with node_of(folder, f'base_url = "{url}/v1"') as node:
            image = {"type": "image_url", "image_url": {"url": f"{trap_url}/secret.png", "detail": "high"}}
            messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
            extras = {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
                **{"logprobs": True, "top_logprobs": 3, "n": 2, "seed": 7, "tool_choice": "auto"},
            }
            body = {**ASK, "messages": messages, **extras}
            await ask(node, http, "/chat/completions", body)
        assert server.asked[-1][2] == body
        assert trap.asked == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "upstream"),
        ("[[upstream]]", "name"),
        ('[[upstream]]\nname = "a"', None),
        (
            '[[upstream]]\nname = "a"\nkind = "other"',
            "upstream a: kind 'other' is none of anthropic, azure, gemini, openai, satroute",
        ),
        ('[[upstream]]\nname = "a"\nbase_url = "localhost:80"', "base_url"),
        ('[[upstream]]\nname = "a"\nkind = "azure"', "base_url"),
        ('[[upstream]]\nname = "a"\napi_key_env = "SURELY_NOT_SET_ANYWHERE"', "SURELY_NOT_SET_ANYWHERE"),
        ('[[upstream]]\nname = "a"\napikey = "x"', "apikey"),
        ('[[upstream]]\nname = "a"\nmarkup = 0', "markup"),
        ('[[upstream]]\nname = "a"\n[[upstream]]\nname = "a"', "twice"),
        ("[[upstream", "cannot be read"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(folder: Path, text: str, problem: str | None) -> None:
    path = folder / "upstreams.toml"
    path.write_text(text)
    if problem is None:
        assert read_specs(path)[0].base_url == "https://api.openai.com/v1"
        return
    with pytest.raises(BadSettings, match=problem):
        read_specs(path)


async def test_a_new_kind_is_one_file(folder: Path, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of docs/upstreams.md: put beside the others it is known, served from and paid for."""
    page = Path(__file__).parents[2] / "docs" / "upstreams.md"
    (text,) = re.findall(r"```py\n(.*?)```", page.read_text(), re.DOTALL)
    (folder / "parrot.py").write_text(text)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(folder)])
    async with node_of(folder, 'kind = "parrot"\noptions = { word = "Hello!" }') as node:
        reply, receipt = await ask(node, http, "/chat/completions", {**ASK, "model": "parrot-1"})
        assert reply.json()["choices"][0]["message"]["content"] == "Hello!"
        assert (receipt.usage, receipt.metered) == (Usage(20, 1), "upstream")
    alone = {"upstream_base_url": "", "upstream_kind": "parrot", "cashu_mints": DEAD_MINT, **PRICES}
    assert load_settings(Settings, None, **alone).upstreams()[0].base_url == "https://parrot.example"


def test_a_key_is_not_shown() -> None:
    (spec,) = checked((UpstreamSpec(name="a", api_key="sk-secret"),))
    assert "sk-secret" not in f"{spec!r} {spec}"
    assert spec.api_key == "sk-secret"
