"""What both sides must agree on about paying over HTTP: header names, error types and codes.

Errors have OpenAI's shape, `{"error": {"message", "type", "code"}, "request_id"}`, so that its SDKs raise their own
exception classes.
"""

import re
from typing import Final

REQUEST_ID_HEADER: Final = "x-satroute-request-id"
RECEIPT_HEADER: Final = "x-satroute-receipt"
COST_HEADER: Final = "x-satroute-cost-msat"
BALANCE_HEADER: Final = "x-satroute-balance-msat"
ROUTSTR_ID_HEADER: Final = "x-routstr-request-id"
ROUTSTR_COST_HEADER: Final = "x-routstr-cost-msats"
ROUTSTR_INPUT_HEADER: Final = "x-routstr-input-cost-msats"
ROUTSTR_OUTPUT_HEADER: Final = "x-routstr-output-cost-msats"
ROUTSTR_USD_HEADER: Final = "x-routstr-cost-usd"
PURA_MODEL_HEADER: Final = "x-pura-model"
PURA_COST_HEADER: Final = "x-pura-cost"
"""In USD."""
PURA_PROVIDER_HEADER: Final = "x-pura-provider"
PURA_TIER_HEADER: Final = "x-pura-tier"
"""cheap, mid or premium."""
PURA_REQUEST_ID_HEADER: Final = "x-pura-request-id"
PURA_BUDGET_HEADER: Final = "x-pura-budget-remaining"
"""In USD."""
PURA_DEPTH_HEADER: Final = "x-pura-cascade-depth"
PURA_SAVINGS_HEADER: Final = "x-pura-cascade-savings"
"""In USD."""
PURA_CONFIDENCE_HEADER: Final = "x-pura-confidence"
SAVED_HEADER: Final = "x-satroute-saved-msat"
BUDGET_LEFT_HEADER: Final = "x-satroute-budget-left-msat"
HOLD_HEADER: Final = "x-satroute-hold-msat"
"""The most that an answer can cost, before that is known."""
VERIFIED_HEADER: Final = "x-satroute-verified"
"""Whether the node's receipt holds: true or false."""
CASHU_HEADER: Final = "x-cashu"
"""On a request: a token that pays for it. On its answer: the change, or with a 402 what is asked for (NUT-24)."""
CHANGE_FEE_HEADER: Final = "x-satroute-change-fee-msat"
"""What the mint took for making the change, which is less by it."""
IDEMPOTENCY_HEADER: Final = "idempotency-key"
REPLAYED_HEADER: Final = "idempotent-replayed"
CHANGE_SSE_PREFIX: Final = ": x-cashu "
"""In a stream that a token paid for, the comment line with its change, before `[DONE]`."""

PAID_BACK: Final = "; what you paid is in X-Cashu"
"""How an error ends that gives a token's money back."""

# Codes a client acts on. They are part of the wire format and never change their meaning.
INVALID_REQUEST: Final = "invalid_request"
UNKNOWN_MODEL: Final = "model_not_found"
CONTEXT_EXCEEDED: Final = "context_length_exceeded"
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
NO_PRICE: Final = "no_price"
UPSTREAM_UNAVAILABLE: Final = "upstream_unavailable"
UPSTREAM_TIMEOUT: Final = "upstream_timeout"
UPSTREAM_REFUSED: Final = "upstream_refused"
RATE_LIMITED: Final = "rate_limited"
BUDGET_EXCEEDED: Final = "budget_exceeded"
NO_PROVIDER: Final = "no_provider"
NOT_READY: Final = "not_ready"
NOT_FOUND: Final = "not_found"
INTERNAL: Final = "internal_error"

_NAMED: Final = re.compile(r"(?:unknown field )?'([\w.\[\]-]{1,200})' ")


def wrong_field(code: str, message: str) -> str | None:
    """The field of a request that an error is about, OpenAI's `param`: words about one begin with its name in quotes."""
    named = _NAMED.match(message) if code == INVALID_REQUEST else None
    return None if named is None else named[1]
