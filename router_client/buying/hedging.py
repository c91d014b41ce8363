"""Two nodes for one request: a second is asked when the first has no word yet by when it nearly always has one.

Whoever says its first word first serves; the other is left, and gets its money back from its node, or pays for what that
made of it. Both may be charged, so both have a hold of their own in the budget.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from router_client.buying.answer import Answer
from router_client.buying.reading import Head, Piece, Reader
from router_client.errors import ClientError

log = logging.getLogger(__name__)


class Runner(Reader):
    """One node's part in a race: what it says is passed on to the reader if it serves."""

    def __init__(self, race: Race, held_msat: int = 0) -> None:
        self._race = race
        self.held_msat = held_msat
        """What it may be paid with."""
        self.left: asyncio.Event = asyncio.Event()
        """It is to be left, since another serves."""

    async def begin(self, head: Head) -> None:
        if self._race.won_by(self):
            await self._race.reader.begin(head)

    async def read(self, piece: Piece) -> None:
        if self._race.won_by(self):
            await self._race.reader.read(piece)


class Race:
    """Runners for one request; `leaving` keeps the tasks of those who lost until they have their change."""

    def __init__(self, reader: Reader, leaving: set[asyncio.Task[Answer]]) -> None:
        self.reader = reader
        self._leaving = leaving
        self._running: dict[asyncio.Task[Answer], Runner] = {}
        self._winner: Runner | None = None
        self._begun = asyncio.Event()

    def won_by(self, runner: Runner) -> bool:
        """Whether it serves: it does from its first word on, if nobody does yet."""
        if self._winner is None:
            self._winner = runner
            self._begun.set()
            for other in self._running.values():
                if other is not runner:
                    other.left.set()
        return self._winner is runner

    @property
    def is_won(self) -> bool:
        """Whether one serves."""
        return self._winner is not None

    def enter(self, runner: Runner, answering: Coroutine[Any, Any, Answer]) -> None:
        self._running[asyncio.create_task(answering)] = runner

    async def is_late(self, seconds: float) -> bool:
        """Whether nobody has said or ended anything after so long."""
        begun = asyncio.create_task(self._begun.wait())
        try:
            done, _ = await asyncio.wait({begun, *self._running}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()
        return not done

    async def answer(self) -> Answer:
        """The winner's. Raises what the winner raises, or the first runner where nobody has won."""
        running = set(self._running)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                runner = self._running[task]
                if self._winner is runner or (task.exception() is None and self.won_by(runner)):
                    answer = task.result()
                    return answer.after(lost_msat) if (lost_msat := self._lost_msat()) else answer
        first = next(iter(self._running))
        if isinstance(error := first.exception(), ClientError):
            error.out_msat = self._lost_msat()
        return first.result()

    def _lost_msat(self) -> int:
        """What was kept by those that have failed."""
        errors = [task.exception() for task in self._running if task.done()]
        return sum(error.out_msat for error in errors if isinstance(error, ClientError))

    def end(self) -> None:
        """Those who lost take back their money in their own time. Where the caller has left, all are called off."""
        for task, runner in self._running.items():
            if task.done():
                continue
            if self._winner is None or self._winner is runner:
                task.cancel()
            runner.left.set()
            self._leaving.add(task)
            task.add_done_callback(self._gone)
        self._running.clear()  # so that what a task holds goes with it, its payment among it

    def _gone(self, task: asyncio.Task[Answer]) -> None:
        self._leaving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("left: %s", error)
