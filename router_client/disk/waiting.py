"""What waits in a writer's queue, and how whoever waits for it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from router_client.errors import StorageError

MAX_QUEUED = 20_000


class Job(msgspec.Struct, kw_only=True):
    """Made in the event loop of whoever waits; a writer sets `result` or `error`."""

    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


def check_room(closed: bool, queued: int) -> None:
    """Raises StorageError when nothing more can be queued."""
    if closed:
        raise StorageError("the database is closed")
    if queued >= MAX_QUEUED:
        raise StorageError("the database is busy: too many writes are waiting")


def deliver(jobs: Iterable[Job]) -> None:
    """Wake the waiting of this event loop."""
    for job in jobs:
        if job.future.done():  # its caller left
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
