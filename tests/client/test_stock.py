"""How many small coins there should be, as arithmetic."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from router_client.ecash.coins import split
from router_client.ecash.stock import LOW, MOST, MOST_BEHIND, SHARES, WORTH, lacks, stocked, targets

amounts_held = st.dictionaries(st.integers(0, 24).map(lambda bit: 1 << bit), st.integers(0, 300))
aims = st.integers(0, 400)


def worth(held: dict[int, int]) -> int:
    return sum(size * count for size, count in held.items())


@given(st.integers(0, 2**30), amounts_held, aims, st.sampled_from([MOST, MOST_BEHIND]))
def test_a_stock_sums_and_makes_no_more_of_a_size_than_it_should(
    amount: int, held: dict[int, int], aim: int, most: int
) -> None:
    parts = stocked(amount, held, aim, most)
    assert sum(parts) == amount
    assert list(parts) == sorted(parts)
    assert all(part & (part - 1) == 0 for part in parts)
    assert len(parts) <= most + amount.bit_length()
    wanted = targets(worth(held) + amount, aim)
    for size, count in Counter(parts).items():  # one more of a size may come of the rest
        assert count == 1 or held.get(size, 0) + count - 1 <= wanted.get(size, 0)


@given(st.integers(0, 2**30), aims)
def test_a_first_stock_has_no_size_before_every_smaller_one(amount: int, aim: int) -> None:
    have = Counter(stocked(amount, {}, aim))
    wanted = targets(amount, aim)
    for size, count in have.items():
        assert all(have[smaller] >= min(count - 1, wanted.get(smaller, 0)) for smaller in split(size - 1))


@given(amounts_held, aims)
def test_little_money_is_not_made_all_small(held: dict[int, int], aim: int) -> None:
    for size, target in targets(worth(held), aim).items():
        assert target <= aim
        assert target * WORTH <= worth(held)
        assert target * size * SHARES <= worth(held)
    assert not lacks(held, 0)


@given(amounts_held, st.integers(1, 400), st.sampled_from([0, 1]), st.sampled_from([1, LOW]))
def test_restocking_comes_to_an_end(held: dict[int, int], aim: int, fee: int, part: int) -> None:
    coins = Counter(held)
    for _ in range(200 + 2 * len(targets(worth(held), aim)) * aim // MOST_BEHIND):
        if not lacks(coins, aim, part):
            break
        largest = max(size for size, count in coins.items() if count)
        coins[largest] -= 1
        made = stocked(largest - fee, coins, aim, MOST_BEHIND)
        assert max(made) < largest, "what is broken is not made again"
        coins.update(made)
    assert not lacks(coins, aim, part)


def test_large_ones_of_the_small_are_not_forgotten() -> None:
    """A rich seller whose change takes one of each size: the sizes of thousands run out no sooner than those of ones."""
    coins = Counter({2**20: 32})
    while lacks(coins, 320, LOW):
        coins[max(coins)] -= 1
        coins += Counter()
        coins.update(stocked(max(coins), coins, 320, MOST_BEHIND))
    assert min(coins[1 << bit] for bit in range(13)) >= 160
