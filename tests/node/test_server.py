"""How a node's server leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from node.api.server import Server, config_of


async def test_what_runs_goes_to_its_end_whatever_becomes_of_the_last_words() -> None:
    came, goes_on = asyncio.Event(), asyncio.Event()

    async def app(_: Any, receive: Any, send: Any) -> None:
        came.set()
        await goes_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})

    async def fail() -> None:
        asyncio.get_running_loop().call_later(0.1, goes_on.set)
        raise RuntimeError("no relay")

    config = config_of(app, lifespan="off")
    config.host, config.port = "127.0.0.1", 0
    server = Server(config, fail)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10), httpx.AsyncClient(trust_env=False) as http:
        while not server.started:
            await asyncio.sleep(0.01)
        (port,) = {sock.getsockname()[1] for sock in server.servers[0].sockets}
        asking = asyncio.create_task(http.get(f"http://127.0.0.1:{port}/"))
        await came.wait()
        server.should_exit = True
        with pytest.raises(RuntimeError, match="no relay"):
            await serving
        assert goes_on.is_set(), "the server ends after what it serves"
        assert (await asking).text == "whole"
