"""What the ledger asks of a database: the contract that SQLite and PostgreSQL both keep."""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

from node.ledger.page import Move, Outcome
from node.ledger.sql import Work

T = TypeVar("T")


class Backend(Protocol):
    """Writes are serial, durable when they return, and share commits. Raises StorageError for faults of the database."""

    @property
    def place(self) -> str:
        """Where the books lie, for people; without a password."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes may serve from the same books."""
        ...

    async def run(self, work: Work[T]) -> T:
        """The result of the steps, in one transaction, once it is committed. What they raise rolls their changes back."""
        ...

    def move(self, move: Move) -> asyncio.Future[Outcome]:
        """The outcome of a hold, post or release, once it is committed together with whatever else waits."""
        ...

    async def read(self, work: Work[T]) -> T:
        """The result of steps that only look; short and indexed."""
        ...

    async def survey(self, work: Work[T]) -> T:
        """The result of steps that only look, all at the same snapshot; these may take long."""
        ...

    async def close(self) -> None:
        """Finish what is queued, then close."""
        ...
