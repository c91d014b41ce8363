"""The most a request can use: what a node holds before it serves, and what a client must bring.

What is read is bounded by the size of the request (see `prompt`); the context window and `max_tokens` tighten it (RIP-05's
max_cost, per request).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from relays.endpoints import CHAT, COMPLETIONS, IMAGE_EDITS, IMAGES, MESSAGES, SPEECH, Endpoint
from relays.pricing import ModelPrice, Usage, dearest, parts_of
from relays.prompt import Prompt, inputs, read_prompt

MAX_CONTEXT = 1_000_000_000
"""No model reads or writes more; a larger number is a mistake or a trap."""


class ModelLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Context window and longest answer of a model, in tokens."""

    context_length: int
    max_output_tokens: int
    pictures: str = ""
    """By which rule pictures are counted; see `pictures`."""

    def __post_init__(self) -> None:
        if not (1 <= self.context_length <= MAX_CONTEXT and 1 <= self.max_output_tokens <= MAX_CONTEXT):
            raise ValueError(f"limits are from 1 to {MAX_CONTEXT} tokens")


def choices(body: Mapping[str, Any], endpoint: Endpoint) -> int:
    """How many answers are written."""
    asked = body.get("n")
    return (asked if type(asked) is int and asked > 0 else 1) * (
        inputs(body, endpoint) if endpoint is COMPLETIONS else 1
    )


def completion_bound(body: Mapping[str, Any], limits: ModelLimits, endpoint: Endpoint = CHAT) -> int:
    """At most this many tokens are written per choice."""
    if not endpoint.writes:
        return 0
    asked = next((body[field] for field in endpoint.output_fields if body.get(field)), limits.max_output_tokens)
    return min(int(asked), limits.max_output_tokens, limits.context_length)


def largest_usage(
    body: Mapping[str, Any],
    limits: ModelLimits,
    endpoint: Endpoint = CHAT,
    *,
    audio_ms: int = 0,
    prompt: Prompt | None = None,
) -> Usage:
    """The most of each kind, taken for itself: a receipt that names more cannot be true. `audio_ms` is how long a sound
    that comes with the request can be; `prompt` is what the body gives to read, if that is known already."""
    seen = prompt or read_prompt(body, endpoint)
    read, searched = limits.context_length * inputs(body, endpoint), searches(body, endpoint)
    if not (seen.opaque or searched):  # what a sound or a file becomes, and what is found, is not to be told beforehand
        read = min(seen.bound(limits.pictures), read)
    written = completion_bound(body, limits, endpoint) * choices(body, endpoint)
    speaks = "audio" in modalities if isinstance(modalities := body.get("modalities"), list) else False
    return Usage(
        read,
        written,
        audio_tokens=read if seen.opaque else 0,
        speech_tokens=written if speaks else 0,
        images=choices(body, endpoint) if endpoint in (IMAGES, IMAGE_EDITS) else 0,
        audio_ms=audio_ms,
        characters=len(str(body.get("input") or "")) if endpoint is SPEECH else 0,
        searches=searched,
    )


def searches(body: Mapping[str, Any], endpoint: Endpoint) -> int:
    """At most how often the model's server searches the web: as Anthropic's tool is told, once where chat asks for it."""
    if endpoint is CHAT:
        return 1 if isinstance(body.get("web_search_options"), Mapping) else 0
    tools = body.get("tools") if endpoint is MESSAGES else None
    asked = [tool.get("max_uses") for tool in tools if is_search(tool)] if isinstance(tools, list) else []
    return sum(uses if type(uses) is int and uses > 0 else 1 for uses in asked)


def is_search(tool: object) -> bool:
    """Whether a tool is Anthropic's search of the web, which runs at the server."""
    return isinstance(tool, Mapping) and str(tool.get("type")).startswith("web_search_")


def most_usage(
    body: Mapping[str, Any],
    limits: ModelLimits,
    price: ModelPrice,
    endpoint: Endpoint = CHAT,
    *,
    audio_ms: int = 0,
    prompt: Prompt | None = None,
) -> Usage:
    """The dearest usage the request can reach: a prompt and its answer may share one context window."""
    largest = largest_usage(body, limits, endpoint, audio_ms=audio_ms, prompt=prompt)
    completion = completion_bound(body, limits, endpoint)
    if not endpoint.one_context or largest.prompt_tokens + completion <= limits.context_length:
        return dearest(largest, price)
    many = choices(body, endpoint)
    less_read = min(largest.prompt_tokens, limits.context_length - completion)
    less_written = min(completion, limits.context_length - largest.prompt_tokens)
    shared = [
        dearest(_sized(largest, read, written * many), price)
        for read, written in ((less_read, completion), (largest.prompt_tokens, less_written))
    ]
    return max(shared, key=lambda usage: parts_of(usage, price))


def _sized(usage: Usage, prompt_tokens: int, completion_tokens: int) -> Usage:
    """The same kinds of tokens, but so many."""
    return msgspec.structs.replace(
        usage,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        audio_tokens=min(usage.audio_tokens, prompt_tokens),
        speech_tokens=min(usage.speech_tokens, completion_tokens),
    )
