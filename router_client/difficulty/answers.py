"""What can be counted in an answer beside its prompt: length, what it settles on, and whether its own text supports that.

Time is linear in the texts and bounded: the middle of a long answer is left out. Nothing is run or looked up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from router_client.difficulty.prompts import DENSE, LETTERS_OF_DENSE, NUMBER, Prompt, clipped
from router_client.difficulty.sums import as_number, check, near

HEAD_CHARS, TAIL_CHARS = 4000, 2500
WORD = re.compile(r"[^\W\d_]+|\d[\d,]*(?:\.\d+)?")
STATED = (
    re.compile(r"\"?answer\"?\s{0,9}:\s{0,9}[\"*]{0,3}([^\"\n]{1,200})", re.IGNORECASE),
    re.compile(r"\\boxed\{([^}]{1,80})\}"),
    re.compile(r"answer is:?\s{0,9}\*{0,2}\(?\$?([^\n]{1,80})", re.IGNORECASE),
)
"""How answers say which part is the answer: a field or heading, LaTeX's box, a sentence."""
CHOICE = re.compile(r"(?:answer|option|choice)\W{0,3}(?:is|:)?\W{0,5}\(?([A-Z])\b")
BRACKETED = re.compile(r"\(([A-Z])\)")
WHOLE = frozenset('.!?}`)]"*$:\u3002\uff01\uff1f')
HEDGES = (
    *("however", "wait", "assum", "cannot", "can't", "not possible", "not enough", "doesn't match"),
    *("does not match", "none of the", "not listed", "closest", "actually", "let's re", "mistake"),
    *("unclear", "might", "seems", "i think", "apolog", "insufficient"),
)
REFUSAL = re.compile(
    r"^\W{0,3}(?:i['\u2019]?m sorry|i am sorry|sorry|i apologi[sz]e|unfortunately|as an ai)?[^.!?\n]{0,60}"
    r"\b(?:i|we) (?:can(?:no|['\u2019])?t|am not able|am unable|won['\u2019]?t|do not have|don['\u2019]t have)\b"
    r"|^\W{0,3}(?:je suis désolée?|lo siento|es tut mir leid|desculpe|mi dispiace|извините|对不起|抱歉|申し訳)",
    re.IGNORECASE,
)
"""Only where an answer begins, and only of short ones: long ones that begin so often help all the same."""
REFUSAL_CHARS = 600
BARE_WORDS, LONG_PROMPT = 5, 4.5
"""An answer of fewer words to a prompt longer than this (log characters) shows no reasoning that could be judged."""
SHORT = 5.7
"""Log characters (about 300) below which being shorter still says nothing."""
LOOPING = 0.5
"""More than this share of repeated word triples is a model that goes round in circles."""
STEPS = ("first", "then", "next", "finally", "step", "therefore", "so ", "thus", "because", "since", "hence")
COMMON = frozenset(
    (
        *("the", "a", "an", "of", "to", "in", "and", "is", "for", "on", "that", "with", "as", "by", "from"),
        *("at", "or", "be", "are", "was", "were", "it", "this", "which", "has", "have", "had"),
    )
)
BEFORE_ANSWER = 40
"""Characters of reasoning that must stand before a stated answer for the two to be compared."""


class Answer(msgspec.Struct, frozen=True):
    """An answer taken apart: its reasoning, what it states as its answer ("" if nothing), its numbers and words."""

    text: str
    reasoning: str
    stated: str
    numbers: tuple[float, ...]
    words: frozenset[str]


def traits(prompt: Prompt, answer: str) -> dict[str, float]:
    """Count what tells right answers from wrong ones. Never raises; linear in what is looked at."""
    text = clipped(answer, HEAD_CHARS, TAIL_CHARS)
    reasoning, stated = _split(text)
    lowered = reasoning.lower()
    words = WORD.findall(lowered)
    written = NUMBER.findall(reasoning)
    numbers = tuple(number for each in written if (number := as_number(each)) is not None)
    read = Answer(text, lowered, stated, numbers, frozenset(words))
    asked = {number for each in NUMBER.findall(prompt.stem) if (number := as_number(each)) is not None}
    dense = 0 if text.isascii() else len(DENSE.findall(text))
    log = math.log1p
    counted = {
        "answer_length": max(SHORT, log(len(answer) + LETTERS_OF_DENSE * dense)),
        "answer_lines": log(text.count("\n")),
        "answer_steps": log(sum(lowered.count(each) for each in STEPS)),
        "answer_numbers": log(len(numbers)),
        "number_share": len(numbers) / (len(words) + 1),
        "decimals": log(sum("." in each for each in written)),
        "new_numbers": log(len(set(numbers) - asked)),
        "unused_numbers": log(len(asked - set(numbers))),
        "used_share": len(asked & set(numbers)) / (len(asked) + 1),
        "answer_variety": len(read.words) / (len(words) + 1) ** 0.8,
        "repeated": (repeated := _repeated(words)),
        "loops": max(0.0, repeated - LOOPING),
        "refuses": 1.0 if len(answer) < REFUSAL_CHARS and REFUSAL.search(text[:200]) else 0.0,
        "bare": 1.0 if len(words) < BARE_WORDS and prompt.traits["length"] > LONG_PROMPT else 0.0,
        "hedges": log(sum(lowered.count(each) for each in HEDGES)),
        "equals": log(reasoning.count("=")),
        "cut_off": 1.0 if not text.strip() or text.rstrip()[-1] not in WHOLE else 0.0,
        "states_answer": 1.0 if stated else 0.0,
        "stated_length": log(len(stated)),
        "echo": _echo(prompt.stem, read.words),
    }
    sums = check(reasoning)
    counted |= {
        "sums_right": log(sums.right),
        "sums_wrong": float(min(sums.wrong, 3)),
        "sums_chained": sums.chained / (sums.right + sums.wrong + 1),
    }
    return counted | (_of_choice(prompt.options, read) if prompt.options else _of_value(prompt, read, sums.last))


def settled(prompt: Prompt, answer: str) -> str:
    """What the answer states as such: an option's letter, or the words; "" if nothing."""
    text = clipped(answer, HEAD_CHARS, TAIL_CHARS)
    reasoning, stated = _split(text)
    if not prompt.options:
        return stated
    named = _named(prompt.options, Answer(text, reasoning.lower(), stated, (), frozenset()))
    return "" if named is None else chr(ord("A") + named)


def _split(text: str) -> tuple[str, str]:
    """The reasoning, and the last thing that is said to be the answer."""
    for form in STATED:
        last = None
        for last in form.finditer(text):  # noqa: B007 (the last one counts)
            pass
        if last is not None:
            return text[: last.start()] if last.start() > BEFORE_ANSWER else text, last[1].strip()
    return text, ""


def _repeated(words: Sequence[str]) -> float:
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def _echo(stem: str, words: frozenset[str]) -> float:
    asked = set(WORD.findall(stem.lower())) - COMMON
    return len(asked & words) / (len(asked) + 1)


def _of_value(prompt: Prompt, answer: Answer, last: float | None) -> dict[str, float]:
    """Does the reasoning arrive at the value, or the text, that is stated?"""
    literal = answer.stated.strip("\"'. ").lower()
    found = NUMBER.findall(answer.stated)
    value = as_number(found[0]) if len(found) == 1 else None
    numbers = answer.numbers
    return {
        "is_last_sum": 1.0 if value is not None and last is not None and near(value, last) else 0.0,
        "is_last_number": 1.0 if value is not None and numbers and near(value, numbers[-1]) else 0.0,
        "is_nowhere": 1.0 if value is not None and numbers and not any(near(value, each) for each in numbers) else 0.0,
        "is_whole_number": 1.0 if value is not None and value == int(value) else 0.0,
        "is_repeated": 1.0 if len(literal) > 1 and literal in answer.reasoning else 0.0,
        "is_truth_value": 1.0 if literal in ("true", "false", "none", "yes", "no") else 0.0,
        "is_from_prompt": 1.0 if len(literal) > 2 and literal in prompt.stem.lower() else 0.0,
    }


def _of_choice(options: Sequence[str], answer: Answer) -> dict[str, float]:
    """Is the option that is named the one whose words and numbers the reasoning speaks of?"""
    named = _named(options, answer)
    counted = dict.fromkeys(CHOICE_TRAITS, 0.0)
    counted["names_none"] = 1.0 if named is None else 0.0
    if named is None:
        return counted
    lowered = [option.lower().strip(" .") for option in options]
    words = [set(WORD.findall(each)) - COMMON for each in lowered]
    support = _support(words, answer.words)
    others = [each for index, each in enumerate(support) if index != named]
    length = sum(map(len, options)) / len(options)
    counted |= {
        "support": support[named],
        "support_lead": support[named] - max(others),
        "is_best_supported": 1.0 if support[named] >= max(others) else 0.0,
        "is_quoted": 1.0 if len(lowered[named]) > 2 and lowered[named] in answer.reasoning else 0.0,
        "others_quoted": math.log1p(
            sum(index != named and len(each) > 2 and each in answer.reasoning for index, each in enumerate(lowered))
        ),
        "option_size": math.log1p(len(options[named])),
        "option_size_share": math.log((len(options[named]) + 3) / (length + 3)),
        "position": named / len(options),
    }
    return counted | _of_numbers(options, named, answer.numbers)


CHOICE_TRAITS = (
    *("names_none", "support", "support_lead", "is_best_supported", "is_quoted", "others_quoted"),
    *("option_size", "option_size_share", "position", "numeric", "number_found", "number_is_last"),
    *("other_is_last", "no_number_found"),
)


def _named(options: Sequence[str], answer: Answer) -> int | None:
    """The option that the answer settles on, by its letter or, failing that, by its text."""
    stated = [answer.stated] if len(answer.stated) == 1 else []
    for letters in (CHOICE.findall(answer.text), stated, BRACKETED.findall(answer.text)):
        indices = [ord(letter) - ord("A") for letter in letters]
        if known := [index for index in indices if 0 <= index < len(options)]:
            return known[-1]
    literal = answer.stated.lower().strip("\"'*() .")
    return next((index for index, option in enumerate(options) if option.lower().strip(" .") == literal), None)


def _support(words: Sequence[set[str]], said: frozenset[str]) -> list[float]:
    """For each option the share of its words that the reasoning says; words that many options have count less."""
    holders: dict[str, int] = {}
    for each in words:
        for word in each:
            holders[word] = holders.get(word, 0) + 1
    return [
        sum(1 / holders[word] for word in each if word in said) / (sum(1 / holders[word] for word in each) + 0.5)
        for each in words
    ]


def _of_numbers(options: Sequence[str], named: int, numbers: Sequence[float]) -> dict[str, float]:
    """Where options are values: is the one named the value that the reasoning arrived at?"""
    values = [as_number(found[-1]) if (found := NUMBER.findall(option)) else None for option in options]
    own = values[named]
    if own is None or not numbers or sum(value is None for value in values) > len(values) / 2:
        return {"numeric": 0.0 if own is None else 1.0}
    is_last = _reached((own,), numbers[-2:])
    others = [value for index, value in enumerate(values) if index != named and value is not None]
    return {
        "numeric": 1.0,
        "number_found": 1.0 if _reached((own,), numbers) else 0.0,
        "number_is_last": 1.0 if is_last else 0.0,
        "other_is_last": 1.0 if not is_last and _reached(others, numbers[-1:]) else 0.0,
        "no_number_found": 0.0 if _reached((own, *others), numbers) else 1.0,
    }


def _reached(values: Sequence[float], numbers: Sequence[float]) -> bool:
    return any(near(value, number) for number in set(numbers) for value in values)
