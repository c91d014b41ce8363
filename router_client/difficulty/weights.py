"""The learned part: lines and small trees over the traits of texts, read once from `weights.json` beside this file.

`bench/train_scorer.py` writes it; docs/routing-models.md is its model card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files

import msgspec

FAR = 4.0
"""A trait further than this many deviations from what was trained on counts as this far."""


class Term(msgspec.Struct, frozen=True, array_like=True):
    trait: str
    mean: float
    deviation: float
    weight: float


class Line(msgspec.Struct, frozen=True):
    """A weighted sum of traits, each in deviations from its mean; a trait that is missing counts as 0."""

    terms: tuple[Term, ...]

    def __call__(self, traits: Mapping[str, float]) -> float:
        total = 0.0
        for term in self.terms:
            away = (traits.get(term.trait, 0.0) - term.mean) / term.deviation
            total += term.weight * (FAR if away > FAR else -FAR if away < -FAR else away)
        return total


class Tree(msgspec.Struct, frozen=True, array_like=True):
    """Questions `trait <= threshold`, with where to go on yes and on no: to a question, or below zero to leaf ~n."""

    questions: tuple[tuple[str, float, int, int], ...]
    leaves: tuple[float, ...]

    def __call__(self, traits: Mapping[str, float]) -> float:
        at = 0
        while at >= 0:
            trait, threshold, yes, no = self.questions[at]
            at = yes if traits.get(trait, 0.0) <= threshold else no
        return self.leaves[~at]


class Curve(msgspec.Struct, frozen=True, array_like=True):
    """From a raw figure to a probability: a logistic curve."""

    slope: float
    bias: float

    def __call__(self, raw: float) -> float:
        return logistic(self.slope * raw + self.bias)


class Weights(msgspec.Struct, frozen=True):
    choice_hardness: Line
    """How hard a multiple choice is."""
    choice_fails: dict[str, Curve]
    """By tier: from that to the probability that a model of the tier fails."""
    open_fails: dict[str, Curve]
    """The same for every other task."""
    choice_right: tuple[Tree, ...]
    """Their sum is added to what is weighed by hand: the log odds that the answer to a multiple choice is right."""
    choice_right_curve: Curve
    open_right_curve: Curve


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, value))))


WEIGHTS = msgspec.json.decode(files("router_client.difficulty").joinpath("weights.json").read_bytes(), type=Weights)
