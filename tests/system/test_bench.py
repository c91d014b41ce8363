"""The benchmark of the proxy runs and counts right. How fast anything is, is not asserted: this machine has other things to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROXY = Path(__file__).parents[2] / "bench" / "proxy.py"
SHORT = ("--json", "--seconds", "0.3", "--rounds", "1")

pytestmark = pytest.mark.skipif(
    None in (shutil.which("cc"), shutil.which("taskset"), shutil.which("setpriv")),
    reason="the benchmark needs a C compiler and util-linux",
)


def measured(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(PROXY), *SHORT, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_every_answer_is_complete_and_ours_has_its_receipt() -> None:
    said = measured("--peers", "direct,bare,satroute", "--only", "json-1,json-32,burst-32")
    assert len(said["runs"]) == 9
    for run in said["runs"]:
        assert run["served"] > 0, run
        assert run["failures"] == 0, run
        assert run["cpu_ms"] >= 0
    assert {target["name"] for target in said["targets"]} >= {"requests/s, json-32", "peak RSS, MiB"}


def test_what_is_not_there_is_said_in_a_line() -> None:
    words = [sys.executable, str(PROXY), "--peers", "direct,apache"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "there is no apache" in done.stderr
