"""The sums that a text states, recomputed: "3 x 4 = 12 apples, 12 - 5 = 8" states two, the second of them wrong.

Nothing of the text is run: numbers and the four operations are read by a table, in time linear in the text.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence

import msgspec

TOKEN = re.compile(
    r"\d[\d,]*(?:\.\d+)?(?P<variable>(?!x ?\d)[a-zA-Z](?![a-zA-Z]))?%?"
    r"|\\(?:times|cdot|div|text|mathrm|\*)"
    r"|(?P<notation>\\[a-zA-Z]+|(?:log|ln|sin|cos|tan|sqrt|mod)\b|[a-zA-Z]+[({]|[\u00b2\u00b3\u00b9\u2070-\u2079\u221a\u03c0])"
    r"|\\[()\[\]]|[-+*/\u00d7÷·\u2212=()^\n;]|[^\W\d_]+|[.!?](?=\s)"
)
"""Numbers (with a variable: 2y), signs, LaTeX and functions, words."""
NAMES = {
    "\\times": "*",
    "\\cdot": "*",
    "\\*": "*",
    "·": "*",
    "\u00d7": "*",
    "x": "*",
    "\\div": "/",
    "÷": "/",
    "\u2212": "-",
}
APPLY: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
BINDS = {"(": 0, ")": 1, "+": 1, "-": 1, "*": 2, "/": 2}
SIGNS = frozenset(APPLY)
BREAKS = frozenset("\n;.!?^")
TOLERANCE = 0.011
"""Answers round: a sum counts as right within a percent."""
MAX_RUN = 40


class Sums(msgspec.Struct, frozen=True):
    """How many stated sums are right and wrong, how many go on from an earlier result, and the last result."""

    right: int = 0
    wrong: int = 0
    chained: int = 0
    last: float | None = None


def as_number(text: str) -> float | None:
    """The number that is written, thousands with commas; a percentage as its hundredth. None if it is too large."""
    percent = text.endswith("%")
    digits = text.rstrip("%").replace(",", "")
    if len(digits) > 300:
        return None
    return float(digits) / 100 if percent else float(digits)


def near(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))


def check(text: str) -> Sums:
    """Recompute every sum that the text states as `a op b ... = c`."""
    right = wrong = chained = 0
    results: set[float] = set()
    last = None
    for left, stated in _equations(text) if "=" in text else ():
        value = _value(left)
        if value is None:
            continue
        if near(value, stated) or near(value * 100, stated) or near(value, stated * 100):
            right += 1
        else:
            wrong += 1
        chained += any(each in results for each in left if isinstance(each, float))
        results.add(stated)
        last = stated
    return Sums(right, wrong, chained, last)


def _equations(text: str) -> Iterator[tuple[list[float | str], float]]:
    """Each expression that stands left of an equals sign, with the lone number right of it."""
    left: list[float | str] = []
    run: list[float | str] = []
    is_spoiled = False
    for match in TOKEN.finditer(f"{text}\n"):
        piece = NAMES.get(match[0], match[0])
        is_equals, is_number = piece == "=", piece[0].isdecimal()
        if is_equals or piece in BREAKS or (is_number and run and (isinstance(run[-1], float) or run[-1] == ")")):
            # Here a side ends; of two numbers in a row the second begins a new phrase.
            if len(left) > 2 and not is_spoiled and len(run) == 1 and isinstance(run[0], float):
                yield left, run[0]
            left, run = (run if is_equals and not is_spoiled else []), []
            is_spoiled = is_spoiled and is_number
        if match["variable"] or match["notation"]:
            is_spoiled = True
        elif is_number:
            number = as_number(piece)
            run = [*run, number] if number is not None and len(run) < MAX_RUN else []
        elif piece in BINDS:
            run.append(piece)
        elif not is_equals and run and run[-1] in SIGNS:
            is_spoiled = run.pop() != "/" and bool(run)  # "9 chairs / day" is a unit, "9 - cost" algebra, "* He" a list


def _value(expression: Sequence[float | str]) -> float | None:
    """The expression's value by the usual precedence, or None when it is none."""
    values: list[float] = []
    signs: list[str] = []
    for each in expression:
        if isinstance(each, float):
            values.append(each)
            continue
        if each != "(" and not _settle(values, signs, BINDS[each]):
            return None
        if each != ")":
            signs.append(each)
        elif not signs or signs.pop() != "(":
            return None
    settled = _settle(values, signs, BINDS[")"])
    return values[0] if settled and len(values) == 1 and not signs else None


def _settle(values: list[float], signs: list[str], least: int) -> bool:
    """Carry out what waits and binds at least so strongly; False when it cannot be."""
    while signs and BINDS[signs[-1]] >= least:
        sign = signs.pop()
        if len(values) < 2 or (sign == "/" and values[-1] == 0):
            return False
        other = values.pop()
        values.append(APPLY[sign](values.pop(), other))
    return True
