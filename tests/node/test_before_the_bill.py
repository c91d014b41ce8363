"""Who leaves, drips, hides or fails before the bill comes pays what was served: no more, and no less."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.ledger.ledger import Ledger
from node.metering.private import public_event
from node.metering.stream import MAX_HELD_BYTES
from node.metering.tokens import count, count_prompt
from relays.endpoints import CHAT, MESSAGES
from relays.pricing import Usage
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, Running, bearer, granted_key, receipt_of, running_node
from tests.node.hostile import TEXT, Hostile
from tests.node.streams import FINISHED, odd, picture, text

GRANT_MSAT = 1_000_000
EVENTS = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
NOTHING = {"prompt_msat_per_mtok": 0, "completion_msat_per_mtok": 0}


def usage(prompt: int, completion: int) -> bytes:
    report = {"prompt_tokens": prompt, "completion_tokens": completion}
    return b"data: " + json.dumps({"choices": [], "usage": report}).encode() + b"\n\n"


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], upstream_answer_timeout_s=1
    ) as running:
        yield running


async def test_who_leaves_between_the_answer_and_its_bill_pays_the_bill(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """What was thought unseen is told at the end alone."""
    hostile[0].answer = (200, EVENTS, [TEXT, FINISH, *[b": wait\n\n"] * 20, usage(31, 200), DONE])
    key, text = await granted_key(node.node, GRANT_MSAT)
    body = {**HELLO, "max_tokens": 1000, "stream": True}
    async with http.stream("POST", f"{node.url}/v1/chat/completions", json=body, headers=bearer(text)) as reply:
        request_id = reply.headers["x-satroute-request-id"]
        async for line in reply.aiter_lines():
            if "finish_reason" in line:
                break
    async with asyncio.timeout(10):
        while (posted := await node.node.ledger.receipt(request_id, key.account)) is None:
            await asyncio.sleep(0.02)
    assert posted.receipt.usage == Usage(31, 200)
    assert posted.receipt.outcome == "aborted"


async def test_an_answer_that_drips_is_cut_off_at_its_time(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, JSON, [b" "] * 400)
    _, text = await granted_key(node.node, GRANT_MSAT)
    async with asyncio.timeout(3.5):
        reply = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(text))
    assert reply.status_code == 504


@pytest.mark.parametrize("choice", [{"error": {"message": "org is out of credit"}}, {"finish_reason": "error"}])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_inside_a_choice_is_no_answer(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], choice: dict[str, Any], stream: bool
) -> None:
    answer = json.dumps({"choices": [{"index": 0, "message": {"content": ""}, **choice}]}).encode()
    hostile[0].answer = (200, EVENTS, [b"data: " + answer + b"\n\n", DONE]) if stream else (200, JSON, [answer])
    key, text = await granted_key(node.node, GRANT_MSAT)
    body = {**HELLO, "stream": stream}
    reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(text))
    assert (reply.status_code, "credit" in reply.text) == (502, False)
    assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT


async def test_a_report_before_the_text_is_not_the_bill(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, EVENTS, [TEXT, usage(31, 1), *[TEXT] * 50, FINISH, DONE])
    key, text = await granted_key(node.node, GRANT_MSAT)
    body = {**HELLO, "max_tokens": 500, "stream": True}
    reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(text))
    assert reply.text.endswith("data: [DONE]\n\n")
    spent_msat = GRANT_MSAT - (await node.node.ledger.account(key.account)).available_msat
    assert spent_msat >= 31 * 2 + count("abcd" * 51) * 8


WORDS = "The quick brown fox jumps over the lazy dog. " * 400


@pytest.mark.parametrize("field", ["data", "source", "url", "id", "model", "status", "image_url", "signature", "title"])
def test_a_prompt_is_counted_whatever_its_fields_are_called(field: str) -> None:
    schema = {"type": "object", "properties": {field: {"type": "string", "description": WORDS, field: WORDS}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [tool]}
    assert count_prompt(body, CHAT) >= 2 * count(WORDS)


def test_a_prompt_that_is_padded_is_counted_by_what_it_holds() -> None:
    """Where it is looked at is not to be foreseen."""
    text = " " * 40_000 + WORDS * 20 + " " * 40_000
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    assert count_prompt(body, CHAT) > count(WORDS * 20) // 2


def test_a_file_in_a_prompt_is_not_counted_as_text() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "QUJD" * 100_000}
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}
    assert count_prompt(body, MESSAGES) < 2000
    plain = {"type": "text", "media_type": "text/plain", "data": WORDS}
    body["messages"] = [{"role": "user", "content": [{"type": "document", "source": plain}]}]
    assert count_prompt(body, MESSAGES) > count(WORDS)


async def test_a_picture_that_is_too_large_for_the_head_is_an_answer(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """It was made, and the caller gets it."""
    entry = {"id": "smollm2-135m", "context_length": 2048, "msat_pricing": {**NOTHING, "image_msat": 1000}}
    (folder / "models.json").write_text(json.dumps([entry]))
    settings = {"upstream_base_url": hostile[1], "models_path": folder / "models.json"}
    async with running_node(folder, cashu_mints=DEAD_MINT, **settings) as node:
        made = picture("image_generation.completed", MAX_HELD_BYTES + 4_000_000)
        pieces = [made[at : at + 1_000_000] for at in range(0, len(made), 1_000_000)]
        hostile[0].answer = (200, EVENTS, pieces * 2)
        key, text = await granted_key(node.node, GRANT_MSAT)
        body = {"model": "smollm2-135m", "prompt": "a cat", "n": 2, "stream": True}
        reply = await http.post(f"{node.url}/v1/images/generations", json=body, headers=bearer(text), timeout=30)
        assert (reply.status_code, reply.content.count(made)) == (200, 2)
        assert (await node.node.ledger.account(key.account)).spent_msat == 2000


THEIRS: dict[str, Any] = {
    **{"cost": 0.0012, "is_byok": False, "cost_in_usd_ticks": 12, "estimated_cost": 0.0012},
    "cost_details": {"upstream_inference_cost": 0.0011},
}
"""What the operator pays elsewhere."""


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_operator_pays_is_no_business_of_the_callers(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], stream: bool
) -> None:
    told = {"prompt_tokens": 31, "completion_tokens": 5, **THEIRS}
    if stream:
        beside = {"choices": [{"index": 0, "delta": {"content": "cost"}}], "usage": told}
        chunks = [beside, {"choices": [], "usage": told}]
        events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
        hostile[0].answer = (200, EVENTS, [events[0], FINISH, events[1], DONE])
    else:
        whole = {"choices": [{"message": {"content": "cost"}}], "usage": told}
        hostile[0].answer = (200, JSON, [json.dumps(whole).encode()])
    _, text = await granted_key(node.node, GRANT_MSAT)
    body = {**HELLO, "stream": stream, "stream_options": {"include_usage": True} if stream else None}
    reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(text))
    for word in ("0.0012", "0.0011", "byok", "cost_details", "ticks", "estimated"):
        assert word not in reply.text
    assert reply.text.count('"cost"') >= 1, "ours is told"
    assert '"total_msats":102' in reply.text.replace(" ", "")
    assert '"content":"cost"' in reply.text.replace(" ", "")


@pytest.mark.parametrize("place", ["response", "message"])
def test_costs_inside_of_an_event_are_left_out(place: str) -> None:
    inner = {"id": "x", "usage": {"input_tokens": 3, **THEIRS}}
    event = b"event: e\ndata: " + json.dumps({"type": "e", place: inner}).encode() + b"\n\n"
    clean = {"type": "e", place: {"id": "x", "usage": {"input_tokens": 3}}}
    assert public_event(event) == b"event: e\ndata: " + json.dumps(clean, separators=(",", ":")).encode() + b"\n\n"
    assert public_event(b'data: {"usage": {"n": 1}, "cost": 3}\n\n') == b'data: {"usage": {"n": 1}, "cost": 3}\n\n'


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_a_stream_that_is_written_unusually_is_an_answer_and_paid(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], end: str
) -> None:
    events = [text("abcd" * 10), FINISHED, "[DONE]"]
    hostile[0].answer = (200, EVENTS, odd(events, "\t", end, spread=True, bom=True))
    key, credential = await granted_key(node.node, GRANT_MSAT)
    body = {**HELLO, "max_tokens": 100, "stream": True}
    reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(credential))
    assert reply.status_code == 200
    assert reply.text.endswith("data: [DONE]\n\n")
    spent_msat = (await node.node.ledger.account(key.account)).spent_msat
    assert spent_msat >= count("abcd" * 10) * 8


@pytest.mark.parametrize("after", [[b"WAIT"], [b": drip\n\n"] * 400])
async def test_a_stream_ends_with_its_last_word_also_if_its_server_does_not_close(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], after: list[bytes]
) -> None:
    hostile[0].answer = (200, EVENTS, [TEXT, FINISH, usage(31, 2), DONE, *after])
    hostile[0].pause_s = 8
    _, text = await granted_key(node.node, GRANT_MSAT)
    async with asyncio.timeout(3):
        reply = await http.post(
            f"{node.url}/v1/chat/completions", json={**HELLO, "stream": True}, headers=bearer(text), timeout=20
        )
    assert receipt_of(reply).outcome == "complete"
    assert reply.text.endswith("data: [DONE]\n\n")
    assert '"error"' not in reply.text


async def test_who_asks_for_usage_is_told_usage_and_cost_also_if_nobody_reports_it(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, EVENTS, [TEXT, FINISH, DONE])
    _, text = await granted_key(node.node, GRANT_MSAT)
    body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(text))
    receipt = receipt_of(reply)
    (told,) = [
        json.loads(line[6:]) for line in reply.text.splitlines() if '"usage"' in line and line.startswith("data:")
    ]
    assert told["choices"] == []
    assert told["usage"]["completion_tokens"] == receipt.usage.completion_tokens > 0
    assert told["usage"]["cost"]["total_msats"] == receipt.cost_msat > 0
    unasked = await http.post(f"{node.url}/v1/chat/completions", json={**HELLO, "stream": True}, headers=bearer(text))
    assert '"usage":' not in "".join(line for line in unasked.text.splitlines() if line.startswith("data:"))


async def test_a_node_that_is_taken_apart_charges_what_it_still_reads_and_is_gone(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent upstream is read on for a caller who has left; that does not keep the node from its end."""
    monkeypatch.setattr("node.app.DRAIN_S", 0.5)
    hostile[0].answer = (200, EVENTS, [TEXT, b"WAIT", FINISH, usage(31, 200), DONE])
    hostile[0].pause_s = 15
    began = asyncio.get_running_loop().time()
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as node:
        _, text = await granted_key(node.node, GRANT_MSAT)
        body = {**HELLO, "stream": True, "reasoning_effort": "low"}
        async with http.stream("POST", f"{node.url}/v1/chat/completions", json=body, headers=bearer(text)) as reply:
            async for _ in reply.aiter_lines():
                break
    assert asyncio.get_running_loop().time() - began < 12
    ledger = await Ledger.open(node.node.settings.ledger_url)
    try:
        assert await ledger.open_holds() == []
        assert (await ledger.audit()).earned_msat > 0, "what was streamed is charged"
    finally:
        await ledger.close()
