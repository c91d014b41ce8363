"""Marks for scorers and judges: how well they order prompts and answers, and what routing by them costs.

Ties are taken in expectation, so that a scorer of few values is neither helped nor hurt by the order of the file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

Point = tuple[float, float]
"""Cost, quality."""


def ties(scores: Sequence[float], *, highest_first: bool = True) -> Iterator[list[int]]:
    """Indices in the order of their scores, equal ones together."""
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=highest_first)
    for _, group in itertools.groupby(order, key=scores.__getitem__):
        yield list(group)


def ranks(scores: Sequence[float]) -> list[float]:
    """From 0 (lowest) to 1 (highest); equal scores share theirs."""
    found, seen = [0.0] * len(scores), 0
    for group in ties(scores, highest_first=False):
        for index in group:
            found[index] = (seen + len(group) / 2) / len(scores)
        seen += len(group)
    return found


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """How likely a positive scores above a negative; nan when there is only one kind."""
    count = sum(positive)
    if count in (0, len(positive)):
        return math.nan
    total = sum(rank for rank, is_positive in zip(ranks(scores), positive, strict=True) if is_positive) * len(scores)
    return (total - count * count / 2) / (count * (len(scores) - count))


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    left, right = ranks(one), ranks(other)
    spread = math.sqrt(_covariance(left, left) * _covariance(right, right))
    return _covariance(left, right) / spread if spread else 0.0


def _covariance(one: Sequence[float], other: Sequence[float]) -> float:
    mean, other_mean = sum(one) / len(one), sum(other) / len(other)
    return sum((a - mean) * (b - other_mean) for a, b in zip(one, other, strict=True))


def apgr(scores: Sequence[float], cheap: Sequence[float], strong: Sequence[float]) -> float:
    """Area under the share of the quality gap that is recovered as more prompts, hardest first, go to the strong model."""
    gains = [better - worse for worse, better in zip(cheap, strong, strict=True)]
    return sum(rank * gain for rank, gain in zip(ranks(scores), gains, strict=True)) / (sum(gains) or math.nan)


def brier(chances: Sequence[float], right: Sequence[float]) -> float:
    return sum((chance - each) ** 2 for chance, each in zip(chances, right, strict=True)) / len(right)


def routed(
    scores: Sequence[float],
    cheap: Sequence[float],
    strong: Sequence[float],
    cheap_cost: Sequence[float],
    strong_cost: Sequence[float],
) -> list[Point]:
    """Mean cost and quality from nothing to everything sent to the strong model, hardest first, without asking the cheap."""
    count = len(scores)
    cost, quality = sum(cheap_cost) / count, sum(cheap) / count
    points = [(cost, quality)]
    for group in ties(scores):
        cost += sum(strong_cost[index] - cheap_cost[index] for index in group) / count
        quality += sum(strong[index] - cheap[index] for index in group) / count
        points.append((cost, quality))
    return points


def cascaded(
    sure: Sequence[float],
    cheap: Sequence[float],
    strong: Sequence[float],
    cheap_cost: float,
    skipped: frozenset[int] = frozenset(),
) -> list[Point]:
    """The same when the cheap model is asked first and the least sure answers are asked for again, at a cost of 1; not of
    the prompts that are `skipped`, which go straight to the strong model."""
    count = len(sure)
    asked = [index for index in range(count) if index not in skipped]
    cost = (len(skipped) + len(asked) * cheap_cost) / count
    quality = (sum(strong[index] for index in skipped) + sum(cheap[index] for index in asked)) / count
    points = [(cost, quality)]
    for group in ties([sure[index] for index in asked], highest_first=False):
        cost += len(group) / count
        quality += sum(strong[asked[index]] - cheap[asked[index]] for index in group) / count
        points.append((cost, quality))
    return points


def cost_of(points: Sequence[Point], quality: float) -> float:
    """The least cost at which the curve reaches a quality, by straight lines; inf when it never does."""
    if points[0][1] >= quality - 1e-12:
        return points[0][0]
    for (cost, was), (next_cost, now) in itertools.pairwise(points):
        if now >= quality - 1e-12:
            return cost + (quality - was) / (now - was) * (next_cost - cost)
    return math.inf


def joint_cost(
    sure: Sequence[float],
    hard: Sequence[float],
    cheap: Sequence[float],
    strong: Sequence[float],
    cheap_cost: float,
    quality: float,
) -> float:
    """The hardest tenths of the prompts go straight to the strong model, the others are cascaded. How many tenths is chosen
    on one half of the rows and paid for on the other, both ways; `quality` is a share of the strong model's."""
    halves = [range(start, len(sure), 2) for start in (0, 1)]

    def cost(half: range, tenths: int) -> float:
        columns = [[column[index] for index in half] for column in (sure, cheap, strong)]
        order = sorted(range(len(half)), key=lambda index: -hard[half[index]])
        skipped = frozenset(order[: tenths * len(half) // 10])
        best = cascaded(columns[0], columns[1], columns[2], cheap_cost, skipped)
        return min(1.0, cost_of(best, quality * sum(columns[2]) / len(half)))

    paid = [cost(other, min(range(10), key=lambda n: cost(half, n))) for half, other in (halves, halves[::-1])]
    return sum(paid) / 2
