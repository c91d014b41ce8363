"""SQL as steps: a move of money yields queries and is sent their rows. One text serves SQLite and PostgreSQL.

Parameters are written `?1`, `?2` …; a query may name one twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from node.errors import LedgerError

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

LOCK: Final = 4_801_620_177
"""PostgreSQL's advisory lock of whoever lays tables, or books a batch."""
CONNECT_S: Final = 10

Row = Sequence[Any]


class Query(msgspec.Struct, frozen=True):
    """One statement for the backend to run."""

    text: str
    values: tuple[Any, ...] = ()


Steps = Generator[Query, list[Row], T]
"""What is done inside one transaction: it yields queries, is sent their rows, and returns its outcome."""
Work = Callable[[], Steps[T]]
"""Steps that can be begun anew: a transaction that failed for a neighbour's fault is repeated."""


def rows(text: str, *values: Any) -> Steps[list[Row]]:
    """All rows of a query."""
    return (yield Query(text, values))


def one(text: str, *values: Any) -> Steps[Row | None]:
    """Its first row, if there is one."""
    found = yield Query(text, values)
    return found[0] if found else None


def only(text: str, *values: Any) -> Steps[Row]:
    """Its first row. Raises LedgerError when there is none."""
    found = yield Query(text, values)
    if not found:
        raise LedgerError("the books lack a row that must be there")
    return found[0]


def run(text: str, *values: Any) -> Steps[None]:
    """A statement whose rows do not matter."""
    yield Query(text, values)


def struct(kind: type[S], row: Row) -> S:
    """A row whose columns are the struct's fields, in their order."""
    return msgspec.convert(dict(zip(kind.__struct_fields__, row, strict=True)), type=kind, strict=False)


def columns(kind: type[msgspec.Struct]) -> str:
    """The struct's fields as a list of columns."""
    return ", ".join(kind.__struct_fields__)
