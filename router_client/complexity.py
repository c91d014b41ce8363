"""How hard a task is, and what it needs. Pure, without calling a model, in about a tenth of a millisecond.

The text of a prompt says something about where a cheap model fails, not much: docs/routing-models.md tells how much, on
subjects, tasks and models that were left out of the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from relays.endpoints import Endpoint
from relays.prompt import inputs, read_prompt
from router_client.difficulty.hardness import fails
from router_client.difficulty.needs import Need, needs_of
from router_client.difficulty.prompts import read

Tier = Literal["cheap", "mid", "premium"]

GOOD_ENOUGH = 0.65
"""A tier is asked when its chance to be right is at least this."""
LIKELY_COMPLETION_TOKENS = 256
"""What an answer takes when nothing limits it."""
FOLLOW_UP_CHARS = 60
"""A message this short ("and now in Rust?") asks about what came before it."""


class Task(msgspec.Struct, frozen=True):
    """What a chat request asks for."""

    difficulty: float
    """The probability that a cheap model fails, as `score`."""
    tier: Tier
    """The cheapest that is likely good enough."""
    prompt_tokens: int
    completion_tokens: int
    chances: Mapping[Tier, float] = {}
    """The probability, by tier below premium, that a model of the tier is good enough."""
    needs: frozenset[Need] = frozenset()
    """What a model must have or read."""
    longest_tokens: int | None = None
    """Of the longest of several texts that are read in contexts of their own; None: the prompt is one."""

    @property
    def read_at_once(self) -> int:
        """The most tokens of the prompt that one context has to hold."""
        return self.prompt_tokens if self.longest_tokens is None else self.longest_tokens

    @property
    def context_tokens(self) -> int:
        """What the prompt and its answer take up together."""
        return self.prompt_tokens + self.completion_tokens


def score(prompt: str) -> float:
    """From 0 (easy) to 1 (hard): the probability that a cheap model fails at it."""
    return fails(read(prompt), "cheap")


def assess(body: Mapping[str, Any]) -> Task:
    """Judge a chat request by what the user asked last; tokens are expectations, not bounds."""
    chances = min((_chances(text) for text in _asked(body.get("messages"))), key=lambda found: found["cheap"])
    prompt = read_prompt(body)
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or LIKELY_COMPLETION_TOKENS
    return Task(
        difficulty=1 - chances["cheap"],
        tier=next((tier for tier, chance in chances.items() if chance >= GOOD_ENOUGH), "premium"),
        prompt_tokens=prompt.likely(),
        completion_tokens=int(asked) * int(body.get("n") or 1),
        chances=chances,
        needs=needs_of(body, prompt),
    )


def only_read(body: Mapping[str, Any], endpoint: Endpoint) -> Task:
    """A request that has nothing written, such as one for embeddings: nothing of it is hard."""
    prompt, texts = read_prompt(body, endpoint), body.get("input")
    longest = None
    if inputs(body, endpoint) > 1 and isinstance(texts, list):
        text = max(texts, key=lambda text: len(msgspec.json.encode(text)))
        longest = read_prompt({"input": text}, endpoint).likely()
    return Task(
        difficulty=0.0,
        tier="cheap",
        prompt_tokens=prompt.likely(),
        completion_tokens=0,
        needs=needs_of(body, prompt),
        longest_tokens=longest,
    )


def _chances(text: str) -> dict[Tier, float]:
    prompt = read(text)
    cheap = 1 - fails(prompt, "cheap")
    return {"cheap": cheap, "mid": max(cheap, 1 - fails(prompt, "mid"))}


def asked_text(body: Mapping[str, Any]) -> str:
    """What the user asked last, with what that is about."""
    return "\n".join(reversed(_asked(body.get("messages"))))


def _asked(messages: object) -> list[str]:
    """The user's last message; with a short one also the message before it, which it is about."""
    texts: list[str] = []
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            texts.append(_text(message.get("content")))
            if len(texts) == 2 or len(texts[0]) > FOLLOW_UP_CHARS:
                break
    return texts or [""]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
