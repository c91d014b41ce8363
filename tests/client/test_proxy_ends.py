"""How the local endpoint starts and stops: ids of errors, the end of a stream that is cut off, the way to fund."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.cli.console import CommandFailed
from node.cli.place import fund_command
from node.cli.proxy import _listening
from router_client.client import RouterClient
from router_client.proxy.app import Proxy
from router_client.proxy.guard import Guard
from tests.client.cheat import BODY, Cheat
from tests.client.proxies import calling, chunk

CHAT = "/v1/chat/completions"


async def test_an_error_has_the_id_that_sdks_look_for(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.post(CHAT, json=BODY)
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


async def test_stream_is_true_or_false(stranger: httpx.AsyncClient) -> None:
    for wrong in (1, "yes", [1]):
        answer = await stranger.post(CHAT, json=BODY | {"stream": wrong})
        assert (answer.status_code, "stream" in answer.json()["error"]["message"]) == (400, True)


async def test_a_stream_that_is_cut_off_says_so(proxy: Proxy, cheat: Cheat) -> None:
    """A server that ends waits for a while, and cancels then."""
    cheat.chat, cheat.pause_s = [chunk({"content": "word "})] * 200, 0.01
    sent: list[Any] = [{"type": "http.request", "body": json.dumps({**BODY, "stream": True}).encode()}]
    heard: list[bytes] = []
    begun = asyncio.Event()

    async def receive() -> Any:
        if not sent:
            await asyncio.Event().wait()
        return sent.pop()

    async def send(message: Any) -> None:
        heard.append(message.get("body", b""))
        if len(heard) > 1:
            begun.set()

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    async with asyncio.timeout(20), proxy.running():
        serving = asyncio.create_task(
            proxy({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive, send)
        )
        await begun.wait()
        serving.cancel()
        await serving
    assert json.loads(heard[-1].removeprefix(b"data: "))["error"]["code"] == "not_ready"


async def test_an_empty_wallet_is_told_which(idle: RouterClient, folder: Path) -> None:
    data = folder / "my own"
    async with calling(Proxy(idle, Guard(), fund_command(data))) as caller:
        message = (await caller.post(CHAT, json=BODY)).json()["error"]["message"]
    assert f"satroute wallet fund --data '{data}' --sats 1000" in message


def test_a_port_that_is_taken_names_the_option() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(CommandFailed, match="--port"),
        _listening("127.0.0.1", taken.getsockname()[1]),
    ):
        pass
