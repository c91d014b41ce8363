"""The machine that a node runs on: its disk and its line to the mint, each of which can fail, and a plug to pull.

Every IO call is a numbered point, so that a fault can be put at any of them. A machine that crashed writes and sends nothing
any more, whatever its tasks still try, until `bury` has ended them; the files stay as the last commit left them.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar
from unittest import mock

import httpx

from router_client.disk.storage import Database, Together, _Job, connect
from router_client.disk.waiting import deliver
from router_client.errors import StorageError
from tests.simulation.mint_http import reply

T = TypeVar("T")

Point = Literal["send", "answered", "commit", "committed"]
"""Before and after an exchange with a mint; before and after a commit."""


class Fault(Enum):
    """What happens at a point."""

    FAIL = "fail"
    """The exchange is lost, on its way there or on its way back; the disk refuses the commit."""
    HANG = "hang"
    """The same, but the caller only learns of it by its own deadline."""
    TROUBLE = "trouble"
    """The mint answers 500, or what is no mint's answer."""
    CRASH = "crash"


class Machine:
    """One life of a node's process, from its start to its crash."""

    def __init__(self, faults: dict[int, Fault] | None = None, chance: random.Random | None = None) -> None:
        self.points = 0
        self.struck: list[tuple[int, Point, Fault]] = []
        self.faults = faults or {}
        """By number of the point, counted from 1."""
        self.mint_is_away = False
        self.crashed = asyncio.Event()
        self._chance = chance or random.Random(0)
        self._disks: list[Disk] = []
        self._silences: list[asyncio.Future[None]] = []
        """Kept, so that who waits for them is."""

    @property
    def dead(self) -> bool:
        return self.crashed.is_set()

    def plan(self, faults: dict[int, Fault]) -> None:
        """Count anew from here, with these faults ahead."""
        self.points, self.faults, self.struck = 0, faults, []

    def crash(self) -> None:
        """Pull the plug, between two IO calls."""
        self.crashed.set()

    def point(self, point: Point) -> Fault | None:
        """One more IO call is here: what happens to it."""
        if self.dead:
            return Fault.CRASH
        self.points += 1
        fault = self.faults.pop(self.points, None)
        if fault is not None:
            self.struck.append((self.points, point, fault))
        if fault is Fault.CRASH:
            self.crash()
        return fault

    async def exchange(self, request: httpx.Request, answer: Callable[[], httpx.Response]) -> httpx.Response:
        """Carry a request to the mint and its answer back, as far as faults let it."""
        await asyncio.sleep(self._chance.random() / 10)
        await self._carried(self.point("send"), request)
        if self.mint_is_away:
            raise httpx.ConnectError("the mint is away", request=request)
        response = answer()
        await asyncio.sleep(self._chance.random() / 10)
        fault = self.point("answered")
        if fault is Fault.TROUBLE:
            return self._chance.choice([reply(502, b"bad gateway"), reply(200, b"<html>busy</html>")])
        await self._carried(fault, request)
        return response

    async def _carried(self, fault: Fault | None, request: httpx.Request) -> None:
        if fault in (Fault.HANG, Fault.CRASH):
            silence = asyncio.get_running_loop().create_future()
            self._silences.append(silence)
            await silence
        if fault is not None:
            raise httpx.ReadError("lost on its way", request=request)

    @contextmanager
    def booting(self) -> Iterator[None]:
        """A block in which every database that is opened is a disk of this machine."""

        def disk(path: Path) -> Disk:
            self._disks.append(Disk(path, self))
            return self._disks[-1]

        with (
            mock.patch("node.ledger.sqlite.Database", disk),
            mock.patch("router_client.ecash.wallet.Database", disk),
        ):
            yield

    async def bury(self) -> None:
        """End all tasks but one's own; none of them can do anything any more. Then close the files as they are."""
        assert self.dead
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=60)
        for disk in self._disks:
            disk.let_go()


class Disk(Database):
    """The real database with its real transactions, but in this thread and with faults at its commits.

    What is queued in one turn of the loop is one batch, as in the thread. The process may die, the machine's power does not
    fail, so nothing needs to reach the platter.
    """

    def __init__(self, path: Path, machine: Machine | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._machine = machine
        self._path = path
        self._writer = connect(path)
        self._reader = connect(path, read_only=True)
        self._writer.execute("PRAGMA synchronous=OFF")
        self._closed = False
        self._waiting: list[_Job] = []

    def _queued(self, together: Together[Any] | None, work: Any) -> asyncio.Future[Any]:
        self._check()
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        future = loop.create_future()
        self._waiting.append(_Job(future=future, together=together, work=work))
        return future

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        if not batch or self._closed:
            return
        self._commit(batch)
        if self._machine is None or not self._machine.dead:  # nobody hears of what a dead machine did
            deliver(batch)

    def _transaction(self, batch: list[_Job]) -> None:
        if self._machine is not None and (fault := self._machine.point("commit")) is not None:
            raise sqlite3.OperationalError(f"disk I/O error ({fault.value})")
        super()._transaction(batch)
        if self._machine is not None:
            self._machine.point("committed")

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._check()
        return super().read(work)

    async def read_aside(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self.read(work)  # nobody writes meanwhile

    def refuse(self) -> None:
        """There is no other thread that could be in between."""

    def close(self) -> None:
        if not self._closed:
            self._flush()
            self.let_go()

    def let_go(self) -> None:
        """Close the file as it is."""
        if not self._closed:
            self._closed = True
            self._writer.close()
            self._reader.close()

    def _check(self) -> None:
        if self._closed or (self._machine is not None and self._machine.dead):
            raise StorageError("the database is closed")


def nth(number: int, fault: Fault) -> dict[int, Fault]:
    """A plan with one fault."""
    return {number: fault}


def some(chance: random.Random, among: int, faults: Sequence[Fault]) -> dict[int, Fault]:
    """A plan with a fault or two at any of the next points."""
    return {chance.randint(1, among): chance.choice(faults) for _ in range(chance.choice([1, 1, 1, 2]))}
