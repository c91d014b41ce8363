"""What is paid to a node, what comes back of it, and whether that is all that should."""

from __future__ import annotations

import msgspec

from relays.money import Msat


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
    missing_msat = paid.credit_msat - cost_msat - settled.fee_msat - settled.change_msat
    if settled.node_fee_msat is None:
        missing_msat -= paid.most_fee_msat
    elif settled.node_fee_msat > paid.most_fee_msat:
        return f"the node deducted {settled.node_fee_msat} msat as a mint fee, which cannot be"
    else:
        missing_msat -= settled.node_fee_msat
    if missing_msat >= paid.smallest_coin_msat:
        return f"the node kept {missing_msat} msat of the change"
    return None
