"""Tokens counted here, where nobody reports them: by OpenAI's newest vocabulary, which is near enough to others'."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from relays.endpoints import Endpoint
from relays.pictures import likely_tokens, without_pictures
from relays.prompt import media_parts, read_prompt

VOCABULARY: Final = "o200k_base"
PIECE_CHARS: Final = 16_384
"""Text is counted in pieces of this size: a tokenizer's time may grow faster than its text."""
SAMPLE_CHARS: Final = 32_768
SLICE_CHARS: Final = 1024
SHORT_CHARS: Final = 64
"""What a name, a role or an id has at most; what is longer in a request may be text, whatever its field is called."""
MEDIA_TOKENS: Final = 1000
"""Of a page or a sound that nobody reports."""
PER_MESSAGE: Final = 4
"""Tokens that a chat template adds to a message."""
_SILENT: Final = frozenset(
    {
        *("role", "type", "id", "index", "status", "object", "model", "created", "call_id", "tool_call_id", "item_id"),
        *("finish_reason", "logprobs", "signature", "encrypted_content", "b64_json", "url", "image_url", "audio"),
        *("data", "file_data", "source", "media_type", "cache_control", "citations", "annotations"),
    }
)
"""Fields whose strings no model wrote or reads as text."""


_OF_FILES: Final = frozenset({"media_type", "format", "filename", "file_data", "mime_type"})
_BASE64: Final = re.compile(r"(data:[^,]{0,100},)?[A-Za-z0-9+/=_-]+")


@cache
def _tokenizer() -> Any:
    """Loaded when it is first needed: it takes 0.2 s and 40 MB."""
    from splintr import Tokenizer  # noqa: PLC0415

    return Tokenizer.from_pretrained(VOCABULARY)


def estimate(text: str) -> int:
    """About how many tokens the text is: a long one is judged by pieces of it that its writer cannot foresee."""
    if len(text) <= 2 * SAMPLE_CHARS:
        return count(text)
    starts = (random.randrange(len(text) - SLICE_CHARS) for _ in range(2 * SAMPLE_CHARS // SLICE_CHARS))
    sample = "".join([text[start : start + SLICE_CHARS] for start in starts])
    return -(-count(sample) * len(text) // len(sample))


def count(text: str) -> int:
    """How many tokens the text is."""
    plain = text.encode(errors="replace").decode()  # lone surrogates have no bytes
    pieces = (plain[at : at + PIECE_CHARS] for at in range(0, len(plain), PIECE_CHARS))
    return sum(len(_tokenizer().encode_ordinary(piece)) for piece in pieces)


def count_prompt(body: Mapping[str, Any], endpoint: Endpoint, rule: str = "", *, exact: bool = False) -> int:
    """About how many tokens the model reads of a request. `exact` takes a second for some megabytes."""
    read: Any = [body[field] for field in endpoint.prompt_fields if body.get(field)]
    media = 0
    if media_parts(body, endpoint):
        bare, pictures = without_pictures(body)
        media = MEDIA_TOKENS * len(media_parts(bare, endpoint))
        media += sum(likely_tokens(picture, rule) for picture in pictures)
    messages = body.get("messages")
    extra = PER_MESSAGE * len(messages) if isinstance(messages, list) else 0
    counted = (count if exact else estimate)("\n".join(strings_in(read, longest_silent=SHORT_CHARS)))
    return min(read_prompt(body, endpoint).bound(rule), counted + extra) + media


def strings_in(value: Any, *, longest_silent: int | None = None) -> Iterator[str]:
    """All text inside a value, in its order; however deep it nests. With `longest_silent`, what a stranger wrote: then
    fields that hold no text are passed over only if they are that short, or hold what came as a file."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            waiting.extend(
                inner
                for name, inner in reversed(part.items())
                if name not in _SILENT or (longest_silent is not None and not _is_silent(inner, part, longest_silent))
            )
        elif isinstance(part, list | tuple):
            waiting.extend(reversed(part))


def _is_silent(value: Any, part: dict[str, Any], longest: int) -> bool:
    """Whether a field of a request holds no text: a short word, or base64 in a part that is a file."""
    if not isinstance(value, str):
        return value is None or isinstance(value, bool | int | float)
    if len(value) <= longest:
        return True
    return bool(part.keys() & _OF_FILES) and _BASE64.fullmatch(value[:4096]) is not None
