"""How many small coins there should be, as arithmetic."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from router_client.ecash.coins import split
from router_client.ecash.stock import (
    LEAST_FEES,
    LEVEL_WORTH,
    LEVEL_WORTH_BESIDE,
    MOST_MADE,
    MOST_MADE_BEHIND,
    SHARES,
    SHARES_BESIDE,
    lacks,
    stocked,
    surplus_of,
    targets,
)

amounts_held = st.dictionaries(st.integers(0, 24).map(lambda bit: 1 << bit), st.integers(0, 300))
aims = st.integers(0, 400)


def worth(held: dict[int, int]) -> int:
    return sum(size * count for size, count in held.items())


@given(st.integers(0, 2**30), amounts_held, aims, st.sampled_from([MOST_MADE, MOST_MADE_BEHIND]), st.booleans())
def test_a_stock_sums_and_makes_no_more_of_a_size_than_it_should(
    amount: int, held: dict[int, int], aim: int, most: int, beside: bool
) -> None:
    parts = stocked(amount, held, aim, most, beside=beside)
    assert sum(parts) == amount
    assert list(parts) == sorted(parts)
    assert all(part & (part - 1) == 0 for part in parts)
    assert len(parts) <= most + amount.bit_length()
    wanted = targets(worth(held) + amount, aim, beside=beside)
    for size, count in Counter(parts).items():  # one more of a size may come of the rest
        assert count == 1 or held.get(size, 0) + count - 1 <= wanted.get(size, 0)


@given(st.integers(0, 2**30), aims, st.booleans())
def test_a_first_stock_has_no_size_before_every_smaller_one(amount: int, aim: int, beside: bool) -> None:
    have = Counter(stocked(amount, {}, aim, beside=beside))
    wanted = targets(amount, aim, beside=beside)
    for size, count in have.items():
        assert all(have[smaller] >= min(count - 1, wanted.get(smaller, 0)) for smaller in split(size - 1))


@given(amounts_held, aims)
def test_little_money_is_not_made_all_small(held: dict[int, int], aim: int) -> None:
    for size, target in targets(worth(held), aim).items():
        assert target <= aim
        assert target * LEVEL_WORTH <= worth(held)
        assert target * size * SHARES <= worth(held)
    for size, target in targets(worth(held), aim, beside=True).items():
        assert target <= aim
        assert target * LEVEL_WORTH_BESIDE <= worth(held)
        assert target * size * SHARES_BESIDE <= worth(held)
    assert not lacks(held, 0)


@given(amounts_held, st.integers(1, 400), st.sampled_from([0, 1]), st.booleans())
def test_restocking_comes_to_an_end(held: dict[int, int], aim: int, fee: int, begun: bool) -> None:
    coins = Counter(held)
    for _ in range(200 + 2 * len(targets(worth(held), aim)) * aim // MOST_MADE_BEHIND):
        if not lacks(coins, aim, begun=begun):
            break
        largest = max(size for size, count in coins.items() if count)
        coins[largest] -= 1
        made = stocked(largest - fee, coins, aim, MOST_MADE_BEHIND, beside=False)
        assert max(made) < largest, "what is broken is not made again"
        coins.update(made)
    assert not lacks(coins, aim, begun=begun)


def test_large_ones_of_the_small_are_not_forgotten() -> None:
    """A rich seller whose change takes one of each size: the sizes of thousands run out no sooner than those of ones."""
    coins = Counter({2**20: 32})
    while lacks(coins, 320):
        coins[max(coins)] -= 1
        coins += Counter()
        coins.update(stocked(max(coins), coins, 320, MOST_MADE_BEHIND, beside=False))
    assert min(coins[1 << bit] for bit in range(13)) >= 160


def test_with_little_money_not_every_coin_handed_out_is_worth_a_swap() -> None:
    held = dict.fromkeys(split(8191), 1)
    assert not lacks({**held, 1: 0, 16: 0}, 100), "one of each size is what there should be"
    assert lacks({**held, 1: 0}, 100, begun=True)


def test_a_surplus_that_costs_more_than_it_is_worth_stays() -> None:
    assert surplus_of(1, 301, 100, 100) == 201
    assert surplus_of(1, 301, 100, 1000) == 0
    assert surplus_of(LEAST_FEES, 301, 100, 1000) == 201
    assert surplus_of(LEAST_FEES, 299, 100, 1000) == 0


def test_a_seller_with_little_money_seldom_needs_the_mint_for_change() -> None:
    """Coins for change are made of what is redeemed, without a swap of their own: a few hundred sat are enough."""
    rng = random.Random(1)
    held = Counter(stocked(700, {}, 100, MOST_MADE_BEHIND))
    taken, short = 0, 0
    for number in range(240):
        change = left = 64 - rng.randrange(1, 8)
        taken += 64
        given: Counter[int] = Counter()
        for size in sorted(held, reverse=True):
            given[size] = min(held[size], left // size)
            left -= given[size] * size
        if left:  # the mint makes it of a large coin
            short, taken = short + 1, taken - change
        else:
            held -= given
        if number % 3 == 0:
            held += Counter(stocked(taken, held, 100, MOST_MADE_BEHIND))
            taken = 0
    assert short < 24, short
