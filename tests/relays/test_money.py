"""Money is whole msat: anything else is refused, and every division says how it rounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays.errors import MoneyError
from relays.money import MAX_MSAT, add, ceil_div, from_sat, in_sats, msat, sub, to_sat_ceil, to_sat_floor

amounts = st.integers(0, MAX_MSAT)


@pytest.mark.parametrize("wrong", [-1, MAX_MSAT + 1, 1.0, "1", None, True])
def test_what_is_no_amount_is_refused(wrong: object) -> None:
    with pytest.raises(MoneyError):
        msat(wrong)


def test_subtraction_does_not_go_below_zero() -> None:
    with pytest.raises(MoneyError):
        sub(1, 2)
    assert sub(2, 2) == 0


def test_a_sum_does_not_go_past_all_bitcoin() -> None:
    with pytest.raises(MoneyError):
        add(MAX_MSAT, 1)
    assert add(1, 2, 3) == 6


@given(amounts)
def test_sats_round_as_named(amount: int) -> None:
    floor, ceil = to_sat_floor(amount), to_sat_ceil(amount)
    assert floor * 1000 <= amount <= ceil * 1000
    assert ceil - floor == (1 if amount % 1000 else 0)


@given(st.integers(0, 10**30), st.integers(1, 10**12))
def test_ceiling_division_is_exact(numerator: int, denominator: int) -> None:
    quotient = ceil_div(numerator, denominator)
    assert (quotient - 1) * denominator < numerator <= quotient * denominator or numerator == quotient == 0


@pytest.mark.parametrize(("numerator", "denominator"), [(-1, 1), (1, 0), (1, -1)])
def test_ceiling_division_refuses_the_senseless(numerator: int, denominator: int) -> None:
    with pytest.raises(MoneyError):
        ceil_div(numerator, denominator)


def test_sats_are_whole() -> None:
    assert from_sat(21) == 21_000
    with pytest.raises(MoneyError):
        from_sat(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 sat"), (1, "0.001 sat"), (1_234_567_000, "1,234,567 sat"), (-1500, "-1.500 sat")]
)
def test_people_read_sats(amount: int, text: str) -> None:
    assert in_sats(amount) == text
