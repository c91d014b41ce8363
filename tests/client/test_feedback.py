"""Outcomes move the chances of a tier for its kind of task; a world that changes is learned anew within 500 tasks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from router_client.complexity import Task, Tier
from router_client.preferences import EXPLORE, Profile
from router_client.routing.feedback import LADDER, MOST_OPEN, Belief, Feedback, Picked, kind_of

TASKS = 500


def task(cheap: float, mid: float) -> Task:
    return Task(1 - cheap, "cheap", 100, 100, chances={"cheap": cheap, "mid": mid})


def shifted(chance: float, shift: float) -> float:
    return 1 / (1 + math.exp(-(math.log(chance / (1 - chance)) + shift)))


class World:
    """Tasks whose chances the scorer knows, until `shifts` move them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.shifts: dict[Tier, float] = {"cheap": 0.0, "mid": 0.0}

    def task(self) -> Task:
        cheap = self.rng.uniform(0.3, 0.97)
        return task(cheap, shifted(cheap, 1.0))

    def chance(self, tier: Tier, given: Task) -> float:
        return 0.98 if tier == "premium" else shifted(given.chances[tier], self.shifts[tier])

    def quality(self, pick: Callable[[Task], Tier], tasks: int) -> float:
        return sum(self.chance(pick(given), given) for given in (self.task() for _ in range(tasks))) / tasks

    def live(self, feedback: Feedback, tasks: int) -> int:
        """So many tasks, each outcome told. Returns how many were explored."""
        explored = 0
        for _ in range(tasks):
            given = self.task()
            picked = feedback.pick(given, "text", "balanced")
            explored += picked.explored
            feedback.learn(picked, given, float(self.rng.random() < self.chance(picked.tier, given)))
        return explored

    def knowing(self, given: Task) -> Tier:
        """What whoever knows the shifts would pick."""
        return next((tier for tier in LADDER[:-1] if self.chance(tier, given) >= 0.65), "premium")


def steady(feedback: Feedback) -> Callable[[Task], Tier]:
    """Its picks, without exploring."""
    still = Feedback(feedback.beliefs, explore=False)
    return lambda given: still.pick(given, "text", "balanced").tier


@pytest.mark.parametrize("seed", range(5))
def test_a_world_that_has_changed_is_learned_within_500_tasks(seed: int) -> None:
    world, feedback = World(seed), Feedback(rng=random.Random(seed))
    world.live(feedback, 1000)
    world.shifts = {"cheap": -2.0, "mid": -1.0}
    stale = world.quality(steady(Feedback(explore=False)), 10_000)
    target = world.quality(world.knowing, 10_000)
    assert target - stale > 0.15, "else there is nothing to be recovered"
    world.live(feedback, TASKS)
    recovered = (world.quality(steady(feedback), 10_000) - stale) / (target - stale)
    assert recovered > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_a_tier_that_became_good_again_is_found_by_exploring(seed: int) -> None:
    world, feedback = World(seed), Feedback(rng=random.Random(seed))
    world.shifts = {"cheap": -2.0, "mid": -2.0}
    world.live(feedback, 1000)
    before = _share(world, feedback, "premium")
    world.shifts = {"cheap": 0.0, "mid": 0.0}
    world.live(feedback, 1000)
    assert _share(world, feedback, "premium") < before / 2


def _share(world: World, feedback: Feedback, tier: Tier) -> float:
    pick = steady(feedback)
    return sum(pick(world.task()) == tier for _ in range(1000)) / 1000


def test_exploring_is_bounded_and_can_be_switched_off() -> None:
    world = World(1)
    explored = world.live(Feedback(rng=random.Random(1)), 4000)
    assert 0 < explored < 4000 * EXPLORE * 1.3
    assert world.live(Feedback(explore=False), 1000) == 0
    hopeless = Feedback(rng=random.Random(1))
    assert not any(hopeless.pick(task(0.05, 0.1), "text", "balanced").explored for _ in range(500))


def test_learning_can_be_switched_off() -> None:
    feedback = Feedback(learning=False)
    assert feedback.learn(Picked("cheap", "text", {}), task(0.5, 0.6), 0.0) is None
    assert feedback.beliefs == {}


def test_one_kind_says_nothing_of_another() -> None:
    feedback, given = Feedback(explore=False), task(0.9, 0.95)
    for _ in range(60):
        feedback.learn(Picked("cheap", "code", {}), given, 0.0)
    assert feedback.pick(given, "code", "balanced").tier != "cheap"
    assert feedback.pick(given, "text", "balanced").tier == "cheap"


def test_the_users_word_counts_once() -> None:
    feedback, given = Feedback(explore=False), task(0.9, 0.95)
    feedback.await_word("r1", feedback.pick(given, "text", "balanced"), given)
    assert feedback.hear("r1", 0.0) == "cheap/text"
    assert feedback.beliefs["cheap/text"].shift < 0
    assert feedback.hear("r1", 0.0) is None
    assert feedback.hear("unknown", 1.0) is None
    for number in range(MOST_OPEN + 1):
        feedback.await_word(str(number), feedback.pick(given, "text", "balanced"), given)
    assert feedback.hear("0", 1.0) is None


def test_no_run_of_luck_makes_sure_of_anything() -> None:
    belief = Belief()
    for _ in range(10_000):
        belief = belief.after(0.999999, 1.0)
    assert belief.shift <= 6.0
    assert 0 < belief.variance <= 1.0


def test_profiles_ask_for_more_or_less() -> None:
    profiles: tuple[Profile, ...] = ("cheap", "balanced", "best")
    picks = {p: Feedback(explore=False).pick(task(0.6, 0.7), "text", p).tier for p in profiles}
    assert picks == {"cheap": "cheap", "balanced": "mid", "best": "premium"}


@pytest.mark.parametrize(
    ("text", "body", "kind"),
    [
        ("Write a poem about rain.", {}, "text"),
        ("What is 17 * 23 + 4?", {}, "numbers"),
        ("def f(x):\n    return x\nWhat does it do?", {}, "code"),
        ("Book a table.", {"tools": [{}]}, "tools"),
        ("", {}, "text"),
    ],
)
def test_kinds(text: str, body: dict[str, object], kind: str) -> None:
    assert kind_of(body, text) == kind


@pytest.mark.parametrize(("hopeless", "stays"), [(0.0, True), (0.02, True), (0.04, True), (0.3, False)])
def test_a_tier_that_refuses_no_more_than_all_do_is_not_left_for_it(hopeless: float, *, stays: bool) -> None:
    """Nobody says how answers were: a few refusals in a hundred turned the router from a tier, sooner or later."""
    rng = random.Random(1)
    feedback, given, cheap = Feedback(rng=rng), task(0.8, 0.85), 0
    for number in range(1000):
        picked = feedback.pick(given, "text", "balanced")
        cheap += number >= 500 and picked.tier == "cheap"
        if picked.tier == "cheap":
            (feedback.hopeless if rng.random() < hopeless else feedback.whole)(picked, given)
    assert feedback.chances(given, "text")["cheap"] <= 0.82, "silence is no praise"
    assert (cheap > 400) is stays
