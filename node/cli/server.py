"""uvicorn's server, which leaves the end of the process to its caller."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn


class Server(uvicorn.Server):
    """Ends on SIGTERM and SIGINT. uvicorn would raise the signal once more, by which the process dies before the node is
    taken apart: running answers would be lost, their holds left to the next start, the announcement left standing."""

    interrupted = False
    """Whether it was a person at a terminal."""

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
