"""An upstream that fails after its head and before its first word has served nothing: the next one serves, at no cost but
its own, and nobody's credential goes anywhere else."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from relays.receipt import Receipt
from tests.conftest import DEAD_MINT
from tests.node.harness import Running, bearer, granted_key, receipt_of, running_node
from tests.node.shopful import Handler, Shopful, handled_by, running_shopful, streamed

MODEL = "shared"
TEXT = [{"role": "user", "content": "What is two and two?"}]
CHAT = {"model": MODEL, "max_tokens": 50, "messages": TEXT}
RESPONSES = {"model": MODEL, "max_output_tokens": 50, "input": "What is two and two?"}
GRANT_MSAT = 10_000_000
SOON_S, LONG_S = 45, 100
"""Long after the timeouts that the tests set, long before those that they leave to the node here."""


@asynccontextmanager
async def node_with(folder: Path, first: str, **settings: Any) -> AsyncIterator[tuple[Running, Shopful]]:
    """A node whose cheap upstream is at `first`; a dear one is well."""
    async with running_shopful(MODEL) as (dear, dear_url):
        blocks = [
            f'[[upstream]]\nname = "{name}"\nbase_url = "{url}"\napi_key = "key of {name}"\nmarkup = {markup}\n'
            'native = ["messages"]\n'
            for name, url, markup in (("cheap", first, 1.0), ("dear", dear_url, 3.0))
        ]
        (folder / "upstreams.toml").write_text("\n".join(blocks))
        entry = {"id": MODEL, "context_length": 4096, "pricing": {"prompt": "0.000001", "completion": "0.000002"}}
        (folder / "models.json").write_text(json.dumps([entry]))
        chosen = {"upstreams_path": folder / "upstreams.toml", "models_path": folder / "models.json", **settings}
        for name in ("connect", "answer", "first_token", "idle"):
            chosen.setdefault(f"upstream_{name}_timeout_s", LONG_S)
        outright = dict.fromkeys(("fixed_per_1k_input_tokens", "fixed_per_1k_output_tokens"))
        async with running_node(folder, cashu_mints=DEAD_MINT, fixed_btc_usd="100000", **outright, **chosen) as node:
            yield node, dear


@asynccontextmanager
async def cheap(handle: Handler) -> AsyncIterator[str]:
    """The URL of a server whose answers to calls are `handle`'s."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": [{"id": MODEL}]})
        return await handle(request)

    async with handled_by(answer) as url:
        yield f"{url}/v1"


def heard(request: web.Request) -> bool:
    """Whether the node is still there to listen."""
    return request.transport is not None and not request.transport.is_closing()


async def served_by_the_dear(
    node: Running, dear: Shopful, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> Receipt:
    """The receipt of an answer that the dear upstream gave, within moments."""
    key, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1{path}", json=body, headers=bearer(text), timeout=SOON_S)
    assert reply.status_code == 200, reply.text
    assert "four" in reply.text
    assert "the cheap one" not in reply.text
    assert len(dear.asked) == 1
    assert dear.headers[0]["Authorization"] == "Bearer key of dear"
    receipt = receipt_of(reply)
    by_dear = next(source.price for source in node.node.catalogue.get(MODEL).sources if source.upstream == "dear")
    assert (receipt.price, receipt.outcome) == (by_dear, "complete")
    assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT - receipt.cost_msat
    return receipt


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(folder: Path, http: httpx.AsyncClient, status: int, stream: bool) -> None:
    """The place it names would get the operator's key and the caller's words."""
    stolen: list[web.Request] = []

    async def steal(request: web.Request) -> web.StreamResponse:
        stolen.append(request)
        return web.json_response({"data": []})

    async with handled_by(steal) as trap:

        async def redirect(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": f"{trap}{request.path}"})

        async with handled_by(redirect) as url, node_with(folder, f"{url}/v1") as (node, dear):
            await served_by_the_dear(node, dear, http, "/chat/completions", {**CHAT, "stream": stream})
    assert stolen == []


async def test_what_a_server_sets_for_one_caller_is_not_sent_for_the_next(
    folder: Path, http: httpx.AsyncClient
) -> None:
    """Cookies would tell it which requests come through one node."""
    sent: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        sent.append(request.headers.get("Cookie", ""))
        answer = {"choices": [{"message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}]}
        reply = web.json_response({**answer, "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
        reply.set_cookie("who", "a caller")
        return reply

    async with cheap(handle) as url, node_with(folder, url.replace("127.0.0.1", "localhost")) as (node, _):
        _, text = await granted_key(node.node, GRANT_MSAT)
        for _ in range(2):
            reply = await http.post(f"{node.url}/v1/chat/completions", json=CHAT, headers=bearer(text))
            assert reply.status_code == 200, reply.text
            assert "set-cookie" not in reply.headers
    assert sent == ["", ""]


@contextmanager
def deaf() -> Iterator[str]:
    """The URL of a host that takes no connection: its queue is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.settimeout(0)
            each.connect_ex(listening.getsockname())
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            for each in waiting:
                each.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_host_that_takes_no_connection_is_given_up_soon(
    folder: Path, http: httpx.AsyncClient, stream: bool
) -> None:
    """Nor is its list waited for as the node starts."""
    with deaf() as url:
        async with asyncio.timeout(SOON_S), node_with(folder, url, upstream_connect_timeout_s=0.3) as (node, dear):
            await served_by_the_dear(node, dear, http, "/chat/completions", {**CHAT, "stream": stream})


@pytest.mark.parametrize("says", ["nothing at all", "a head", "comments"])
async def test_a_stream_that_does_not_begin_is_given_up_soon(folder: Path, http: httpx.AsyncClient, says: str) -> None:
    """However much it says that is no word of an answer."""

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if says != "nothing at all":
            await response.prepare(request)
        while heard(request):
            if says == "comments":
                await response.write(b": the cheap one is working\n\n")
            await asyncio.sleep(0.05)
        return response

    async with (
        cheap(silent) as url,
        node_with(folder, url, upstream_first_token_timeout_s=0.5, upstream_idle_timeout_s=LONG_S) as (node, dear),
    ):
        await served_by_the_dear(node, dear, http, "/chat/completions", {**CHAT, "stream": True})


def silent_beginning(path: str) -> list[dict[str, Any]]:
    """What a stream of that endpoint says before its answer."""
    if path == "/messages":
        message = {"id": "msg_0", "type": "message", "role": "assistant", "content": [], "model": "the cheap one"}
        return [{"type": "message_start", "message": {**message, "usage": {"input_tokens": 999}}}, {"type": "ping"}]
    response = {"id": "resp_0", "object": "response", "status": "in_progress", "output": [], "model": "the cheap one"}
    kinds = ("response.created", "response.queued", "response.in_progress")
    return [{"type": kind, "response": response} for kind in kinds]


def failure(path: str) -> dict[str, Any]:
    if path == "/messages":
        return {"type": "error", "error": {"type": "overloaded_error", "message": "the cheap one is busy"}}
    error = {"code": "server_error", "message": "the cheap one failed"}
    return {"type": "response.failed", "response": {"id": "resp_0", "status": "failed", "error": error}}


@pytest.mark.parametrize("ends", ["with an error", "at once", "cut off", "never"])
@pytest.mark.parametrize(("path", "body"), [("/messages", CHAT), ("/responses", RESPONSES)])
async def test_a_stream_that_fails_after_its_silent_beginning_is_followed_by_the_next(
    folder: Path, http: httpx.AsyncClient, path: str, body: dict[str, Any], ends: str
) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        events = silent_beginning(path) + ([failure(path)] if ends == "with an error" else [])
        if ends != "never":
            return await streamed(request, events, breaks=ends == "cut off")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        while heard(request):
            await asyncio.sleep(0.05)
        return response

    async with cheap(fail) as url, node_with(folder, url, upstream_first_token_timeout_s=0.5) as (node, dear):
        receipt = await served_by_the_dear(node, dear, http, path, {**body, "stream": True})
    assert receipt.usage.prompt_tokens == 20, "the first one's report is forgotten"
