"""What many runs say together: the best of each server, ratios of runs of the same round, and whether the targets hold."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from scenarios import Figures

US = "satroute"
PIPED_WIDTH = 160
COLUMNS = (
    *("scenario", "server", "req/s", "events/s", "spread", "p50 ms", "p99 ms", "first byte", "CPU ms", "peak MiB"),
    *("failed", "loop ms", "sync ms"),
)


class Row(msgspec.Struct, frozen=True):
    """A server in a scenario: the best of its rounds, since noise on a machine only ever takes away."""

    peer: str
    scenario: str
    requests_per_second: float
    events_per_second: float
    spread: float
    """Of the rate: what the worst round has less than the best, as a part of it."""
    p50_ms: float
    p99_ms: float
    first_byte_p50_ms: float
    cpu_ms: float
    peak_mib: float
    failures: int
    """Of all rounds."""
    first_failure: str
    loop_ms: tuple[float, float]
    sync_ms: tuple[float, float]
    """The machine before these runs, at its fastest and its slowest: see `Calibration`."""


class Ratio(msgspec.Struct, frozen=True):
    """A quotient (or a difference) of two servers, each time in the same round."""

    name: str
    median: float
    least: float
    most: float


class Target(msgspec.Struct, frozen=True):
    name: str
    wanted: str
    measured: float
    holds: bool


def rows(figures: Sequence[Figures]) -> list[Row]:
    groups: dict[tuple[str, str], list[Figures]] = {}
    for each in figures:
        groups.setdefault((each.scenario, each.peer), []).append(each)
    return [_row(group) for group in groups.values()]


def _row(group: list[Figures]) -> Row:
    rates = [each.requests_per_second for each in group]
    loops = [each.machine.loop_ms for each in group]
    syncs = [each.machine.sync_ms for each in group]
    return Row(
        peer=group[0].peer,
        scenario=group[0].scenario,
        requests_per_second=max(rates),
        events_per_second=max(each.events_per_second for each in group),
        spread=round(1 - min(rates) / max(rates), 2) if max(rates) else 0,
        p50_ms=_least(each.p50_ms for each in group),
        p99_ms=_least(each.p99_ms for each in group),
        first_byte_p50_ms=_least(each.first_byte_p50_ms for each in group),
        cpu_ms=min(each.cpu_ms for each in group),
        peak_mib=max(each.peak_mib for each in group),
        failures=sum(each.failures for each in group),
        first_failure=next((each.first_failure for each in group if each.first_failure), ""),
        loop_ms=(min(loops), max(loops)),
        sync_ms=(min(syncs), max(syncs)),
    )


def _least(values: Any) -> float:
    """Of those that were measured; -1 when none was."""
    return min((value for value in values if value >= 0), default=-1)


def ratios(figures: Sequence[Figures]) -> list[Ratio]:
    """Ours to the others'."""

    def rate(each: Figures) -> float:
        return each.requests_per_second

    def cpu(each: Figures) -> float:
        return each.cpu_ms

    def quotient(ours: float, theirs: float) -> float:
        return ours / theirs

    def later(ours: float, theirs: float) -> float:
        return ours - theirs

    wanted: list[tuple[str, str, str, Callable[[Figures], float], Callable[[float, float], float]]] = [
        ("requests/s to LiteLLM, json-32", "litellm", "json-32", rate, quotient),
        ("requests/s to bare, json-32", "bare", "json-32", rate, quotient),
        ("requests/s to nginx, json-32", "nginx", "json-32", rate, quotient),
        ("CPU to bare, json-32", "bare", "json-32", cpu, quotient),
        ("first byte later than direct, ms, paced-1", "direct", "paced-1", lambda each: each.first_byte_p50_ms, later),
        (
            "first byte later than direct, ms, paced-32",
            "direct",
            "paced-32",
            lambda each: each.first_byte_p50_ms,
            later,
        ),
        (
            "first byte later than direct, ms, paced-256",
            "direct",
            "paced-256",
            lambda each: each.first_byte_p50_ms,
            later,
        ),
    ]
    found = []
    for name, peer, scenario, of, compare in wanted:
        ours = {each.round: of(each) for each in figures if (each.peer, each.scenario) == (US, scenario)}
        theirs = {each.round: of(each) for each in figures if (each.peer, each.scenario) == (peer, scenario)}
        both = [compare(ours[n], theirs[n]) for n in ours.keys() & theirs.keys() if ours[n] > 0 and theirs[n] > 0]
        if both:
            found.append(Ratio(name, *(round(f(both), 3) for f in (statistics.median, min, max))))
    return found


def targets(table: Sequence[Row], compared: Sequence[Ratio]) -> list[Target]:
    """Those that this run can tell of."""
    ours = {row.scenario: row for row in table if row.peer == US}
    medians = {ratio.name: ratio.median for ratio in compared}
    found: list[Target] = []

    def at_least(name: str, least: float, value: float | None) -> None:
        if value is not None:
            found.append(Target(name, f">= {least:,g}", value, value >= least))

    def at_most(name: str, most: float, value: float | None) -> None:
        if value is not None:
            found.append(Target(name, f"<= {most:,g}", value, value <= most))

    def of(scenario: str, field: str) -> float | None:
        return getattr(ours[scenario], field) if scenario in ours else None

    at_least("requests/s, json-32", 1500, of("json-32", "requests_per_second"))
    at_least("requests/s to LiteLLM, json-32", 60, medians.get("requests/s to LiteLLM, json-32"))
    for scenario in ("json-256", "burst-256", "paced-256"):
        at_most(f"failures, {scenario}", 0, of(scenario, "failures"))
    at_most("CPU ms a request, json-32", 0.6, of("json-32", "cpu_ms"))
    at_most("CPU to bare, json-32", 1.6, medians.get("CPU to bare, json-32"))
    at_most("p50 ms, json-1", 1, of("json-1", "p50_ms"))
    at_least("events/s, paced-256", 20_000, of("paced-256", "events_per_second"))
    for scenario in ("paced-1", "paced-32", "paced-256"):
        name = f"first byte later than direct, ms, {scenario}"
        at_most(name, 1, medians.get(name))
    if ours:
        at_most("peak RSS, MiB", 150, max(row.peak_mib for row in ours.values()))
    return found


def show(table: Sequence[Row], compared: Sequence[Ratio], wanted: Sequence[Target]) -> None:
    """For people."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    if table:
        console.print(_figures(table))
        for row in table:
            if row.failures:
                console.print(f"{row.peer}, {row.scenario}: {row.failures} failures, the first: {row.first_failure}")
    if compared:
        lines = Table("ratio", "median", "least", "most", title="satroute to the others, in the same round")
        for ratio in compared:
            lines.add_row(ratio.name, f"{ratio.median:g}", f"{ratio.least:g}", f"{ratio.most:g}")
        console.print(lines)
    if wanted:
        lines = Table("target", "wanted", "measured", "")
        for target in wanted:
            mark = "[green]holds[/]" if target.holds else "[red]missed[/]"
            lines.add_row(target.name, target.wanted, f"{target.measured:,g}", mark)
        console.print(lines)


def _figures(table: Sequence[Row]) -> Table:
    shown = Table(*COLUMNS, title="best of the rounds; failures of all of them")
    for row in sorted(table, key=lambda row: row.scenario):
        shown.add_row(
            row.scenario,
            f"[bold]{row.peer}[/]" if row.peer == US else row.peer,
            f"{row.requests_per_second:,.0f}",
            f"{row.events_per_second:,.0f}" if row.events_per_second else "",
            f"{row.spread:.0%}",
            f"{row.p50_ms:,.2f}",
            f"{row.p99_ms:,.2f}",
            f"{row.first_byte_p50_ms:,.2f}" if row.events_per_second else "",
            f"{row.cpu_ms:.3f}",
            f"{row.peak_mib:,.0f}",
            f"[red]{row.failures:,}[/]" if row.failures else "0",
            f"{row.loop_ms[0]:g}-{row.loop_ms[1]:g}",
            f"{row.sync_ms[0]:g}-{row.sync_ms[1]:g}",
        )
    return shown
