"""What becomes of the node as it grows older and larger, and how soon it is there."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import msgspec
from machine import NOW, SERVER_CORE, calibrate, compiled, memory_mib, tied
from report import FLAT, Age, Start, Target, at_most
from scenarios import NAMED, Callers
from servers import Place, Server, mock, satroute

from node.localnet.postgres import running_postgres

PARTS, PART_S = 20, 3600.0
STARTS, IMPORTS = 3, 5
IMPORT = "import time; began = time.perf_counter(); import router_client.client; print(time.perf_counter() - began)"


def of_accounts(place: Place, sizes: Sequence[int], stack: ExitStack) -> list[Server]:
    """A node for each number of accounts, all of which call in turn."""
    places = [msgspec.structs.replace(place, accounts=size, name=f"{size:,} accounts") for size in sizes]
    return [stack.enter_context(satroute(each)) for each in places]


def of_models(place: Place, sizes: Sequence[int], stack: ExitStack) -> list[Server]:
    """A node for each number of models, all but two of which nobody asks for."""
    servers, program = [], compiled("mock", place.folder)
    for size in sizes:
        port, _ = stack.enter_context(mock(program, place.folder / f"mock-{size}", size))
        node = msgspec.structs.replace(place, mock_port=port, name=f"{size:,} models")
        servers.append(stack.enter_context(satroute(node)))
    return servers


def of_workers(place: Place, numbers: Sequence[int], stack: ExitStack) -> list[Server]:
    """A node for each number of processes, each with a PostgreSQL of its own."""
    places = [
        msgspec.structs.replace(
            place, workers=number, books=stack.enter_context(running_postgres()), name=f"{number} workers"
        )
        for number in numbers
    ]
    return [stack.enter_context(satroute(each)) for each in places]


def life(place: Place, callers: Callers, requests: int) -> Iterator[Age]:
    """So many requests to one node, with a look at its memory now and then."""
    part = max(1, requests // PARTS)
    with satroute(place) as server:
        for done in range(part, requests + 1, part):
            load = callers.call(server, NAMED["json-32"], seconds=PART_S, requests=part)
            yield Age(done, memory_mib(server.pid, NOW), load.requests_per_second, load.failures)


def aged(ages: Sequence[Age]) -> list[Target]:
    """Whether it grew after its youth, the first tenth."""
    if not ages:
        return []
    grown = at_most("memory, at the end to after a tenth", FLAT, ages[-1].rss_mib / ages[len(ages) // 10].rss_mib)
    failed = at_most("failures in a life", 0, sum(age.failures for age in ages))
    return [target for target in (grown, failed) if target is not None]


def start(place: Place, callers: Callers) -> Start:
    """How soon it is there."""
    loops, served, imported = [], [], []
    for _ in range(STARTS):
        loops.append(calibrate(place.folder).loop_ms)
        with satroute(place) as server:
            first = callers.call(server, NAMED["json-1"], seconds=10, requests=1)
            served.append(server.ready_s + first.seconds)
    for _ in range(IMPORTS):
        words = tied([sys.executable, "-c", IMPORT], SERVER_CORE)
        imported.append(float(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    return Start(round(statistics.median(served), 3), round(statistics.median(imported), 3), loops)


def started(found: Start) -> list[Target]:
    served = at_most("s from start to first served request", 2, found.first_served_s)
    imported = at_most("s to import router_client.client", 0.5, found.import_s)
    return [target for target in (served, imported) if target is not None]
