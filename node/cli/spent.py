"""`satroute report` and `budget`: what was spent on what, and how much may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from node.cli.console import escaped, note, out, print_json
from node.cli.place import data_option, json_option, place
from node.cli.real import Real
from node.cli.sheet import sheet
from relays.money import from_sat, in_sats
from router_client.client import BUDGET_FILE, SHELF_FILE, SPENDING_FILE
from router_client.discovery.shelf import Shelf
from router_client.preferences import USUAL
from router_client.spending.account import HOUR_S, Report, Spending
from router_client.spending.budget import MOST_USD, Budget, read_budget, write_budget
from router_client.spending.rate import Rate


@click.command(epilog="Example: satroute report --hours 168 --json")
@click.option("--hours", type=Real(min=0, min_open=True), default=24.0, show_default=True)
@data_option
@json_option
def report(hours: float, data: Path | None, as_json: bool) -> None:
    """What was spent on which model and node, and what the strongest model would have cost more."""
    folder = place(data).folder

    async def read() -> tuple[Report, float | None]:
        if not (folder / SPENDING_FILE).exists():  # who only looks makes none
            return Report(hours, ()), None
        spending = await Spending.open(folder / SPENDING_FILE)
        shelf = await Shelf.open(folder / SHELF_FILE)
        try:
            return Report(hours, tuple(spending.lines(hours * HOUR_S))), Rate(USUAL, None, shelf).msat_per_usd
        finally:
            shelf.close()
            spending.close()

    found, msat_per_usd = asyncio.run(read())
    if as_json:
        print_json(found.told(msat_per_usd))
    else:
        _show(found)


def _show(found: Report) -> None:
    if not found.lines:
        out.print(f"nothing was spent in the last {found.hours:g} hours")
        return
    columns = ("model", "tier", "node", "requests", "verified", "quality", "spent", "saved", "open")
    rows = [
        (
            escaped(line.model),
            line.tier,
            f"{line.node[:16]}…",
            f"{line.requests:,}",
            f"{line.verified:,}",
            "" if line.quality is None else f"{line.quality:.2f}",
            in_sats(line.spent_msat),
            in_sats(line.saved_msat),
            f"{line.open:,}" if line.open else "",
        )
        for line in found.lines
    ]
    out.print(sheet(columns, rows, out.width))
    out.print(f"{found.requests:,} requests, {in_sats(found.spent_msat)}; {in_sats(found.saved_msat)} saved")


def _a(window: str) -> str:
    return f"{'an' if window == 'hour' else 'a'} {window}"


def _limit(window: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Two options: in sats, and in USD."""
    sats = click.option(
        f"--{window}", type=click.IntRange(min=0), metavar="SATS", help=f"At most so much {_a(window)}."
    )
    most = Real(0, MOST_USD)
    usd = click.option(f"--{window}-usd", type=most, metavar="USD", help="The same in USD, at the price of the moment.")
    return lambda command: sats(usd(command))


@click.command(epilog="Example: satroute budget --day 1000 --request-usd 0.05")
@_limit("request")
@_limit("session")
@_limit("hour")
@_limit("day")
@click.option("--none", "lift", is_flag=True, help="Lift all limits.")
@data_option
@json_option
def budget(lift: bool, data: Path | None, as_json: bool, **limits: float | None) -> None:
    """What may be spent at the most; without a limit, show those there are."""
    path = place(data).folder / BUDGET_FILE
    before = Budget() if lift else read_budget(path)
    given: dict[str, Any] = {
        name if name.endswith("_usd") else f"{name}_msat": limit if name.endswith("_usd") else from_sat(int(limit))
        for name, limit in limits.items()
        if limit is not None
    }
    after = msgspec.structs.replace(before, **given)
    if lift or given:
        write_budget(path, after)
    told = {name: limit for name, limit in msgspec.structs.asdict(after).items() if limit is not None}
    if as_json:
        print_json(told)
        return
    tell = note if lift or given else out.print
    if told:
        tell("; ".join(_limit_told(name, limit) for name, limit in told.items()))
    else:
        tell("nothing is limited; satroute budget --day 1000 sets a limit in sats, --day-usd 1 one in USD")


def _limit_told(name: str, limit: float) -> str:
    """A limit of the file by its name there, for people."""
    window, _, unit = name.partition("_")
    return f"at most {f'{limit:g} USD' if unit == 'usd' else in_sats(int(limit))} {_a(window)}"
