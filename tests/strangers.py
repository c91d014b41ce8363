"""HTTP servers of strangers, as tests make them up: at a port of this machine for as long as a block runs."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

GONE_S = 0.1
"""Whoever is at an answer when its test has ended is let finish it for so long."""


@asynccontextmanager
async def served(app: web.Application, *, tls: ssl.SSLContext | None = None, **runner: Any) -> AsyncIterator[str]:
    """Where the application is served, as `127.0.0.1:PORT`; `runner` are options of aiohttp's."""
    running = web.AppRunner(app, **{"shutdown_timeout": GONE_S} | runner)
    await running.setup()
    await web.TCPSite(running, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"127.0.0.1:{running.addresses[0][1]}"
    finally:
        await running.cleanup()
