"""SIGTERM: a node that is stopped ends what it serves, and is taken apart in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from node.ledger.ledger import Ledger
from relays import kinds
from relays.capacity import decode as decode_capacity
from relays.event import pubkey_of
from relays.pool import RelayPool
from tests.conftest import DEAD_MINT, NO_TLS
from tests.node.harness import HELLO, MODEL, bearer, receipt_of
from tests.node.shopful import handled_by
from tests.system.forked import Served, satroute

ANSWER_S = 2.0
STREAMS, WORDS = 200, 30
USAGE = {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}


@asynccontextmanager
async def upstream_node(
    folder: Path, answer: Callable[[web.Request], Awaitable[web.StreamResponse]], **env: str
) -> AsyncIterator[Served]:
    """A node whose upstream answers so."""
    async with handled_by(answer) as url:
        prices = {"FIXED_PER_1K_INPUT_TOKENS": "2", "FIXED_PER_1K_OUTPUT_TOKENS": "8"}
        settings = {"CASHU_MINTS": DEAD_MINT, "UPSTREAM_BASE_URL": f"{url}/v1", "RELAYS": "", **prices, **env}
        node = await asyncio.to_thread(partial(Served, folder / "node", **settings))
        try:
            yield node
        finally:
            await asyncio.to_thread(node.stop)


@asynccontextmanager
async def slow_node(folder: Path) -> AsyncIterator[Served]:
    """A node whose upstream takes its time."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": [{"id": MODEL, "context_length": 4096}]})
        await asyncio.sleep(ANSWER_S)
        message = {"role": "assistant", "content": "at last"}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE})

    async with upstream_node(folder, answer) as node:
        yield node


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


class Gate:
    """An upstream whose streams stand still half way until all are there and the node has been told to leave."""

    def __init__(self) -> None:
        self.half_way = 0
        self.go_on = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": [{"id": MODEL, "context_length": 4096}]})
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        for number in range(WORDS):
            if number == WORDS // 2:
                self.half_way += 1
                await self.go_on.wait()
            delta = {"choices": [{"index": 0, "delta": {"content": f"w{number} "}}]}
            await reply.write(f"data: {json.dumps(delta)}\n\n".encode())
        await reply.write(f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n".encode())
        return reply


async def test_a_node_that_is_stopped_under_200_streams_loses_none(
    folder: Path, http: httpx.AsyncClient, relay_url: str
) -> None:
    """It says that it drains, sends every stream to its end with its receipt, posts every hold, takes its announcement back,
    and exits with 0."""
    gate = Gate()
    announces = {"RELAYS": relay_url, "HTTP_URL": "https://node.example", "MAX_REQUESTS_PER_KEY": str(STREAMS)}
    async with upstream_node(folder, gate.answer, **announces) as node, RelayPool([relay_url]) as pool:
        key = await key_of(node)
        pubkey = pubkey_of((await http.get(f"{node.url}/v1/info")).json()["npub"])
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=60, limits=limits) as many:
            body = {**HELLO, "stream": True, "max_tokens": 64}
            url, headers = f"{node.url}/v1/chat/completions", bearer(key)
            asking = [asyncio.create_task(many.post(url, json=body, headers=headers)) for _ in range(STREAMS)]
            while gate.half_way < STREAMS:
                await asyncio.sleep(0.05)
                assert not (ended := [task.result().text for task in asking if task.done()]), ended[0]
            follow = asyncio.create_task(first(pool, pubkey, "draining"))
            node.tell_to_leave()
            await follow
            gate.go_on.set()
            replies = await asyncio.gather(*asking)
        assert await asyncio.to_thread(node.exit_code, 30) == 0, node.log.read_text()[-500:]
        assert all(reply.status_code == 200 and reply.text.rstrip().endswith("[DONE]") for reply in replies)
        assert all(all(f"w{number} " in reply.text for number in range(WORDS)) for reply in replies)
        cost_msat = 9 * 2 + 30 * 8
        assert [receipt_of(reply).cost_msat for reply in replies] == [cost_msat] * STREAMS
        ledger = await Ledger.open(f"sqlite:///{node.folder / 'data' / 'ledger.db'}")
        try:
            assert await ledger.open_holds() == []
            assert (await ledger.audit()).earned_msat == STREAMS * cost_msat
        finally:
            await ledger.close()
        left = await pool.query({"authors": [pubkey], "kinds": [kinds.PROVIDER_ANNOUNCEMENT, kinds.CAPACITY]})
        assert left.events == (), "nobody looks for it any more"


async def first(pool: RelayPool, author: str, state: str) -> None:
    """Until a capacity event with that state comes."""
    async for event in pool.follow({"authors": [author], "kinds": [kinds.CAPACITY]}):
        if decode_capacity(event, now=event.created_at).state == state:
            return
