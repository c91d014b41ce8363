"""The paid request against a real model: charged for what was served, to the msat, and for nothing else."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.localnet.model import start_model, wait_model
from node.localnet.process import free_port
from relays.event import parse_event
from relays.pricing import ModelPrice, Usage, cost
from relays.receipt import SSE_PREFIX, decode
from tests.conftest import DEAD_MINT
from tests.node.harness import (
    HELLO,
    Running,
    bearer,
    granted_key,
    receipt_event,
    receipt_of,
    running_node,
    streamed_receipt,
)

PRICE = ModelPrice(2_000_000, 8_000_000, 0)
GRANT_MSAT = 1_000_000
LONG: dict[str, Any] = {**HELLO, "max_tokens": 400, "messages": [{"role": "user", "content": "Tell a long story."}]}


@pytest.fixture
async def node(folder: Path, model_url: str) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url) as running:
        yield running


async def granted(node: Running, amount_msat: int = GRANT_MSAT) -> tuple[int, dict[str, str]]:
    key, text = await granted_key(node.node, amount_msat)
    return key.account, bearer(text)


async def settled(node: Running, account: int) -> int:
    """The balance once nothing is held any more."""
    for _ in range(200):
        state = await node.node.ledger.account(account)
        if state.held_msat == 0:
            await node.node.ledger.audit()
            return state.available_msat
        await asyncio.sleep(0.05)
    raise AssertionError("a hold was left")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_several_answers_are_charged_for_all(node: Running, http: httpx.AsyncClient, stream: bool) -> None:
    """llama.cpp reports what it used for the first of them: two cost as much as one."""
    account, key = await granted(node)
    asked = {
        **LONG,
        "max_tokens": 60,
        "n": 2,
        "temperature": 0,
        "stream": stream,
        "stream_options": {"include_usage": True},
    }
    reply = await http.post(f"{node.url}/v1/chat/completions", json=asked, headers=key)
    receipt = receipt_of(reply)
    assert 90 < receipt.usage.completion_tokens <= 120, "60 of each"
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    told = (events[-1] if stream else reply.json())["usage"]
    assert told["completion_tokens"] == receipt.usage.completion_tokens
    assert told["cost"]["total_msats"] == receipt.cost_msat == cost(receipt.usage, PRICE)
    assert await settled(node, account) == GRANT_MSAT - receipt.cost_msat


async def test_a_whole_answer_is_charged_by_its_usage(node: Running, http: httpx.AsyncClient) -> None:
    account, key = await granted(node)
    reply = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)
    assert reply.status_code == 200
    usage = reply.json()["usage"]
    due = cost(Usage(usage["prompt_tokens"], usage["completion_tokens"]), PRICE)
    event = receipt_event(reply)
    receipt = decode(event)
    assert event.pubkey == node.node.signer.pubkey
    assert receipt.cost_msat == due == int(reply.headers["x-satroute-cost-msat"])
    assert receipt.balance_msat == GRANT_MSAT - due == int(reply.headers["x-satroute-balance-msat"])
    assert await settled(node, account) == GRANT_MSAT - due
    request_id = reply.headers["x-satroute-request-id"]
    kept = (await http.get(f"{node.url}/v1/receipts/{request_id}", headers=key)).json()
    assert decode(parse_event(kept["event"])) == receipt
    _, stranger = await granted(node)
    assert (await http.get(f"{node.url}/v1/receipts/{request_id}", headers=stranger)).status_code == 404


async def test_a_stream_is_charged_by_its_usage_which_is_hidden_unless_asked_for(
    node: Running, http: httpx.AsyncClient
) -> None:
    account, key = await granted(node)
    balance = GRANT_MSAT
    for asked in (False, True):
        body = {**HELLO, "stream": True} | ({"stream_options": {"include_usage": True}} if asked else {})
        reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=key)
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        usages = [chunk["usage"] for event in events[:-1] if (chunk := json.loads(event)).get("usage")]
        assert len(usages) == asked
        receipt = receipt_of(reply)
        assert receipt.cost_msat == cost(receipt.usage, PRICE)
        assert (receipt.metered, receipt.outcome) == ("upstream", "complete")
        balance -= receipt.cost_msat
        assert receipt.balance_msat == balance == await settled(node, account)
        assert reply.text.index(SSE_PREFIX) < reply.text.index("[DONE]")


async def test_a_caller_who_leaves_pays_for_what_was_streamed(node: Running, http: httpx.AsyncClient) -> None:
    account, key = await granted(node)
    chunks = 0
    async with http.stream(
        "POST", f"{node.url}/v1/chat/completions", json={**LONG, "stream": True}, headers=key
    ) as reply:
        request_id = reply.headers["x-satroute-request-id"]
        async for line in reply.aiter_lines():
            chunks += line.startswith("data: ")
            if chunks == 10:
                break
    left = await settled(node, account)
    posted = await node.node.ledger.receipt(request_id, account)
    assert posted is not None
    assert (posted.receipt.outcome, posted.receipt.metered) == ("aborted", "counted")
    assert posted.receipt.usage.completion_tokens >= 5
    assert 0 < GRANT_MSAT - left == posted.receipt.cost_msat < posted.receipt.hold_msat


async def test_a_caller_who_leaves_before_a_whole_answer_pays_for_it(node: Running, http: httpx.AsyncClient) -> None:
    """What is not streamed is made to its end whoever waits for it, and its upstream is paid."""
    account, key = await granted(node)
    with pytest.raises(httpx.ReadTimeout):
        await http.post(
            f"{node.url}/v1/chat/completions",
            json={**LONG, "max_tokens": 100, "temperature": 0},
            headers=key,
            timeout=0.1,
        )
    assert 0 < await settled(node, account) < GRANT_MSAT


async def test_an_unreachable_upstream_costs_nothing(folder: Path, model_url: str, http: httpx.AsyncClient) -> None:
    port = free_port()
    model, url = start_model(folder / "model", port=port)
    try:
        wait_model(model, url)
        async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=url) as node:
            account, key = await granted(node)
            model.kill()
            for stream in (False, True):
                reply = await http.post(
                    f"{node.url}/v1/chat/completions", json={**HELLO, "stream": stream}, headers=key
                )
                assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_unavailable")
            assert await settled(node, account) == GRANT_MSAT
    finally:
        model.stop()


async def test_an_upstream_that_dies_in_a_stream_is_charged_for_what_came(
    folder: Path, http: httpx.AsyncClient
) -> None:
    model, url = start_model(folder / "model", port=free_port())
    try:
        wait_model(model, url)
        async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=url) as node:
            account, key = await granted(node)
            lines = []
            async with http.stream(
                "POST", f"{node.url}/v1/chat/completions", json={**LONG, "stream": True}, headers=key
            ) as reply:
                async for line in reply.aiter_lines():
                    lines.append(line)
                    if len(lines) == 20:
                        model.kill()
            text = "\n".join(lines)
            assert '"upstream_unavailable"' in text
            assert "[DONE]" not in text
            event = streamed_receipt(text)
            assert event is not None
            receipt = decode(event)
            assert (receipt.outcome, receipt.metered) == ("interrupted", "counted")
            assert 0 < receipt.cost_msat < receipt.hold_msat
            assert await settled(node, account) == GRANT_MSAT - receipt.cost_msat
    finally:
        model.stop()


async def test_too_little_is_402_with_what_is_missing_and_how_to_ask_for_less(
    node: Running, http: httpx.AsyncClient
) -> None:
    account, key = await granted(node, 100)
    reply = await http.post(f"{node.url}/v1/chat/completions", json=LONG, headers=key)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (402, "insufficient_balance", "insufficient_quota")
    assert error["amount_required_msat"] > error["available_msat"] == 100
    assert "max_tokens" in error["message"]
    assert await settled(node, account) == 100


async def test_an_empty_balance_is_402(node: Running, http: httpx.AsyncClient) -> None:
    _, key = await granted(node, 0)
    assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)).status_code == 402


async def test_sixty_four_at_once_with_money_for_ten_serve_ten_at_most(node: Running, http: httpx.AsyncClient) -> None:
    tiny = {**HELLO, "max_tokens": 1}
    _, probe = await granted(node)
    first = await http.post(f"{node.url}/v1/chat/completions", json=tiny, headers=probe)
    hold_msat = receipt_of(first).hold_msat
    account, key = await granted(node, hold_msat * 10)
    replies = await asyncio.gather(
        *(http.post(f"{node.url}/v1/chat/completions", json=tiny, headers=key) for _ in range(64))
    )
    served = [reply for reply in replies if reply.status_code == 200]
    assert {reply.status_code for reply in replies} == {200, 402}
    charged = sum(int(reply.headers["x-satroute-cost-msat"]) for reply in served)
    assert await settled(node, account) == hold_msat * 10 - charged >= 0


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 402, "payment_required"),
        ({"Authorization": ""}, 402, "payment_required"),
        ({"Authorization": "Bearer"}, 401, "missing_credential"),
        ({"Authorization": "Basic abc"}, 401, "missing_credential"),
        (bearer("sk-wrong"), 401, "unknown_credential"),
        (bearer("cashuBwrong"), 400, "unreadable_token"),
    ],
)
async def test_wrong_credentials(
    node: Running, http: httpx.AsyncClient, headers: dict[str, str], status: int, code: str
) -> None:
    reply = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert reply.headers["x-satroute-request-id"] == reply.json()["request_id"]


async def test_a_revoked_key_is_403(node: Running, http: httpx.AsyncClient) -> None:
    key, text = await granted_key(node.node, GRANT_MSAT)
    await node.node.ledger.revoke_key(key.id)
    assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(text))).status_code == 403


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"", 400), (b"[]", 400), (b'{"model":"gpt-9","messages":[{"role":"user"}]}', 404)],
)
async def test_bad_bodies(node: Running, http: httpx.AsyncClient, content: bytes, status: int) -> None:
    _, key = await granted(node)
    reply = await http.post(f"{node.url}/v1/chat/completions", content=content, headers=key)
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


async def test_ten_gigabytes_are_refused_at_the_header(node: Running) -> None:
    host, port = node.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10737418240\r\n\r\n")
    await writer.drain()
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v1/chat/completions/", 405),
        ("GET", "/v1/chat/completions/more", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/files", 404),
        ("POST", "/v1/../admin", 404),
        ("DELETE", "/v1/balance", 405),
        ("GET", "/v1/receipts/none", 401),
        ("GET", "/v1/models/none", 404),
    ],
)
async def test_other_paths_are_never_forwarded(
    node: Running, http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    reply = await http.request(method, f"{node.url}{path}")
    assert reply.status_code == status
    assert set(reply.json()["error"]) >= {"message", "type", "code"}
    if status == 405:
        assert reply.headers["allow"]
        assert reply.json()["error"]["message"] == f"use {reply.headers['allow']}"


async def test_a_request_that_is_packed_is_told_so(node: Running, http: httpx.AsyncClient) -> None:
    """It was told that it is no JSON."""
    _, key = await granted(node)
    packed = gzip.compress(json.dumps(HELLO).encode())
    for coding, status in (("gzip", 415), ("identity", 400)):
        headers = {**key, "content-encoding": coding}
        reply = await http.post(f"{node.url}/v1/chat/completions", content=packed, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, "invalid_request")
        assert ("Content-Encoding" in reply.json()["error"]["message"]) == (status == 415)


async def test_what_anyone_may_know(node: Running, http: httpx.AsyncClient) -> None:
    info = (await http.get(f"{node.url}/v1/info")).json()
    assert set(info) >= {"name", "description", "version", "npub", "mints", "http_url", "onion_url"}
    assert info["npub"] == node.node.signer.npub
    models = (await http.get(f"{node.url}/v1/models")).json()
    assert models == (await http.get(f"{node.url}/models")).json()
    assert [model["id"] for model in models["data"]] == [HELLO["model"]]
    assert (await http.get(f"{node.url}/v1/models/{HELLO['model']}")).json() == models["data"][0]
    assert (await http.get(f"{node.url}/health")).json() == {"status": "ok"}
