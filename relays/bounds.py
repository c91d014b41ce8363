"""The most a chat request can use: what a node holds before it serves, and what a client must bring.

A byte-level tokenizer never makes more tokens than the text has UTF-8 bytes, so the size of the request is a safe bound
without knowing the model's tokenizer; the context window and `max_tokens` tighten it (RIP-05's max_cost, per request).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from relays.pricing import ModelPrice, Usage

MAX_CONTEXT = 1_000_000_000
"""No model reads or writes more; a larger number is a mistake or a trap."""

TEMPLATE_TOKENS = 64
"""Room for what a chat template adds by itself, such as a default system prompt."""

BYTES_PER_TOKEN = 4
"""What a token of ordinary text has, on average."""

PROMPT_FIELDS = ("messages", "tools", "functions", "tool_choice", "response_format")
"""The parts of a chat request that a model reads."""


class ModelLimits(msgspec.Struct, frozen=True):
    """Context window and longest answer of a model, in tokens."""

    context_length: int
    max_output_tokens: int

    def __post_init__(self) -> None:
        if not (1 <= self.context_length <= MAX_CONTEXT and 1 <= self.max_output_tokens <= MAX_CONTEXT):
            raise ValueError(f"limits are from 1 to {MAX_CONTEXT} tokens")


def prompt_bound(body: Mapping[str, Any]) -> int:
    """At most this many tokens are read: bytes of everything the model sees, plus what a template adds."""
    seen = {field: body[field] for field in PROMPT_FIELDS if field in body}
    return len(msgspec.json.encode(seen)) + TEMPLATE_TOKENS


def has_media(body: Mapping[str, Any]) -> bool:
    """Whether a message holds anything else than text."""
    messages = body.get("messages")
    contents = [m.get("content") for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(not isinstance(part, Mapping) or part.get("type") not in ("text", "refusal") for part in parts)


def completion_bound(body: Mapping[str, Any], limits: ModelLimits) -> int:
    """At most this many tokens are written per choice."""
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or limits.max_output_tokens
    return min(int(asked), limits.max_output_tokens, limits.context_length)


def largest_usage(body: Mapping[str, Any], limits: ModelLimits) -> Usage:
    """The most of each kind of token, taken for itself: a receipt that names more cannot be true."""
    prompt = limits.context_length if has_media(body) else min(prompt_bound(body), limits.context_length)
    return Usage(prompt, completion_bound(body, limits) * int(body.get("n") or 1))


def most_usage(body: Mapping[str, Any], limits: ModelLimits, price: ModelPrice) -> Usage:
    """The dearest usage the request can reach: prompt and answer share one context window."""
    # What an image or a sound becomes is not to be told from its bytes: then the whole context is held.
    prompt = limits.context_length if has_media(body) else prompt_bound(body)
    completion, choices = completion_bound(body, limits), int(body.get("n") or 1)
    if price.completion_msat_per_mtok * choices >= price.prompt_msat_per_mtok:
        prompt = min(prompt, limits.context_length - completion)
    else:
        prompt = min(prompt, limits.context_length)
        completion = min(completion, limits.context_length - prompt)
    return Usage(prompt, completion * choices)


def likely_prompt_tokens(body: Mapping[str, Any]) -> int:
    """A guess at the tokens read, for expectations and for when nobody counts: a token is about four bytes of text."""
    text_bytes = len(msgspec.json.encode([body.get(field) for field in PROMPT_FIELDS if body.get(field)]))
    return min(prompt_bound(body), -(-text_bytes // BYTES_PER_TOKEN))
