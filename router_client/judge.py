"""Is an answer right, as far as its own text and the prompt's tell? Pure, without calling a model.

What tells: a hard prompt, a long answer to it, sums that do not come out, a stated answer that the reasoning does not arrive
at, an option named whose words the reasoning does not speak of. What does not: tone. Wrong answers sound like right ones.
Where this ends, and how it was measured, stands in docs/routing-models.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from router_client.difficulty.answers import traits
from router_client.difficulty.hardness import open_hardness
from router_client.difficulty.prompts import read
from router_client.difficulty.weights import WEIGHTS, Weights

ANSWER: Mapping[str, float] = {
    "answer_length": -0.8,
    "hedges": -0.3,
    "stated_length": -0.3,
    "unused_numbers": -0.4,
    "decimals": -0.15,
    "states_answer": 0.7,
    "cut_off": -0.7,
    "bare": -1.0,
    "sums_right": 0.2,
    "sums_wrong": -4.0,
    "sums_chained": 0.7,
}
"""By hand, as for prompts: what holds for sums in words and for code alike."""
VALUE: Mapping[str, float] = {
    "is_last_number": 0.4,
    "is_last_sum": 0.4,
    "is_nowhere": -1.0,
    "is_repeated": 0.3,
    "is_whole_number": 0.4,
}
"""Of answers to questions in words."""
LITERAL: Mapping[str, float] = {"is_truth_value": 0.2, "is_from_prompt": 0.4}
"""Of answers to questions about code."""
REFUSED = 0.1
LOOPED = 2.0
"""What is left of an answer's chance that is a refusal; how much of it goes with each share of looping. Rules: no data spoke
for or against them, so they are not on the scale of what data spoke for."""
HAND_SHARE = 0.15
"""What of that counts for multiple choices, in log odds; the trees were trained to correct it."""


def judge(prompt: str, answer: str) -> float:
    """The probability that the answer of a cheap model is right, in [0, 1]. Any two texts will do; never raises."""
    if not answer.strip():
        return 0.0
    seen, measured = everything(prompt, answer)
    curve = WEIGHTS.choice_right_curve if "options" in seen else WEIGHTS.open_right_curve
    return curve(confidence(seen, measured)) * unspoiled(measured)


def unspoiled(measured: Mapping[str, float]) -> float:
    """What refusing and looping leave of the probability, from 0 to 1."""
    return (REFUSED if measured["refuses"] else 1.0) * max(0.0, 1 - LOOPED * measured["loops"])


def everything(prompt: str, answer: str) -> tuple[dict[str, float], dict[str, float]]:
    """The traits of the prompt, and those of the answer beside it."""
    seen = read(prompt)
    return seen.traits, traits(seen, answer)


def confidence(seen: Mapping[str, float], measured: Mapping[str, float], weights: Weights = WEIGHTS) -> float:
    """The raw figure of which `judge` makes a probability."""
    if "options" not in seen:
        return by_hand(seen, measured)
    both = {**seen, **measured}
    return HAND_SHARE * by_hand(seen, measured) + sum(tree(both) for tree in weights.choice_right)


def by_hand(seen: Mapping[str, float], measured: Mapping[str, float]) -> float:
    """The sum of what is weighed by hand."""
    about = {} if "options" in seen else LITERAL if seen["is_code"] else VALUE
    total = -open_hardness(seen)
    for table in (ANSWER, about):
        total += sum(weight * measured[trait] for trait, weight in table.items())
    return total
