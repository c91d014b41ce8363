"""A real model behind other endpoints than chat: what it reports is what is charged."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from relays.pricing import cost
from tests.conftest import DEAD_MINT
from tests.node.harness import MODEL, Running, bearer, granted_key, receipt_of, running_node

GRANT_MSAT = 1_000_000
ASK = [{"role": "user", "content": "Name a sea."}]
TOOL = {"name": "sea", "description": "Look a sea up", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
async def node(folder: Path, model_url: str) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url) as running:
        yield running


async def ask(node: Running, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> tuple[httpx.Response, Any]:
    """The reply and its receipt, which says what was charged."""
    key, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1{path}", json={"model": MODEL, **body}, headers=bearer(text), timeout=60)
    assert reply.status_code == 200, reply.text
    receipt = receipt_of(reply)
    assert receipt.cost_msat == cost(receipt.usage, receipt.price)
    assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT - receipt.cost_msat
    return reply, receipt


@pytest.mark.parametrize("stream", [False, True])
async def test_completions(node: Running, http: httpx.AsyncClient, stream: bool) -> None:
    body = {"prompt": "The Baltic is a", "max_tokens": 8, "stream": stream}
    _, receipt = await ask(node, http, "/completions", body)
    assert receipt.metered == "upstream"
    assert 0 < receipt.usage.completion_tokens <= 8
    assert 3 < receipt.usage.prompt_tokens < 20


async def test_messages_are_translated(node: Running, http: httpx.AsyncClient) -> None:
    reply, receipt = await ask(node, http, "/messages", {"messages": ASK, "max_tokens": 12, "system": "Be brief."})
    answer = reply.json()
    assert (answer["type"], answer["role"]) == ("message", "assistant")
    assert answer["content"][0]["text"]
    assert answer["stop_reason"] in ("end_turn", "max_tokens")
    usage = answer["usage"]
    read = usage["input_tokens"] + (usage.get("cache_read_input_tokens") or 0)
    assert (read, usage["output_tokens"]) == (receipt.usage.prompt_tokens, receipt.usage.completion_tokens)
    assert usage["cost"]["total_msats"] == receipt.cost_msat


async def test_streamed_messages_are_translated(node: Running, http: httpx.AsyncClient) -> None:
    body = {"messages": ASK, "max_tokens": 12, "stream": True, "tools": [TOOL]}
    reply, receipt = await ask(node, http, "/messages", body)
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") > 0
    assert events[-2]["usage"]["output_tokens"] == receipt.usage.completion_tokens
    assert (receipt.metered, receipt.outcome) == ("upstream", "complete")


async def test_tokens_are_counted_about_as_the_model_does(node: Running, http: httpx.AsyncClient) -> None:
    messages = [{"role": "user", "content": "Name every sea that you know of, and the rivers that run into it. " * 5}]
    reply, _ = await ask(node, http, "/messages/count_tokens", {"messages": messages})
    _, receipt = await ask(node, http, "/chat/completions", {"messages": messages, "max_tokens": 1})
    assert reply.json()["input_tokens"] == pytest.approx(receipt.usage.prompt_tokens, rel=0.3)


async def test_what_the_model_counts_and_what_we_count_is_about_the_same(
    node: Running, http: httpx.AsyncClient
) -> None:
    """An abort is charged by our count: near to the model's own."""
    from node.metering.tokens import count

    reply, receipt = await ask(node, http, "/chat/completions", {"messages": ASK, "max_tokens": 60, "seed": 1})
    text = reply.json()["choices"][0]["message"]["content"]
    assert count(text) == pytest.approx(receipt.usage.completion_tokens, rel=0.3, abs=3)


async def test_an_endpoint_that_the_server_has_not_is_free(node: Running, http: httpx.AsyncClient) -> None:
    key, text = await granted_key(node.node, GRANT_MSAT)
    body = {"model": MODEL, "query": "a", "documents": ["b"]}
    reply = await http.post(f"{node.url}/v1/rerank", json=body, headers=bearer(text), timeout=60)
    assert reply.status_code == 400
    assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT
