"""Money: millisatoshis as plain integers, with the few operations that may touch them.

An amount is an `int` in msat and carries the unit in its name (`cost_msat`). Floats never enter: `msat()` refuses them,
and every division names its rounding.
"""

from typing import NewType

from relays.errors import MoneyError

Msat = NewType("Msat", int)

MSAT_PER_SAT = 1000
MSAT_PER_BTC = 100_000_000 * MSAT_PER_SAT
MAX_MSAT = 21_000_000 * 100_000_000 * MSAT_PER_SAT
"""All bitcoin there will ever be; fits a signed 64-bit column."""


def msat(value: object) -> Msat:
    """`value` as an amount. Raises MoneyError unless it is an int from 0 to all bitcoin."""
    if type(value) is not int:
        raise MoneyError(f"an amount is a whole number of msat, not {value!r}")
    if not 0 <= value <= MAX_MSAT:
        raise MoneyError(f"{value} msat is not between 0 and {MAX_MSAT}")
    return Msat(value)


def add(*amounts_msat: int) -> Msat:
    """The sum; raises MoneyError past all bitcoin."""
    return msat(sum(amounts_msat))


def sub(a_msat: int, b_msat: int) -> Msat:
    """`a - b`; raises MoneyError when that is negative, since money does not go below zero."""
    return msat(a_msat - b_msat)


def ceil_div(numerator: int, denominator: int) -> int:
    """Whole division rounded up. Both sides are non-negative; the denominator is positive."""
    if numerator < 0 or denominator <= 0:
        raise MoneyError(f"cannot divide {numerator} by {denominator}")
    return -(-numerator // denominator)


def from_sat(sat: int) -> Msat:
    """Satoshis in msat."""
    if type(sat) is not int:
        raise MoneyError(f"{sat!r} is not a whole number of sats")
    return msat(sat * MSAT_PER_SAT)


def to_sat_floor(amount_msat: int) -> int:
    """Whole sats in the amount; what is paid out of a balance rounds down."""
    return msat(amount_msat) // MSAT_PER_SAT


def to_sat_ceil(amount_msat: int) -> int:
    """Sats that cover the amount; what must be brought in rounds up."""
    return ceil_div(msat(amount_msat), MSAT_PER_SAT)


def in_sats(amount_msat: int) -> str:
    """For people: `1,234.567 sat`, exact, without a float on the way."""
    sign = "-" if amount_msat < 0 else ""
    sat, rest = divmod(abs(amount_msat), MSAT_PER_SAT)
    return f"{sign}{sat:,} sat" if rest == 0 else f"{sign}{sat:,}.{rest:03d} sat"
