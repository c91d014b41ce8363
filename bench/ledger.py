"""How many hold + post pairs a second one process books, on SQLite (synchronous=FULL) and on PostgreSQL.

    uv run python bench/ledger.py [--json] [--seconds 3] [--concurrency 32] [--keys 100] [--postgres URL] [--only sqlite]
                                  [--all-cores]

Every pair is two durable moves of the real ledger, each awaited before the next of its caller: a hold of 1000 msat and a
post of 132 msat with its receipt. At the end the audit proves the sums. Without --postgres a server is started in a
temporary folder, if PostgreSQL is installed.

The process has one core, as a node in bench/proxy.py has: its loop and its writer take turns, and to wake one another on
another core costs them more than they gain by it. PostgreSQL, if it is started here, has the other: where the system placed
it, it was beside the process in one run and in its way in the next, 17,000 and 10,000. With --all-cores the system places
all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import uvloop
from machine import CORES, LOAD_CORE, SERVER_CORE, calibrate, on
from rich.console import Console
from rich.table import Table

from node.api.errors import new_request_id
from node.cli.serve import settle_memory
from node.ledger.ledger import Ledger
from node.ledger.model import Held
from node.localnet.postgres import postgres_bin, running_postgres
from relays.pricing import ModelPrice, Usage
from relays.receipt import Receipt

HOLD_MSAT, COST_MSAT, GRANT_MSAT = 1000, 132, 10**12
PRICE = ModelPrice(0, 2_000_000)


def draft(request_id: str) -> Receipt:
    return Receipt(
        request_id=request_id,
        model="bench",
        usage=Usage(10, COST_MSAT // 2),
        metered="upstream",
        outcome="complete",
        price=PRICE,
        hold_msat=HOLD_MSAT,
        cost_msat=COST_MSAT,
        balance_msat=0,
    )


async def measure(url: str, seconds: float, concurrency: int, keys: int) -> dict[str, float | int | str]:
    """Run pairs from `concurrency` callers for that long; prove the books."""
    ledger = await Ledger.open(url)
    try:
        for _ in range(keys):
            await ledger.create_key(os.urandom(32).hex(), "", "", GRANT_MSAT)
        turns = itertools.cycle(key for key, _ in await ledger.keys())
        before = (await ledger.audit()).earned_msat
        waits: list[float] = []
        settle_memory()
        stop = time.perf_counter() + seconds

        async def caller() -> None:
            while (begun := time.perf_counter()) < stop:
                request_id = new_request_id()
                outcome = await ledger.hold(next(turns), request_id, HOLD_MSAT, 60)
                assert isinstance(outcome, Held), outcome
                await ledger.post(draft(request_id))
                waits.append(time.perf_counter() - begun)

        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(concurrency)))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        totals = await ledger.audit()
        assert totals.earned_msat - before == len(waits) * COST_MSAT, "a pair was lost or doubled"
        centiles = statistics.quantiles(waits, n=100)
        return {
            "backend": url.split(":", maxsplit=1)[0],
            "concurrency": concurrency,
            "pairs": len(waits),
            "pairs_per_second": round(len(waits) / wall),
            "p50_ms": round(centiles[49] * 1000, 3),
            "p99_ms": round(centiles[98] * 1000, 3),
            "cpu_ms_per_pair": round(cpu * 1000 / len(waits), 4),
            "cores": len(os.sched_getaffinity(0)),
        }
    finally:
        await ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--only", choices=("sqlite", "postgres"))
    parser.add_argument("--all-cores", action="store_true", help="leave it to the system where the threads run")
    parser.add_argument("--postgres", metavar="URL", help="an empty database")
    options = parser.parse_args()
    results = []

    own, others = (CORES, CORES) if options.all_cores else ([SERVER_CORE], [LOAD_CORE])

    def run(url: str) -> None:
        with on(*own):
            results.append(uvloop.run(measure(url, options.seconds, options.concurrency, options.keys)))

    with tempfile.TemporaryDirectory() as folder:
        machine = calibrate(Path(folder))
        if options.only != "postgres":
            run(f"sqlite:///{Path(folder) / 'ledger.db'}")
    if options.only != "sqlite":
        if options.postgres is None and postgres_bin() is None:
            print("PostgreSQL is not installed: left out (apt-get install postgresql)", file=sys.stderr)
        else:
            with ExitStack() as stack:
                with on(*others):
                    url = options.postgres or stack.enter_context(running_postgres())
                run(url)
    if options.json:
        print(json.dumps({"ledger": results, "machine": msgspec.to_builtins(machine)}))
        return
    table = Table(*(name.replace("_", " ") for name in results[0]))
    for result in results:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in result.values()))
    Console().print(table)
    Console().print(
        f"a fixed loop took {machine.loop_ms} ms of CPU, a small write {machine.sync_ms} ms to be on the disk"
    )


if __name__ == "__main__":
    main()
