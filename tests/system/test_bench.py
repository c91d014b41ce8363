"""The benchmark of the proxy runs, and counts what fails. How fast anything is, is not asserted: machines are shared."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.localnet.postgres import postgres_bin
from node.localnet.process import free_port
from tests.system.children import until

BENCH = Path(__file__).parents[2] / "bench"
EVENTS = 5
STREAM = b'{"model":"burst","stream":true,"stream_options":{"include_usage":true}}'

pytestmark = pytest.mark.skipif(
    None in (shutil.which("cc"), shutil.which("taskset"), shutil.which("setpriv")),
    reason="the benchmark needs a C compiler and util-linux",
)


def proxy(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "proxy.py"), "--json", "--seconds", "0.3", "--rounds", "1", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)


def test_every_answer_is_complete_and_ours_has_its_receipt() -> None:
    done = proxy("--peers", "direct,bare,satroute", "--only", "json-1,json-32")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said["runs"]) == 6
    for run in said["runs"]:
        assert run["served"] > 0, run
        assert run["failures"] == 0, run
    assert {target["name"] for target in said["targets"]} >= {"requests/s, json-32", "peak MiB"}


@pytest.mark.skipif(postgres_bin() is None, reason="workers share books on PostgreSQL")
def test_workers_are_measured_beside_one_process() -> None:
    done = proxy("--postgres", "--workers", "1,2")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [(run["peer"], run["failures"]) for run in said["runs"]] == [("1 workers", 0), ("2 workers", 0)]
    assert said["ratios"][0]["name"] == "requests/s, 2 workers to 1 workers"


def test_what_is_not_known_is_said_in_a_line() -> None:
    done = proxy("--peers", "direct,apache")
    assert done.returncode == 1
    assert done.stderr.startswith("there is no apache; there are direct,")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    for name in ("mock", "load"):
        subprocess.run(["cc", "-O1", "-o", folder / name, BENCH / f"{name}.c"], check=True)
    return folder


@pytest.fixture
def mock(programs: Path) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([programs / "mock", str(port), str(EVENTS), "1000", "2"])

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    assert until(listens)
    yield port
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("path", "needle", "events", "receipt", "why"),
    [
        ("/v1/chat/completions", '"completion_tokens"', EVENTS, "", ""),
        ("/v1/chat/completions", "not in there", EVENTS, "", "not the answer"),
        ("/v1/chat/completions", "", EVENTS + 2, "", "events are missing"),
        ("/v1/chat/completions", "", EVENTS, "x-satroute-receipt", "no receipt"),
        ("/v1/nowhere", "", 0, "", "refused, status 404"),
    ],
    ids=str,
)
def test_what_is_not_a_whole_answer_is_a_failure(
    programs: Path, mock: int, folder: Path, path: str, needle: str, events: int, receipt: str, why: str
) -> None:
    (folder / "body").write_bytes(STREAM)
    (folder / "keys").write_text("a key\nanother\n")
    method = "POST" if path.endswith("completions") else ""
    words: list[Any] = [
        programs / "load",
        mock,
        path,
        4,
        0,
        60,
        20,
        5,
        folder / "body" if method else "",
        folder / "keys",
    ]
    done = subprocess.run([str(word) for word in (*words, needle, events, receipt)], check=True, capture_output=True)
    said = json.loads(done.stdout)
    assert (said["served"], said["failures"]) == ((0, 20) if why else (20, 0))
    assert said["first_failure"].startswith(why)
