"""How hard a prompt is, as a raw figure: learned for multiple choices, weighed by hand for everything else.

What was learned from one open task (sums in words) was worse than plain length on another (running code in the head), and
the reverse; a few weights by hand were better than length on both. Multiple choices are alike enough to learn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from router_client.difficulty.prompts import Prompt
from router_client.difficulty.weights import WEIGHTS, Weights

Failing = Literal["cheap", "mid"]

OPEN: Mapping[str, float] = {
    "length": 1.0,
    "words_a_sentence": 0.3,
    "variety": 0.5,
    "literal": 0.3,
    "steps_of_code": 0.15,
    "numbers": 0.15,
    "topic": 0.4,
    "asks_proof": 2.0,
}
"""Longer, denser, more to keep in mind: more that can go wrong. That proofs are hard no data spoke for or against."""

TOPIC = 0.08
"""What a subject's prior adds to a multiple choice, in probability: by hand, or only subjects trained on would count."""


def hardness(prompt: Prompt, weights: Weights = WEIGHTS) -> float:
    """Higher is harder; comparable among multiple choices, and among other tasks, not between the two."""
    if prompt.options:
        return weights.choice_hardness(prompt.traits) + TOPIC * prompt.traits["topic"]
    return open_hardness(prompt.traits)


def open_hardness(traits: Mapping[str, float]) -> float:
    return sum(weight * traits[trait] for trait, weight in OPEN.items())


def fails(prompt: Prompt, tier: Failing, weights: Weights = WEIGHTS) -> float:
    """The probability that a model of the tier gets it wrong."""
    curve = (weights.choice_fails if prompt.options else weights.open_fails)[tier]
    return curve(hardness(prompt, weights))
