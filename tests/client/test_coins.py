"""Choosing coins: every plan gives out what was asked, pays the mint its fee, and loses nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_client.ecash.coins import (
    Fees,
    face_for,
    plan_locked,
    plan_spend,
    round_up,
    split,
    swap_fee,
)
from router_client.ecash.token import Proof
from router_client.errors import InsufficientFunds

KEYSET = "00aa"


def purse(amounts: list[int]) -> list[Proof]:
    return [Proof(KEYSET, amount, f"secret {i}", "02") for i, amount in enumerate(amounts)]


coins = st.lists(st.integers(0, 16).map(lambda power: 1 << power), max_size=20).map(purse)


@given(st.integers(0, 2**40))
def test_a_split_is_powers_of_two_that_sum(amount: int) -> None:
    parts = split(amount)
    assert sum(parts) == amount
    assert all(part & (part - 1) == 0 for part in parts)
    assert len(set(parts)) == len(parts)


BEARERS: tuple[Fees, ...] = ("on_top", "inside")


@given(coins, st.integers(1, 50_000), st.sampled_from(BEARERS), st.sampled_from([0, 100, 1000, 2500]))
def test_a_plan_balances(held: list[Proof], amount: int, fees: Fees, ppk: int) -> None:
    try:
        plan = plan_spend(held, amount, fees, {KEYSET: ppk}, ppk)
    except InsufficientFunds:
        total = sum(coin.amount for coin in held)
        most_needed = face_for(amount, ppk) + swap_fee([ppk] * len(held))
        assert total < most_needed or amount <= swap_fee([ppk] * len(held))
        return
    given_up = sum(coin.amount for coin in plan.inputs)
    assert len({coin.secret for coin in plan.inputs}) == len(plan.inputs)
    if not plan.needs_swap:
        face, made = given_up, [coin.amount for coin in plan.inputs]
    else:
        face, made = sum(plan.send), list(plan.send)
        assert plan.fee == swap_fee([ppk] * len(plan.inputs))
        assert given_up == face + sum(plan.keep) + plan.fee
    if fees == "on_top":
        assert face - swap_fee([ppk] * len(made)) >= amount
    else:
        assert face + plan.fee == amount


@given(coins, st.data())
def test_coins_that_fit_are_not_swapped(held: list[Proof], data: st.DataObject) -> None:
    chosen = [coin for coin in held if data.draw(st.booleans())]
    amount = sum(coin.amount for coin in chosen)
    if amount:
        plan = plan_spend(held, amount, "inside", {KEYSET: 100}, 100)
        assert not plan.needs_swap
        assert sum(coin.amount for coin in plan.inputs) == amount


@pytest.mark.parametrize("amount", [0, -1])
def test_nothing_is_not_an_amount(amount: int) -> None:
    with pytest.raises(InsufficientFunds):
        plan_spend(purse([1]), amount, "inside", {KEYSET: 0}, 0)


@given(st.integers(1, 4096), st.integers(1, 5))
def test_rounding_up_finds_the_nearest_amount_of_so_few_coins(amount: int, most: int) -> None:
    assert round_up(amount, most) == next(n for n in range(amount, 2 * amount + 1) if n.bit_count() <= most)


@given(coins, st.integers(1, 50_000), st.sampled_from([0, 100, 1000]), st.one_of(st.none(), st.integers(1, 6)))
def test_a_locked_plan_balances_and_always_makes_new_coins(
    held: list[Proof], amount: int, ppk: int, most: int | None
) -> None:
    try:
        plan = plan_locked(held, amount, "on_top", {KEYSET: ppk}, ppk, most)
    except InsufficientFunds:
        assert sum(coin.amount for coin in held) < face_for(amount, ppk) + swap_fee([ppk] * len(held))
        return
    assert plan.needs_swap
    assert sum(coin.amount for coin in plan.inputs) == sum(plan.send) + sum(plan.keep) + plan.fee
    assert sum(plan.send) - swap_fee([ppk] * len(plan.send)) >= amount
    rich = sum(coin.amount for coin in held) >= 4 * amount + swap_fee([ppk] * (len(held) + 20))
    if most is not None and rich and ppk < 1000:
        assert len(plan.send) <= most


def test_many_small_coins_are_swapped_into_a_token_that_fits_a_header() -> None:
    small = [Proof("00", 1, f"s{n}", "c") for n in range(200)]
    plan = plan_spend(small, 100, "inside", {"00": 0}, 0)
    assert plan.needs_swap
    assert plan.send == (4, 32, 64)
    assert not plan_spend(small, 11, "inside", {"00": 0}, 0).needs_swap, "a few more than need be spare a swap"
    few = [Proof("00", 1, f"s{n}", "c") for n in range(60)]
    assert not plan_spend(few, 60, "inside", {"00": 1000}, 0).needs_swap, "nor is one made that costs all there is"
