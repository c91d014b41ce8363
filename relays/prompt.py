"""What a request gives a model to read, looked through once: bounds, guesses and refusals are all made of it.

A byte-level tokenizer never makes more tokens than the text has UTF-8 bytes, so the size of the request is a safe bound
without knowing the model's tokenizer. What is not known of a request's shape is taken for the most it can be: bodies come
from strangers.
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
    MESSAGES,
    MODERATIONS,
    RERANK,
    Endpoint,
)
from relays.money import ceil_div
from relays.pictures import likely_tokens, picture_tokens, without_pictures

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

MEDIA_FIELDS = frozenset(
    {
        *("image_url", "image", "input_image", "audio_url", "input_audio", "audio", "video_url", "video", "file"),
        *("file_data", "image_embeds", "audio_embeds", "prompt_embeds", "pixel_values", "uuid"),
    }
)
"""Fields that make a part more than text at some server, whatever its type says, unless they are null."""

_PLAIN = frozenset({"text", "id", "title"})
"""Fields of a document that is all text."""


class Prompt(msgspec.Struct, frozen=True):
    """The text by its bytes, the pictures themselves, and what else stands among them by its types."""

    text_bytes: int
    """Of everything the model sees but pictures, as JSON."""
    pictures: tuple[Mapping[str, Any], ...]
    added_tokens: int
    """At most what templates, tools and repeated queries add."""
    media: frozenset[str]
    """Types of the parts that are no text, such as `image_url`; `file` for a form's files."""
    opaque: bool
    """Whether a part is neither text nor a picture: what it becomes is not to be told beforehand."""

    def bound(self, rule: str = "") -> int:
        """At most this many tokens are read; pictures by their `rule` (see `pictures`)."""
        return self.text_bytes + self.added_tokens + sum(picture_tokens(picture, rule) for picture in self.pictures)

    def likely(self, rule: str = "") -> int:
        """A guess at the tokens read, for expectations and for when nobody counts."""
        text = ceil_div(self.text_bytes, BYTES_PER_TOKEN)
        return text + sum(likely_tokens(picture, rule) for picture in self.pictures)


def read_prompt(body: Mapping[str, Any], endpoint: Endpoint = CHAT) -> Prompt:
    """Look through a request."""
    seen: dict[str, Any] = {field: body[field] for field in endpoint.prompt_fields if field in body}
    raw = msgspec.json.encode(seen)
    pictures: list[Mapping[str, Any]] = []
    if b"image" in raw:
        seen, pictures = without_pictures(seen)
        raw = msgspec.json.encode(seen)
    media = media_parts(body, endpoint)
    opaque = bool(media)
    if pictures and not endpoint.multipart:
        opaque = bool(media_parts({**body, **seen}, endpoint))
    return Prompt(len(raw), tuple(pictures), _added(body, endpoint), frozenset().union(*media), opaque)


def _added(body: Mapping[str, Any], endpoint: Endpoint) -> int:
    most = TEMPLATE_TOKENS
    if tools := body.get("tools") or body.get("functions"):  # templates write them out, and tell how to use them
        most += len(msgspec.json.encode(tools)) + TOOLS_TOKENS
    if endpoint is RERANK:  # every document is read together with the query
        most += (inputs(body, endpoint) - 1) * (len(msgspec.json.encode(body.get("query"))) + TEMPLATE_TOKENS)
    return most


def inputs(body: Mapping[str, Any], endpoint: Endpoint) -> int:
    """How many texts the model reads, each in a context of its own."""
    field = _TEXTS.get(endpoint.name)
    texts = None if field is None else body.get(field)
    several = isinstance(texts, list) and not all(type(text) is int for text in texts)
    return max(1, len(texts)) if several and isinstance(texts, list) else 1


_TEXTS = {COMPLETIONS.name: "prompt", EMBEDDINGS.name: "input", MODERATIONS.name: "input", RERANK.name: "documents"}
_MESSAGES = {RERANK.name: "documents", COMPLETIONS.name: "prompt", CHAT.name: "messages", MESSAGES.name: "messages"}


def media_parts(body: Mapping[str, Any], endpoint: Endpoint = CHAT) -> list[set[str]]:
    """The parts that are no text, each as the types that it is of."""
    if endpoint.multipart:
        return [{"file"}]
    places = [body.get(_MESSAGES.get(endpoint.name, "input")), body.get("query"), body.get("system")]
    if endpoint is COUNT_TOKENS:
        places.append(body.get("messages"))
    return [media for kinds in _kinds(places) if (media := kinds - TEXT_TYPES)]


def _kinds(places: list[Any]) -> Iterator[set[str]]:
    """What each part of the messages is, however they are nested. Only a message itself may be without a type."""
    todo = [(place, 0) for place in places]
    while todo:
        part, depth = todo.pop()
        if isinstance(part, str):
            continue
        if isinstance(part, list):
            todo.extend([(inner, depth + 1) for inner in part])
        elif isinstance(part, Mapping):
            kinds = {str(name) for name in part.keys() & MEDIA_FIELDS if part[name] is not None}  # SDKs dump nulls
            if "type" in part:
                kinds.add(str(part["type"]))
            elif not (("role" in part and depth == 1) or part.keys() <= _PLAIN):
                kinds.add("None")
            if kinds:
                yield kinds
            todo.extend([(part[field], depth + 1) for field in ("content", "output") if field in part])
