"""The stock of small coins that change is handed out of without the mint: how many of each size, and when to make some.

Pure arithmetic over counts of coins in one unit, `held`, by amount. `aim` is how many coins of each size are wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from router_client.ecash.coins import MOST_INPUTS, split

SHARES = 32
"""No size takes more than this part of all that there is, and none is kept of which that is a single coin: most of the money
stays in large coins."""
WORTH = 4096
"""One coin of each size for so much that there is: little money is not made all small."""
MOST, MOST_BEHIND = 16, 100
"""So many coins at most are made for a stock in a swap that one waits for, and in one that nobody does or many: mints bound
a request, and each coin costs them time."""
LOW = 2
"""A stock is filled up when of some size less than the second part is left."""
LEAST_SURPLUS = 100
"""Fewer coins than that are not worth a swap of their own."""


def targets(worth: int, aim: int) -> dict[int, int]:
    """How many coins of each size there should be, ascending, of all that there is."""
    level = min(aim, worth // WORTH)
    if not level:
        return {}
    sizes = [1 << bit for bit in range((worth // (2 * SHARES)).bit_length())]
    return {size: min(level, worth // (SHARES * size)) for size in sizes}


def stocked(amount: int, held: Mapping[int, int], aim: int, most: int = MOST) -> tuple[int, ...]:
    """The amount as powers of two, ascending: what the stock lacks, the rarest and then the smallest first, as far as that
    goes and `most` allows; the rest in as few coins as it takes. Who holds 2^n has no use for it whole: half of the amount
    is the most that a coin for the stock is worth."""
    wanted = targets(_worth(held) + amount, aim)
    made: Counter[int] = Counter()
    left = amount
    for level in range(max(wanted.values(), default=0)):
        for size, target in wanted.items():
            if made.total() == most or size > min(left, amount // 2):
                break
            if held.get(size, 0) + made[size] == level < target:
                made[size] += 1
                left -= size
    return tuple(sorted([*made.elements(), *split(left)]))


def lacks(held: Mapping[int, int], aim: int, part: int = 1) -> bool:
    """Whether the largest coin should be swapped for smaller ones: of some size less than that part of what should be is
    held."""
    largest = max((size for size, count in held.items() if count), default=0)
    wanted = targets(_worth(held), aim)
    return any(part * held.get(size, 0) < target for size, target in wanted.items() if size < largest // 2)


def surplus_of(count: int, aim: int) -> int:
    """How many of so many coins of one amount should be swapped for larger ones: none, until the stock has twice its aim."""
    return min(MOST_INPUTS, count - aim) if count >= 2 * aim + LEAST_SURPLUS else 0


def _worth(held: Mapping[int, int]) -> int:
    return sum(size * count for size, count in held.items())
