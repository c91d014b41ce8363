"""Cheap first, judged, and a better model where the answer is doubted; never dearer than the better one alone could be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relays.announcement import ModelOffer
from relays.bounds import ModelLimits, most_usage
from relays.money import Msat
from relays.pricing import ModelPrice, Usage, cost
from router_client.buying.cascade import Costs, Most, ascend, confidence, pays, shortened
from router_client.complexity import Tier
from router_client.difficulty.agreement import agree
from router_client.errors import NodeError, NodeOutrun, NodeRefused, NoProvider

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
ALL: tuple[Tier, ...] = ("cheap", "mid", "premium")
PRICE = ModelPrice(1_000_000, 1_000_000)
"""A msat a token."""
OFFER = ModelOffer("m", ModelLimits(4096, 1024), PRICE)


def costs(expected_msat: int, hold_msat: int, written: int = 400) -> Costs:
    return Costs("node", expected_msat, hold_msat, OFFER, written)


COSTS: dict[Tier, Costs | None] = {"cheap": costs(10, 50), "mid": costs(40, 200), "premium": costs(100, 500)}
CHANCES: dict[Tier, float] = {"cheap": 0.6, "mid": 0.8}
GOOD, REFUSAL = "Paris is the capital of France.", "I'm sorry, but I cannot help with that."


class Said(msgspec.Struct, frozen=True):
    text: str
    finish_reason: str = "stop"
    cost_msat: Msat = Msat(10)
    usage: Usage = Usage(100, 10)

    @property
    def confidence(self) -> float | None:
        return confidence(BODY, self)


class Models:
    """What each tier answers, and what was asked of it."""

    def __init__(self, **answers: Said) -> None:
        self.answers: dict[str, Said] = answers
        self.asked: list[tuple[Tier, int | None]] = []

    async def first(self, tier: Tier, most: Most | None) -> Said:
        self.asked.append((tier, None if most is None else most.there_msat))
        if tier not in self.answers:
            raise NoProvider("nobody")
        return self.answers[tier]

    async def second(self, tier: Tier, first: Said, most: Most | None) -> Said:
        self.asked.append((tier, None if most is None else most.there_msat))
        if "second" not in self.answers:
            raise NoProvider("nobody")
        return self.answers["second"]


async def test_a_good_cheap_answer_is_the_answer() -> None:
    models = Models(cheap=Said(GOOD), premium=Said(GOOD))
    (turn,) = await ascend(("cheap", "premium"), COSTS, CHANCES, 0.3, models)
    assert (turn.tier, turn.answer.text, models.asked) == ("cheap", GOOD, [("cheap", 250)]), "half of it"
    assert 0.3 <= turn.sure < 1


@pytest.mark.parametrize("bad", [Said(REFUSAL), Said(""), Said("Paris is the", "length")])
async def test_a_refusal_nothing_and_what_was_cut_off_are_asked_for_again(bad: Said) -> None:
    models = Models(cheap=bad, premium=Said(GOOD, cost_msat=Msat(90)))
    asked = await ascend(("cheap", "premium"), COSTS, CHANCES, 0.3, models)
    assert [turn.tier for turn in asked] == ["cheap", "premium"]
    assert models.asked[-1] == ("premium", 500 - 10), "what was spent is taken off what the better one could have cost"


async def test_each_tier_takes_off_what_those_below_it_cost() -> None:
    unread = Usage(0, 0)
    """Without a count of what was read, the hold is all that is known."""
    refused = Said(REFUSAL, usage=unread), Said(REFUSAL, cost_msat=Msat(40), usage=unread)
    models = Models(cheap=refused[0], mid=refused[1], premium=Said(GOOD))
    await ascend(ALL, COSTS, CHANCES, 0.3, models)
    assert models.asked == [("cheap", 250), ("mid", 245), ("premium", 450)]


def test_what_a_prompt_cannot_become_any_more_is_not_taken_off_the_answer() -> None:
    """Bytes bound its tokens by four times what they are; a cheaper model has counted them."""
    better = costs(100, 1000, written=100)
    assert better.left(300, None) == Most(700, 700)
    assert better.left(300, 200) == Most(1000, 700), "it reads no more than 400 of the 900 that are held"
    assert better.left(300, 400) == Most(1000 - (300 - 100), 700)
    assert msgspec.structs.replace(better, read=400).left(300, 1) == Most(1000 - (300 - 100), 700), (
        "our own count holds"
    )
    assert msgspec.structs.replace(better, is_text=False).left(300, 200) == Most(700, 700)


@pytest.mark.parametrize(("lost_msat", "most_msat"), [(0, 200 - 10), (30, 200 - 10 - 30)])
async def test_all_together_keep_to_what_the_request_may_cost(lost_msat: int, most_msat: int) -> None:
    class Losing(Models):
        async def second(self, tier: Tier, first: Said, most: Most | None) -> Said:
            raise kept

    kept = NoProvider("none")
    kept.out_msat = lost_msat
    models = Losing(cheap=EIGHT, premium=Said(GOOD))
    threshold = (EIGHT.confidence or 0.0) + 0.01
    await ascend(("cheap", "premium"), COSTS, CHANCES, threshold, models, SUM, limit_msat=200)
    assert models.asked == [("cheap", 100), ("premium", most_msat)]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", None])
def test_a_request_is_made_as_short_as_fits(field: str | None) -> None:
    body = BODY if field is None else BODY | {field: 300}
    most_msat = cost(most_usage(BODY | {"max_tokens": 123}, OFFER.limits, PRICE), PRICE)
    short = shortened(body, OFFER, most_msat)
    assert short == body | {field or "max_tokens": 123}
    assert shortened(body, OFFER, 10**9) is body
    assert shortened(body, OFFER, 5) is None


async def test_the_cheap_answer_stands_where_a_better_one_cannot_be_had() -> None:
    models = Models(cheap=Said(REFUSAL))
    asked = await ascend(("cheap", "premium"), COSTS, CHANCES, 0.3, models)
    assert [turn.answer.text for turn in asked] == [REFUSAL]


async def test_the_better_one_is_asked_at_once_where_cheap_is_hardly_cheaper_or_is_not_sold() -> None:
    for cheap in (costs(60, 100), None):
        models = Models(cheap=Said(GOOD), premium=Said(GOOD))
        await ascend(("cheap", "premium"), COSTS | {"cheap": cheap}, CHANCES, 0.3, models)
        assert models.asked == [("premium", None)]
    assert pays(costs(49, 1), costs(100, 1), 0.9)
    assert not pays(costs(50, 1), costs(100, 1), 0.9)


def test_a_cheap_model_that_is_seldom_right_must_be_cheaper_still() -> None:
    """On average a cascade costs no more than the better model alone: cheap + (1 - chance) x better < better."""
    assert pays(costs(9, 1), costs(100, 1), 0.1)
    assert not pays(costs(10, 1), costs(100, 1), 0.1)


async def test_nobody_at_all_is_said() -> None:
    with pytest.raises(NoProvider):
        await ascend(ALL, COSTS, CHANCES, 0.3, Models())


def test_what_is_no_json_where_json_was_asked_for_is_worth_nothing() -> None:
    body = {**BODY, "response_format": {"type": "json_object"}}
    assert confidence(body, Said("Paris, of course")) == 0.0
    assert confidence(body, Said('{"capital": "Paris"}'))


async def test_a_better_model_that_fails_does_not_lose_the_answer_that_was_paid() -> None:
    class Failing(Models):
        async def first(self, tier: Tier, most: Most | None) -> Said:
            if tier == "premium":
                raise NodeError("it broke off")
            return await super().first(tier, most)

    asked = await ascend(("cheap", "premium"), COSTS, CHANCES, 0.3, Failing(cheap=Said(REFUSAL)))
    assert [turn.answer.text for turn in asked] == [REFUSAL]


async def test_a_cheap_answer_that_breaks_off_goes_up_with_what_it_cost_taken_off() -> None:
    """Nobody has heard of it."""

    class Failing(Models):
        async def first(self, tier: Tier, most: Most | None) -> Said:
            if tier == "cheap":
                raise broken
            return await super().first(tier, most)

    broken = NodeError("it broke off")
    broken.out_msat = 30
    models = Failing(premium=Said(GOOD))
    assert [turn.tier for turn in await ascend(("cheap", "premium"), COSTS, CHANCES, 0.3, models)] == ["premium"]
    assert models.asked == [("premium", 500 - 30)]


@pytest.mark.parametrize("error", [NodeRefused(400, "bad", "no such role"), NodeOutrun("its caller has left", 1.0)])
async def test_a_request_that_is_refused_or_not_wanted_any_more_does_not_go_up(error: NodeError) -> None:
    class Failing(Models):
        async def first(self, tier: Tier, most: Most | None) -> Said:
            self.asked.append((tier, None))
            raise error

    models = Failing()
    with pytest.raises(type(error)):
        await ascend(("cheap", "premium"), COSTS, CHANCES, 0.3, models)
    assert models.asked == [("cheap", None)]


def test_what_ends_at_the_callers_own_limit_is_not_held_against_a_model() -> None:
    assert confidence({**BODY, "max_tokens": 5}, Said(GOOD, "length"))


async def test_an_answer_that_calls_a_tool_has_no_text_to_be_judged_by_and_stands() -> None:
    assert confidence(BODY, Said("", "tool_calls")) is None
    models = Models(cheap=Said("", "tool_calls"), premium=Said(GOOD))
    assert [turn.tier for turn in await ascend(("cheap", "premium"), COSTS, CHANCES, 0.3, models)] == ["cheap"]


SUM = "What is 2 + 2 * 3?"
EIGHT, TWELVE = Said("2 * 3 = 6 and 2 + 6 = 8. The answer is 8."), Said("2 + 2 = 4 and 4 * 3 = 12. The answer is 12.")


@pytest.mark.parametrize(("second", "stands"), [(EIGHT, "cheap"), (TWELVE, "premium")])
async def test_where_a_second_cheap_model_says_the_same_the_answer_stands(second: Said, stands: str) -> None:
    threshold = EIGHT.confidence or 0.0
    models = Models(cheap=EIGHT, second=second, premium=Said(GOOD))
    turns = await ascend(("cheap", "premium"), COSTS, CHANCES, threshold, models, SUM)
    assert turns[-1].tier == stands
    assert [turn.is_second for turn in turns][:2] == [True, False]
    assert models.asked[0:2] == [("cheap", 250), ("cheap", 245)], "what the first cost is gone"


async def test_a_second_is_asked_only_where_its_word_matters_and_what_it_costs_is_reckoned_with() -> None:
    for sure, threshold in ((Said(REFUSAL), 0.5), (EIGHT, 0.01)):
        models = Models(cheap=sure, second=EIGHT, premium=Said(GOOD))
        await ascend(("cheap", "premium"), COSTS, CHANCES, threshold, models, SUM)
        assert [tier for tier, _ in models.asked].count("cheap") == 1
    assert pays(costs(29, 1), costs(100, 1), 0.6)
    assert not pays(costs(29, 1), costs(100, 1), 0.6, asks=2)


async def test_without_a_second_the_judge_alone_decides() -> None:
    models = Models(cheap=EIGHT, premium=Said(GOOD))
    turns = await ascend(("cheap", "premium"), COSTS, CHANCES, EIGHT.confidence or 0.0, models, SUM)
    assert [turn.tier for turn in turns] == ["cheap"]


CHOICE = "Which is a mammal?\nA. trout\nB. whale\nC. eagle"


@pytest.mark.parametrize(
    ("prompt", "one", "other", "same"),
    [
        (SUM, "The answer is 8.", "So the answer is 8.0", True),
        (SUM, "The answer is 8.", "The answer is 12.", False),
        (SUM, "It depends.", "The answer is 12.", None),
        (CHOICE, "Whales give milk. The answer is (B).", "The answer is B", True),
        (CHOICE, "The answer is (B).", "The answer is (A).", False),
        (BODY["messages"][0]["content"], "The answer is: Paris.", "The answer is Paris", True),
        ("", "", "", None),
    ],
)
def test_two_answers_agree_where_they_settle_on_the_same(prompt: str, one: str, other: str, same: bool | None) -> None:
    assert agree(prompt, one, other) is same
