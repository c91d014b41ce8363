"""The most a request can use: what a node holds before it serves, and what a client must bring.

A byte-level tokenizer never makes more tokens than the text has UTF-8 bytes, so the size of the request is a safe bound
without knowing the model's tokenizer; the context window and `max_tokens` tighten it (RIP-05's max_cost, per request).
What is not known of a request's shape is taken for the most it can be: bodies come from strangers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from relays.endpoints import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    EMBEDDINGS,
    IMAGE_EDITS,
    IMAGES,
    MESSAGES,
    MODERATIONS,
    RERANK,
    SPEECH,
    Endpoint,
)
from relays.money import ceil_div
from relays.pictures import likely_tokens, picture_tokens, without_pictures
from relays.pricing import ModelPrice, Usage, dearest, parts_of

MAX_CONTEXT = 1_000_000_000
"""No model reads or writes more; a larger number is a mistake or a trap."""

TEMPLATE_TOKENS = 64
"""Room for what a chat template adds by itself, such as a default system prompt."""

TOOLS_TOKENS = 1024
"""Room for what is told to a model that has tools."""

BYTES_PER_TOKEN = 4
"""What a token of ordinary text has, on average."""

TEXT_TYPES = frozenset(
    {
        *("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal"),
        *("thinking", "redacted_thinking", "reasoning", "message"),
        *("tool_use", "tool_result", "function_call", "function_call_output"),
        *("custom_tool_call", "custom_tool_call_output"),
    }
)
"""Types of the parts of a message that hold text or further parts; all others are media."""


_PLAIN = frozenset({"text", "id", "title"})
"""Fields of a document that is all text."""


class ModelLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Context window and longest answer of a model, in tokens."""

    context_length: int
    max_output_tokens: int
    pictures: str = ""
    """By which rule pictures are counted; see `pictures`."""

    def __post_init__(self) -> None:
        if not (1 <= self.context_length <= MAX_CONTEXT and 1 <= self.max_output_tokens <= MAX_CONTEXT):
            raise ValueError(f"limits are from 1 to {MAX_CONTEXT} tokens")


def prompt_bound(body: Mapping[str, Any], endpoint: Endpoint = CHAT, rule: str = "") -> int:
    """At most this many tokens are read: bytes of everything the model sees, plus what a template adds, and its pictures by
    their rule."""
    text_bytes, pictures = _read(body, endpoint)
    most = text_bytes + TEMPLATE_TOKENS + sum(picture_tokens(picture, rule) for picture in pictures)
    if tools := body.get("tools") or body.get(
        "functions"
    ):  # templates write them out at length, and tell how to use them
        most += len(msgspec.json.encode(tools)) + TOOLS_TOKENS
    if endpoint is RERANK:  # every document is read together with the query
        most += (inputs(body, endpoint) - 1) * (len(msgspec.json.encode(body.get("query"))) + TEMPLATE_TOKENS)
    return most


def _read(body: Mapping[str, Any], endpoint: Endpoint) -> tuple[int, list[Mapping[str, Any]]]:
    """The bytes of the text that the model reads, and the pictures."""
    seen: Any = {field: body[field] for field in endpoint.prompt_fields if field in body}
    raw = msgspec.json.encode(seen)
    if b"image" not in raw:
        return len(raw), []
    bare, pictures = without_pictures(seen)
    return len(msgspec.json.encode(bare)), pictures


def inputs(body: Mapping[str, Any], endpoint: Endpoint) -> int:
    """How many texts the model reads, each in a context of its own."""
    field = {COMPLETIONS.name: "prompt", EMBEDDINGS.name: "input", MODERATIONS.name: "input", RERANK.name: "documents"}
    texts = body.get(field.get(endpoint.name, ""))
    several = isinstance(texts, list) and not all(type(text) is int for text in texts)
    return max(1, len(texts)) if several and isinstance(texts, list) else 1


def choices(body: Mapping[str, Any], endpoint: Endpoint) -> int:
    """How many answers are written."""
    asked = body.get("n")
    return (asked if type(asked) is int and asked > 0 else 1) * (
        inputs(body, endpoint) if endpoint is COMPLETIONS else 1
    )


MEDIA_FIELDS = frozenset(
    {
        *(
            "image_url",
            "image",
            "input_image",
            "audio_url",
            "input_audio",
            "audio",
            "video_url",
            "video",
            "file",
            "file_data",
        ),
        *("image_embeds", "audio_embeds", "prompt_embeds", "pixel_values", "uuid"),
    }
)
"""Fields that make a part more than text at some server, whatever its type says."""


def media_types(body: Mapping[str, Any], endpoint: Endpoint = CHAT) -> set[str]:
    """The types of the parts that are no text, such as `image_url`; `file` for a form's files."""
    return set().union(*media_parts(body, endpoint))


def media_parts(body: Mapping[str, Any], endpoint: Endpoint = CHAT) -> list[set[str]]:
    """The parts that are no text, each as the types that it is of."""
    if endpoint.multipart:
        return [{"file"}]
    field = {RERANK.name: "documents", COMPLETIONS.name: "prompt", CHAT.name: "messages", MESSAGES.name: "messages"}
    places = [body.get(field.get(endpoint.name, "input")), body.get("query"), body.get("system")]
    if endpoint is COUNT_TOKENS:
        places.append(body.get("messages"))
    return [kinds - TEXT_TYPES for kinds in _kinds(places) if kinds - TEXT_TYPES]


def _kinds(places: list[Any]) -> Iterator[set[str]]:
    """What each part of the messages is, however they are nested. Only a message itself may be without a type."""
    todo = [(place, 0) for place in places]
    while todo:
        part, depth = todo.pop()
        if isinstance(part, list):
            todo.extend((inner, depth + 1) for inner in part)
        elif isinstance(part, Mapping):
            kinds = {str(name) for name in part if name in MEDIA_FIELDS}
            if "type" in part:
                kinds.add(str(part["type"]))
            elif not (("role" in part and depth == 1) or part.keys() <= _PLAIN):
                kinds.add("None")
            yield kinds
            todo.extend((part[field], depth + 1) for field in ("content", "output") if field in part)


def completion_bound(body: Mapping[str, Any], limits: ModelLimits, endpoint: Endpoint = CHAT) -> int:
    """At most this many tokens are written per choice."""
    if not endpoint.writes:
        return 0
    asked = next((body[field] for field in endpoint.output_fields if body.get(field)), limits.max_output_tokens)
    return min(int(asked), limits.max_output_tokens, limits.context_length)


def largest_usage(
    body: Mapping[str, Any], limits: ModelLimits, endpoint: Endpoint = CHAT, *, audio_ms: int = 0
) -> Usage:
    """The most of each kind, taken for itself: a receipt that names more cannot be true. `audio_ms` is how long a sound
    that comes with the request can be."""
    context = limits.context_length * inputs(body, endpoint)
    prompt, opaque, searched = context, _opaque(body, endpoint), searches(body, endpoint)
    if not (opaque or searched):  # what a sound or a file becomes, and what is found, is not to be told beforehand
        prompt = min(prompt_bound(body, endpoint, limits.pictures), context)
    written = completion_bound(body, limits, endpoint) * choices(body, endpoint)
    speaks = "audio" in modalities if isinstance(modalities := body.get("modalities"), list) else False
    return Usage(
        prompt,
        written,
        audio_tokens=prompt if opaque else 0,
        speech_tokens=written if speaks else 0,
        images=choices(body, endpoint) if endpoint in (IMAGES, IMAGE_EDITS) else 0,
        audio_ms=audio_ms,
        characters=len(str(body.get("input") or "")) if endpoint is SPEECH else 0,
        searches=searched,
    )


def _opaque(body: Mapping[str, Any], endpoint: Endpoint) -> bool:
    """Whether a part is neither text nor a picture."""
    if not media_types(body, endpoint):
        return False
    return endpoint.multipart or bool(media_types(without_pictures(body)[0], endpoint))


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
    body: Mapping[str, Any], limits: ModelLimits, price: ModelPrice, endpoint: Endpoint = CHAT, *, audio_ms: int = 0
) -> Usage:
    """The dearest usage the request can reach: a prompt and its answer may share one context window."""
    largest = largest_usage(body, limits, endpoint, audio_ms=audio_ms)
    if not endpoint.one_context:
        return dearest(largest, price)
    completion, many = completion_bound(body, limits, endpoint), choices(body, endpoint)
    less_read = min(largest.prompt_tokens, limits.context_length - completion)
    less_written = min(completion, limits.context_length - largest.prompt_tokens)
    shared = [
        dearest(_sized(largest, prompt, written * many), price)
        for prompt, written in ((less_read, completion), (largest.prompt_tokens, less_written))
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


def likely_prompt_tokens(body: Mapping[str, Any], endpoint: Endpoint = CHAT, rule: str = "") -> int:
    """A guess at the tokens read, for expectations and for when nobody counts: a token is about four bytes of text."""
    text_bytes, pictures = _read(body, endpoint)
    return ceil_div(text_bytes, BYTES_PER_TOKEN) + sum(likely_tokens(picture, rule) for picture in pictures)
