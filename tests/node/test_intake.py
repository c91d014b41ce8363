"""Requests of strangers cost the node little before anybody pays: in bytes, in values, and in the time of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from litestar.types import HTTPRequestEvent

from node.api.intake import ALWAYS_BYTES, LARGEST_AT_ONCE, Intake
from node.asks import MAX_VALUES
from node.errors import Refusal
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, MODEL, Running, running_node
from tests.node.hostile import Hostile

JSON = {"content-type": "application/json"}


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/quote"])
async def test_a_request_of_very_many_values_is_not_looked_through(
    node: Running, http: httpx.AsyncClient, path: str
) -> None:
    parts = b"{}," * MAX_VALUES + b"{}"
    read = b'"input":[%s]' if "embeddings" in path else b'"messages":[{"role":"user","content":[%s]}]'
    body = b'{"model":"%s",%s}' % (MODEL.encode(), read % parts)
    reply = await http.post(node.url + path, content=body, headers=JSON)
    assert reply.status_code == 413, reply.text
    assert str(MAX_VALUES) in reply.json()["error"]["message"]


async def test_as_many_tokens_as_are_embedded_at_once_elsewhere_are_here(
    node: Running, http: httpx.AsyncClient
) -> None:
    texts = [[7] * 1000 for _ in range(300)]
    reply = await http.post(f"{node.url}/v1/quote?endpoint=embeddings", json={"model": MODEL, "input": texts})
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("path", ["/v1/balance/create", "/lightning/invoice"])
async def test_what_is_free_is_short(node: Running, http: httpx.AsyncClient, path: str) -> None:
    reply = await http.post(node.url + path, content=b'{"x":[' + b"[]," * 200_000 + b"[]]}", headers=JSON)
    assert reply.status_code == 413, reply.text
    assert reply.json()["error"]["message"]


async def test_a_quote_is_given_for_whatever_may_be_asked(node: Running, http: httpx.AsyncClient) -> None:
    body = {**HELLO, "messages": [{"role": "user", "content": "a" * 1_000_000}]}
    assert (await http.post(f"{node.url}/v1/quote", json=body)).status_code == 200


async def test_there_is_room_for_some_large_requests_and_always_for_small_ones() -> None:
    intake, large = Intake(1_000_000), b"x" * 1_000_000
    pieces = {"large": large, "small": large[:ALWAYS_BYTES]}

    async def read(what: str, done: asyncio.Event) -> None:
        async def receive() -> HTTPRequestEvent:
            return {"type": "http.request", "body": pieces[what], "more_body": False}

        with intake.reading(receive) as incoming:
            await incoming()
            await done.wait()

    done, some = asyncio.Event(), LARGEST_AT_ONCE + 1
    async with asyncio.TaskGroup() as group:
        for _ in range(some):  # each leaves what always passes
            group.create_task(read("large", done))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="large requests") as refused:
            await read("large", done)
        assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "2")
        group.create_task(read("small", done))
        await asyncio.sleep(0)
        done.set()
    await read("large", done)


async def test_what_was_refused_for_want_of_room_takes_none(node: Running, http: httpx.AsyncClient) -> None:
    body = msgspec.json.encode({**HELLO, "messages": [{"role": "user", "content": "a" * 5_000_000}]})
    for _ in range(3 * LARGEST_AT_ONCE):
        assert (await http.post(f"{node.url}/v1/chat/completions", content=body, headers=JSON)).status_code == 402
