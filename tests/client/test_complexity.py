"""How hard a task is: what makes it harder, and what must not fool it. How well that fits models is bench/routing.py's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_client.complexity import GOOD_ENOUGH, assess, score
from router_client.difficulty.hardness import OPEN
from router_client.difficulty.prompts import HEAD_CHARS, TAIL_CHARS, read
from router_client.difficulty.weights import WEIGHTS

SAME: dict[str, str] = json.loads((Path(__file__).parent / "golden" / "one_question.json").read_text("utf-8"))
QUESTION = SAME["en"]
FACTS = "Which river flows through the city?\nA. The Danube\nB. The Rhine\nC. The river Seine\nD. The river Thames"
VALUES = (
    "Suppose a ring of 12 units is cut in 3 parts. What is the value of 3x + 4?\nA. 12.5\nB. 14.5\nC. 16.5\nD. 18.5"
)
CODE = "What does this print?\n```python\ndef f(xs):\n{body}    return xs\nprint(f({value}))\n```"


def asked(*messages: tuple[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": role, "content": content} for role, content in messages], **fields}


def test_small_talk_is_cheap_and_a_case_full_of_conditions_is_not() -> None:
    assert assess(asked(("user", "hi"))).tier == "cheap"
    case = " ".join(
        f"Rule {n}: guest {n} must sit {n + 2} places left of guest {n * 3 % 7}, unless {n} is odd." for n in range(30)
    )
    hard = assess(asked(("user", case)))
    assert hard.tier != "cheap"
    assert hard.difficulty == pytest.approx(score(case)) == 1 - hard.chances["cheap"]


def test_chances_grow_with_the_tier_and_decide_it() -> None:
    for text in ("hi", QUESTION, FACTS, VALUES, QUESTION * 5):
        task = assess(asked(("user", text)))
        assert 0 <= task.chances["cheap"] <= task.chances["mid"] <= 1
        good = [tier for tier, chance in task.chances.items() if chance >= GOOD_ENOUGH]
        assert task.tier == (good[0] if good else "premium")


@pytest.mark.parametrize("language", SAME)
def test_a_question_is_as_hard_in_another_language(language: str) -> None:
    assert score(SAME[language]) == pytest.approx(score(QUESTION), abs=0.08)


def test_more_conditions_more_code_and_computing_are_harder() -> None:
    assert (
        score(QUESTION + " " + QUESTION.replace("cows", "sheep")) > score(QUESTION) > score("How many legs has a cow?")
    )
    plain = CODE.format(body="", value="[1]")
    loops = CODE.format(
        body="    for x in xs:\n        while g(x):\n            h(x)\n", value="['longer', 'literals here']"
    )
    assert score(loops) > score(plain)
    assert score(VALUES) > score(FACTS) + 0.15
    assert score("Prove that there is no largest prime.") > score("Say that there is no largest prime.")


def test_a_long_system_prompt_and_what_tools_say_do_not_count() -> None:
    plain = assess(asked(("user", QUESTION)))
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}],
    }
    body = asked(("system", "You are a careful helper. " * 500), ("user", QUESTION))
    body["messages"] += [call, {"role": "tool", "tool_call_id": "1", "content": '{"rows": [1, 2, 3]}' * 300}]
    assert assess(body).chances == plain.chances
    assert assess(body).prompt_tokens > plain.prompt_tokens


def test_the_last_question_counts_and_a_short_one_means_what_came_before() -> None:
    after = assess(
        asked(
            ("user", QUESTION * 5),
            ("assistant", "3"),
            ("user", "Write a short poem about the sea and the moon, with rhymes."),
        )
    )
    assert after.difficulty < score(QUESTION * 5)
    follow_up = assess(asked(("user", QUESTION * 5), ("assistant", "3"), ("user", "And in a month?")))
    assert follow_up.difficulty == pytest.approx(score(QUESTION * 5))
    twice = assess(
        asked(("user", QUESTION * 5), ("assistant", "3"), ("user", "thanks!"), ("assistant", ":)"), ("user", "bye"))
    )
    assert twice.tier == "cheap", "what was settled long ago is no part of it"


def test_what_a_task_needs_is_named() -> None:
    picture = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    assert assess(asked(("user", "hi"))).needs == frozenset()
    assert assess(asked(("user", picture))).needs == {"image"}
    everything = asked(
        ("user", picture), ("user", "now"), tools=[{"type": "function"}], response_format={"type": "json_schema"}
    )
    assert assess(everything).needs == {"image", "tools", "json"}
    assert assess(asked(("user", "hi"), response_format={"type": "text"}, functions=[{"name": "f"}])).needs == {"tools"}
    assert assess(asked(("user", "hi"), max_tokens=50)).context_tokens >= 50


@given(st.text(max_size=300))
def test_any_text_has_a_probability(text: str) -> None:
    assert 0 <= score(text) <= 1


@pytest.mark.parametrize(
    "messages", [None, 5, "hi", [1, None], [{"role": "user"}], [{"role": "user", "content": [1, {"text": 3}]}]]
)
def test_what_is_no_conversation_is_nothing_hard(messages: object) -> None:
    assert assess({"messages": messages}).tier == "cheap"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["a ", "1", "9,", "A. \n", "def f(", "'", " ", "\n", "$\\", "中", "- ", "!? "])
def test_a_book_takes_no_longer_than_its_ends(piece: str) -> None:
    """A pattern that goes back over its text would hang here."""
    text = piece * (3_000_000 // len(piece))
    assert len(read(text).stem) <= HEAD_CHARS + TAIL_CHARS + 1
    for _ in range(20):
        score(text)


def test_every_trait_that_is_weighed_is_counted() -> None:
    """A trait that was renamed would count as 0 for ever."""
    counted = read(VALUES).traits.keys()
    assert {term.trait for term in WEIGHTS.choice_hardness.terms} <= counted
    assert OPEN.keys() <= read(QUESTION).traits.keys()


def test_a_list_in_a_question_is_no_multiple_choice() -> None:
    assert not read("Compare these:\n- apples\n- pears\n1. first\n2. second").traits.get("options")
    assert not read("Sort by A. then C.\nC. is last").traits.get("options")
    assert len(read(FACTS).options) == 4
    assert len(read("Pick:\n(A) one\n(B) two\n(C) three").options) == 3
    assert len(read("Pick:\n- A) one\n- B) two").options) == 2
