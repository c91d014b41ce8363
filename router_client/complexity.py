"""How hard a task is, and what it needs. Pure, without calling a model.

The score is a first one: a logistic curve over the length of the prompt. On real data length alone is only a little
better than chance at telling where a cheap model fails (area under the curve about .54), and keyword rules are no better;
nothing here claims more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from relays.prompt import read_prompt

Tier = Literal["cheap", "mid", "premium"]

MIDPOINT_CHARS = 600
STEEPNESS = 1.2
CHEAP_BELOW, MID_BELOW = 0.35, 0.65
LIKELY_COMPLETION_TOKENS = 256
"""What an answer takes when nothing limits it."""


class Task(msgspec.Struct, frozen=True):
    """What a chat request asks for."""

    difficulty: float
    tier: Tier
    prompt_tokens: int
    completion_tokens: int


def score(prompt: str) -> float:
    """From 0 (easy) to 1 (hard)."""
    if not prompt:
        return 0.0
    return 1 / (1 + math.exp(-STEEPNESS * (math.log(len(prompt)) - math.log(MIDPOINT_CHARS))))


def assess(body: Mapping[str, Any]) -> Task:
    """Judge a chat request by its last user message; tokens are expectations, not bounds."""
    difficulty = score(_last_user_text(body.get("messages")))
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or LIKELY_COMPLETION_TOKENS
    return Task(
        difficulty=difficulty,
        tier="cheap" if difficulty < CHEAP_BELOW else "mid" if difficulty < MID_BELOW else "premium",
        prompt_tokens=read_prompt(body).likely(),
        completion_tokens=int(asked) * int(body.get("n") or 1),
    )


def _last_user_text(messages: object) -> str:
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            parts = content if isinstance(content, list) else []
            return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    return ""
