"""SIGTERM: a node that is stopped ends what it serves, and is taken apart in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from node.ledger.ledger import Ledger
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, MODEL, bearer, receipt_of
from tests.node.shopful import handled_by
from tests.system.forked import Served, satroute

ANSWER_S = 2.0
USAGE = {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}


@asynccontextmanager
async def slow_node(folder: Path) -> AsyncIterator[Served]:
    """A node whose upstream takes its time."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": [{"id": MODEL, "context_length": 4096}]})
        await asyncio.sleep(ANSWER_S)
        message = {"role": "assistant", "content": "at last"}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE})

    async with handled_by(answer) as url:
        prices = {"FIXED_PER_1K_INPUT_TOKENS": "2", "FIXED_PER_1K_OUTPUT_TOKENS": "8"}
        node = await asyncio.to_thread(
            Served, folder / "node", CASHU_MINTS=DEAD_MINT, UPSTREAM_BASE_URL=f"{url}/v1", RELAYS="", **prices
        )
        try:
            yield node
        finally:
            await asyncio.to_thread(node.stop)


async def key_of(node: Served) -> str:
    env = {"DATA_DIR": str(node.folder / "data"), "UPSTREAM_BASE_URL": "http://127.0.0.1:9", "CASHU_MINTS": DEAD_MINT}
    made = await asyncio.to_thread(satroute, "keys", "create", "--sats", "100000", "--json", env=env)
    return str(httpx.Response(200, text=made.stdout).json()["api_key"])


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_node_that_is_stopped_ends_what_it_serves(folder: Path, http: httpx.AsyncClient, leaves: bool) -> None:
    async with slow_node(folder) as node:
        key = await key_of(node)
        asking = asyncio.create_task(
            http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(key), timeout=30)
        )
        await asyncio.sleep(ANSWER_S / 4)
        if leaves:
            asking.cancel()
            await asyncio.wait([asking])
        stopping = asyncio.create_task(asyncio.to_thread(node.stop))
        if not leaves:
            reply = await asking
            assert reply.status_code == 200, reply.text
            assert receipt_of(reply).usage.completion_tokens == 30
        await stopping
        assert node.exit_code() == 0, node.log.read_text()[-500:]
        ledger = await Ledger.open(f"sqlite:///{node.folder / 'data' / 'ledger.db'}")
        try:
            assert await ledger.open_holds() == []
            assert (await ledger.audit()).earned_msat == 9 * 2 + 30 * 8, (
                "it is charged, whether or not its caller stayed"
            )
        finally:
            await ledger.close()
