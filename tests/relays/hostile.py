"""A hand-written relay for what no program offers: it floods, lies, demands, dies and comes back as a test tells it to."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from aiohttp import web

from node.localnet.process import free_port
from relays.event import Event
from relays.filters import matches

Behaviour = Callable[[web.WebSocketResponse, str, list[dict[str, Any]]], Awaitable[None]]
"""What the relay does with a subscription of that name and those filters."""


def plain(event: Event, **changes: Any) -> dict[str, Any]:
    """An event as a relay sends it, forged by the changes."""
    return {**msgspec.to_builtins(event), **changes}


class Hostile:
    """The relay. Without a behaviour of its own it serves `events` as an honest one does."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.events: list[Event] = []
        self.behaviour: Behaviour = self.honest
        self.asked: list[list[dict[str, Any]]] = []
        self.takes_keys = True
        """What it says to who answers a challenge (NIP-42)."""
        self.published: list[Event] = []
        self._runner: web.AppRunner | None = None
        self._sockets: set[web.WebSocketResponse] = set()

    async def honest(self, socket: web.WebSocketResponse, name: str, filters: list[dict[str, Any]]) -> None:
        for event in self.events:
            if any(matches(event, wanted) for wanted in filters):
                await socket.send_json(["EVENT", name, plain(event)])
        await socket.send_json(["EOSE", name])

    async def silent(self, socket: web.WebSocketResponse, name: str, filters: list[dict[str, Any]]) -> None:
        """It never answers."""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/", self._talk)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        self._door = socket.create_server(("127.0.0.1", self.port))
        await web.SockSite(self._runner, self._door).start()

    async def die(self) -> None:
        """Every connection breaks, and no new one is taken. One that is half through the door comes in before it is closed:
        Python's own loop would drop it there, unclosed (an assertion in `Server._attach`)."""
        if self._runner is None:
            return
        asyncio.get_running_loop().remove_reader(self._door.fileno())
        await asyncio.sleep(0)
        for each in list(self._sockets):
            with suppress(Exception):
                await asyncio.wait_for(each.close(), 1)
        await self._runner.cleanup()
        self._runner = None

    async def _talk(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async for message in socket:
                await self._answer(socket, json.loads(message.data))
        except (ConnectionError, RuntimeError):
            pass  # whom it talked to has left
        finally:
            self._sockets.discard(socket)
        return socket

    async def _answer(self, socket: web.WebSocketResponse, message: list[Any]) -> None:
        if message[0] == "REQ":
            self.asked.append(message[2:])
            await self.behaviour(socket, message[1], message[2:])
        elif message[0] == "AUTH":
            await socket.send_json(
                ["OK", message[1]["id"], self.takes_keys, "" if self.takes_keys else "restricted: no"]
            )
        elif message[0] == "EVENT":
            self.published.append(msgspec.convert(message[1], Event))
            await socket.send_json(["OK", message[1]["id"], True, ""])


@asynccontextmanager
async def hostile_relay(behaviour: Behaviour | None = None) -> AsyncIterator[Hostile]:
    relay = Hostile()
    if behaviour is not None:
        relay.behaviour = behaviour
    await relay.start()
    try:
        yield relay
    finally:
        await relay.die()
