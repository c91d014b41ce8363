"""Whole answers: whether one is an answer at all, and what it used."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from node.metering.measure import IMAGE_TOKENS, Known, Measured, measure
from node.metering.saying import NOTHING, Choice, is_said, reports_writing
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
from relays.jsontext import folded, from_json
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
INPUT_LEVEL: Final = 3
"""Where Anthropic's answers have the input of a tool, which a model may nest as deeply as it likes: `content[].input`."""
_ENDS: Final[Mapping[str, str]] = MappingProxyType({RESPONSES.name: "status", MESSAGES.name: "stop_reason"})
"""The field that says that a model has ended its turn, which it may without a word."""


def is_answer(body: bytes, content_type: str, endpoint: Endpoint) -> bool:
    """Whether a 200 holds what was asked for: an error in disguise is not charged."""
    fields = _HOLDS.get(endpoint.name)
    if fields is None and content_type != "application/json":  # a transcript of silence is empty
        return content_type != "text/html" and (bool(body) or endpoint is not SPEECH)
    try:
        answer = _top(body, endpoint)
    except InvalidJson:
        return False
    if bytes(answer.get("error", reports.NULL)) != b"null":
        return False
    if endpoint in (CHAT, COMPLETIONS):
        return _has_answered(body, bytes(answer.get("choices", reports.NULL)))
    said = [bytes(answer[field]) for field in fields or ("text",) if field in answer]
    if (end := _ENDS.get(endpoint.name)) is not None and said == [b"[]"]:
        return is_said(answer.get(end, reports.NULL)) or reports_writing(body)
    return any(value not in (b"null", b"[]") for value in said)


def _top(body: bytes, endpoint: Endpoint) -> dict[str, msgspec.Raw]:
    """The fields of an answer. Raises InvalidJson."""
    try:
        return from_json(body, dict[str, msgspec.Raw])
    except InvalidJson:
        if endpoint is not MESSAGES:
            raise
        return from_json(folded(body, INPUT_LEVEL), dict[str, msgspec.Raw])


def _has_answered(body: bytes, choices: bytes) -> bool:
    """Whether choices are an answer: one that failed makes all of them none."""
    if choices in NOTHING:
        return False
    try:
        read = from_json(choices, list[Choice])
    except InvalidJson:
        return any(texts_of(body))
    if any(choice.failed for choice in read):
        return False
    return any(choice.says_something for choice in read) or reports_writing(body)


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
    if report is None and endpoint is MESSAGES:
        report = reports.report_in(folded(body, INPUT_LEVEL))
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
