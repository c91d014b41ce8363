"""What many runs say together: the best of each server, ratios of runs of the same round, and whether the targets hold."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import sub, truediv
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from scenarios import Figures

US = "satroute"
PIPED_WIDTH = 160
BOX = box.HEAVY_HEAD if sys.stdout.isatty() else box.MARKDOWN
PACED = ("paced-1", "paced-32", "paced-256")
LATER = "first byte later than direct, ms"
FLAT = 1.2
"""What grows by less than this from the smallest to the largest is called flat: a machine's noise is that great."""
COLUMNS = (
    *("scenario", "server", "req/s", "events/s", "spread", "p50 ms", "p99 ms", "first byte", "CPU ms", "peak MiB"),
    *("failed", "others", "loop ms", "sync ms"),
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
    others: tuple[float, float]
    """The part of the core that other programs took, at the least and at the most."""
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


class Age(msgspec.Struct, frozen=True):
    """How the node was after so many requests."""

    requests: int
    rss_mib: float
    requests_per_second: float
    failures: int


class Start(msgspec.Struct, frozen=True):
    """Seconds, the median of a few, and a fixed loop's ms before each."""

    first_served_s: float
    """From the start of `satroute serve` with books that exist to the end of its first paid request."""
    import_s: float
    """`import router_client.client`, the front door, in a fresh interpreter; the package alone imports nothing."""
    loop_ms: list[float]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found out."""

    best: list[Row] = []
    ratios: list[Ratio] = []
    targets: list[Target] = []
    life: list[Age] = []
    start: list[Start] = []
    runs: list[Figures] = []

    def __add__(self, other: Report) -> Report:
        return Report(**{field: getattr(self, field) + getattr(other, field) for field in self.__struct_fields__})


def rows(figures: Sequence[Figures]) -> list[Row]:
    groups: dict[tuple[str, str], list[Figures]] = {}
    for each in figures:
        groups.setdefault((each.scenario, each.peer), []).append(each)
    return [_row(group) for group in groups.values()]


def _row(group: list[Figures]) -> Row:
    rates = [each.requests_per_second for each in group]
    loops = [each.machine.loop_ms for each in group]
    others = [each.others for each in group]
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
        others=(min(others), max(others)),
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

    def first_byte(each: Figures) -> float:
        return each.first_byte_p50_ms

    return [
        *compared(figures, "requests/s to LiteLLM, json-32", (US, "litellm"), "json-32", rate),
        *compared(figures, "requests/s to bare, json-32", (US, "bare"), "json-32", rate),
        *compared(figures, "requests/s to nginx, json-32", (US, "nginx"), "json-32", rate),
        *compared(figures, "CPU to LiteLLM, json-32", (US, "litellm"), "json-32", cpu),
        *compared(figures, "CPU to bare, json-32", (US, "bare"), "json-32", cpu),
        *compared(figures, "CPU to nginx, json-32", (US, "nginx"), "json-32", cpu),
        *(
            ratio
            for scenario in PACED
            for ratio in compared(figures, f"{LATER}, {scenario}", (US, "direct"), scenario, first_byte, sub)
        ),
    ]


def grown(figures: Sequence[Figures], smallest: str, largest: str) -> list[Ratio]:
    """What more accounts, models or processes cost and bring."""
    both, to = (largest, smallest), f"{largest} to {smallest}"
    return [
        *compared(figures, f"requests/s, {to}", both, "json-32", lambda each: each.requests_per_second),
        *compared(figures, f"requests/s, json-256, {to}", both, "json-256", lambda each: each.requests_per_second),
        *compared(figures, f"CPU, {to}", both, "json-32", lambda each: each.cpu_ms),
        *compared(figures, f"memory, {to}", both, "json-32", lambda each: each.peak_mib),
    ]


def compared(
    figures: Sequence[Figures],
    name: str,
    peers: tuple[str, str],
    scenario: str,
    of: Callable[[Figures], float],
    by: Callable[[float, float], float] = truediv,
) -> Iterator[Ratio]:
    """The first peer's figure by the second's, if both were measured."""
    ours, theirs = (
        {each.round: of(each) for each in figures if (each.peer, each.scenario) == (peer, scenario)} for peer in peers
    )
    both = [by(ours[n], theirs[n]) for n in ours.keys() & theirs.keys() if ours[n] > 0 and theirs[n] > 0]
    if both:
        yield Ratio(name, *(round(f(both), 3) for f in (statistics.median, min, max)))


def targets(table: Sequence[Row], ratios: Sequence[Ratio]) -> list[Target]:
    """Those that this run can tell of."""
    ours = {row.scenario: row for row in table if row.peer == US}
    medians = {ratio.name: ratio.median for ratio in ratios}
    found: list[Target | None] = [
        at_least("requests/s, json-32", 1500, of(ours, "json-32", "requests_per_second")),
        at_least("requests/s to LiteLLM, json-32", 60, medians.get("requests/s to LiteLLM, json-32")),
        *(
            at_most(f"failures, {each}", 0, of(ours, each, "failures"))
            for each in ("json-256", "burst-256", "paced-256")
        ),
        at_most("CPU ms a request, json-32", 0.6, of(ours, "json-32", "cpu_ms")),
        at_most("CPU to bare, json-32", 1.6, medians.get("CPU to bare, json-32")),
        at_most("p50 ms, json-1", 1, of(ours, "json-1", "p50_ms")),
        at_least("events/s, paced-256", 20_000, of(ours, "paced-256", "events_per_second")),
        *(at_most(f"{LATER}, {each}", 1, medians.get(f"{LATER}, {each}")) for each in PACED),
        at_most("peak MiB", 150, max((row.peak_mib for row in ours.values()), default=None)),
        *(at_most(name, FLAT, median) for name, median in medians.items() if name.startswith(("CPU, ", "memory, "))),
    ]
    return [target for target in found if target is not None]


def of(ours: Mapping[str, Row], scenario: str, field: str) -> float | None:
    return getattr(ours[scenario], field) if scenario in ours else None


def at_least(name: str, least: float, value: float | None) -> Target | None:
    return None if value is None else Target(name, f">= {least:,g}", value, value >= least)


def at_most(name: str, most: float, value: float | None) -> Target | None:
    return None if value is None else Target(name, f"<= {most:,g}", value, value <= most)


def show(report: Report) -> None:
    """For people; without a terminal, the tables are Markdown."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    if report.best:
        console.print(_figures(report.best))
        for row in report.best:
            if row.failures:
                console.print(f"{row.peer}, {row.scenario}: {row.failures} failures, the first: {row.first_failure}")
    if report.ratios:
        lines = Table("ratio", "median", "least", "most", title="both in the same round", box=BOX)
        for ratio in report.ratios:
            lines.add_row(ratio.name, f"{ratio.median:g}", f"{ratio.least:g}", f"{ratio.most:g}")
        console.print(lines)
    if report.life:
        lines = Table("requests", "MiB", "req/s", "failed", title="one node's life", box=BOX)
        for age in report.life:
            lines.add_row(f"{age.requests:,}", f"{age.rss_mib:g}", f"{age.requests_per_second:,.0f}", str(age.failures))
        console.print(lines)
    lines = Table("target", "wanted", "measured", "", box=BOX)
    for target in report.targets:
        mark = "[green]holds[/]" if target.holds else "[red]missed[/]"
        lines.add_row(target.name, target.wanted, f"{target.measured:,g}", mark)
    console.print(lines)


def _figures(table: Sequence[Row]) -> Table:
    shown = Table(*COLUMNS, title="best of the rounds; failures of all of them", box=BOX)
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
            f"{row.others[0]:.0%}-{row.others[1]:.0%}",
            f"{row.loop_ms[0]:g}-{row.loop_ms[1]:g}",
            f"{row.sync_ms[0]:g}-{row.sync_ms[1]:g}",
        )
    return shown
