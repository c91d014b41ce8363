"""What SDKs send as they do, and what no SDK should: nulls, numbers that are none, bodies that are heavy to look at."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from relays.jsontext import has_many
from relays.prompt import read_prompt
from router_client.client import RouterClient
from router_client.errors import StorageError
from router_client.proxy.app import Proxy
from router_client.proxy.exchange import MAX_BODY_BYTES
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import Budget
from tests.client.cheat import BODY, Cheat

MESSAGES = BODY["messages"]


async def test_an_answer_as_openais_sdk_dumps_it_is_history(sdk: openai.AsyncOpenAI, cheat: Cheat) -> None:
    """The dump has `"audio": null` and the like."""
    said = (await sdk.chat.completions.create(model="m", messages=MESSAGES, max_tokens=20)).choices[0].message
    dumped = said.model_dump() | {"audio": None, "refusal": None, "function_call": None, "tool_calls": None}
    prompt = read_prompt({"messages": [*MESSAGES, dumped, *MESSAGES]})
    assert (prompt.media, prompt.opaque) == (frozenset(), False)
    assert read_prompt({"messages": [dumped | {"audio": {"id": "a"}}]}).opaque, "one that is spoken is a sound"


@pytest.mark.parametrize("wrong", [-1, 0, "x", [1], {}, True, 1.5, 1e308, 10**30], ids=str)
async def test_a_number_that_is_none_is_the_callers_mistake(stranger: httpx.AsyncClient, wrong: Any) -> None:
    for field in ("max_tokens", "max_completion_tokens", "n"):
        answer = await stranger.post("/v1/chat/completions", json=BODY | {field: wrong})
        assert (answer.status_code, field in answer.json()["error"]["message"]) == (400, True)
        assert answer.json()["error"]["param"] == field


async def test_a_text_that_was_cut_within_a_character_is_served(caller: httpx.AsyncClient) -> None:
    """As nodes serve it: JavaScript cuts an emoji in halves."""
    raw = json.dumps(BODY | {"messages": [{"role": "user", "content": "Hi \ud83d"}]})
    answer = await caller.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET")]
)
async def test_another_method_is_told_the_right_one(
    stranger: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """It was told that nothing is there, and that it is."""
    answer = await stranger.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["error"]["message"] == f"use {allowed}"


async def test_a_cost_beyond_all_money_is_the_callers_mistake(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.post("/v1/chat/completions", json=BODY | {"routing": {"maxCost": 1e308}})
    assert (answer.status_code, "maxCost" in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("error", [StorageError("the disk is full"), ZeroDivisionError()], ids=repr)
async def test_what_fails_here_is_not_bought_again(
    proxy: Proxy, caller: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """SDKs repeat a 500 by themselves, and the answer may be paid already."""

    async def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(proxy._client, "ask", fails)
    answer = await caller.post("/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, 400, "no_provider"),
        ({"routing": {"max_cost_msat": 1}}, 400, "no_provider"),
        ({"max_tokens": 1024, "n": 100}, 402, "insufficient_balance"),
    ],
    ids=["context", "picture", "cost", "wallet"],
)
async def test_what_is_hopeless_is_not_tried_again(
    caller: httpx.AsyncClient, cheat: Cheat, more: dict[str, Any], status: int, code: str
) -> None:
    """As OpenAI's API has it: what is wrong with a request is a 400, which no SDK sends again."""
    answer = await caller.post("/v1/chat/completions", json=BODY | more)
    assert (answer.status_code, answer.headers.get("x-should-retry")) == (status, "false")
    assert answer.json()["error"]["code"] == code
    assert "retry-after" not in answer.headers
    assert cheat.asked == []


async def test_a_node_that_is_away_may_be_back_soon(
    caller: httpx.AsyncClient, buyer: RouterClient, cheat: Cheat
) -> None:
    buyer.directory.forget(buyer.directory.known()[0].announcement.pubkey)
    answer = await caller.post("/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


async def test_a_budget_in_usd_that_nobody_tells_the_price_for_is_final(
    caller: httpx.AsyncClient, buyer: RouterClient, spending: Spending
) -> None:
    buyer._serving.allowance = Allowance(spending, Budget(day_usd=1.0))
    answer = await caller.post("/v1/chat/completions", json=BODY)
    assert (answer.json()["error"]["code"], answer.headers["x-should-retry"]) == ("no_price", "false")


HEAVY = {
    "values": b'{"stop":[' + b"[]," * 200_000 + b"[]]}",
    "strings": b'{"stop":[' + b'"",' * 200_000 + b'""]}',
    "messages": b'{"messages":[' + b'{"role":"user"},' * 10_000 + b"{}]}",
}


@pytest.mark.parametrize("content", HEAVY.values(), ids=HEAVY)
async def test_what_is_heavy_to_look_through_is_refused(stranger: httpx.AsyncClient, content: bytes) -> None:
    """All others would wait meanwhile: 24 MB of empty lists took 21 s."""
    answer = await stranger.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_signs_within_a_text_are_no_values() -> None:
    code = json.dumps({"content": 'f({a, b}, [c, "d"]);\n' * 100}).encode()
    assert not has_many(code, 10)
    assert has_many(json.dumps(["x"] * 12).encode(), 10)
    assert has_many(b'"' + b"[" * 12, 10), "one that is never closed"


async def test_bodies_that_are_being_read_are_bounded(proxy: Proxy, caller: httpx.AsyncClient) -> None:
    proxy._reading.requests = 64
    assert (await caller.post("/v1/chat/completions", json=BODY)).status_code == 429
    proxy._reading.requests, proxy._reading.size = 0, 4 * MAX_BODY_BYTES
    assert (await caller.post("/v1/chat/completions", json=BODY)).status_code == 429
    assert (proxy._reading.requests, proxy._reading.size) == (0, 4 * MAX_BODY_BYTES)
    proxy._reading.size = 0
    assert (await caller.post("/v1/chat/completions", json=BODY)).status_code == 200
