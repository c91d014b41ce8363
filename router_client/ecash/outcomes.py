"""What wallet operations come to: the typed answers, and the errors that a failed one is remembered by."""

from __future__ import annotations

import msgspec

from relays.money import Msat
from router_client.ecash.store import Operation
from router_client.ecash.token import to_msat
from router_client.errors import InsufficientFunds, MintUnavailable, TokenRefused, TokenSpent, WalletError


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
    kinds = {kind.__name__: kind for kind in (TokenSpent, TokenRefused, InsufficientFunds, MintUnavailable)}
    return kinds.get(name, TokenRefused)(words or result)
