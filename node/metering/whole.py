"""Whole answers: whether one is an answer at all, and what it used."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

import msgspec

from node.metering.measure import IMAGE_TOKENS, Known, Measured, measure
from node.metering.stream import Choice
from node.metering.texts import texts_of
from node.metering.tokens import count
from relays import usage as reports
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
    RESPONSES,
    SPEECH,
    Endpoint,
)
from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.pricing import Usage

_HOLDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        CHAT.name: ("choices",),
        COMPLETIONS.name: ("choices",),
        RESPONSES.name: ("output",),
        MESSAGES.name: ("content",),
        COUNT_TOKENS.name: ("input_tokens",),
        EMBEDDINGS.name: ("data",),
        IMAGES.name: ("data",),
        IMAGE_EDITS.name: ("data",),
        MODERATIONS.name: ("results",),
        RERANK.name: ("results", "data"),
    }
)
"""The field that an answer of an endpoint has something in; a transcription is `text`, or no JSON at all."""
SPEECH_TOKENS: Final = 2
"""Of a spoken character, for which nobody reports any."""
_MAY_BE_EMPTY: Final = (RESPONSES, MESSAGES)
"""A model may end its turn without a word."""


def is_answer(body: bytes, content_type: str, endpoint: Endpoint) -> bool:
    """Whether a 200 holds what was asked for: an error in disguise is not charged."""
    fields = _HOLDS.get(endpoint.name)
    if fields is None and content_type != "application/json":  # a transcript of silence is empty
        return content_type != "text/html" and (bool(body) or endpoint is not SPEECH)
    try:
        answer = from_json(body, dict[str, msgspec.Raw])
    except InvalidJson:
        return False
    if bytes(answer.get("error", reports.NULL)) != b"null":
        return False
    if endpoint in (CHAT, COMPLETIONS) and b'"error"' in bytes(answer.get("choices", reports.NULL)):
        with suppress(InvalidJson):
            if any(choice.failed for choice in from_json(bytes(answer["choices"]), list[Choice])):
                return False
    nothing = (b"null",) if endpoint in _MAY_BE_EMPTY else (b"null", b"[]")
    return any(bytes(answer[field]) not in nothing for field in fields or ("text",) if field in answer)


def measured(body: bytes, endpoint: Endpoint, known: Known) -> Measured:
    """What an answer used."""
    if endpoint is COUNT_TOKENS:  # it costs the request's fee
        return Measured(Usage(0, 0), "counted")
    images = _images_in(body) if endpoint in (IMAGES, IMAGE_EDITS) else 0

    def written() -> int:
        if images or endpoint is SPEECH:
            return images * IMAGE_TOKENS + known.characters * SPEECH_TOKENS if known.estimate else 0
        texts = texts_of(body) if body.lstrip().startswith(b"{") else [body.decode(errors="replace")]
        return count("".join(texts))

    report = None if endpoint is SPEECH else reports.report_in(body)  # sound reports nothing
    if report is None:
        return measure(None, known, written, images)
    return measure(reports.usage_of(report), known, written, images, is_sum=report.is_sum)


class _Images(msgspec.Struct):
    data: list[msgspec.Raw] = []


def _images_in(body: bytes) -> int:
    try:
        return len(from_json(body, _Images).data)
    except InvalidJson:
        return 1
