"""How long an upstream may be silent: before the first word of a stream as long as a stream may take to begin, and after it
as long as a pause may be; neither rules where the other does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from relays.pricing import Usage
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, Running, bearer, granted_key, receipt_of, running_node
from tests.node.hostile import TEXT, Hostile
from tests.node.test_hostile_by_name import DONE, EVENTS, usage

GRANT_MSAT = 1_000_000
IDLE_S = 0.3
PAUSE_S = 0.9


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], upstream_idle_timeout_s=IDLE_S
    ) as running:
        yield running


async def streamed(node: Running, http: httpx.AsyncClient) -> httpx.Response:
    _, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1/chat/completions", json={**HELLO, "stream": True}, headers=bearer(text))
    assert reply.status_code == 200, reply.text
    return reply


THINKING = b'data: {"choices":[],"prompt_filter_results":[]}\n\n'


@pytest.mark.parametrize("before", [[b"WAIT"], [b": hello\n\n", b"WAIT"], [THINKING, b"WAIT", THINKING, b"WAIT"]])
async def test_a_model_may_think_before_its_first_word(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], before: list[bytes]
) -> None:
    hostile[0].pause_s = PAUSE_S
    hostile[0].answer = (200, EVENTS, [*before, TEXT, usage(), DONE])
    receipt = receipt_of(await streamed(node, http))
    assert (receipt.outcome, receipt.usage) == ("complete", Usage(31, 5))
    assert len(hostile[0].asked) == 1


async def test_a_model_may_think_before_its_head(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].head_after_s = PAUSE_S
    hostile[0].answer = (200, EVENTS, [TEXT, usage(), DONE])
    assert receipt_of(await streamed(node, http)).outcome == "complete"


@pytest.mark.parametrize("after", [[], [TEXT, TEXT]])
async def test_a_stream_that_falls_silent_is_given_up(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], after: list[bytes]
) -> None:
    hostile[0].pause_s = 2.5
    hostile[0].answer = (200, EVENTS, [TEXT, *after, b"WAIT", usage(), DONE])
    async with asyncio.timeout(2):
        reply = await streamed(node, http)
    assert receipt_of(reply).outcome == "interrupted"
    assert "upstream_timeout" in reply.text


async def test_pieces_may_come_slowly_for_long(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].pause_s = IDLE_S / 3
    hostile[0].answer = (200, EVENTS, [*[TEXT, b"WAIT"] * 10, usage(), DONE])
    assert receipt_of(await streamed(node, http)).outcome == "complete"
