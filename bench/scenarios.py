"""What the callers do, and what one run of it shows."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
from machine import (
    LOAD_CORE,
    SERVER_CORE,
    Calibration,
    calibrate,
    core_busy_s,
    cpu_s,
    forget_peak,
    memory_mib,
    rest,
    tied,
)
from servers import EVENTS, Server

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
WARM_S, WARM_PACED_S = 0.3, 1.2
LEAST_PACED_S = 2.0
"""A stream takes a second; some must begin and end within a run."""
DRAIN_S = 10
MESSAGES = [
    {"role": "system", "content": "You keep a lighthouse's log. Answer from it in a few plain sentences; guess nothing."},
    {"role": "user", "content": "Which ships passed on the night of the storm, in which order, and what did each signal? "
     "Say also which of them came back within the week, and what the harbour master wrote about the one that did not."},
]  # fmt: skip


class Scenario(msgspec.Struct, frozen=True):
    """So many callers, each with this request again and again."""

    name: str
    concurrency: int
    path: str = CHAT
    model: str = "burst"
    stream: bool = False

    @property
    def body(self) -> dict[str, Any] | None:
        if self.path == MODELS:
            return None
        body: dict[str, Any] = {"model": self.model, "max_tokens": 256, "messages": MESSAGES}
        return {**body, "stream": True, "stream_options": {"include_usage": True}} if self.stream else body

    @property
    def needle(self) -> str:
        """What every right answer contains."""
        return '"data"' if self.path == MODELS else '"completion_tokens"'


ALL = (
    *(Scenario(f"json-{count}", count) for count in (1, 32, 256)),
    *(Scenario(f"burst-{count}", count, stream=True) for count in (1, 32, 256)),
    *(Scenario(f"paced-{count}", count, model="paced", stream=True) for count in (1, 32, 256)),
    Scenario("models-32", 32, path=MODELS),
)
NAMED = {scenario.name: scenario for scenario in ALL}


class Load(msgspec.Struct, frozen=True):
    """What the callers saw."""

    served: int
    failures: int
    unfinished: int
    seconds: float
    requests_per_second: float
    events_per_second: float
    p50_ms: float
    p99_ms: float
    first_byte_p50_ms: float
    first_failure: str


class Figures(Load, frozen=True, kw_only=True):
    """One run of a scenario on a server."""

    peer: str
    scenario: str
    round: int
    cpu_ms: float
    """Of the server's process tree, for a request."""
    peak_mib: float
    """Of the server's process tree, in this run."""
    others: float
    """The part of the server's core that other programs took meanwhile."""
    machine: Calibration
    """Just before."""


class Callers(msgspec.Struct, frozen=True):
    """The load program and where it may write."""

    program: Path
    folder: Path

    def call(self, server: Server, scenario: Scenario, seconds: float, requests: int = 0) -> Load:
        """For that long, or that many requests."""
        body = ""
        if scenario.body is not None:
            path = self.folder / f"{scenario.name}.json"
            path.write_text(json.dumps(scenario.body, separators=(",", ":")))
            body = str(path)
        paid, paced = scenario.path == CHAT, scenario.model == "paced"
        warm_s, seconds = (WARM_PACED_S, max(seconds, LEAST_PACED_S)) if paced else (WARM_S, seconds)
        words = [
            str(self.program), str(server.port), scenario.path, str(scenario.concurrency),
            str(warm_s), str(seconds), str(requests), str(DRAIN_S),
            body, str(server.keys), scenario.needle, str(EVENTS if scenario.stream else 0),
            server.receipt if paid else "",
        ]  # fmt: skip
        done = subprocess.run(tied(words, LOAD_CORE), check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the callers of {server.name} gave up: {done.stderr.strip()}")
        return msgspec.json.decode(done.stdout, type=Load)

    def measure(self, server: Server, scenario: Scenario, seconds: float, round_: int) -> Figures:
        """The figures of one run, after which the server has come to rest."""
        calibration = calibrate(self.folder)
        forget_peak(server.pid)
        began, before, busy = time.monotonic(), cpu_s(server.pid), core_busy_s(SERVER_CORE)
        load = self.call(server, scenario, seconds)
        spent_s = cpu_s(server.pid) - before
        others_s = core_busy_s(SERVER_CORE) - busy - spent_s
        wall_s = time.monotonic() - began
        rest(server.pid)
        return Figures(
            **msgspec.structs.asdict(load),
            peer=server.name,
            scenario=scenario.name,
            round=round_,
            cpu_ms=round(spent_s * 1000 / max(1, load.served + load.failures), 4),
            peak_mib=memory_mib(server.pid),
            others=round(max(0.0, others_s) / wall_s, 2),
            machine=calibration,
        )
