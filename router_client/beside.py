"""Work that goes on beside a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these as long as the block runs. What fails in them unforeseen ends the block, and is its caller's to see; the
    block's own error is raised as it is."""
    own: Exception | None = None
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a group of tasks would wrap it
            own = error
        finally:
            for task in tasks:
                task.cancel()
    if own is not None:
        raise own
