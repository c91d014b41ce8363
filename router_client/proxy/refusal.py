"""What the local endpoint answers when it serves nothing: errors in OpenAI's shape, with what to do next. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from relays import payment
from router_client.errors import (
    BadRequest,
    BudgetExceeded,
    ClientError,
    NodeRefused,
    NoProvider,
    PriceUnknown,
    StorageError,
    WalletError,
)

OF_THE_REQUEST: Final = (400, 404, 413, 422)
"""A node's refusals that speak of what was asked."""
_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
SAME_AGAIN: Final[Mapping[str, str]] = {"x-should-retry": "false"}
"""OpenAI's SDKs would send the same once more."""


FUND: Final = "satroute wallet fund --sats 1000 --mint URL"


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details or {}
        self.headers = headers or {}

    def body(self, request_id: str) -> bytes:
        """In OpenAI's shape."""
        usual = "invalid_request_error" if self.status < 500 else "server_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, usual),
            "code": self.code,
            "param": payment.wrong_field(self.code, self.message),
            **self.details,
        }
        return msgspec.json.encode({"error": error, "request_id": request_id})


def bad(message: str, status: int = 400) -> Refusal:
    """The request is at fault."""
    return Refusal(status, payment.INVALID_REQUEST, message)


def as_refusal(
    error: ClientError, *, is_sold: bool, has_money: bool, asks_prices: bool = True, fund: str = FUND
) -> Refusal:
    """Why nothing was served. `is_sold`: some node sells a model that was asked for; `has_money`: the wallet has some;
    `asks_prices`: somebody is asked for the price of bitcoin; `fund`: the command that fills the wallet."""
    match error:
        case BadRequest():
            named = {} if error.field is None else {"param": error.field}
            return Refusal(400, payment.INVALID_REQUEST, str(error), details=named)
        case PriceUnknown():
            if asks_prices:
                return Refusal(503, payment.NO_PRICE, str(error), headers={"retry-after": "30"})
            message = f"{error} (nobody is asked for it here: --btc-source, --btc-usd)"
            return Refusal(503, payment.NO_PRICE, message, headers=SAME_AGAIN)
        case BudgetExceeded():
            told = {"window": error.window, "left_msat": error.left_msat, "would_cost_msat": error.would_msat}
            message = f"{error} (satroute budget)"
            return Refusal(402, payment.BUDGET_EXCEEDED, message, details=told, headers=SAME_AGAIN)
        case NoProvider():
            return _not_provided(error, is_sold=is_sold, has_money=has_money, fund=fund)
        case NodeRefused() if error.status in OF_THE_REQUEST:
            return Refusal(error.status, error.code or payment.UPSTREAM_REFUSED, error.message, headers=SAME_AGAIN)
        case WalletError():
            return Refusal(503, payment.MINT_UNAVAILABLE, f"nothing can be paid now: {error}")
        case StorageError():
            return Refusal(500, payment.INTERNAL, str(error), headers=SAME_AGAIN)  # it may be paid already
        case _:
            return Refusal(502, payment.UPSTREAM_UNAVAILABLE, str(error))


def _not_provided(error: NoProvider, *, is_sold: bool, has_money: bool, fund: str) -> Refusal:
    if not has_money:
        message = f"the wallet is empty: fill it with {fund}"
        return Refusal(402, payment.INSUFFICIENT_BALANCE, message, headers=SAME_AGAIN)
    if not is_sold:
        message = (
            "no node sells that model at the moment: GET /v1/models lists what is sold, and 'auto' takes one of it"
        )
        return Refusal(404, payment.UNKNOWN_MODEL, message, headers=SAME_AGAIN)
    if error.cause == "money":
        message = f"{error}: ask for a shorter answer, or fill the wallet with {fund}"
        return Refusal(402, payment.INSUFFICIENT_BALANCE, message, headers=SAME_AGAIN)
    if error.cause == "now":
        return Refusal(503, payment.NO_PROVIDER, str(error), headers={"retry-after": "10"})
    code = payment.CONTEXT_EXCEEDED if error.cause == "length" else payment.NO_PROVIDER
    return Refusal(400, code, str(error), headers=SAME_AGAIN)
