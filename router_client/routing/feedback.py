"""What became of answers recalibrates the chances of tiers, online: one belief for each tier and kind of task.

A belief is a shift of the scorer's log-odds, normal, with a variance. An outcome updates both as a logistic regression with
one intercept would (assumed-density filtering), and with each outcome the variance grows, so that a world that changed is
learned anew. With a chance of a twentieth the tier below the best is tried, if it is not hopeless: what is never tried is
never learned.
"""

from __future__ import annotations

import math
import random
import re
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal

import msgspec

from router_client.complexity import Task, Tier
from router_client.preferences import EXPLORE, Profile

Kind = Literal["code", "numbers", "tools", "text"]

START_VARIANCE: Final = 0.3
DRIFT: Final = 0.02
"""Variance that comes with each outcome: about fifty outcomes are remembered."""
USUALLY_HOPELESS: Final = 0.04
"""The share of answers that are refused or cut off."""
DOUBT_WEIGHT: Final = 0.5
"""What our own doubt counts, against the user's word."""
WHOLE_WEIGHT: Final = 0.1
"""What an answer counts of which no more is known than that it is neither,"""
WHOLE_RISE: Final = 1 + USUALLY_HOPELESS * DOUBT_WEIGHT / ((1 - USUALLY_HOPELESS) * WHOLE_WEIGHT)
"""and so much likelier right it is taken to be: where as many are hopeless as usual, the two make up for each other."""
MOST_VARIANCE: Final = 1.0
MOST_SHIFT: Final = 6.0
LEAST_EXPLORED: Final = 0.2
"""A tier whose chance is below this is not tried even then."""
SURE: Final = 0.02
"""Chances are kept this far from 0 and 1: no score is that sure."""
MOST_OPEN: Final = 1000
ENOUGH: Final[Mapping[Profile, float]] = {"cheap": 0.5, "balanced": 0.65, "fast": 0.65, "private": 0.65, "best": 1.1}
"""The least chance to be right with which a tier is asked."""
LADDER: Final[tuple[Tier, ...]] = ("cheap", "mid", "premium")
_CODE: Final = re.compile(r"```|\bdef |\bclass |\bfunction\b|\breturn\b|[;{}]\s*\n|#include|\bSELECT\b")
_LOOKED_AT: Final = 4000
_DIGITS_SHARE: Final = 0.03


class Belief(msgspec.Struct, frozen=True):
    """About one tier and kind."""

    shift: float = 0.0
    variance: float = START_VARIANCE
    outcomes: int = 0

    def after(self, prior: float, good: float, weight: float = 1.0) -> Belief:
        """With one outcome more, from 0 (bad) to 1 (good), of a task that the scorer gave this chance."""
        expected = _chance(prior, self.shift)
        variance = min(MOST_VARIANCE, self.variance + weight * DRIFT)
        variance = 1 / (1 / variance + weight * expected * (1 - expected))
        shift = self.shift + variance * weight * (good - expected)
        return Belief(max(-MOST_SHIFT, min(MOST_SHIFT, shift)), variance, self.outcomes + 1)


class Picked(msgspec.Struct, frozen=True):
    """The tier for a task."""

    tier: Tier
    kind: Kind
    chances: Mapping[Tier, float]
    explored: bool = False


class Feedback:
    """The beliefs, by `tier/kind`. `beliefs` is the caller's to keep; `explore` is how often the tier below is tried."""

    def __init__(
        self,
        beliefs: MutableMapping[str, Belief] | None = None,
        rng: random.Random | None = None,
        *,
        learning: bool = True,
        explore: float = EXPLORE,
    ) -> None:
        self.beliefs: MutableMapping[str, Belief] = {} if beliefs is None else beliefs
        self._rng = rng or random.Random()
        self._learning = learning
        self._explore = explore
        self._open: OrderedDict[str, tuple[Picked, Task]] = OrderedDict()

    def chances(self, task: Task, kind: Kind) -> dict[Tier, float]:
        """The scorer's, shifted by what was learned."""
        return {tier: _chance(prior, self._belief(tier, kind).shift) for tier, prior in task.chances.items()}

    def pick(self, task: Task, kind: Kind, profile: Profile) -> Picked:
        """The cheapest tier that is likely good enough, or now and then the one below it."""
        chances = self.chances(task, kind)
        least = ENOUGH[profile]
        tier = next((tier for tier in LADDER[:-1] if chances.get(tier, 0.0) >= least), LADDER[-1])
        place = LADDER.index(tier)
        if self._explore and profile != "best" and place and self._rng.random() < self._explore:
            below = LADDER[place - 1]
            if chances.get(below, 0.0) >= LEAST_EXPLORED:
                return Picked(below, kind, chances, explored=True)
        return Picked(tier, kind, chances)

    def learn(self, picked: Picked, task: Task, good: float, weight: float = 1.0) -> str | None:
        """An outcome of the tier that was asked, from 0 to 1; returns which belief changed. Premium has none: there is no
        tier above it to turn to."""
        prior = task.chances.get(picked.tier)
        if not self._learning or prior is None:
            return None
        name = f"{picked.tier}/{picked.kind}"
        self.beliefs[name] = self._belief(picked.tier, picked.kind).after(prior, good, weight)
        return name

    def whole(self, picked: Picked, task: Task) -> str | None:
        """An answer that is no refusal and was not cut off speaks a little for its tier, until that is as good as the scorer
        thinks: it may be wrong all the same. Only to hear of the bad ones would turn the router from a tier that refuses
        now and then, as all do."""
        prior = task.chances.get(picked.tier, 0.0)
        if self._belief(picked.tier, picked.kind).shift >= 0:
            return None
        return self.learn(picked, task, min(1.0, WHOLE_RISE * prior), WHOLE_WEIGHT)

    def hopeless(self, picked: Picked, task: Task) -> str | None:
        """A refusal, or one that was cut off."""
        return self.learn(picked, task, 0.0, DOUBT_WEIGHT)

    def await_word(self, request_id: str, picked: Picked, task: Task) -> None:
        """Remember what was picked for a request until its user says how it was."""
        self._open[request_id] = picked, task
        while len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)

    def hear(self, request_id: str, good: float) -> str | None:
        """The user's own word on an answer; returns which belief changed. None for a request that is not known, or not any
        more: each is heard once."""
        known = self._open.pop(request_id, None)
        return None if known is None else self.learn(*known, good)

    def _belief(self, tier: Tier, kind: Kind) -> Belief:
        return self.beliefs.get(f"{tier}/{kind}", Belief())


def kind_of(body: Mapping[str, Any], text: str) -> Kind:
    """What a task is about, roughly: kinds differ in which models are good at them."""
    if body.get("tools"):
        return "tools"
    head = text[:_LOOKED_AT]
    if _CODE.search(head):
        return "code"
    digits = sum(char.isdigit() for char in head)
    return "numbers" if digits > _DIGITS_SHARE * max(1, len(head)) else "text"


def _chance(prior: float, shift: float) -> float:
    bounded = min(1 - SURE, max(SURE, prior))
    return 1 / (1 + math.exp(-(math.log(bounded / (1 - bounded)) + shift)))
