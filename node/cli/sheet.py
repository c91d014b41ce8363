"""Rows of values for people: a table where it fits, else each row by itself. A number that is cut is another number."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

FIRST_CHARS: Final = 20
"""The first column may be folded to so many: it is what strangers call themselves."""
BORDER_CHARS: Final = 3
INDENT: Final = 2
Rows = Sequence[Sequence[str]]


def sheet(
    columns: Sequence[str],
    rows: Rows,
    width: int,
    *,
    title: str = "",
    caption: str = "",
    spare: Collection[str] = (),
    without: str = "",
) -> RenderableType:
    """Cells are markup. `spare` columns are left out where the rest then fits into `width` characters, and `without` is said
    in the place of the caption."""
    if _fits(columns, rows, width):
        return _table(columns, rows, title, caption)
    kept = [name for name in columns if name not in spare]
    fewer = [[cell for name, cell in zip(columns, row, strict=True) if name not in spare] for row in rows]
    if _fits(kept, fewer, width):
        return _table(kept, fewer, title, caption or without)
    return _list(columns, rows, title, caption)


def _fits(columns: Sequence[str], rows: Rows, width: int) -> bool:
    widths = [max(_chars(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    widths[0] = max(_chars(columns[0]), min(widths[0], FIRST_CHARS))
    return sum(widths) + BORDER_CHARS * len(columns) + 1 <= width


def _chars(cell: str) -> int:
    return Text.from_markup(cell).cell_len


def _table(columns: Sequence[str], rows: Rows, title: str, caption: str) -> Table:
    table = Table(title=title or None, caption=caption or None)
    for place, name in enumerate(columns):
        table.add_column(name, no_wrap=place > 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _list(columns: Sequence[str], rows: Rows, title: str, caption: str) -> Group:
    """The first value of a row, and below it the others, each with its column's name."""
    shown: list[RenderableType] = [Text.from_markup(f"[italic]{title}[/]")] if title else []
    for row in rows:
        said = [f"[dim]{name}[/] {cell}" for name, cell in zip(columns[1:], row[1:], strict=True) if cell]
        shown += [
            Text.from_markup(f"[bold]{row[0]}[/]", overflow="fold"),
            Padding(Text.from_markup(", ".join(said), overflow="fold"), (0, 0, 0, INDENT), expand=False),
        ]
    return Group(*shown, *([Text.from_markup(f"[dim italic]{caption}[/]")] if caption else []))
