"""What can be counted in a prompt: its length, numbers, subject, and, of a multiple choice, the shape of its options.

Time is linear in the text and bounded: the middle of a long prompt is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from router_client.difficulty.topics import PRIOR

HEAD_CHARS, TAIL_CHARS = 3000, 1000
"""Of a longer prompt its beginning and its end, where people say what they want."""

OPTION = re.compile(r"^[ \t]*(?:[-*][ \t]+)?\(?([A-Z])[.):][ \t]+(.*)$", re.MULTILINE)
LETTERS = re.compile(r"[^\W\d_]+")
DENSE = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Scripts without spaces, or with a syllable a character: a character says what three or so letters say."""
LETTERS_OF_DENSE = 2
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
STARTS_WITH_NUMBER = re.compile(r"[\s$£€(+\u2212-]*\d")
MATHS = re.compile(r"[\d=^/\\{}<>|~\u00ac\u00b1\u00d7\u00f7\u2190-\u22ff]")
"""Digits, signs, and Unicode's arrows and mathematical operators."""
CODE = re.compile(r"\bdef \w+\(|```|\bfunction \w+\(|;\n|#include|\[PYTHON\]|^ +return\b", re.MULTILINE)
LITERAL = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
LOOP = re.compile(r"\b(?:for|while)\b")
CALL = re.compile(r"\w\(")
SENTENCE = re.compile(r"[.!?](?:\s|$)|[\u3002\uff01\uff1f]")
ASKS_NUMBER = re.compile(
    r"how (?:many|much|long|far|old)|calculate|compute|find the|determine the|what is the (?:value|probability|area)"
)
PASSAGES = ("refers to the following", "passage", "excerpt")
CODE_SIGNS = ("def ", "```", "function ", ";\n", "#include", "[PYTHON]", "return")
"""Without one of these there is no need to look closer."""

FORMAL = frozenset(
    (
        *("prove", "statement", "statements", "true", "false", "valid", "i", "ii", "iii", "iv", "both"),
        *("neither", "always", "necessarily", "implies", "if", "only"),
    )
)
PROOF = frozenset(["prove", "proof", "derive", "rigorous", "rigorously", "disprove"])
CAPITAL_NOT = frozenset(["EXCEPT", "EXCEPT:", "NOT", "NOT:", "LEAST", "FALSE", "INCORRECT"])
SETTING = frozenset(["Scenario", "Suppose", "Assume", "Consider", "Let"])
SUMMARY = frozenset(["both", "neither"])
SUMMARIES = ("all of the", "none of the", "cannot be determined")


class Prompt(msgspec.Struct, frozen=True):
    """A prompt taken apart: the question, its options if it is a multiple choice, and what was counted."""

    stem: str
    options: tuple[str, ...]
    traits: dict[str, float]


def clipped(text: str, head: int, tail: int) -> str:
    """The text, without its middle if it is longer than both together."""
    return text if len(text) <= head + tail else f"{text[:head]}\n{text[-tail:]}"


def read(prompt: str) -> Prompt:
    """Take a prompt apart. Never raises; linear in what is looked at."""
    text = clipped(prompt, HEAD_CHARS, TAIL_CHARS)
    stem, options = _split(text)
    traits = _of_stem(stem, is_code=any(sign in text for sign in CODE_SIGNS) and CODE.search(text) is not None)
    if options:
        traits |= _of_options(text, options)
    return Prompt(stem, tuple(options), traits)


def _split(text: str) -> tuple[str, list[str]]:
    """The question and its options A, B, ...: the last such list, at least two long."""
    options: list[str] = []
    start = 0
    for match in OPTION.finditer(text):
        letter = match[1]
        if letter == "A":
            options, start = [match[2]], match.start()
        elif options and ord(letter) == 65 + len(options):
            options.append(match[2])
    return (text[:start], options) if len(options) > 1 else (text, [])


def _of_stem(stem: str, *, is_code: bool) -> dict[str, float]:
    lowered, pieces = stem.lower(), stem.split()
    words = LETTERS.findall(lowered)
    dense = 0 if stem.isascii() else len(DENSE.findall(stem))
    amount = max(1, len(words) + dense // 2)
    distinct = set(words)
    numbers = NUMBER.findall(stem)
    known = [PRIOR[word] for word in words if word in PRIOR]
    log = math.log1p
    return {
        "length": log(len(stem) + LETTERS_OF_DENSE * dense),
        "words_a_sentence": log(amount / max(1, len(SENTENCE.findall(stem)))),
        "variety": (len(distinct) + dense // 2) / amount**0.8,
        "word_length": min(8.0, sum(map(len, words)) / amount) if not dense else 5.0,
        "numbers": log(len(numbers)),
        "distinct_numbers": log(len(set(numbers))),
        "topic": sum(known) / (len(known) + 3),
        "literal": log(max(map(len, LITERAL.findall(stem)), default=0)) if is_code else 0.0,
        "steps_of_code": log(len(LOOP.findall(stem))) + log(len(CALL.findall(stem))) if is_code else 0.0,
        "formal": len(FORMAL & distinct) / max(5, amount),
        "asks_proof": 0.0 if PROOF.isdisjoint(distinct) else 1.0,
        "setting": 0.0 if SETTING.isdisjoint(pieces) else 1.0,
        "asks_number": 1.0 if ASKS_NUMBER.search(lowered) else 0.0,
        "what": 1.0 if "what" in distinct else 0.0,
        "is_question": 1.0 if stem.rstrip().endswith("?") else 0.0,
        "negated": 0.0 if CAPITAL_NOT.isdisjoint(pieces) else 1.0,
        "percent": log(stem.count("%") + stem.count("$")),
        "passage": 1.0 if any(each in lowered for each in PASSAGES) else 0.0,
        "is_code": 1.0 if is_code else 0.0,
        "latex": 1.0 if "\\" in stem or ("$" in stem and "^" in stem) else 0.0,
    }


def _of_options(text: str, options: Sequence[str]) -> dict[str, float]:
    amount = len(options)
    sizes = [len(option) for option in options]
    mean = sum(sizes) / amount
    lowered = "\n".join(options).lower()
    words = [set(option.split()) for option in lowered.split("\n")]
    union = set().union(*words)
    return {
        "options": math.log(amount),
        "option_length": math.log1p(mean),
        "option_spread": math.sqrt(sum((size - mean) ** 2 for size in sizes) / amount) / (mean + 1),
        "numeric_options": sum(1 for option in options if STARTS_WITH_NUMBER.match(option)) / amount,
        "maths_options": sum(1 for option in options if MATHS.search(option)) / amount,
        "shared_words": 1 - len(union) / max(1, sum(map(len, words))),
        "one_word_options": sum(1 for each in words if len(each) == 1) / amount,
        "summary_option": 1.0 if union & SUMMARY or any(each in lowered for each in SUMMARIES) else 0.0,
        "all_numbers": math.log1p(len(NUMBER.findall(text))),
        "all_length": (math.log1p(len(text)) - 5.5) ** 2,
    }
