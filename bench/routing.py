"""How well prompts are told hard from easy, and right answers from wrong ones, beside simpler ways to tell.

    uv run python bench/routing.py --data DIR [--json] [--quality 0.95] [--ratio 10]

Without data (their licences do not let them into the project) it says what to point --data or ROUTING_DATA to. Every figure
is the mean of the data sets' figures, and in a set that of its pairs of a cheap and a strong model:

    AUC     how likely a prompt that the cheap model fails scores above one that it does not; half is chance
    rho     rank correlation with the share of all models that fail, where at least five are known
    APGR    area under the share of the quality gap recovered, over the share of prompts sent to strong; half is chance
    saving  of always-strong's cost, at the quality named, where costs are known; beside it what random routing saves
    us      a prompt, mean and 99th percentile

and of judges, for pairs whose cheap model is at least half as good as the strong one, in units of always-strong's cost:

    c95     every prompt to the cheap model, the least sure answers again to the strong one
    joint95 the hardest prompts straight to the strong model, by `score`; the others as above. The policy that is meant
    route95 by `score` alone, no judge

Then policies of choosing a node, in a world of fifty nodes and eight routers in simulated time (bench/world.py), and how
long one choice among a thousand nodes takes.

The shipped weights were trained on some of these data, so their own figures on those flatter; docs/routing-models.md has the
figures with subjects left out, which `bench/train_scorer.py` prints.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from choices import choices
from marks import apgr, auroc, brier, cascaded, cost_of, joint_cost, routed, spearman
from outcomes import WHERE, Answered, DataSet, load, load_answers
from rich.console import Console
from rich.table import Table
from world import compare

from router_client.complexity import score
from router_client.judge import judge

Hard = Callable[[dict[str, Any]], float]
Sure = Callable[[dict[str, Any], str], float]
Figures = dict[str, float]

MANY_MODELS, LEAST_ROWS = 5, 200
LOADS = (0.3, 0.7, 0.9)
KEYWORDS: tuple[tuple[float, str], ...] = (
    (0.18, r"\b(?:prove|theorem|derive|proof|formal|axiom|lemma)\b"),
    (0.15, r"\b(?:function|class|code|python|javascript|algorithm|debug|refactor|api|sql)\b"),
    (0.12, r"\b(?:analy[sz]e|compare|evaluate|explain why|step by step|reason|trade-?offs?)\b"),
    (0.10, r"\b(?:distributed|kubernetes|architecture|database|latency|concurren\w+|encryption)\b"),
    (0.08, r"\b(?:first|then|next|finally|after that)\b"),
    (0.06, r"\b(?:must|should|at least|at most|constraint|require\w*|exactly)\b"),
    (-0.10, r"\b(?:what is|who is|define|hello|hi|thanks|translate|capital of)\b"),
)
"""As routers that score by keywords have them: a weight for each kind of word, for up to three of them."""
WORDS = tuple((weight, re.compile(words, re.IGNORECASE)) for weight, words in KEYWORDS)


def keywords(prompt: str) -> float:
    hits = sum(weight * min(3, len(words.findall(prompt))) for weight, words in WORDS)
    return hits + 0.05 * min(1.0, len(prompt) / 2000)


def three_tiers(prompt: str) -> float:
    """Simple, standard or complex by length and phrases."""
    if len(prompt) > 1500 or re.search(
        r"prove|design|architect|optimi[sz]e|in detail|comprehensive", prompt, re.IGNORECASE
    ):
        return 2.0
    return 0.0 if len(prompt) < 150 else 1.0


def scored(sets: Sequence[DataSet], hard: Hard, quality: float = 0.95) -> Figures:
    """The marks of a scorer: a mean over the data sets that have enough rows."""
    times: list[float] = []
    found: dict[str, Figures] = {}
    for data in sets:
        scores: dict[str, float] = {}
        for row in data.rows:
            start = time.perf_counter_ns()
            scores[row["id"]] = hard(row)
            times.append((time.perf_counter_ns() - start) / 1000)
        figures = _mean_of([_of_pair(data, pair, scores, quality) for pair in data.pairs])
        if all(len(row["outcomes"]) >= MANY_MODELS for row in data.rows):
            failing = [
                1 - sum(data.right(row, model) for model in row["outcomes"]) / len(row["outcomes"]) for row in data.rows
            ]
            figures["rho"] = spearman([scores[row["id"]] for row in data.rows], failing)
        if len(data.rows) >= LEAST_ROWS:
            found[data.name] = figures
    return _mean(found) | _times(times)


def _of_pair(data: DataSet, pair: tuple[str, str], scores: Mapping[str, float], quality: float) -> Figures:
    rows = data.both(pair)
    own = [scores[row["id"]] for row in rows]
    cheap, strong = ([data.right(row, model) for row in rows] for model in pair)
    figures = {"AUC": auroc(own, [right < 0.5 for right in cheap]), "APGR": apgr(own, cheap, strong)}
    costs = [[row["outcomes"][model].get("cost_usd") for row in rows] for model in pair]
    wanted = quality * sum(strong) / len(strong)
    known = all(cost is not None for column in costs for cost in column)
    if known and sum(costs[1]) > sum(costs[0]) and sum(cheap) / len(cheap) < wanted:
        always = sum(costs[1]) / len(rows)
        figures["saving"] = 1 - cost_of(routed(own, cheap, strong, *costs), wanted) / always
        figures["random"] = 1 - cost_of(routed([0.0] * len(own), cheap, strong, *costs), wanted) / always
    return figures


def judged(answered: Sequence[Answered], sure: Sure, hard: Hard, quality: float = 0.95, ratio: float = 10) -> Figures:
    """The marks of a judge, on viable pairs, data sets equal."""
    times: list[float] = []
    found: dict[str, list[Figures]] = {}
    for pair in answered:
        if not pair.is_viable:
            continue
        confident: list[float] = []
        for row, answer in zip(pair.rows, pair.answers, strict=True):
            start = time.perf_counter_ns()
            confident.append(sure(row, answer))
            times.append((time.perf_counter_ns() - start) / 1000)
        difficult = [hard(row) for row in pair.rows]
        wanted, count = quality * sum(pair.strong) / len(pair.strong), len(pair.rows)
        by_score = routed(difficult, pair.cheap, pair.strong, [1 / ratio] * count, [1.0] * count)
        figures = {
            "AUC": auroc(confident, [right >= 0.5 for right in pair.cheap]),
            "brier": brier(confident, pair.cheap),
            "c95": min(1.0, cost_of(cascaded(confident, pair.cheap, pair.strong, 1 / ratio), wanted)),
            "route95": min(1.0, cost_of(by_score, wanted)),
            "joint95": joint_cost(confident, difficult, pair.cheap, pair.strong, 1 / ratio, quality),
        }
        found.setdefault(pair.data, []).append(figures)
    return _mean({name: _mean_of(each) for name, each in found.items()}) | _times(times)


def _mean(found: Mapping[str, Figures]) -> Figures:
    """The mean of the data sets, and what it is made of in its first figure."""
    return _mean_of(list(found.values())) | {f"AUC {name}": figures["AUC"] for name, figures in found.items()}


def _mean_of(figures: Sequence[Figures]) -> Figures:
    names = dict.fromkeys(name for each in figures for name in each)
    known = {name: [each[name] for each in figures if not math.isnan(each.get(name, math.nan))] for name in names}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def _times(times: Sequence[float]) -> Figures:
    ordered = sorted(times)
    return {"us": sum(times) / len(times), "us p99": ordered[int(len(ordered) * 0.99)]} if times else {}


def print_table(title: str, rows: Mapping[str, Figures]) -> None:
    columns = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    table = Table("", *columns, title=title)
    for name, figures in rows.items():
        cells = [
            f"{figures[each]:.0f}" if each.startswith("us") else f"{figures[each]:.3f}" if each in figures else ""
            for each in columns
        ]
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def of_texts(options: argparse.Namespace) -> dict[str, dict[str, Figures]]:
    """Scorers and judges, on the data."""
    sets = load(Path(options.data))
    answered = load_answers(Path(options.data), sets)
    dice = random.Random(7)
    chance = {row["id"]: dice.random() for data in sets for row in data.rows}
    scorers: dict[str, Hard] = {
        "random": lambda row: chance[row["id"]],
        "length": lambda row: len(row["prompt"]),
        "keywords, weighted": lambda row: keywords(row["prompt"]),
        "three tiers": lambda row: three_tiers(row["prompt"]),
        "satroute": lambda row: score(row["prompt"]),
    }
    judges: dict[str, tuple[Sure, Hard]] = {
        "coin": (lambda row, answer: dice.random(), scorers["random"]),
        "length of the answer": (lambda row, answer: 1 / (1 + len(answer) / 1000), scorers["length"]),
        "satroute": (lambda row, answer: judge(row["prompt"], answer), scorers["satroute"]),
    }
    return {
        "scorers": {name: scored(sets, hard, options.quality) for name, hard in scorers.items()},
        "judges": {name: judged(answered, *both, options.quality, options.ratio) for name, both in judges.items()},
    }


def of_the_world(seconds: float, seed: int) -> dict[str, Figures]:
    """Each policy in the world of nodes, under each load."""
    results = compare(LOADS, seconds, seed)
    return {
        f"{result.policy}, load {result.load:g}": {
            name: value for name, value in msgspec.structs.asdict(result).items() if name not in ("policy", "load")
        }
        for result in results
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ROUTING_DATA"), help="the folder of outcomes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quality", type=float, default=0.95, help="share of the strong model's quality to reach")
    parser.add_argument("--ratio", type=float, default=10, help="price of a strong call over a cheap one, for judges")
    parser.add_argument("--world-seconds", type=float, default=240, help="simulated time of the nodes' world; 0: none")
    parser.add_argument("--seed", type=int, default=1, help="of the nodes' world")
    options = parser.parse_args()
    tables: dict[str, Any] = {"scorers": {}, "judges": {}}
    if options.data is None or not (Path(options.data) / "pairs.json").is_file():
        tables["note"] = f"no scorers and judges: {WHERE}"
    else:
        tables |= of_texts(options)
    if options.world_seconds:
        tables["world"] = of_the_world(options.world_seconds, options.seed)
    tables["choice among 1,000 nodes"] = choices()
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(tables)).decode())
        return
    for name, rows in tables.items():
        if isinstance(rows, str):
            print(rows)
        elif rows:
            print_table(name, rows)


if __name__ == "__main__":
    main()
