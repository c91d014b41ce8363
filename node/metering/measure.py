"""From what was reported, what was written, and what is known of the request, to the usage that is charged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from relays.pricing import Usage
from relays.usage import MAX_TOKENS

IMAGE_TOKENS: Final = 1056
"""Of an image that nobody reports tokens for: OpenAI's square one of medium quality."""
Metered = Literal["upstream", "counted"]


class Measured(msgspec.Struct, frozen=True):
    """What was used, and who counted the tokens."""

    usage: Usage
    by: Metered


class Known(msgspec.Struct, frozen=True):
    """What the request itself says of its usage: `usage` of what is not tokens, and a count of the prompt for when nobody
    reports it, made when it is needed."""

    count_prompt: Callable[[], int]
    most: Usage | None = None
    """The most it can use: another vocabulary than the model's may count more than can be."""
    characters: int = 0
    audio_ms: int = 0
    searches: int = 0
    """At most, of the web."""
    searches_are_told: bool = False
    """Whether a report of the usage also tells of searches."""
    writes: bool = True
    choices: int = 1
    """How many answers are written."""
    echoes: bool = False
    """Whether what was read is part of the answer."""
    estimate: bool = True
    """Whether images and speech that nobody reports tokens for are estimated in tokens: not if they have their own price."""


def measure(
    reported: Usage | None, known: Known, written: Callable[[], int], images: int = 0, *, is_sum: bool = False
) -> Measured:
    """The usage as reported, as far as that can be true; the rest counted. Nothing written, beside text, is no report. What
    is reported as read may be a sum of both."""
    read = reported if reported is not None and (reported.prompt_tokens or reported.completion_tokens) else None
    told = read is not None and not _is_of_one(read, known, written)
    if read is not None and told and (read.completion_tokens or not known.writes or not written()):
        tokens, by = read, True
        if not read.prompt_tokens:  # nothing is written without something read
            tokens, by = msgspec.structs.replace(read, prompt_tokens=_read(known)), False
    else:
        tokens, by = _counted(read, known, written() if known.writes else 0, is_sum=is_sum), False
    heard_ms = reported.audio_ms if reported is not None and reported.audio_ms else known.audio_ms
    searches = tokens.searches if reported is not None and known.searches_are_told else known.searches
    usage = msgspec.structs.replace(
        tokens, images=images, audio_ms=heard_ms, characters=known.characters, searches=searches
    )
    return Measured(usage, "upstream" if by else "counted")


def _is_of_one(read: Usage, known: Known, written: Callable[[], int]) -> bool:
    """Whether a report is of the first of several answers alone, as llama.cpp's is, by far more that was written. Other
    vocabularies than ours differ by less."""
    if known.choices == 1 or known.echoes or not known.writes:
        return False
    return 2 * (written() - known.choices) > 3 * read.completion_tokens


def _counted(read: Usage | None, known: Known, written_tokens: int, *, is_sum: bool) -> Usage:
    """What was written, as counted; and the prompt as reported, with what of it was cached, or as counted too."""
    most = known.most or Usage(MAX_TOKENS, MAX_TOKENS)
    written_tokens = min(written_tokens, most.completion_tokens)
    if read is not None:
        prompt_tokens = read.prompt_tokens
        if is_sum:
            written_tokens = min(
                written_tokens, prompt_tokens - read.cached_tokens - read.cache_write_tokens - read.audio_tokens
            )
            prompt_tokens -= written_tokens
        return msgspec.structs.replace(read, prompt_tokens=prompt_tokens, completion_tokens=written_tokens)
    return Usage(_read(known), written_tokens)


def _read(known: Known) -> int:
    """The prompt, as counted."""
    return min(known.count_prompt(), (known.most or Usage(MAX_TOKENS, MAX_TOKENS)).prompt_tokens)
