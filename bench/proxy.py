"""How fast the node is, beside a bare proxy, nginx and LiteLLM, with its books, its metering and its receipts on.

    uv run python bench/proxy.py [--json] [--only json-32,paced-256] [--peers bare,satroute] [--seconds 2] [--rounds 3]
    uv run python bench/proxy.py [--accounts 10,100000] [--catalogue 5,5000] [--requests 1000000] [--start]
    uv run python bench/proxy.py --postgres --workers 1,2

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import growth
import msgspec
from machine import CORES, LOAD_CORE, SERVER_CORE, Missing, compiled
from report import Report, grown, ratios, rows, show, targets
from rich.console import Console
from scenarios import NAMED, Callers, Figures, Scenario
from servers import PEERS, Place, Server, mock

from node.localnet.postgres import running_postgres


def chosen(names: str | None, known: Any) -> list[str]:
    """Of a list with commas; all when there is none."""
    given = [name.strip() for name in (names or ",".join(known)).split(",") if name.strip()]
    if unknown := [name for name in given if name not in known]:
        raise SystemExit(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return given


def numbers(text: str) -> list[int]:
    """Of an option with commas."""
    return sorted(int(number) for number in text.split(","))


def interleaved(
    servers: Sequence[Server], scenarios: Sequence[Scenario], options: argparse.Namespace, callers: Callers
) -> Iterator[Figures]:
    """All scenarios on all servers, in rounds; every other round backwards, so that nobody always has the better place."""
    progress = Console(stderr=True)
    for server in servers:
        callers.call(server, NAMED["json-32"], options.seconds / 2)
    for round_ in range(options.rounds):
        for scenario in scenarios:
            for server in servers if round_ % 2 == 0 else servers[::-1]:
                if progress.is_terminal:
                    progress.print(f"round {round_ + 1}: {scenario.name} on {server.name}", end="\033[K\r")
                yield callers.measure(server, scenario, options.seconds, round_)


def side_by_side(options: argparse.Namespace, place: Place, callers: Callers) -> Report:
    """The node beside the others."""
    names, scenarios = chosen(options.peers, PEERS), [NAMED[name] for name in chosen(options.only, NAMED)]
    with ExitStack() as stack:
        figures = list(interleaved(started(names, place, stack), scenarios, options, callers))
    table, found = rows(figures), ratios(figures)
    return Report(best=table, ratios=found, targets=targets(table, found), runs=figures)


def large(
    grow: Callable[[Place, Sequence[int], ExitStack], list[Server]],
    sizes: Sequence[int],
    options: argparse.Namespace,
    place: Place,
    callers: Callers,
) -> Report:
    """The node beside itself with more accounts, models or processes."""
    scenarios = [NAMED[name] for name in chosen(options.only or "json-32", NAMED)]
    with ExitStack() as stack:
        servers = grow(place, sizes, stack)
        figures = list(interleaved(servers, scenarios, options, callers))
    found = grown(figures, servers[0].name, servers[-1].name)
    return Report(best=rows(figures), ratios=found, targets=targets([], found), runs=figures)


def old(options: argparse.Namespace, place: Place, callers: Callers) -> Report:
    """The node after many requests."""
    ages = []
    for age in growth.life(place, callers, options.requests):
        print(
            f"{age.requests:,} requests: {age.rss_mib} MiB, {age.requests_per_second:,.0f} requests/s", file=sys.stderr
        )
        ages.append(age)
    return Report(life=ages, targets=growth.aged(ages))


def soon(place: Place, callers: Callers) -> Report:
    """The node as it starts."""
    found = growth.start(place, callers)
    return Report(start=[found], targets=growth.started(found))


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
    parser.add_argument(
        "--workers", type=numbers, default=[1], metavar="2", help="processes of the node, each with a core"
    )
    instead = parser.add_argument_group("instead of the peers")
    instead.add_argument("--accounts", type=numbers, metavar="10,100000", help="nodes with so many accounts")
    instead.add_argument("--catalogue", type=numbers, metavar="5,5000", help="nodes with so many models")
    instead.add_argument("--requests", type=int, metavar="1000000", help="one node's memory over so many requests")
    instead.add_argument("--start", action="store_true", help="how soon the node serves, and the client is imported")
    options = parser.parse_args()
    if options.postgres and (options.accounts or options.catalogue or options.start):
        parser.error("--postgres is one set of books: it goes with the peers and with --requests")
    if options.workers != [1] and not options.postgres:
        parser.error("--workers need books that they can share: --postgres")
    return options


def measured(options: argparse.Namespace, place: Place, callers: Callers) -> Report:
    """What was asked for, one after the other."""
    report = Report()
    for grow, sizes in ((growth.of_accounts, options.accounts), (growth.of_models, options.catalogue)):
        if sizes:
            report += large(grow, sizes, options, place, callers)
    if len(options.workers) > 1:
        report += large(growth.of_workers, options.workers, options, place, callers)
    if options.requests:
        report += old(options, place, callers)
    if options.start:
        report += soon(place, callers)
    if report == Report():
        report = side_by_side(options, place, callers)
    return report


def run(options: argparse.Namespace) -> None:
    chosen(options.peers, PEERS), chosen(options.only, NAMED)
    if len(CORES) < 2:
        print("there is but one core, which callers and mock take a part of: all rates are too low", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        port, _ = stack.enter_context(mock(compiled("mock", folder), folder / "mock"))
        books = stack.enter_context(running_postgres()) if options.postgres else ""
        place = Place(folder, port, litellm=options.litellm, books=books, workers=options.workers[0])
        report = measured(options, place, Callers(compiled("load", folder), folder))
    if options.json:
        print(msgspec.json.encode({"machine": machine(), **msgspec.structs.asdict(report)}).decode())
    else:
        show(report)


def main() -> None:
    try:
        run(arguments())
    except Missing as missing:
        raise SystemExit(str(missing)) from None
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
