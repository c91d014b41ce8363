"""How fast the node is, beside a bare proxy, nginx and LiteLLM, with its books, its metering and its receipts on.

    uv run python bench/proxy.py [--json] [--only json-32,paced-256] [--peers bare,satroute] [--seconds 2] [--rounds 3]

Starts a mock of a model's server and each proxy in front of it, all on 127.0.0.1: the proxies on one core, the mock and the
callers on another. Every scenario is run on each in turn, in several rounds, so that a ratio is one of neighbours in time.
An answer counts when it is complete and, the node's, has its receipt. Before each run a fixed loop shows how fast the
machine is. At the end the node's books are audited. docs/performance.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from machine import CORES, LOAD_CORE, SERVER_CORE, Missing, compiled
from report import ratios, rows, show, targets
from rich.console import Console
from scenarios import NAMED, Callers, Figures
from servers import PEERS, Place, Server, mock

from node.localnet.postgres import running_postgres


def chosen(names: str | None, known: Any) -> list[str]:
    """Of a list with commas; all when there is none."""
    given = [name.strip() for name in (names or ",".join(known)).split(",") if name.strip()]
    if unknown := [name for name in given if name not in known]:
        raise SystemExit(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return given


def side_by_side(options: argparse.Namespace, place: Place, callers: Callers) -> list[Figures]:
    """All scenarios on all servers, in rounds; every other round backwards, so that nobody always has the better place."""
    found: list[Figures] = []
    with ExitStack() as stack:
        servers = started(chosen(options.peers, PEERS), place, stack)
        scenarios = [NAMED[name] for name in chosen(options.only, NAMED)]
        progress = Console(stderr=True)
        for server in servers:
            callers.call(server, NAMED["json-32"], options.seconds / 2)
        for round_ in range(options.rounds):
            for scenario in scenarios:
                for server in servers if round_ % 2 == 0 else servers[::-1]:
                    if progress.is_terminal:
                        progress.print(f"round {round_ + 1}: {scenario.name} on {server.name}", end="\033[K\r")
                    found.append(callers.measure(server, scenario, options.seconds, round_))
    return found


def started(names: list[str], place: Place, stack: ExitStack) -> list[Server]:
    """Those that can be had here; a line for each that cannot. The node has to be."""
    servers = []
    for name in names:
        try:
            servers.append(stack.enter_context(PEERS[name](place)))
        except Missing as missing:
            if name == "satroute":
                raise
            print(missing, file=sys.stderr)
    return servers


def machine() -> dict[str, Any]:
    """What was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "processor": model,
        "cores": len(CORES),
        "server_core": SERVER_CORE,
        "load_core": LOAD_CORE,
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--only", metavar="SCENARIOS", help=f"of {', '.join(NAMED)}")
    parser.add_argument("--peers", metavar="SERVERS", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--seconds", type=float, default=2, help="of each run, after its warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litellm", type=Path, metavar="PATH", help="its command, instead of one installed for this")
    parser.add_argument("--postgres", action="store_true", help="the node's books on PostgreSQL instead of SQLite")
    parser.add_argument("--workers", type=int, default=1, help="processes of the node")
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    if len(CORES) < 2:
        print(
            "one core alone: the callers and the mock take their part of it, so all rates are too low", file=sys.stderr
        )
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        callers = Callers(compiled("load", folder), folder)
        port, _ = stack.enter_context(mock(compiled("mock", folder), folder / "mock"))
        books = stack.enter_context(running_postgres()) if options.postgres else ""
        place = Place(folder, port, litellm=options.litellm, books=books, workers=options.workers)
        figures = side_by_side(options, place, callers)
    table, compared = rows(figures), ratios(figures)
    wanted = targets(table, compared)
    if options.json:
        said = {"machine": machine(), "best": table, "ratios": compared, "targets": wanted, "runs": figures}
        print(msgspec.json.encode(said).decode())
    else:
        show(table, compared, wanted)


def main() -> None:
    try:
        run(arguments())
    except Missing as missing:
        raise SystemExit(str(missing)) from None


if __name__ == "__main__":
    main()
