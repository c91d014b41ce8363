"""Two nodes for one request: a second is asked when the first has no word yet by when it nearly always has one.

Whoever says its first word first serves; the other is left, and gets its money back from its node, or pays for what that
made of it. Both may be charged, so both have a hold of their own in the budget.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

from router_client.buying.answer import Answer
from router_client.buying.reading import Head, Piece, Reader
from router_client.errors import ClientError, NodeOutrun
from router_client.routing.candidates import Candidate

log = logging.getLogger(__name__)


class Runner(Reader):
    """One node's part in a race: what it says is passed on to the reader if it serves."""

    def __init__(self, race: Race, candidate: Candidate, held_msat: int = 0) -> None:
        self._race = race
        self.hears = race.reader.hears
        self.candidate = candidate
        self.held_msat = held_msat
        """What it may be paid with."""
        self.left: asyncio.Event = asyncio.Event()
        """It is to be left, since another serves, or nobody wants the answer any more."""

    @property
    def is_outrun(self) -> bool:
        """Whether another serves."""
        return self._race.winner not in (None, self)

    async def begin(self, head: Head) -> None:
        if self._race.won_by(self):
            await self._race.reader.begin(head)

    async def read(self, piece: Piece) -> None:
        if self._race.won_by(self):
            await self._race.reader.read(piece)


def _kept_msat(task: asyncio.Task[Answer], runner: Runner, raised: ClientError) -> int:
    """Of one that was left. Who failed tells it beside (`Race.failures`)."""
    if not task.done() or task.cancelled():
        return runner.held_msat
    error = task.exception()
    if error is None:  # both ended at once
        return task.result().cost_msat
    return error.out_msat if isinstance(error, NodeOutrun) and error is not raised else 0


class Race:
    """Runners for one request; `leaving` keeps the tasks of those who lost until they have their change."""

    def __init__(self, reader: Reader, leaving: set[asyncio.Task[Answer]]) -> None:
        self.reader = reader
        self.winner: Runner | None = None
        """Who serves, if anybody does yet."""
        self._leaving = leaving
        self._running: dict[asyncio.Task[Answer], Runner] = {}
        self._begun = asyncio.Event()
        self._watching = None if reader.left is None else asyncio.create_task(self._leave_with(reader.left))

    async def _leave_with(self, left: asyncio.Event) -> None:
        """Whoever asked has left: so does the race."""
        await left.wait()
        for runner in self._running.values():
            runner.left.set()

    def won_by(self, runner: Runner) -> bool:
        """Whether it serves: it does from its first word on, if nobody does yet."""
        if self.winner is None:
            self.winner = runner
            self._begun.set()
            for other in self._running.values():
                if other is not runner:
                    other.left.set()
        return self.winner is runner

    @property
    def is_decided(self) -> bool:
        """Whether one serves, or nobody waits for it any more: no other is to be asked."""
        return self.winner is not None or (self.reader.left is not None and self.reader.left.is_set())

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
                if self.winner is runner or (task.exception() is None and self.won_by(runner)):
                    return task.result()
        return next(iter(self._running)).result()

    def failures(self) -> Iterator[tuple[Candidate, ClientError]]:
        """Those that have failed so far, beside whoever was left."""
        for task, runner in self._running.items():
            error = task.exception() if task.done() and not task.cancelled() else None
            if isinstance(error, ClientError) and not isinstance(error, NodeOutrun):
                yield runner.candidate, error

    async def left_msat(self, raised: ClientError, patience_s: float) -> int:
        """What those keep who were left, where the race has failed with `raised`. Those who still take back their money are
        waited for; of whom that takes too long, it is what they may have been paid with."""
        if self.winner is not None and self._running:
            await asyncio.wait(self._running, timeout=patience_s)
        return sum(_kept_msat(task, runner, raised) for task, runner in self._running.items())

    def end(self) -> None:
        """Those who lost take back their money in their own time. Where the caller has left, all are called off."""
        if self._watching is not None:
            self._watching.cancel()
        for task, runner in self._running.items():
            if task.done():
                continue
            if self.winner is None or self.winner is runner:
                task.cancel()
            runner.left.set()
            self._leaving.add(task)
            task.add_done_callback(self._gone)
        self._running.clear()  # so that what a task holds goes with it, its payment among it

    def _gone(self, task: asyncio.Task[Answer]) -> None:
        self._leaving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("left: %s", error)
