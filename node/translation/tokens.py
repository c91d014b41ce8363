"""Usage between the two languages, to the token, since it is paid for. Pure.

OpenAI's `prompt_tokens` includes what was read from a cache and what was written to one; Anthropic's `input_tokens` leaves
both out. What a report says is decided where it is decided for charging; one that cannot be true is none, and left out, so
that whoever meters counts instead.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from node.translation.answers import fields
from relays.pricing import Usage
from relays.usage import read_report, usage_of

# Servers between others write both languages' names; those of the other one would be counted twice.
_CHAT: Final = ("total_tokens", "prompt_tokens_details", "completion_tokens_details", "prompt_cache_hit_tokens")
_MESSAGES: Final = ("cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens_details")


def from_chat(usage: object) -> Usage | None:
    """Read OpenAI's `usage`."""
    return _read(fields(usage), ("prompt_tokens", "completion_tokens"), _CHAT)


def from_messages(usage: object) -> Usage | None:
    """Read Anthropic's `usage`."""
    return _read(fields(usage), ("input_tokens", "output_tokens"), _MESSAGES)


def for_chat(usage: Usage) -> dict[str, Any]:
    """Write OpenAI's `usage`."""
    written: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
    }
    if usage.reasoning_tokens:
        written["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return written


def for_responses(usage: Usage) -> dict[str, Any]:
    """Write the `usage` of OpenAI's Responses."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def for_messages(usage: Usage) -> dict[str, Any]:
    """Write Anthropic's `usage`."""
    written: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
    if reasoning := usage.reasoning_tokens:
        # Anthropic's own name, and the one that is read for charging.
        written["output_tokens_details"] = {"thinking_tokens": reasoning, "reasoning_tokens": reasoning}
    return written


def _read(found: dict[str, Any], needed: tuple[str, str], known: tuple[str, ...]) -> Usage | None:
    if any(found.get(field) is None for field in needed):
        return None
    said = {field: found[field] for field in (*needed, *known) if field in found}
    report = read_report(msgspec.json.encode(said))
    return None if report is None else usage_of(report)
