"""A world without chance: virtual time that jumps when nothing is left to do, no threads, and secrets from the seed.

Hours pass in no time, a deadline strikes at the same step every time, and the same seed is the same run.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import logging
import os
import random
import secrets
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")

EPOCH = 1_790_000_000.0
"""What the calendar says when a run begins."""
_STEP_S = 1e-6


class NothingLeft(Exception):
    """Every task waits for another: nothing can ever happen again."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer, it moves the clock there."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if found:
            return found
        if timeout is None:
            raise NothingLeft("every task waits for another")
        if timeout > 0:
            self.elapsed += max(timeout, _STEP_S)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual and whose executor works at once, in the same thread."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = _STEP_S

    def time(self) -> float:
        return self._jumping.elapsed

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the waiting task's
            future.set_exception(error)
        return future


def now() -> float:
    """The calendar, in virtual time."""
    return EPOCH + asyncio.get_running_loop().time()


def play(work: Coroutine[Any, Any, T], seed: str) -> T:
    """Run `work` to its end in a world of its own, in which all chance comes from the seed."""
    loop: VirtualLoop | None = None

    def made() -> VirtualLoop:
        nonlocal loop
        loop = VirtualLoop()
        return loop

    def calendar() -> float:
        return EPOCH + (0.0 if loop is None else loop.time())

    with _seeded(random.Random(f"secrets of {seed}"), calendar), asyncio.Runner(loop_factory=made) as runner:
        return runner.run(work)


@contextlib.contextmanager
def _seeded(chance: random.Random, calendar: Callable[[], float]) -> Iterator[None]:
    """What the program takes for random bytes and for the time of day; its log is not read here, and costs time."""

    def token_bytes(count: int | None = None) -> bytes:
        return chance.randbytes(32 if count is None else count)

    def token_urlsafe(count: int | None = None) -> str:
        return base64.urlsafe_b64encode(token_bytes(count)).rstrip(b"=").decode()

    with contextlib.ExitStack() as patches:
        for place, name, new in (
            (secrets, "token_bytes", token_bytes),
            (secrets, "token_hex", lambda count=None: token_bytes(count).hex()),
            (secrets, "token_urlsafe", token_urlsafe),
            (os, "urandom", chance.randbytes),
            (time, "time", calendar),
            (time, "time_ns", lambda: int(calendar() * 1e9)),
        ):
            patches.enter_context(mock.patch.object(place, name, new))
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        gc.disable()  # what is collected, and when, is chance as well
        try:
            yield
        finally:
            gc.enable()
            logging.disable(before)
