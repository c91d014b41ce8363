"""Errors of the buyer's side.

ClientError
├── StorageError             the database on disk failed or was closed
├── WalletError
│   ├── TokenUnreadable      not a Cashu token, or a form we do not take
│   ├── ForeignMint          from a mint that is not accepted here
│   ├── WrongUnit            in a unit that is neither sat nor msat
│   ├── TokenSpent           the mint says it was spent before
│   ├── TokenRefused         the mint refused it for another reason, or it is worth less than its fee
│   ├── InsufficientFunds    the wallet holds less than is to be spent
│   ├── RequestUnreadable    no payment request, Lightning invoice or Lightning address, or none that we can pay
│   ├── AddressUnavailable   a Lightning address gives no invoice, or another one than was asked for
│   ├── FeeTooHigh           paying would cost more than the caller allows: nothing was begun
│   ├── PaymentFailed        a Lightning payment was not made: the coins are free again
│   ├── MintUnavailable      no answer, or not yet: the outcome is open and `recover` finishes it
│   │   └── MintSilent       no connection, or no answer in time
│   └── MintMisbehaved       keys, signatures or sums that do not fit: nothing of it was accepted
├── NotTaken                 no relay took what was to be published
├── BadSetting               a preference that cannot be
├── PriceUnknown             a budget in USD, while bitcoin has no price that is known: nothing was paid
├── BadRequest               the request asks for what cannot be kept: nothing was paid
├── BudgetExceeded           it could cost more than is left of a budget: nothing was paid
├── NoProvider               no node fits the request; says which filter removed each
└── NodeError
    ├── NodeUnavailable      no connection, a 5xx or a timeout before the first byte: another node may serve
    │   ├── NodeUnreached    no connection at all: what was to be sent is not there
    │   ├── NodeBusy         it takes no more at the moment
    │   └── NodeTooDear      it asks for more than is allowed: nothing was paid
    │       └── NodeRaised   it asks for far more than it announced
    ├── NodeOutrun           another node was quicker, or nobody waits any more: this one was left
    ├── NodeRefused          the node's own answer, with status, code and message
    ├── NodeCheated          the node kept more than its receipt says, or has no receipt that holds
    └── ChangeRejected       the node gives change that is not money to us
"""

from __future__ import annotations

from typing import Literal


class ClientError(Exception):
    """Base of everything `router_client` raises on purpose."""

    out_msat: int = 0
    """Of the money that was sent, what has not come back."""


class StorageError(ClientError):
    """The database on disk failed, is busy beyond its bound, or was closed."""


class NotTaken(ClientError):
    """No relay took what was to be published."""


class BadRequest(ClientError):
    """The request asks its router for something that is no such thing, or that cannot be kept."""

    def __init__(self, message: str, field: str | None = None) -> None:
        """`field` is the one of the request that is at fault, where it is one."""
        super().__init__(message)
        self.field = field


class BadSetting(ClientError):
    """A preference that cannot be."""


class PriceUnknown(ClientError):
    """A budget in USD cannot be kept, since no price of bitcoin is known that is young enough; nothing was paid."""


class BudgetExceeded(ClientError):
    """The request could cost more than is left of a budget; nothing was paid."""

    def __init__(self, window: str, left_msat: int, would_msat: int) -> None:
        super().__init__(
            f"this could cost {would_msat} msat, and {left_msat} msat are left of the {window}'s budget: "
            "ask for a shorter answer, or raise it"
        )
        self.window = window
        self.left_msat = left_msat
        self.would_msat = would_msat


class WalletError(ClientError):
    """An ecash operation did not succeed."""


class TokenUnreadable(WalletError):
    """Not a Cashu token in a form we take."""


class ForeignMint(WalletError):
    """From a mint that is not accepted here."""


class WrongUnit(WalletError):
    """In a unit that is neither sat nor msat."""


class TokenSpent(WalletError):
    """The mint says that the token was spent before."""


class TokenRefused(WalletError):
    """The mint refused the token, or it is worth no more than the mint's fee."""


class InsufficientFunds(WalletError):
    """The wallet holds less than is to be spent."""


class RequestUnreadable(WalletError):
    """Not a payment request, invoice or Lightning address in a form that we can read and pay."""


class AddressUnavailable(WalletError):
    """A Lightning address does not answer, or gives another invoice than was asked for."""


class FeeTooHigh(WalletError):
    """A payment would cost more than its caller allows; nothing was begun."""


class PaymentFailed(WalletError):
    """The mint could not pay the invoice; the coins are free again."""


class MintUnavailable(WalletError):
    """The mint did not answer, or is not done: the outcome is open, and `Wallet.recover` finishes it."""


class MintSilent(MintUnavailable):
    """No connection, or no answer in time: nor will the next question have one."""


class MintMisbehaved(WalletError):
    """Keys, signatures or sums of a mint that do not fit."""


class NoProvider(ClientError):
    """No announced node fits the request."""

    def __init__(self, message: str, cause: Literal["now", "request", "length", "money"] = "now") -> None:
        """`cause`: how things are at the moment, what was asked for, the length of that alone, or the wallet. Only the first
        changes by itself."""
        super().__init__(message)
        self.cause = cause


class NodeError(ClientError):
    """A node did not deliver."""

    is_paid: bool = False
    """A token was sent, whether or not it came back."""
    cheated: bool = False
    """Money is missing that should have come back."""


class NodeUnavailable(NodeError):
    """No connection, a server error or a timeout before the first byte."""


class NodeUnreached(NodeUnavailable):
    """No connection was made, so nothing was delivered."""


class NodeBusy(NodeUnavailable):
    """The node takes no more requests at the moment (429, 503)."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NodeTooDear(NodeUnavailable):
    """The node asks for more than the caller allows; nothing was paid."""


class NodeRaised(NodeTooDear):
    """The node asks for far more than it announced, or for what fits no price."""


class NodeBrokeOff(NodeError):
    """A stream ended in its midst: what came of it is no answer."""


class NodeOutrun(NodeError):
    """Another node serves the request, or its reader has left: this one was left before its end."""

    def __init__(self, message: str, waited_s: float) -> None:
        super().__init__(message)
        self.waited_s = waited_s


class NodeRefused(NodeError):
    """The node answered with an error of its own."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{message} ({status} {code})" if code else f"{message} ({status})")
        self.status = status
        self.code = code
        self.message = message


class ChangeRejected(NodeError):
    """The node gives change of another mint or unit than it was paid with."""


class NodeCheated(NodeError):
    """The node kept more than it may by its receipt, or gives none that holds."""
