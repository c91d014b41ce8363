"""Sums that a text states are recomputed, and what is no sum is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_client.difficulty.sums import Sums, as_number, check


@pytest.mark.parametrize(
    ("text", "right", "wrong", "chained", "last"),
    [
        ("3 x 4 = 12 apples, and 12 - 5 = 7", 2, 0, 1, 7),
        ("3 x 4 = 12 apples, and 12 - 5 = 8", 1, 1, 1, 8),
        ("60 chairs/day * 5 weekdays = 300 chairs. 300 chairs + 200 chairs = 500", 2, 0, 1, 500),
        ("(2/5) * 60 = 24 oranges", 1, 0, 0, 24),
        ("$5.00 + $3.00 + $1.00 = $9.00.", 1, 0, 0, 9),
        ("1,250 + 250 = 1,500", 1, 0, 0, 1500),
        ("20% * 50 = 10", 1, 0, 0, 10),
        ("1.2 \\times 50 = 60", 1, 0, 0, 60),
        ("16 - 3 - 4 = <<16-3-4=9>>9", 1, 0, 0, 9),
        ("10 / 3 = 3.33", 1, 0, 0, 3.33),
        ("2 + 3 * 4 = 14 and 2 + 3 * 4 = 20", 1, 1, 0, 20),
        ("x = 3 + 4", 0, 0, 0, None),
        ("1 / 0 = 3, ( = ) - = 1, 5 = 5", 0, 0, 0, None),
        ("2y + 3 = 18, 10 - cost + 3 = 5, f(2) + 3 = 8", 0, 0, 0, None),
        ("\\sqrt{16} + 2 = 6, 7 * 2 = \\frac{28}{2}, log 100 + 1 = 3", 0, 0, 0, None),
        ("\\(3 + 4 = 7\\) and 5 \\cdot 2 = 10 \\text{ cm}", 2, 0, 0, 10),
        ("3x4 = 12", 1, 0, 0, 12),
        ("2² + 1 = 5 and x² = 4", 0, 0, 0, None),
        ("nothing to add", 0, 0, 0, None),
    ],
)
def test_what_is_stated_is_recomputed(text: str, right: int, wrong: int, chained: int, last: float | None) -> None:
    assert check(text) == Sums(right, wrong, chained, last)


@given(st.text(alphabet="0123456789+-*/=()., x%\n", max_size=200))
def test_any_text_can_be_checked(text: str) -> None:
    found = check(text)
    assert found.chained <= found.right + found.wrong


def test_numbers_have_commas_and_an_end() -> None:
    assert as_number("12,345.5") == 12345.5
    assert as_number("50%") == 0.5
    assert as_number("9" * 400) is None
