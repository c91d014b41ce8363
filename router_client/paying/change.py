"""What is paid to a node, what comes back of it, and whether that is all that should."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from relays.money import Msat

MOST_OVER_PERCENT: Final = 25


def most_paid_msat(amount_msat: int) -> int:
    """What a token for that amount may be worth: a few coins are quicker, and one that lies ready quicker still, but what is
    paid is the node's until its change is back."""
    return amount_msat * (100 + MOST_OVER_PERCENT) // 100


OnEnd = Callable[[str, int], Awaitable[None]]
"""Told of a payment, and what of its msat was not given back."""


async def unheard(payment_id: str, kept_msat: int) -> None:
    pass


def new_payment() -> str:
    """A name for a payment."""
    return f"pay_{secrets.token_hex(12)}"


class Out(msgspec.Struct, frozen=True):
    """A payment that is not settled: what lies, or may lie, at its node."""

    id: str
    node_url: str
    amount_msat: Msat
    """Face value of the token; what the node served is still to be taken off it."""
    locked: bool
    created_at: int


class Paid(msgspec.Struct, frozen=True, weakref=True):
    """A token made for a node, not yet settled. `credit_msat` is what the node gets out of it at the mint."""

    id: str
    node_url: str
    token: str
    credit_msat: Msat
    most_fee_msat: Msat
    """The most that the mint can take from the node for making change."""
    smallest_coin_msat: int
    locked: bool
    """To the node's key: nobody else can spend it, its maker included."""


class Settled(msgspec.Struct, frozen=True):
    """What came back, after what the mint took: from the node for making the change, from us for taking it in."""

    change_msat: Msat
    node_fee_msat: Msat | None
    """None when the node did not say."""
    fee_msat: Msat


def short_change(paid: Paid, settled: Settled, cost_msat: int) -> str | None:
    """Whether the node gave back what was paid, less cost and mint fees, up to a coin too small to give.

    With change in the stream it does not say what the mint took for making it: that can be up to the mint's highest fee.
    """
    if settled.node_fee_msat is not None and settled.node_fee_msat > paid.most_fee_msat:
        return f"the node deducted {settled.node_fee_msat} msat as a mint fee, which cannot be"
    if missing_msat := kept_msat(paid, settled, cost_msat):
        return f"the node kept {missing_msat} msat of the change"
    return None


def kept_msat(paid: Paid, settled: Settled, cost_msat: int) -> int:
    """What is missing of it; 0 up to a coin too small to give."""
    fee_msat = paid.most_fee_msat if settled.node_fee_msat is None else min(settled.node_fee_msat, paid.most_fee_msat)
    missing_msat = paid.credit_msat - cost_msat - settled.fee_msat - settled.change_msat - fee_msat
    return missing_msat if missing_msat >= paid.smallest_coin_msat else 0


def rounded_msat(paid: Paid, settled: Settled, cost_msat: int) -> int:
    """What of coins that are larger than a msat neither paid for the answer nor came back: what is left of the last one, and
    what the mint took, in whole coins as well."""
    if paid.smallest_coin_msat == 1:
        return 0
    return max(0, paid.credit_msat - cost_msat - settled.fee_msat - settled.change_msat)
