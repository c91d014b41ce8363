"""A server that does what none should: whatever it answers, no hold is left, nobody pays for nothing, no 500 without reason.

The hand-written server here misbehaves on purpose; the real one passes `test_chat.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from node.deposits import new_key
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, Running, bearer, granted_key, receipt_of, running_node
from tests.node.hostile import TEXT, Hostile
from tests.node.shopful import handled_by

GRANT_MSAT = 1_000_000
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":31,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
FINISH_AND_USAGE = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":31,"completion_tokens":5}}\n\n'
)
DEEP = b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as running:
        yield running


async def ask(node: Running, http: httpx.AsyncClient, **changes: Any) -> tuple[httpx.Response, int]:
    """The reply, and what it cost, once nothing is held any more and the books add up."""
    key, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1/chat/completions", json=HELLO | changes, headers=bearer(text))
    for _ in range(100):
        state = await node.node.ledger.account(key.account)
        if state.held_msat == 0:
            await node.node.audit()
            return reply, GRANT_MSAT - state.available_msat
        await asyncio.sleep(0.02)
    raise AssertionError("a hold was left")


def body(content: bytes = b"abcdefgh", usage: bytes = b'{"prompt_tokens":31,"completion_tokens":5}') -> bytes:
    return b'{"choices":[{"message":{"content":"' + content + b'"}}],"usage":' + usage + b"}"


@pytest.mark.parametrize(
    ("status", "headers", "chunks", "expected"),
    [
        (200, {}, [b'{"error":{"message":"out of money"}}'], 502),
        (200, {}, [b"<html>"], 502),
        (200, {}, [b""], 502),
        (200, {}, [b"[]"], 502),
        (200, {}, [b'{"choices":[]}'], 502),
        (200, {}, [b'{"choices":[{"message":{"content":""}}],"error":{"code":502}}'], 502),
        (200, {}, [DEEP], 502),
        (200, {}, [body()[:20], b"CUT"], 502),
        (400, {}, [b'{"error":{"message":"bad seed"}}'], 400),
        (400, {}, [b'{"error":{"message":"\xff"}}'], 400),
        (400, {}, [DEEP], 400),
        (400, {}, [b'{"error":{"message":"Your organization must be verified to stream this model."}}'], 502),
        (400, {}, [b'{"error":{"message":"this model is not available on your current plan"}}'], 502),
        (401, {}, [b'{"error":{"message":"wrong key sk-operators-own"}}'], 502),
        (403, {}, [b""], 502),
        (404, {}, [b""], 502),
        (302, {"Location": "http://127.0.0.1:9/"}, [b""], 502),
        (429, {"Retry-After": "7"}, [b""], 429),
        (429, {"Retry-After": "bald ü"}, [b""], 429),
        (500, {}, [b""], 502),
        (503, {}, [b"\xff"], 502),
    ],
)
async def test_what_is_no_answer_is_free_and_explained(
    node: Running,
    http: httpx.AsyncClient,
    hostile: tuple[Hostile, str],
    status: int,
    headers: dict[str, str],
    chunks: list[bytes],
    expected: int,
) -> None:
    for stream in (False, True):
        hostile[0].answer = (status, {"Content-Type": "application/json", **headers}, chunks)
        reply, charged = await ask(node, http, stream=stream)
        assert (reply.status_code, charged) == (expected, 0)
        assert reply.json()["error"]["message"]
        assert "sk-operators-own" not in reply.text
        if expected == 429:
            assert reply.headers["retry-after"] in ("7", "5")


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [DONE],
        [b": PROCESSING\n\n", b"CUT"],
        [b': "choices"\n\n', b"CUT"],
        [b'data: {"choices":[]}\n\n', b"CUT"],
        [b'data: {"error":{"code":502},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}\n\n', DONE],
        [b": PROCESSING\n\n", b": PROCESSING\n\n"],
        [b'data: {"error":{"message":"overloaded"}}\n\n', DONE],
        [b"data: " + DEEP + b"\n\n"],
        [b"CUT"],
    ],
)
async def test_a_stream_that_says_nothing_is_free(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], chunks: list[bytes]
) -> None:
    hostile[0].answer = (200, {"Content-Type": "text/event-stream"}, chunks)
    reply, charged = await ask(node, http, stream=True)
    assert (reply.status_code, charged) == (502, 0)


FULL = 31 * 2 + 5 * 8
"""The reported usage at the node's price, in msat."""


@pytest.mark.parametrize(
    ("chunks", "outcome", "metered"),
    [
        ([b": PROCESSING\n\n", TEXT, USAGE, DONE], "complete", "upstream"),
        ([TEXT + TEXT + USAGE + DONE], "complete", "upstream"),
        ([TEXT, USAGE], "complete", "upstream"),
        ([TEXT.replace(b"\n\n", b"\r\n\r\n"), USAGE.replace(b"\n", b"\r\n"), DONE], "complete", "upstream"),
        ([TEXT, USAGE, USAGE, DONE], "complete", "upstream"),
        ([TEXT, DONE], "complete", "counted"),
        ([TEXT, b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', DONE], "complete", "counted"),
        ([TEXT, b"data: " + DEEP[:20_000] + b"\n\n", DONE], "complete", "counted"),
        ([TEXT, USAGE.replace(b"31", b"-31"), DONE], "complete", "counted"),
        ([TEXT, USAGE.replace(b":5", b":0"), DONE], "complete", "counted"),
        ([TEXT, USAGE.replace(b"31", b"31000000"), DONE], "complete", "upstream"),
        ([TEXT, b'data: {"error":{"message":"overloaded"}}\n\n'], "interrupted", "counted"),
        ([TEXT, b'data: {"error":{"code":502},"choices":[{"delta":{"content":""}}]}\n\n'], "interrupted", "counted"),
        ([b'data: {"choices":[{"delta":{"content":"x"}}],"error":null}\n\n', USAGE, DONE], "complete", "upstream"),
        ([TEXT, b"CUT"], "interrupted", "counted"),
    ],
)
async def test_a_stream_that_says_something_is_charged_once_and_at_most_the_hold(
    node: Running,
    http: httpx.AsyncClient,
    hostile: tuple[Hostile, str],
    chunks: list[bytes],
    outcome: str,
    metered: str,
) -> None:
    hostile[0].answer = (200, {"Content-Type": "text/event-stream"}, chunks)
    reply, charged = await ask(node, http, stream=True)
    assert reply.status_code == 200
    receipt = receipt_of(reply)
    assert (receipt.outcome, receipt.metered) == (outcome, metered)
    assert 0 < charged == receipt.cost_msat <= receipt.hold_msat
    if metered == "upstream":
        assert charged in (FULL, receipt.hold_msat)
    assert reply.text.endswith("data: [DONE]\n\n") == (outcome == "complete")


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"object":"error","message":"the credit of sk-operators-own is used up","type":"X","code":400}\n\n',
        b'event: error\ndata: {"message":"the credit of sk-operators-own is used up"}\n\n',
        b"event:error\r\ndata: the credit of sk-operators-own is used up\r\n\r\n",
    ],
    ids=["vllm", "named", "text"],
)
async def test_an_error_amid_a_stream_is_told_in_our_words_however_it_is_said(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], event: bytes
) -> None:
    hostile[0].answer = (200, {"Content-Type": "text/event-stream"}, [TEXT, event, DONE])
    reply, charged = await ask(node, http, stream=True)
    assert receipt_of(reply).outcome == "interrupted"
    assert 0 < charged < 100
    assert "operators-own" not in reply.text
    assert '"code":"upstream_unavailable"' in reply.text
    assert "[DONE]" not in reply.text


HALVES = rb"a\ud83d b\ude00 \ud83d\ude00 \\ud83d"
"""Of characters: JavaScript cuts texts anywhere. The last two are a whole one, and a backslash before a word."""
WHOLE = "a\ufffd b\ufffd \U0001f600 \\ud83d"


@pytest.mark.parametrize("path", ["/chat/completions", "/messages"])
async def test_half_a_character_loses_no_answer(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], path: str
) -> None:
    """It is paid for at the upstream."""
    key, text = await granted_key(node.node, GRANT_MSAT)
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [body(HALVES)])
    reply = await http.post(f"{node.url}/v1{path}", json=HELLO, headers=bearer(text))
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    said = answer["content"][0]["text"] if "content" in answer else answer["choices"][0]["message"]["content"]
    assert said == WHOLE
    hostile[0].answer = (
        200,
        {"Content-Type": "text/event-stream"},
        [TEXT.replace(b"abcd", HALVES), FINISH_AND_USAGE, DONE],
    )
    stream = await http.post(f"{node.url}/v1{path}", json={**HELLO, "stream": True}, headers=bearer(text))
    assert receipt_of(stream).outcome == "complete"
    assert (await node.node.ledger.account(key.account)).spent_msat == 2 * FULL


async def test_half_a_character_of_a_callers_is_asked_for_as_none(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [body()])
    _, text = await granted_key(node.node, GRANT_MSAT)
    raw = json.dumps(HELLO).encode().replace(b"Say hello.", HALVES)
    reply = await http.post(f"{node.url}/v1/chat/completions", content=raw, headers=bearer(text))
    assert reply.status_code == 200, reply.text
    assert hostile[0].asked[0]["messages"][0]["content"] == WHOLE


async def test_bytes_that_are_no_text_inside_an_answer_pass_and_are_charged_by_its_usage(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [body(b"\xff")])
    reply, charged = await ask(node, http)
    assert (reply.status_code, charged) == (200, FULL)
    assert reply.content.startswith(body(b"\xff")[:-2]), "what it cost is told after it"


@pytest.mark.parametrize("stream", [False, True])
async def test_no_more_is_written_than_is_held_where_nobody_tells_the_models_window(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str], stream: bool
) -> None:
    """OpenAI's own list does not: a caller who names no limit had answers of any length for what the usual window costs."""
    hostile[0].entry = {"context_length": None}
    hostile[0].answer = (200, {}, [body()])
    window = 8192
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as node:
        for many, most in ((1, window - 100), (window, 3 * window // 4)):  # in bytes it may be a window full
            text = [{"role": "user", "content": "a" * many}]
            await ask(node, http, max_tokens=None, messages=text, stream=stream)
            assert 4096 < hostile[0].asked[-1]["max_tokens"] <= most
        await ask(node, http, max_tokens=100, stream=stream)
        assert hostile[0].asked[-1]["max_tokens"] == 100


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_with_a_long_header_is_one(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], stream: bool
) -> None:
    """It is paid for at the upstream."""
    kind = "text/event-stream" if stream else "application/json"
    said = [TEXT, USAGE, DONE] if stream else [body()]
    hostile[0].answer = (200, {"Content-Type": kind, "Content-Security-Policy": "a" * 30_000}, said)
    reply, charged = await ask(node, http, stream=stream)
    assert (reply.status_code, charged) == (200, FULL)


@pytest.mark.parametrize("usage", [b"null", b"{}", b'{"prompt_tokens":-1,"completion_tokens":5}', b"7"])
async def test_an_answer_without_a_true_usage_is_neither_free_nor_the_hold(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], usage: bytes
) -> None:
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [body(usage=usage)])
    reply, charged = await ask(node, http)
    assert reply.status_code == 200
    assert 0 < charged < 100


async def test_fields_that_change_the_price_do_not_pass(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [body()])
    for field in ("n_predict", "models", "ignore_eos", "min_tokens", "service_tier", "plugins", "provider"):
        reply, charged = await ask(node, http, **{field: 1})
        assert (reply.status_code, charged) == (400, 0)
        assert field in reply.json()["error"]["message"]
    assert hostile[0].asked == []
    nothing = dict.fromkeys(("service_tier", "prediction", "audio", "extra_body"))  # as clients dump what was not set
    reply, charged = await ask(node, http, **nothing)
    assert (reply.status_code, charged) == (200, FULL), reply.text
    assert not nothing.keys() & hostile[0].asked.pop().keys()
    await ask(node, http, seed=7, temperature=0.5, tools=[{"type": "function", "function": {"name": "f"}}])
    assert hostile[0].asked[0]["tools"] == [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    "model",
    [
        {"top_provider": "x"},
        {"architecture": [1]},
        {"context_length": -1, "meta": {"n_ctx": -1}},
        {"top_provider": {"max_completion_tokens": -1}},
        {"top_provider": {"max_completion_tokens": "Infinity"}},
        {"architecture": {"input_modalities": [1, 2]}},
        {"created": "now"},
    ],
)
async def test_one_odd_model_costs_itself_alone(
    folder: Path, hostile: tuple[Hostile, str], http: httpx.AsyncClient, model: dict[str, Any]
) -> None:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as running:
        running.node.catalogue.update({"upstream": [{"id": "odd", **model}, {"id": "even"}]})
        listed = await http.get(f"{running.url}/v1/models")
        assert listed.status_code == 200
        assert "even" in [entry["id"] for entry in listed.json()["data"]]


async def test_bodies_that_break_parsers_are_400(node: Running, http: httpx.AsyncClient) -> None:
    key = new_key()
    await node.node.ledger.create_key(key.hash, key.hint, "", 5)
    checks: list[Callable[[bytes], Any]] = [
        lambda raw: http.post(f"{node.url}/v1/chat/completions", content=raw, headers=bearer(key.text)),
        lambda raw: http.post(f"{node.url}/v1/balance/create", content=raw),
        lambda raw: http.post(f"{node.url}/v1/balance/topup", content=raw, headers=bearer(key.text)),
        lambda raw: http.post(f"{node.url}/v1/balance/refund", content=raw, headers=bearer(key.text)),
    ]
    for check in checks:
        for raw in (b'{"a": "\xff"}', DEEP, b"[" * 100_000, b'{"a": 1e999}', b"\x00"):
            reply = await check(raw)
            assert reply.status_code == 400, (raw[:20], reply.text)
            assert json.loads(reply.text)["error"]["code"] == "invalid_request"


MISTRALS = {
    "object": "error",
    "message": {
        "detail": [
            {
                "type": "extra_forbidden",
                "loc": ["body", "stream_options", "include_usage"],
                "msg": "Extra inputs are not permitted",
            }
        ]
    },
}
AZURES = {"error": {"message": "Unrecognized request argument supplied: stream_options", "code": None}}


@pytest.mark.parametrize(("status", "refusal"), [(422, MISTRALS), (400, AZURES)], ids=["mistral", "azure"])
@pytest.mark.parametrize("path", ["/chat/completions", "/messages"])
async def test_a_server_that_knows_no_wish_for_a_report_streams_without(
    folder: Path, http: httpx.AsyncClient, status: int, refusal: dict[str, Any], path: str
) -> None:
    asked: list[dict[str, Any]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": [{"id": HELLO["model"], "context_length": 2048}]})
        asked.append(await request.json())
        if "stream_options" in asked[-1]:
            return web.json_response(refusal, status=status)
        reply = web.Response(body=TEXT + FINISH_AND_USAGE + DONE)
        reply.content_type = "text/event-stream"
        return reply

    async with (
        handled_by(handle) as url,
        running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=f"{url}/v1") as node,
    ):
        key, text = await granted_key(node.node, GRANT_MSAT)
        reply = await http.post(f"{node.url}/v1{path}", json={**HELLO, "stream": True}, headers=bearer(text))
        assert reply.status_code == 200, reply.text
        assert "abcd" in reply.text
        assert receipt_of(reply).cost_msat == FULL
        assert (await node.node.ledger.account(key.account)).spent_msat == FULL
        assert asked[1] == {name: value for name, value in asked[0].items() if name != "stream_options"}


async def test_what_a_server_says_in_detail_of_a_request_is_passed_on(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (422, {}, [json.dumps(MISTRALS).encode()])
    reply, charged = await ask(node, http)
    assert (reply.status_code, charged) == (422, 0)
    said = reply.json()["error"]["message"]
    assert "body.stream_options.include_usage: Extra inputs are not permitted" in said
