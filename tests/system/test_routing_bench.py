"""The benchmark of the scorer counts right, on data made by hand, and without data says what it wants."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "routing.py"
ROWS = 240


def routing(*words: str) -> dict[str, Any]:
    surroundings = {name: value for name, value in os.environ.items() if name != "ROUTING_DATA"}
    command = [sys.executable, str(BENCH), "--json", "--world-seconds", "0", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100, env=surroundings)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_without_data_it_says_where_they_go() -> None:
    assert "--data" in routing()["note"]


def test_what_is_known_beforehand_comes_out(folder: Path) -> None:
    """The cheap model fails on every long prompt, the strong one never; a strong call costs ten cheap ones."""
    rows, answers = [], []
    for number in range(ROWS):
        is_long = number % 5 == 0
        prompt = f"What is {number} plus one{', and again' * 20 if is_long else ''}?"
        cheap = {"correct": 0 if is_long else 1, "cost_usd": 0.1}
        outcomes = {"small": cheap, "big": {"correct": 1, "cost_usd": 1.0}, "a": cheap, "b": cheap, "c": cheap}
        rows.append({"id": f"{number}", "domain": "sums", "prompt": prompt, "outcomes": outcomes})
        answers.append(
            {"id": f"{number}", "model": "small", "answer": f"{number} + 1 = {number + 1}" + " and" * 400 * is_long}
        )
    for name, lines in (("sums", rows), ("answers_sums", answers)):
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    (folder / "pairs.json").write_text(json.dumps({"sums": {"pairs": [["small", "big"]]}}))
    said = routing("--data", str(folder))
    length, chance = said["scorers"]["length"], said["scorers"]["random"]
    assert length["AUC"] == pytest.approx(1.0)
    assert length["APGR"] == pytest.approx(1 - 0.2 / 2)
    assert length["saving"] == pytest.approx(1 - (0.1 + 0.15 * 0.9)), (
        "of the fifth that fails, three quarters go to strong"
    )
    assert chance["random"] == pytest.approx(1 - (0.1 + 0.75 * 0.9))
    assert chance["AUC"] == pytest.approx(0.5, abs=0.1)
    assert said["scorers"]["satroute"]["AUC"] > 0.95
    by_answer = said["judges"]["length of the answer"]
    assert by_answer["AUC"] == pytest.approx(1.0)
    assert by_answer["c95"] == pytest.approx(0.1 + 0.15), "every cheap call, and a strong one for those"
    assert by_answer["joint95"] == pytest.approx(0.1 + 0.9 * 0.1 + 0.05), "a tenth never asks the cheap model"
    assert said["judges"]["satroute"]["AUC"] > 0.95
