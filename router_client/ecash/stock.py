"""The stock of small coins that change is handed out of without the mint: how many of each size, and when to make some.

Pure arithmetic over counts of coins in one unit, `held`, by amount. `aim` is how many coins of each size are wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from router_client.ecash.coins import MOST_INPUTS, PPK, split

LEVEL_WORTH, LEVEL_WORTH_BESIDE = 4096, 64
"""One coin of each size for so much that there is: little money is not made all small. More of those that are made beside
other coins, since they cost no swap of their own."""
SHARES, SHARES_BESIDE = 32, 16
"""No size takes more than this part of all that there is: most of the money stays in large coins. The largest size is half
of that part, or the part itself where coins are made beside others."""
MOST_MADE, MOST_MADE_BEHIND = 16, 100
"""So many coins at most are made for a stock in a swap that one waits for, and in one that nobody does or many: mints bound
a request, and each coin costs them time."""
LEAST_SURPLUS = 100
"""Fewer coins than that are not worth a swap of their own."""
LEAST_FEES = 10
"""Nor are coins that are worth less than so many times what the mint takes for them."""


def targets(worth: int, aim: int, *, beside: bool = False) -> dict[int, int]:
    """How many coins of each size there should be, ascending, of all that there is; `beside`: how many may be made where
    other coins are made anyway."""
    level_worth, shares = (LEVEL_WORTH_BESIDE, SHARES_BESIDE) if beside else (LEVEL_WORTH, SHARES)
    level = min(aim, worth // level_worth)
    if not level:
        return {}
    largest = worth // (shares if beside else 2 * shares)
    sizes = [1 << bit for bit in range(largest.bit_length())]
    return {size: min(level, max(1, worth // (shares * size))) for size in sizes}


def stocked(
    amount: int, held: Mapping[int, int], aim: int, most: int = MOST_MADE, *, beside: bool = True
) -> tuple[int, ...]:
    """The amount as powers of two, ascending: what the stock lacks, the rarest and then the smallest first, as far as that
    goes and `most` allows; the rest in as few coins as it takes. No coin that is made for the stock is worth more than half
    of the amount: what is broken up is not made again."""
    wanted = targets(_worth(held) + amount, aim, beside=beside)
    made: Counter[int] = Counter()
    left = amount
    rarest = min((held.get(size, 0) for size in wanted), default=0)
    for level in range(rarest, max(wanted.values(), default=0)):
        for size, target in wanted.items():
            if made.total() == most or size > min(left, amount // 2):
                break
            if held.get(size, 0) + made[size] == level < target:
                made[size] += 1
                left -= size
    return tuple(sorted([*made.elements(), *split(left)]))


def lacks(held: Mapping[int, int], aim: int, *, begun: bool = False) -> bool:
    """Whether the largest coin should be swapped for smaller ones: of some size there are fewer than half of what there
    should be. Once that is `begun`, fewer than all: not every coin that is handed out shall be worth a swap."""
    largest = max((size for size, count in held.items() if count), default=0)
    wanted = targets(_worth(held), aim)
    return any(
        held.get(size, 0) < (target if begun else target // 2) for size, target in wanted.items() if size < largest // 2
    )


def surplus_of(size: int, count: int, aim: int, fee_ppk: int) -> int:
    """How many of so many coins of one size should be swapped for larger ones: none, until the stock has twice its aim."""
    if count < 2 * aim + LEAST_SURPLUS or size * PPK < LEAST_FEES * fee_ppk:
        return 0
    return min(MOST_INPUTS, count - aim)


def _worth(held: Mapping[int, int]) -> int:
    return sum(size * count for size, count in held.items())
