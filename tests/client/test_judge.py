"""What makes an answer less likely to be right. How well that fits real answers is bench/routing.py's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_client.difficulty.answers import traits
from router_client.difficulty.prompts import read
from router_client.difficulty.weights import WEIGHTS
from router_client.judge import ANSWER, LITERAL, VALUE, judge

SUM = "A shop has 17 red pens and 25 blue pens. It sells every pen for 2 dollars. How many dollars does it get?"
RIGHT = "There are 17 + 25 = 42 pens. They bring 42 * 2 = 84 dollars. The answer is 84."
CHOICE = (
    "Which organ of the body makes insulin?\n"
    "A. The liver cells\nB. The pancreas islets\nC. The thyroid gland\nD. The left kidney\nE. The spleen tissue"
)
VALUES = "A train covers 240 km in 3 hours. What is its speed?\nA. 60 km/h\nB. 70 km/h\nC. 80 km/h\nD. 90 km/h"
SUPPORTED = "Insulin is made in the islets of the pancreas, and nowhere else. The answer is (B)."


@pytest.mark.parametrize(
    ("doubtful", "trait"),
    [
        ("There are 17 + 25 = 43 pens. They bring 43 * 2 = 86 dollars. The answer is 86.", "sums_wrong"),
        ("There are 17 + 25 = 42 pens. They bring 40 * 2 = 80 dollars. The answer is 80.", "sums_chained"),
        (RIGHT.replace("is 84", "is 61"), "is_nowhere"),
        (RIGHT.replace("is 84", "is 42"), "is_last_sum"),
        (RIGHT.replace("is 84", "is 17"), "is_last_number"),
        (RIGHT.replace("is 84", "is 84.5"), "is_whole_number"),
        (RIGHT.removesuffix(" The answer is 84."), "states_answer"),
        (RIGHT[:50], "cut_off"),
        (RIGHT.replace("17 + 25", "18 + 24"), "unused_numbers"),
        ("However, wait, I think that might be a mistake. " + RIGHT, "hedges"),
        ("84", "bare"),
        (RIGHT + " Let me say it all again, from the start and at length." * 30, "answer_length"),
    ],
)
def test_of_two_answers_the_doubtful_one_is_doubted(doubtful: str, trait: str) -> None:
    seen = read(SUM)
    change = traits(seen, doubtful)[trait] - traits(seen, RIGHT)[trait]
    assert change * {**ANSWER, **VALUE}[trait] < 0, "this trait speaks against it"
    assert judge(SUM, doubtful) < judge(SUM, RIGHT)


@pytest.mark.parametrize("prompt", [SUM, CHOICE])
@pytest.mark.parametrize(
    "spoiled",
    [
        "I'm sorry, but I can't help with that.",
        "Lo siento, no puedo ayudar con eso.",
        "the pens the pens the pens " * 60,
    ],
)
def test_a_refusal_and_a_loop_are_hopeless_whatever_was_asked(prompt: str, spoiled: str) -> None:
    assert judge(prompt, spoiled) < 0.1


def test_no_answer_is_no_right_one() -> None:
    assert judge(SUM, "") == judge(CHOICE, " \n") == 0.0


def test_the_form_of_an_answer_matters_little() -> None:
    field = '{"reasoning": "There are 17 + 25 = 42 pens. They bring 42 * 2 = 84 dollars.", "answer": "84"}'
    boxed = RIGHT.replace("The answer is 84.", "\\boxed{84}")
    for form in (field, f"```json\n{field}\n```", boxed):
        assert judge(SUM, form) == pytest.approx(judge(SUM, RIGHT), abs=0.12)


def test_an_option_that_the_reasoning_speaks_of_is_likelier() -> None:
    assert judge(CHOICE, SUPPORTED) > judge(CHOICE, SUPPORTED.replace("(B)", "(D)"))
    assert judge(CHOICE, SUPPORTED) > judge(CHOICE, SUPPORTED.replace(" The answer is (B).", ""))


def test_options_are_found_by_letter_and_by_text_and_beside_the_value_reached() -> None:
    def counted(prompt: str, answer: str) -> dict[str, float]:
        return traits(read(prompt), answer)

    for answer in (
        SUPPORTED,
        '{"reasoning": "In the pancreas islets.", "answer": "B"}',
        '"answer": "The pancreas islets"',
    ):
        assert counted(CHOICE, answer)["position"] == pytest.approx(1 / 5), answer
    assert counted(CHOICE, "It is hard to say. The answer is (Q).")["names_none"] == 1
    reached = "240 / 3 = 80 km/h, so its speed is 80. The answer is ({})."
    assert counted(VALUES, reached.format("C"))["number_is_last"] == 1
    assert counted(VALUES, reached.format("A"))["other_is_last"] == 1
    assert counted(VALUES, "240 / 7 = 34.3. The answer is (A).")["no_number_found"] == 1


def test_a_harder_prompt_makes_the_same_answer_less_likely() -> None:
    assert judge(SUM * 6, RIGHT) < judge(SUM, RIGHT)


def test_every_trait_that_is_weighed_is_counted() -> None:
    """A trait that was renamed would count as 0 for ever."""
    assert {*ANSWER, *VALUE, *LITERAL} <= traits(read(SUM), RIGHT).keys()
    seen = read(VALUES)
    counted = {*seen.traits, *traits(seen, "240 / 3 = 80. The answer is (C).")}
    assert {trait for tree in WEIGHTS.choice_right for trait, *_ in tree.questions} <= counted


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_two_texts_have_a_probability(prompt: str, answer: str) -> None:
    assert 0 <= judge(prompt, answer) <= 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece",
    [
        *(
            "1",
            "1 + ",
            "9,",
            "1=1=",
            "(",
            "answer: ",
            "answer" + " " * 50,
            "answer is ",
            "\\boxed{",
            "option\n\n",
            "A. \n",
            "'",
        ),
        *("I can", "a ", "中", "\n", "the (A) ", "i'm sorry "),
    ],
)
def test_a_book_takes_no_longer_than_its_ends(piece: str) -> None:
    """A pattern that goes back over its text would hang here: an early one took a second for one answer."""
    text = piece * (1_000_000 // len(piece))
    for prompt in (SUM, CHOICE, text):
        for _ in range(10):
            assert 0 <= judge(prompt, text) <= 1
