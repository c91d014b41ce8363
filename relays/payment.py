"""What both sides must agree on about paying over HTTP: header names, error types and codes.

Errors have OpenAI's shape, `{"error": {"message", "type", "code"}, "request_id"}`, so that its SDKs raise their own
exception classes.
"""

from typing import Final

REQUEST_ID_HEADER: Final = "x-satroute-request-id"
RECEIPT_HEADER: Final = "x-satroute-receipt"
COST_HEADER: Final = "x-satroute-cost-msat"
BALANCE_HEADER: Final = "x-satroute-balance-msat"
CASHU_HEADER: Final = "x-cashu"
"""On a request: a token that pays for it. On its answer: the change, or with a 402 what is asked for (NUT-24)."""
CHANGE_FEE_HEADER: Final = "x-satroute-change-fee-msat"
"""What the mint took for making the change, which is less by it."""
IDEMPOTENCY_HEADER: Final = "idempotency-key"
REPLAYED_HEADER: Final = "idempotent-replayed"
CHANGE_SSE_PREFIX: Final = ": x-cashu "
"""In a stream that a token paid for, the comment line with its change, before `[DONE]`."""

# Codes a client acts on. They are part of the wire format and never change their meaning.
INVALID_REQUEST: Final = "invalid_request"
UNKNOWN_MODEL: Final = "model_not_found"
MISSING_CREDENTIAL: Final = "missing_credential"
UNKNOWN_CREDENTIAL: Final = "unknown_credential"
PAYMENT_REQUIRED: Final = "payment_required"
IDEMPOTENCY_MISMATCH: Final = "idempotency_key_reused"
REQUEST_RUNNING: Final = "request_running"
REQUEST_DONE: Final = "request_done"
INSUFFICIENT_BALANCE: Final = "insufficient_balance"
NOT_REFUNDABLE: Final = "not_refundable"
NOT_ALLOWED: Final = "not_allowed"
LIMIT_REACHED: Final = "limit_reached"
BALANCE_HELD: Final = "balance_held"
UNREADABLE_TOKEN: Final = "unreadable_token"
FOREIGN_MINT: Final = "foreign_mint"
WRONG_UNIT: Final = "wrong_unit"
REFUSED_TOKEN: Final = "refused_token"
TOKEN_SPENT: Final = "token_already_spent"
MINT_UNAVAILABLE: Final = "mint_unavailable"
PAYMENT_FAILED: Final = "payment_failed"
UPSTREAM_UNAVAILABLE: Final = "upstream_unavailable"
UPSTREAM_TIMEOUT: Final = "upstream_timeout"
UPSTREAM_REFUSED: Final = "upstream_refused"
RATE_LIMITED: Final = "rate_limited"
NOT_FOUND: Final = "not_found"
INTERNAL: Final = "internal_error"
