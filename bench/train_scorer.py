"""Train what `router_client/difficulty/weights.json` holds, and tell how well it does on what was left out.

    uv run --with numpy --with lightgbm python bench/train_scorer.py --data DIR [--write]

The table comes first: each area of subjects (MMLU's and MMLU-Pro's together), and each open task, is judged by weights that
were trained without it, through the program's own code. With --write the weights of all data are written. AlpacaEval
(CC BY-NC) is never trained on. The folder is described in bench/outcomes.py.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
from outcomes import WHERE, DataSet, load, load_answers
from routing import judged, print_table, scored

from router_client.difficulty import weights as shipped
from router_client.difficulty.answers import traits
from router_client.difficulty.hardness import hardness, open_hardness
from router_client.difficulty.prompts import Prompt, read
from router_client.difficulty.weights import Curve, Line, Term, Tree, Weights
from router_client.judge import HAND_SHARE, by_hand, confidence, unspoiled

LEFT_OUT = ("alpaca_eval",)
"""Non-commercial data: evaluated on, never trained on."""
AREAS = {
    "quantities": """
    abstract_algebra high_school_mathematics high_school_statistics college_physics conceptual_physics math
    astronomy electrical_engineering college_computer_science high_school_computer_science high_school_chemistry
    engineering
    """,
    "life": """
    high_school_biology college_biology nutrition human_aging anatomy college_medicine medical_genetics biology
    professional_medicine
    """,
    "business": """
    high_school_macroeconomics high_school_microeconomics professional_accounting management business_ethics
    business public_relations
    """,
    "society": """
    professional_psychology high_school_psychology sociology security_studies high_school_geography psychology
    high_school_government_and_politics
    """,
    "humanities": """
    moral_scenarios philosophy logical_fallacies jurisprudence international_law prehistory high_school_us_history
    high_school_world_history history
    """,
    "rest": """
    miscellaneous global_facts other
    """,
}
AREA = {domain: area for area, domains in AREAS.items() for domain in domains.split()}
CHEAP = ("Mixtral", "8B", "haiku-20240307", "gemma-2-2b", "Phi-3", "Mistral-7B", "Qwen2-7B", "gpt-3.5", "gemma-2-9b")
MID = ("4o-mini", "70B", "1.5-flash", "3-5-haiku", "72B", "DeepSeek", "deepseek")
HARDNESS = (
    *("length", "numbers", "distinct_numbers", "words_a_sentence", "variety", "word_length", "formal"),
    *("setting", "asks_number", "what", "is_question", "negated", "percent", "passage", "latex"),
    *("literal", "options", "option_length", "option_spread", "numeric_options", "maths_options"),
    *("shared_words", "one_word_options", "summary_option", "all_numbers", "all_length"),
)
PRIOR = {"length": 0.05, "numbers": 0.03}
"""What a weight is drawn towards where the data do not say."""
STRENGTH, WEIGHT_OF_ALL = 300.0, 2000.0
ALSO_STRONG_FAILS = 0.2
"""A prompt at which the strong model fails too is worth that much less: sending it there buys nothing."""
TREES, LEAVES = 60, 4
FLATTENED = 0.3
"""What is kept of the slope of the judge's curve for open tasks: with each left out, .1 to .3 made the smallest errors."""


class Example(msgspec.Struct):
    """A prompt that many models were asked, and a fold: a model for it is trained without all of that fold."""

    data: str
    fold: str
    prompt: Prompt
    target: float
    fails: dict[str, float]


class Trial(msgspec.Struct):
    """A cheap model's answer, as what is counted in it, and whether it was right."""

    data: str
    fold: str
    seen: dict[str, float]
    measured: dict[str, float]
    right: float


def examples(sets: Sequence[DataSet]) -> list[Example]:
    found: list[Example] = []
    for data in sets:
        for row in data.rows:
            known = [pair for pair in data.pairs if all(model in row["outcomes"] for model in pair)]
            cheap, strong = (1 - _mean([data.right(row, pair[side]) for pair in known]) for side in (0, 1))
            tiers = {name: _of_tier(data, row, marks) for name, marks in (("cheap", CHEAP), ("mid", MID))}
            prompt = read(row["prompt"])
            target = cheap - ALSO_STRONG_FAILS * strong
            found.append(
                Example(data.name, fold_of(row), prompt, target, {k: v for k, v in tiers.items() if v is not None})
            )
    return found


def fold_of(row: dict[str, Any]) -> str:
    return AREA.get(row["domain"], row["domain"])


def _of_tier(data: DataSet, row: dict[str, Any], marks: Sequence[str]) -> float | None:
    right = [
        data.right(row, model)
        for model in row["outcomes"]
        if any(mark in model for mark in marks) and not _is_both(model)
    ]
    return 1 - _mean(right) if right else None


def _is_both(model: str) -> bool:
    return any(mark in model for mark in CHEAP) and any(mark in model for mark in MID)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _shares(names: Sequence[str]) -> np.ndarray:
    """A weight for each row, by the root of its data set's size: large sets count more, not all that much more."""
    _, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    return 1 / np.sqrt(counts)[index]


def fit_line(rows: Sequence[Example]) -> Line:
    """Ridge regression inside each data set (its mean is no merit of a prompt), towards PRIOR."""
    table = np.array([[row.prompt.traits.get(trait, 0.0) for trait in HARDNESS] for row in rows])
    share = _shares([row.data for row in rows])
    share *= WEIGHT_OF_ALL / share.sum()
    mean = np.average(table, axis=0, weights=share)
    deviation = np.sqrt(np.average((table - mean) ** 2, axis=0, weights=share)) + 1e-3
    away = np.clip((table - mean) / deviation, -shipped.FAR, shipped.FAR)
    target = np.array([row.target for row in rows])
    names = np.array([row.data for row in rows])
    for name in np.unique(names):
        own = names == name
        away[own] -= away[own].mean(0)
        target[own] -= target[own].mean()
    prior = np.array([PRIOR.get(trait, 0.0) * each for trait, each in zip(HARDNESS, deviation, strict=True)])
    weighted = (away * share[:, None]).T
    found = prior + np.linalg.solve(
        weighted @ away + STRENGTH * np.eye(len(HARDNESS)), weighted @ (target - away @ prior)
    )
    columns = zip(HARDNESS, mean, deviation, found, strict=True)
    return Line(tuple(Term(trait, *(round(float(each), 5) for each in rest)) for trait, *rest in columns))


def fit_curve(names: Sequence[str], target: Sequence[float], raw: Sequence[float], slope: float | None = None) -> Curve:
    """Logistic regression by Newton's steps, data sets equal: what they differ in flattens the curve, since a new task may
    differ as much."""
    table = np.column_stack([np.ones(len(raw)), raw])
    share = _shares(names) ** 2
    share *= len(names) / share.sum()
    found = np.array([-(slope or 0.0) * np.mean(raw), slope or 0.0])
    free = [0] if slope else [0, 1]
    for _ in range(25):
        chance = 1 / (1 + np.exp(-table @ found))
        bend = (table * (share * chance * (1 - chance))[:, None]).T @ table + 1e-6 * np.eye(2)
        found[free] += np.linalg.solve(
            bend[np.ix_(free, free)], (table.T @ (share * (np.asarray(target) - chance)))[free]
        )
    return Curve(round(float(found[1]), 5), round(float(found[0]), 5))


def fit_fails(rows: Sequence[Example], raw: Callable[[Prompt], float]) -> dict[str, Curve]:
    """Curves from hardness to failure, by tier, of one slope: few data sets know the middle tier."""
    curves: dict[str, Curve] = {}
    for tier in ("cheap", "mid"):
        known = [row for row in rows if tier in row.fails]
        columns = [row.data for row in known], [row.fails[tier] for row in known], [raw(row.prompt) for row in known]
        curves[tier] = fit_curve(*columns, curves["cheap"].slope if curves else None)
    return curves


def fit_trees(trials: Sequence[Trial]) -> tuple[tuple[Tree, ...], Curve]:
    """Boosted trees that correct what is weighed by hand, and the curve that starts from where it is right on average."""
    names = sorted({trait for trial in trials for trait in (*trial.seen, *trial.measured)})
    table = np.array([[{**trial.seen, **trial.measured}.get(name, 0.0) for name in names] for trial in trials])
    settings = {
        **{"objective": "binary", "num_leaves": LEAVES, "learning_rate": 0.1, "min_data_in_leaf": 80, "lambda_l2": 20},
        **{
            "feature_fraction": 0.4,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "seed": 1,
            "num_threads": 1,
            "verbose": -1,
        },
        **{"deterministic": True, "boost_from_average": False},
    }
    right = np.array([float(trial.right >= 0.5) for trial in trials])
    hand = HAND_SHARE * np.array([by_hand(trial.seen, trial.measured) for trial in trials])
    bias = math.log(right.mean() / (1 - right.mean())) - hand.mean()
    model = lightgbm.train(settings, lightgbm.Dataset(table, right, init_score=hand + bias), TREES)
    trees = tuple(_tree(each["tree_structure"], names) for each in model.dump_model()["tree_info"])
    return trees, Curve(1.0, round(float(bias), 5))


def _tree(root: dict[str, Any], names: Sequence[str]) -> Tree:
    questions: list[tuple[str, float, int, int]] = []
    leaves: list[float] = []

    def place(node: dict[str, Any]) -> int:
        if "leaf_value" in node:
            leaves.append(round(node["leaf_value"], 5))
            return ~(len(leaves) - 1)
        at = len(questions)
        questions.append(("", 0.0, 0, 0))
        yes, no = place(node["left_child"]), place(node["right_child"])
        questions[at] = (names[node["split_feature"]], round(node["threshold"], 6), yes, no)
        return at

    place(root)
    return Tree(tuple(questions), tuple(leaves))


def train(rows: Sequence[Example], trials: Sequence[Trial]) -> Weights:
    choices, others = ([row for row in rows if bool(row.prompt.options) is kind] for kind in (True, False))
    draft = msgspec.structs.replace(shipped.WEIGHTS, choice_hardness=fit_line(choices))
    choice_trials = [each for each in trials if "options" in each.seen]
    draft = msgspec.structs.replace(
        draft,
        choice_fails=fit_fails(choices, lambda prompt: hardness(prompt, draft)),
        open_fails=fit_fails(others, lambda prompt: open_hardness(prompt.traits)),
    )
    if choice_trials:
        trees, start = fit_trees(choice_trials)
        draft = msgspec.structs.replace(draft, choice_right=trees, choice_right_curve=start)
    # Choices too, by the same weights: the more kinds of tasks, the less the curve belongs to one.
    figures = [by_hand(each.seen, each.measured) for each in trials]
    names, right = [each.data for each in trials], [each.right for each in trials]
    curve = flattened(fit_curve(names, right, figures), names, right, figures)
    return msgspec.structs.replace(draft, open_right_curve=curve)


def flattened(curve: Curve, names: Sequence[str], right: Sequence[float], raw: Sequence[float]) -> Curve:
    """The same curve, towards what is right on average, data sets equal: the next open task may lie elsewhere altogether."""
    share = _shares(names) ** 2
    mean, usual = np.average(right, weights=share), np.average(raw, weights=share)
    slope = FLATTENED * curve.slope
    return Curve(round(float(slope), 5), round(float(math.log(mean / (1 - mean)) - slope * usual), 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ROUTING_DATA"), help="the folder of outcomes")
    parser.add_argument("--write", action="store_true", help="write the weights of all data into the package")
    options = parser.parse_args()
    if options.data is None:
        parser.exit(2, f"no data: {WHERE}\n")
    sets = load(options.data)
    usable = [data for data in sets if not data.name.startswith(LEFT_OUT)]
    rows = examples(usable)
    answered = load_answers(options.data, usable)
    trials = [
        Trial(pair.data, fold_of(row), (seen := read(row["prompt"])).traits, traits(seen, answer), right)
        for pair in answered
        for row, answer, right in zip(pair.rows, pair.answers, pair.cheap, strict=True)
    ]
    folds = {}
    for fold in sorted({row.fold for row in rows}):
        folds[fold] = train([row for row in rows if row.fold != fold], [each for each in trials if each.fold != fold])
    whole = train(rows, trials)

    def hard(row: dict[str, Any]) -> float:
        return hardness(read(row["prompt"]), folds.get(fold_of(row), whole))  # each fold's curve has a scale of its own

    def sure(row: dict[str, Any], answer: str) -> float:
        weights, seen = folds.get(fold_of(row), whole), read(row["prompt"])
        raw = confidence(seen.traits, traits(seen, answer), weights)
        curve = weights.choice_right_curve if seen.options else weights.open_right_curve
        return curve(raw) * unspoiled(traits(seen, answer))

    print_table("scorer, left out", {"left out": scored(sets, hard)})
    print_table("judge, left out, price ratio 10", {"left out": judged(answered, sure, hard)})
    if options.write:
        path = Path(shipped.__file__).with_name("weights.json")
        path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=0) + b"\n")
        print(f"written: {path.name}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
