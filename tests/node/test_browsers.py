"""A page in a browser may buy from a node, by whatever SDK it has, and uptime monitors may look with HEAD."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, Running, bearer, granted_key, running_node
from tests.node.hostile import TEXT, Hostile

PAGE = {"origin": "https://page.example"}
CHAT = "/v1/chat/completions"


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as running:
        yield running


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/balance/create", "/v1/keys"])
async def test_a_page_is_told_that_it_may_ask(node: Running, http: httpx.AsyncClient, path: str) -> None:
    wish = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    reply = await http.options(node.url + path, headers=PAGE | wish)
    assert (reply.status_code, reply.content) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["access-control-allow-headers"] == "*, authorization"
    assert reply.headers["access-control-allow-methods"] == "*"
    assert "access-control-allow-credentials" not in reply.headers, "no page comes with a user's cookies"


async def test_a_page_may_read_answers_streams_and_errors(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, {"Content-Type": "text/event-stream"}, [TEXT, b"data: [DONE]\n\n"])
    _, text = await granted_key(node.node, 1_000_000)
    body = {**HELLO, "stream": True}
    told = [
        await http.post(node.url + CHAT, json=body, headers=PAGE | bearer(text)),
        await http.post(node.url + CHAT, json=body, headers=PAGE),
        await http.get(f"{node.url}/v1/models", headers=PAGE),
        await http.get(f"{node.url}/nothing", headers=PAGE),
    ]
    assert [reply.status_code for reply in told] == [200, 402, 200, 404]
    for reply in told:
        assert reply.headers["access-control-allow-origin"] == "*"
        assert reply.headers["access-control-expose-headers"] == "*"
    assert "abcd" in told[0].text
    assert "access-control-allow-origin" not in (await http.get(f"{node.url}/v1/models")).headers


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/info"])
async def test_a_look_without_the_answer_is_answered(node: Running, http: httpx.AsyncClient, path: str) -> None:
    reply = await http.head(node.url + path)
    assert (reply.status_code, reply.content) == (200, b"")
    assert int(reply.headers["content-length"]) == len((await http.get(node.url + path)).content)


async def test_a_look_redeems_nothing(node: Running, http: httpx.AsyncClient) -> None:
    reply = await http.head(f"{node.url}/v1/balance/create?initial_balance_token=cashuA")
    assert reply.status_code == 405


async def test_a_look_at_what_is_paid_for_is_none(node: Running, http: httpx.AsyncClient) -> None:
    reply = await http.head(node.url + CHAT)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
