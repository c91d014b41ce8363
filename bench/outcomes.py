"""Prompts with what many models made of them, read from a folder that is not part of the project.

A folder holds `NAME.jsonl.gz` (a line: `{"id", "domain", "prompt", "outcomes": {model: {"correct": 0..1, "cost_usd"}}}`),
`pairs.json` (`{NAME: {"pairs": [[cheap model, strong model], ...]}}`) and, where cheap models' answers are known,
`answers_NAME.jsonl.gz` (`{"id", "model", "answer"}`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

WHERE = (
    "point --data (or ROUTING_DATA) to a folder of NAME.jsonl.gz with pairs.json, as bench/outcomes.py describes them"
)
ANSWERS = "answers_"


class DataSet(msgspec.Struct, frozen=True):
    name: str
    rows: list[dict[str, Any]]
    pairs: list[tuple[str, str]]
    """Of a cheap model and a strong one."""

    def right(self, row: dict[str, Any], model: str) -> float:
        return float(row["outcomes"][model]["correct"])

    def both(self, pair: tuple[str, str]) -> list[dict[str, Any]]:
        """The rows that both models of a pair were asked."""
        return [row for row in self.rows if all(model in row["outcomes"] for model in pair)]


class Answered(msgspec.Struct, frozen=True):
    """A cheap model's answers, beside who was right."""

    data: str
    pair: tuple[str, str]
    rows: list[dict[str, Any]]
    answers: list[str]
    cheap: list[float]
    strong: list[float]

    @property
    def is_viable(self) -> bool:
        """The cheap model is at least half as good: no judge can make much of others."""
        return sum(self.cheap) >= 0.5 * sum(self.strong)


def load(folder: Path) -> list[DataSet]:
    """All data sets of a folder, by name. Raises OSError when it has none."""
    pairs = json.loads((folder / "pairs.json").read_text())
    names = sorted(path.name.removesuffix(".jsonl.gz") for path in folder.glob("*.jsonl.gz"))
    return [
        DataSet(
            name, list(_lines(folder / f"{name}.jsonl.gz")), [(cheap, strong) for cheap, strong in pairs[name]["pairs"]]
        )
        for name in names
        if not name.startswith(ANSWERS) and name in pairs
    ]


def load_answers(folder: Path, sets: list[DataSet]) -> list[Answered]:
    """Of each pair whose cheap model's answers are known."""
    found: list[Answered] = []
    for data in sets:
        path = folder / f"{ANSWERS}{data.name}.jsonl.gz"
        if not path.exists():
            continue
        answers = {(line["id"], line["model"]): line["answer"] for line in _lines(path)}
        for pair in data.pairs:
            rows = [row for row in data.both(pair) if (row["id"], pair[0]) in answers]
            right = [[data.right(row, model) for row in rows] for model in pair]
            found.append(Answered(data.name, pair, rows, [answers[row["id"], pair[0]] for row in rows], *right))
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
