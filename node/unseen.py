"""Work that a stream does not show before its report: thoughts, pictures in the making, searches. It is paid to the
upstream whoever leaves, so such a stream is read on to its report when its caller has left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from node.asks import Ask
from node.upstream.base import Source
from relays.bounds import searches
from relays.endpoints import IMAGE_EDITS, IMAGES, RESPONSES, TRANSCRIPTIONS, TRANSLATIONS
from relays.pricing import Usage

_SHOW_LITTLE: Final = (RESPONSES, IMAGES, IMAGE_EDITS, TRANSCRIPTIONS, TRANSLATIONS)
"""Endpoints whose work is done, and billed, before there is a word of it; the last four may not stream at all."""
MAX_THINKERS: Final = 20_000


class Unseen:
    """What is known of models that work unseen: by the request, by the catalogue, and by what their reports have told."""

    def __init__(self) -> None:
        self._thinkers: set[tuple[str, str]] = set()

    def hear(self, source: Source, usage: Usage) -> None:
        """Learn from a report."""
        if usage.reasoning_tokens and len(self._thinkers) < MAX_THINKERS:
            self._thinkers.add((source.upstream, source.model))

    def may_be(self, ask: Ask, sources: Iterable[Source]) -> bool:
        """Whether one of them may do more for the request than its stream shows."""
        if ask.endpoint in _SHOW_LITTLE or asks_for_thought(ask.fields) or searches(ask.fields, ask.endpoint):
            return True
        return any(source.thinks or (source.upstream, source.model) in self._thinkers for source in sources)


def asks_for_thought(fields: Mapping[str, Any]) -> bool:
    """Whether a request wants the model to think, in the words of OpenAI, Anthropic or OpenRouter."""
    thinking, reasoning = fields.get("thinking"), fields.get("reasoning")
    return (
        fields.get("reasoning_effort") not in (None, "none")
        or bool(fields.get("include_reasoning"))
        or (isinstance(thinking, Mapping) and thinking.get("type") != "disabled")
        or (
            isinstance(reasoning, Mapping)
            and reasoning.get("enabled") is not False
            and reasoning.get("effort") != "none"
        )
    )
