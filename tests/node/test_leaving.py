"""Callers who leave: a whole answer is made to its end and paid; a stream is paid as far as it came, and to its report where
its model may have thought unseen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.ledger.model import Key
from node.tasks import Tasks, outlast
from node.unseen import asks_for_thought
from relays.pricing import Usage
from relays.receipt import Receipt
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, Running, bearer, granted_key, running_node
from tests.node.hostile import TEXT, Hostile
from tests.node.test_before_the_bill import DONE, EVENTS, FINISH, GRANT_MSAT, JSON, usage

WAIT = [b": wait\n\n"] * 40
"""0.4 s."""
WHOLE = json.dumps(
    {"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 31, "completion_tokens": 5}}
).encode()
STREAM = {**HELLO, "max_tokens": 1000, "stream": True}
THINKING = {**STREAM, "reasoning_effort": "low"}
CHAT = "/v1/chat/completions"
LEAVE_S = 0.15


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], max_requests_per_key=1
    ) as running:
        yield running


async def leave(http: httpx.AsyncClient, url: str, body: dict[str, Any], headers: dict[str, str]) -> None:
    """Ask, and go away before the first byte."""
    with pytest.raises(httpx.ReadTimeout):
        await http.post(url, json=body, headers=headers, timeout=LEAVE_S)


async def leave_at_the_first_word(http: httpx.AsyncClient, url: str, body: dict[str, Any], text: str) -> str:
    """Ask for a stream, and go away at its first data; returns the request's id."""
    async with http.stream("POST", url, json=body, headers=bearer(text)) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data:"):
                break
    return str(reply.headers["x-satroute-request-id"])


async def charged(node: Running, key: Key, request_id: str) -> Receipt:
    async with asyncio.timeout(10):
        while (posted := await node.node.ledger.receipt(request_id, key.account)) is None:
            await asyncio.sleep(0.02)
    await node.node.ledger.audit()
    return posted.receipt


async def spent(node: Running, key: Key) -> int:
    """What is spent once nothing is held."""
    async with asyncio.timeout(10):
        while (account := await node.node.ledger.account(key.account)).held_msat:
            await asyncio.sleep(0.02)
    await node.node.ledger.audit()
    return account.spent_msat


async def test_a_whole_answer_is_made_charged_and_kept_for_who_has_left(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, JSON, [*[b" "] * 40, WHOLE])
    key, text = await granted_key(node.node, GRANT_MSAT)
    headers = {**bearer(text), "Idempotency-Key": "once"}
    await leave(http, f"{node.url}{CHAT}", HELLO, headers)
    other = await http.post(f"{node.url}{CHAT}", json=HELLO, headers=bearer(text))
    assert other.status_code == 429, "its place among the requests at once is taken until it ends"
    assert await spent(node, key) == 31 * 2 + 5 * 8
    async with asyncio.timeout(10):
        # charged, and being kept; and its place among those at once is free a moment after that
        while (again := await http.post(f"{node.url}{CHAT}", json=HELLO, headers=headers)).status_code in (409, 429):
            await asyncio.sleep(0.02)
    assert (again.status_code, again.json()["choices"][0]["message"]["content"]) == (200, "hi")
    assert again.headers["idempotent-replayed"] == "true"
    assert len(hostile[0].asked) == 1
    assert (await node.node.ledger.account(key.account)).spent_msat == 31 * 2 + 5 * 8


async def test_a_whole_answer_that_fails_is_free_for_who_has_left_too(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, JSON, [*[b" "] * 40, b'{"error":{"message":"no"}}'])
    key, text = await granted_key(node.node, GRANT_MSAT)
    await leave(http, f"{node.url}{CHAT}", HELLO, bearer(text))
    assert await spent(node, key) == 0


@pytest.mark.parametrize("body", [THINKING, STREAM], ids=["it thinks", "it does not"])
async def test_a_stream_is_read_on_to_its_report_where_the_model_may_think(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], body: dict[str, Any]
) -> None:
    hostile[0].answer = (200, EVENTS, [TEXT, *WAIT, TEXT, FINISH, usage(31, 200), DONE])
    key, text = await granted_key(node.node, GRANT_MSAT)
    receipt = await charged(node, key, await leave_at_the_first_word(http, f"{node.url}{CHAT}", body, text))
    assert receipt.outcome == "aborted"
    if body is THINKING:
        assert (receipt.usage, receipt.metered) == (Usage(31, 200), "upstream")
    else:
        assert (receipt.usage.completion_tokens, receipt.metered, hostile[0].ended) == (1, "counted", 0)


@pytest.mark.parametrize("entry", [{"thinks": True}, {"supported_parameters": ["tools", "reasoning"]}, {}])
async def test_a_model_thinks_by_its_list_or_by_its_own_report(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str], entry: dict[str, Any]
) -> None:
    told = {"prompt_tokens": 31, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 8}}
    thought = b"data: " + json.dumps({"choices": [], "usage": told}).encode() + b"\n\n"
    hostile[0].entry = entry
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as node:
        key, text = await granted_key(node.node, GRANT_MSAT)
        listed = (await http.get(f"{node.url}/v1/models")).json()["data"][0]
        assert listed["thinks"] is bool(entry)
        if not entry:
            hostile[0].answer = (200, EVENTS, [TEXT, FINISH, thought, DONE])
            await http.post(f"{node.url}{CHAT}", json=STREAM, headers=bearer(text))
        hostile[0].answer = (200, EVENTS, [TEXT, *WAIT, FINISH, usage(31, 200), DONE])
        request_id = await leave_at_the_first_word(http, f"{node.url}{CHAT}", STREAM, text)
        assert (await charged(node, key, request_id)).usage == Usage(31, 200)


async def test_a_stream_of_responses_is_read_on_however_long_it_takes(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    delta = b'data: {"type":"response.output_text.delta","delta":"abcd"}\n\n'
    done = {"type": "response.completed", "response": {"usage": {"input_tokens": 31, "output_tokens": 200}}}
    hostile[0].answer = (200, EVENTS, [delta, b"WAIT", b"data: " + json.dumps(done).encode() + b"\n\n"])
    key, text = await granted_key(node.node, GRANT_MSAT)
    body = {"model": HELLO["model"], "input": "hi", "stream": True, "max_output_tokens": 1000}
    request_id = await leave_at_the_first_word(http, f"{node.url}/v1/responses", body, text)
    assert (await charged(node, key, request_id)).usage == Usage(31, 200)


async def test_without_a_report_what_was_streamed_is_charged(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, EVENTS, [TEXT, *WAIT[:5], b"CUT"])
    key, text = await granted_key(node.node, GRANT_MSAT)
    receipt = await charged(node, key, await leave_at_the_first_word(http, f"{node.url}{CHAT}", THINKING, text))
    assert (receipt.usage.completion_tokens, receipt.metered) == (1, "counted")


async def test_who_leaves_before_the_first_word_pays_for_thoughts(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, EVENTS, [*WAIT, TEXT, FINISH, usage(31, 200), DONE])
    key, text = await granted_key(node.node, GRANT_MSAT)
    await leave(http, f"{node.url}{CHAT}", THINKING, bearer(text))
    other = await http.post(f"{node.url}{CHAT}", json=STREAM, headers=bearer(text))
    assert other.status_code == 429
    assert await spent(node, key) == 31 * 2 + 200 * 8


async def test_who_leaves_before_the_first_word_of_a_model_that_only_writes_pays_nothing(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, EVENTS, [*WAIT, TEXT, FINISH, usage(31, 200), DONE])
    key, text = await granted_key(node.node, GRANT_MSAT)
    await leave(http, f"{node.url}{CHAT}", STREAM, bearer(text))
    assert await spent(node, key) == 0
    await asyncio.sleep(0.6)
    assert hostile[0].ended == 0, "the upstream is let go"


async def test_who_has_much_read_and_leaves_before_the_first_word_pays_for_what_was_read(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """Models' servers are paid for it, so that a caller could have the operator pay for any number of long prompts."""
    hostile[0].entry = {"context_length": 100_000}
    words = [{"role": "user", "content": "one " * 20_000}]
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as node:
        for chunks, least in (([*WAIT, TEXT, *WAIT, FINISH, DONE], 2 * 20_000), ([*WAIT, b"CUT"], 0)):
            hostile[0].answer = (200, EVENTS, chunks)
            key, text = await granted_key(node.node, GRANT_MSAT)
            await leave(http, f"{node.url}{CHAT}", {**STREAM, "messages": words}, bearer(text))
            assert least <= await spent(node, key) <= least * 1.01
            assert hostile[0].ended == 0, "the upstream is let go"


async def test_thoughts_that_came_to_nothing_are_free(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, EVENTS, [*WAIT, b"CUT"])
    key, text = await granted_key(node.node, GRANT_MSAT)
    await leave(http, f"{node.url}{CHAT}", THINKING, bearer(text))
    assert await spent(node, key) == 0


async def test_what_outlasts_its_caller_is_waited_for_at_the_end() -> None:
    """Whoever is cancelled twice, as at a shutdown, leaves it to the tasks of the node."""
    tasks, ended = Tasks(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.1)
        ended.set()

    waiting = asyncio.create_task(outlast(tasks.start(work(), "work")))
    for _ in range(2):
        await asyncio.sleep(0.01)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not ended.is_set()
    assert await tasks.drain(5) == 0
    assert ended.is_set()


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"max_tokens": 100}}, True),
        ({"include_reasoning": True}, True),
    ],
)
def test_asking_for_thought(fields: dict[str, Any], thinks: bool) -> None:
    assert asks_for_thought(fields) is thinks
