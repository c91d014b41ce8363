"""Usage as answers report it, in the languages of OpenAI (chat, responses, embeddings, audio), Anthropic, Cohere and Jina.

Both sides read it by this one function: the node to charge, the client to check the receipt. What cannot be true is no
report. Gemini's is translated to OpenAI's before it comes here.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec

from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.money import ceil_div
from relays.pricing import Usage

T = TypeVar("T")

NULL: Final = msgspec.Raw(b"null")
MAX_TOKENS: Final = 100_000_000
"""A usage beyond this is no usage."""
MAX_SECONDS: Final = 1_000_000

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)] | None
Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)] | None


class Details(msgspec.Struct):
    """Kinds of tokens among those read or written."""

    cached_tokens: Count = None
    cache_write_tokens: Count = None
    """OpenRouter's."""
    reasoning_tokens: Count = None
    thinking_tokens: Count = None
    """Anthropic's word for them."""
    audio_tokens: Count = None


class Searches(msgspec.Struct):
    """Anthropic's tools that ran at the server."""

    web_search_requests: Count = None


class Report(msgspec.Struct):
    """The `usage` object, whoever wrote it."""

    prompt_tokens: Count = None
    completion_tokens: Count = None
    input_tokens: Count = None
    output_tokens: Count = None
    total_tokens: Count = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None
    input_token_details: Details | None = None
    """Of a transcription, so spelt."""
    server_tool_use: Searches | None = None
    cache_read_input_tokens: Count = None
    """Anthropic's, beside `input_tokens`."""
    cache_creation_input_tokens: Count = None
    prompt_cache_hit_tokens: Count = None
    """DeepSeek's, among `prompt_tokens`."""
    seconds: Seconds = None
    """Of sound, where that is what is paid for."""

    @property
    def is_sum(self) -> bool:
        """Whether it tells what was read and written in one number alone."""
        parts = (self.prompt_tokens, self.completion_tokens, self.input_tokens, self.output_tokens)
        return self.total_tokens is not None and all(part is None for part in parts)


class _Answer(msgspec.Struct):
    """An answer, or an event of a stream: where a report may stand."""

    usage: msgspec.Raw = NULL
    response: msgspec.Raw = NULL
    """OpenAI's responses: `response.usage`."""
    message: msgspec.Raw = NULL
    """Anthropic's `message_start`: `message.usage`."""
    meta: msgspec.Raw = NULL
    """Cohere's: `meta.tokens`."""
    duration: msgspec.Raw = NULL
    """Of a transcription, in seconds."""


class _Inner(msgspec.Struct):
    usage: msgspec.Raw = NULL
    tokens: msgspec.Raw = NULL


class _Duration(msgspec.Struct):
    seconds: Seconds


def report_in(data: bytes) -> Report | None:
    """The report that an answer or an event carries, wherever it stands."""
    answer = _read(data, _Answer)
    if answer is None:
        return None
    if bytes(answer.usage) != b"null":
        return read_report(bytes(answer.usage))
    for place in (answer.response, answer.message, answer.meta):
        inner = _read(place, _Inner)
        for told in () if inner is None else (inner.usage, inner.tokens):
            if bytes(told) != b"null" and (found := read_report(bytes(told))) is not None:
                return found
    duration = _read(b'{"seconds":' + bytes(answer.duration).strip(b'"') + b"}", _Duration)
    return None if duration is None or duration.seconds is None else Report(seconds=duration.seconds)


def read_report(raw: bytes) -> Report | None:
    """A `usage` object. Kinds of tokens that are no object are left out of it: PHP writes an empty one as a list."""
    if (report := _read(raw, Report)) is not None:
        return report
    told = _read(raw, dict[str, msgspec.Raw]) or {}
    kept = {name: value for name, value in told.items() if not name.endswith("_details") or bytes(value)[:1] == b"{"}
    return _read(msgspec.json.encode(kept), Report) if len(kept) < len(told) else None


def _read(raw: bytes | msgspec.Raw, kind: type[T]) -> T | None:
    try:
        return from_json(bytes(raw), kind)
    except InvalidJson:
        return None


def merged(first: Report | None, second: Report) -> Report:
    """What two reports of one stream say together: the later word counts, kind by kind (Anthropic tells input and output
    in different events)."""
    if first is None:
        return second
    said = {
        name: later if (later := getattr(second, name)) is not None else getattr(first, name)
        for name in Report.__struct_fields__
    }
    return Report(**said)


def usage_of(report: Report) -> Usage | None:
    """The usage that was reported, None when that cannot be told or cannot be true. A sum alone stands as what was read:
    whoever knows what was written takes that out of it."""
    read = _first(report.prompt_tokens, report.input_tokens)
    written = _first(report.completion_tokens, report.output_tokens)
    seconds = report.seconds
    if read is None and written is None and seconds is None and report.total_tokens is None:
        return None
    if read is None:
        read = max(0, (report.total_tokens or 0) - (written or 0))
    written = written or 0
    inside, outside = _details(report)
    write = _first(report.cache_creation_input_tokens, inside.cache_write_tokens) or 0
    cached = _first(report.cache_read_input_tokens, inside.cached_tokens, report.prompt_cache_hit_tokens) or 0
    if report.prompt_tokens is None and report.input_tokens is not None:  # Anthropic's stand beside what was read
        read += (report.cache_read_input_tokens or 0) + (report.cache_creation_input_tokens or 0)
    reasoning = _first(outside.reasoning_tokens, outside.thinking_tokens) or 0
    if reasoning and report.total_tokens == read + written + reasoning:
        written += reasoning  # xAI counts them beside the others
    if cached + write > read:
        cached = write = 0
    reasoning = reasoning if reasoning <= written else 0
    used = report.server_tool_use
    return Usage(
        read,
        written,
        cached_tokens=cached,
        cache_write_tokens=write,
        reasoning_tokens=reasoning,
        # Sound from a cache costs what the cache does; what is spoken is not what was thought.
        audio_tokens=min(inside.audio_tokens or 0, read - cached - write),
        speech_tokens=min(outside.audio_tokens or 0, written - reasoning),
        searches=(used.web_search_requests or 0) if used is not None else 0,
        audio_ms=0 if seconds is None else ceil_div(round(seconds * 1_000_000), 1000),
    )


def _details(report: Report) -> tuple[Details, Details]:
    """Of what was read, and of what was written."""
    nothing = Details()
    return (
        report.prompt_tokens_details or report.input_tokens_details or report.input_token_details or nothing,
        report.completion_tokens_details or report.output_tokens_details or nothing,
    )


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)
