"""What commands show as tables is whole on every terminal: as a list where a table does not fit."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from node.cli.sheet import sheet

COLUMNS = ("node", "model", "expected", "trust", "seen")
ROWS = [
    ("per-token", "smollm2-135m", "1.042 sat", "x1", "just now"),
    (
        "a node that calls itself by very many words",
        "anthropic/claude-3.5-sonnet-20241022",
        "234,567.890 sat",
        "",
        "2 d ago",
    ),
]
VALUES = [cell for row in ROWS for cell in row[1:] if cell]


def shown(width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(sheet(COLUMNS, ROWS, width, title="who sells", spare=("seen",), without="more on a wider one"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 95, 110, 160])
def test_no_value_is_cut_and_no_line_is_too_long(width: int) -> None:
    lines = shown(width).splitlines()
    assert max(map(len, lines)) <= width
    told = " ".join(" ".join(lines).split())
    assert "…" not in told
    assert [value for value in VALUES if value not in told and value not in ("just now", "2 d ago")] == []


def test_what_is_spare_is_left_out_before_the_table_is() -> None:
    assert "2 d ago" in shown(160)
    narrower = shown(95)
    assert "2 d ago" not in narrower
    assert "more on a wider one" in narrower
    assert "│" in narrower
    alone = " ".join(shown(80).split())
    assert "2 d ago" in alone
    assert "│" not in alone


def test_a_list_says_what_each_value_is_and_leaves_out_the_empty() -> None:
    lines = [line.strip() for line in shown(80).splitlines()]
    assert lines[:3] == ["who sells", "per-token", "model smollm2-135m, expected 1.042 sat, trust x1, seen just now"]
    assert "trust ," not in shown(80)


def test_strangers_markup_is_measured_as_it_shows() -> None:
    wide = sheet(("node", "state"), [("x", "[bold red]blocked[/]")], 22)
    assert isinstance(wide, Table)
