"""Background tasks with an owner: kept until they end, and heard when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from node.errors import Refusal

log = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """The tasks of one node that must end even when nobody waits for them any more."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self.stopping = False
        """Whether what fails now is left to the next start."""

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` as a task that is neither lost nor silent."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def drain(self, deadline_s: float) -> int:
        """Wait for what runs, and for what that starts; returns how many did not end in time."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        while self._running and (left_s := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._running, timeout=left_s)
        return len(self._running)

    async def stop(self, deadline_s: float) -> int:
        """Cancel what runs, and wait for its end and for what that starts; returns how many did not end in time."""
        self.stopping = True
        for task in tuple(self._running):
            task.cancel()
        return await self.drain(deadline_s)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, Refusal):  # a refusal is an answer to whoever waits
            log.error("background task %s failed: %r", task.get_name(), error)


async def outlast(task: asyncio.Task[T]) -> T:
    """The result of a task that is not cancelled with whoever waits for it: who is waits for its end all the same, and lets
    go only then of what it holds, such as its place among the requests at once."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
