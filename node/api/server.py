"""uvicorn as the node has it: at a port, or at a socket for processes of this machine alone."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import uvicorn

from node.api.connection import Connection
from node.shop.lease import listen_at

GRACE_S: Final = 30
KEPT_S: Final = 130
"""A connection waits so long for its next request: longer than Caddy (120 s), nginx (60) and clients keep theirs, for they
are to close it first. A request that is sent as the node closes is lost, and looks like a failure of the node."""


def config_of(app: Any, *, lifespan: Literal["on", "off"] = "on", grace_s: int = GRACE_S) -> uvicorn.Config:
    """How an ASGI application is served. `grace_s` is what running requests have to end when it stops."""
    return uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,  # a URL may hold a token
        server_header=False,
        proxy_headers=False,  # nobody is told apart by address
        ws="none",
        timeout_keep_alive=KEPT_S,
        timeout_graceful_shutdown=grace_s,
        lifespan=lifespan,
    )


class Server(uvicorn.Server):
    """Ends on SIGTERM and SIGINT. uvicorn would raise the signal once more, by which the process dies before the node is
    taken apart: running answers would be lost, their holds left to the next start, the announcement left standing."""

    interrupted = False
    """Whether it was a person at a terminal."""

    def __init__(
        self, config: uvicorn.Config, at_the_end: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> None:
        """`at_the_end` is done while it ends what it began: to say so to those who look for a node."""
        super().__init__(config)
        self._at_the_end = at_the_end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._at_the_end is None:
            await super().shutdown(sockets)
            return
        words = asyncio.create_task(self._at_the_end())
        try:
            await super().shutdown(sockets)
        finally:  # not before: whatever becomes of the words, what runs goes to its end
            await words

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._caught, each)
        try:
            yield
        finally:  # a second one, while the node is taken apart, ends the process
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)

    def _caught(self, which: signal.Signals) -> None:
        self.interrupted |= which is signal.SIGINT
        self.handle_exit(which, None)

    async def serve_beside(self, listener: socket.socket) -> None:
        """Serve until `should_exit` is set; signals are another's to hear."""
        await self._serve([listener])


@asynccontextmanager
async def at_socket(app: Any, path: Path, grace_s: int) -> AsyncIterator[None]:
    """The application served at a Unix socket, for this user alone, until what runs there has ended."""
    with listen_at(path) as listener:
        server = Server(config_of(app, lifespan="off", grace_s=grace_s))
        serving = asyncio.create_task(server.serve_beside(listener))
        try:
            yield
        finally:
            server.should_exit = True
            await serving
