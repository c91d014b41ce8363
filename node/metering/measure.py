"""From what was reported, what was written, and what is known of the request, to the usage that is charged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from relays.pricing import Usage

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
    writes: bool = True
    estimate: bool = True
    """Whether images and speech that nobody reports tokens for are estimated in tokens: not if they have their own price."""


def measure(reported: Usage | None, known: Known, written: Callable[[], int], images: int = 0) -> Measured:
    """The usage as reported, if that can be true; else counted. A report of no tokens beside text is none."""
    tokens, by = Usage(0, 0), "upstream"
    has_tokens = reported is not None and bool(reported.prompt_tokens or reported.completion_tokens)
    if reported is not None and has_tokens and (reported.completion_tokens or not known.writes or not written()):
        tokens = reported
    else:
        by, tokens = "counted", _counted(known, written)
    heard_ms = reported.audio_ms if reported is not None and reported.audio_ms else known.audio_ms
    usage = msgspec.structs.replace(tokens, images=images, audio_ms=heard_ms, characters=known.characters)
    return Measured(usage, "upstream" if by == "upstream" else "counted")


def _counted(known: Known, written: Callable[[], int]) -> Usage:
    read_tokens, written_tokens = known.count_prompt(), written() if known.writes else 0
    if known.most is not None:
        read_tokens = min(read_tokens, known.most.prompt_tokens)
        written_tokens = min(written_tokens, known.most.completion_tokens)
    return Usage(read_tokens, written_tokens)
