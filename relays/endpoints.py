"""The calls that are sold, and how a request of each says what it reads and how much it may write.

Names of paths and fields are OpenAI's (chat, completions, embeddings, images, audio, moderations, responses), Anthropic's
(messages, count_tokens) and Cohere's and Jina's (rerank).
"""

from __future__ import annotations

from typing import Final

import msgspec


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of call."""

    name: str
    path: str
    """Below `/v1`."""
    prompt_fields: tuple[str, ...]
    """What the model reads."""
    output_fields: tuple[str, ...] = ()
    """Where a request says how many tokens may be written; the first that is given counts."""
    writes: bool = True
    """Whether tokens are written at all."""
    one_context: bool = False
    """Whether one prompt and its answer share the context window."""
    multipart: bool = False
    """Whether the request is a form with files, not JSON."""


CHAT: Final = Endpoint(
    name="chat",
    path="/chat/completions",
    prompt_fields=("messages", "tools", "functions", "tool_choice", "response_format"),
    output_fields=("max_completion_tokens", "max_tokens"),
    one_context=True,
)
COMPLETIONS: Final = Endpoint(
    name="completions", path="/completions", prompt_fields=("prompt", "suffix"), output_fields=("max_tokens",)
)
RESPONSES: Final = Endpoint(
    name="responses",
    path="/responses",
    prompt_fields=("input", "instructions", "tools", "tool_choice", "text"),
    output_fields=("max_output_tokens",),
    one_context=True,
)
MESSAGES: Final = Endpoint(
    name="messages",
    path="/messages",
    prompt_fields=("messages", "system", "tools", "tool_choice", "output_config", "output_format"),
    output_fields=("max_tokens",),
    one_context=True,
)
COUNT_TOKENS: Final = Endpoint(
    name="count_tokens", path="/messages/count_tokens", prompt_fields=MESSAGES.prompt_fields, writes=False
)
EMBEDDINGS: Final = Endpoint(name="embeddings", path="/embeddings", prompt_fields=("input",), writes=False)
MODERATIONS: Final = Endpoint(name="moderations", path="/moderations", prompt_fields=("input",), writes=False)
RERANK: Final = Endpoint(name="rerank", path="/rerank", prompt_fields=("query", "documents"), writes=False)
IMAGES: Final = Endpoint(name="images", path="/images/generations", prompt_fields=("prompt",))
IMAGE_EDITS: Final = Endpoint(name="image_edits", path="/images/edits", prompt_fields=("prompt",), multipart=True)
SPEECH: Final = Endpoint(name="speech", path="/audio/speech", prompt_fields=("input", "instructions"))
TRANSCRIPTIONS: Final = Endpoint(
    name="transcriptions", path="/audio/transcriptions", prompt_fields=("prompt",), multipart=True
)
TRANSLATIONS: Final = Endpoint(
    name="translations", path="/audio/translations", prompt_fields=("prompt",), multipart=True
)

ENDPOINTS: Final = (
    *(CHAT, COMPLETIONS, RESPONSES, MESSAGES, COUNT_TOKENS, EMBEDDINGS, MODERATIONS, RERANK),
    *(IMAGES, IMAGE_EDITS, SPEECH, TRANSCRIPTIONS, TRANSLATIONS),
)
