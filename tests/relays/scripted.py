"""A relay that answers as it is told to: what honest relays say now and then, and a test cannot make them say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.strangers import served

Script = Callable[[dict[str, Any]], tuple[bool, str] | None]
"""An event to the relay's OK; None for a relay that says nothing."""


class ScriptedRelay:
    """What it was sent, and what it says to the next."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[dict[str, Any]] = []
        self.script: Script = lambda event: (True, "")

    async def talk(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            match message.json():
                case ["EVENT", event]:
                    self.heard.append(event)
                    if (answer := self.script(event)) is not None:
                        await socket.send_json(["OK", event["id"], *answer])
                case ["REQ", name, *_]:
                    await socket.send_json(["EOSE", name])
        return socket


@asynccontextmanager
async def scripted_relay() -> AsyncIterator[ScriptedRelay]:
    relay, app = ScriptedRelay(), web.Application()
    app.router.add_get("/", relay.talk)
    async with served(app) as where:
        relay.url = f"ws://{where}"
        yield relay
