"""Do two answers to one prompt settle on the same? Pure, linear in the texts, and bounded as the judge is.

Two cheap models seldom make the same mistake. On the answers that docs/routing-models.md tells of, one that agrees with
another model's is right at about three times the odds that the judge alone gives it, one that does not at a third of them.
"""

from __future__ import annotations

import re
from typing import Final

from router_client.difficulty.answers import settled
from router_client.difficulty.prompts import NUMBER, Prompt, read
from router_client.difficulty.sums import as_number, near

AGREED_ODDS: Final = 3.0
DIFFERED_ODDS: Final = 0.35
"""What the odds to be right are multiplied with; likelihood ratios were 2 to 20, and .04 to .7, by task and model."""
_BETWEEN_WORDS: Final = re.compile(r"[\W_]+")


def agree(prompt: str, one: str, other: str) -> bool | None:
    """Whether both name the same option, number or words as their answer; None where one of them names none."""
    seen = read(prompt)
    first, second = _value(seen, one), _value(seen, other)
    if first is None or second is None:
        return None
    if isinstance(first, float) and isinstance(second, float):
        return near(first, second)
    return first == second


def revised(sure: float, *, agreed: bool | None) -> float:
    """The probability to be right, after another model's answer."""
    if agreed is None or not 0 < sure < 1:
        return sure
    odds = sure / (1 - sure) * (AGREED_ODDS if agreed else DIFFERED_ODDS)
    return odds / (1 + odds)


def _value(prompt: Prompt, answer: str) -> float | str | None:
    named = settled(prompt, answer)
    if prompt.options:
        return named or None
    numbers = NUMBER.findall(named)
    if len(numbers) == 1 and not prompt.traits["is_code"] and (number := as_number(numbers[0])) is not None:
        return number
    return _BETWEEN_WORDS.sub("", named.lower()) or None
