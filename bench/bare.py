"""A proxy that does nothing else: Litestar's `@asgi` in front, one pooled aiohttp session behind. What the node does beyond
it is what it is paid for.

    python bench/bare.py PORT UPSTREAM
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import uvicorn
from litestar import Litestar, asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPRequestEvent, HTTPScope, Receive, Scope, Send


def route(path: str, upstream: str, sessions: list[aiohttp.ClientSession]) -> ASGIRouteHandler:
    @asgi(path, copy_scope=False)
    async def forward(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = cast(HTTPRequestEvent, await receive())
            body += message.get("body", b"")
            more = bool(message.get("more_body"))
        method = cast(HTTPScope, scope)["method"]
        headers = {"content-type": "application/json"}
        async with sessions[0].request(method, upstream + path, data=body, headers=headers) as reply:
            kind = reply.headers.get("content-type", "").encode()
            head = [(b"content-type", kind)]
            await send({"type": "http.response.start", "status": reply.status, "headers": head})
            async for piece in reply.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return forward


def bare(upstream: str) -> Litestar:
    sessions: list[aiohttp.ClientSession] = []

    @asynccontextmanager
    async def session(_: Litestar) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as opened:
            sessions.append(opened)
            yield

    paths = ("/v1/chat/completions", "/v1/models")
    return Litestar([route(path, upstream, sessions) for path in paths], lifespan=[session], openapi_config=None)


if __name__ == "__main__":
    uvicorn.run(
        bare(sys.argv[2]), port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
