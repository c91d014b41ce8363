"""What wallet operations come to: the typed answers, and the errors that a failed one is remembered by."""

from __future__ import annotations

import msgspec

from relays.money import Msat
from router_client.ecash.store import Operation
from router_client.ecash.token import to_msat
from router_client.errors import (
    InsufficientFunds,
    MintUnavailable,
    PaymentFailed,
    TokenRefused,
    TokenSpent,
    WalletError,
)


class Received(msgspec.Struct, frozen=True):
    """A token that is now ours: what is left of it after the mint's fee."""

    mint: str
    unit: str
    amount_msat: Msat
    fee_msat: Msat


class Sent(msgspec.Struct, frozen=True):
    """A token handed out, its face value, and what making it cost."""

    token: str
    amount_msat: Msat
    fee_msat: Msat


class Unread(msgspec.Struct, frozen=True):
    """A token that nobody has read yet, or the coins that are to become one."""

    operation: str
    mint: str
    unit: str
    amount: int
    """In the unit."""
    created_at: int


class TokenFees(msgspec.Struct, frozen=True):
    """What a token's mint takes for swapping it, and the most it can take for a swap of as many coins as make sense."""

    this_msat: Msat
    most_msat: Msat


class Invoice(msgspec.Struct, frozen=True):
    """A Lightning invoice that fills the wallet once it is paid and claimed by its operation id."""

    operation: str
    bolt11: str
    amount_msat: Msat
    expires_at: int | None


class Redeemed(msgspec.Struct, frozen=True):
    """Locked coins that are ordinary coins now, or coins of our own that are larger or smaller ones. What its operation
    names happened once: book it once."""

    operation: str
    mint: str
    unit: str
    amount_msat: Msat
    """What arrived."""
    fee_msat: Msat
    """What the mint took for the batch."""
    credited_msat: Msat
    """What the coins were accepted for, each token less the fee it would have cost alone."""
    lost_msat: Msat
    """Face value of coins that the mint says were spent before: whoever locked them, or the mint, cheated."""

    @property
    def saved_msat(self) -> int:
        """What the batch cost less than its tokens alone; negative if the mint raised its fee, and for our own coins."""
        return self.amount_msat + self.lost_msat - self.credited_msat


class Melted(msgspec.Struct, frozen=True):
    """A Lightning invoice that was paid."""

    paid_msat: Msat
    """The invoice's amount, in whole units of the coins."""
    fee_msat: Msat
    """What it cost beyond that: Lightning's fee and the mint's for the inputs."""
    preimage: str
    """Proof of payment, hex; empty when the mint does not tell."""


class Exchanged(msgspec.Struct, frozen=True):
    """A foreign token that arrived at a primary mint."""

    mint: str
    unit: str
    amount_msat: Msat
    """What arrived at the primary mint: credit this."""
    fee_msat: Msat
    """What both mints and Lightning took."""
    left_msat: Msat
    """What stayed with the foreign mint in coins of ours: the part of the fee reserve that was not used, and roundings."""


class MeltCost(msgspec.Struct, frozen=True):
    """What paying an invoice takes at most."""

    amount_msat: Msat
    reserve_msat: Msat
    """Set aside for Lightning's fee; what is not used comes back."""
    fee_msat: Msat
    """The mint's fee for the inputs."""


class Holdings(msgspec.Struct, frozen=True):
    """All that a wallet has at one moment."""

    spendable_msat: Msat
    locked_msat: Msat
    """Accepted offline and not redeemed yet, at what it was credited for."""
    away_msat: Msat
    """Coins of our own that are at the mint, to be made smaller or larger or to pay with, as long as it has not answered."""

    @property
    def all_msat(self) -> int:
        return self.spendable_msat + self.locked_msat + self.away_msat


class Restored(msgspec.Struct, frozen=True):
    """What became of a wallet since it was copied, by its mints' word."""

    found_msat: Msat
    """Coins that were made since, and are there."""
    gone_msat: Msat
    """Coins of the copy that were spent since."""
    fee_msat: Msat
    """What the mints took for coins anew."""
    lost_msat: Msat
    """What the wallet holds less than its copy did, fees apart."""


def redeemed(operation: Operation) -> Redeemed:
    """A finished redemption."""
    journal, unit = operation.journal, operation.unit
    return Redeemed(
        operation.id,
        operation.mint,
        unit,
        to_msat(journal.amount, unit),
        to_msat(journal.fee, unit),
        to_msat(journal.credited, unit),
        to_msat(journal.lost, unit),
    )


def melted(operation: Operation) -> Melted:
    """A finished payment."""
    journal, unit = operation.journal, operation.unit
    return Melted(to_msat(journal.amount, unit), to_msat(journal.fee, unit), operation.result)


def received(operation: Operation) -> Received:
    """A finished receive or claim."""
    journal, unit = operation.journal, operation.unit
    return Received(operation.mint, unit, to_msat(journal.amount, unit), to_msat(journal.fee, unit))


def sent(operation: Operation) -> Sent:
    """A finished send."""
    journal, unit = operation.journal, operation.unit
    return Sent(operation.result, to_msat(journal.amount, unit), to_msat(journal.fee, unit))


def was_spent(operation: Operation) -> bool:
    """Whether it failed because the mint had seen the coins before: that does not change."""
    return operation.result.startswith(TokenSpent.__name__)


def failure(result: str) -> WalletError:
    """The refusal that closed an operation, as it was raised then."""
    name, _, words = result.partition(": ")
    kinds = {
        kind.__name__: kind for kind in (TokenSpent, TokenRefused, InsufficientFunds, MintUnavailable, PaymentFailed)
    }
    return kinds.get(name, TokenRefused)(words or result)
