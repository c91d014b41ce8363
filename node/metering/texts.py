"""What a model wrote, in an answer or a chunk of one, whatever its language. Not understood is not free."""

from __future__ import annotations

from typing import Any, Final

from node.metering.tokens import strings_in
from relays.errors import InvalidJson
from relays.jsontext import from_json

_DELTAS: Final = ("text", "thinking", "partial_json")
"""Where Anthropic's `content_block_delta` has its text."""


def texts_of(data: bytes) -> list[str]:
    """Text, reasoning and tool calls; a JSON text that cannot be read is taken whole."""
    if not data.lstrip().startswith(b"{"):
        return []
    try:
        answer = from_json(data)
    except InvalidJson:
        return [data.decode(errors="replace")]
    return list(strings_in(_written(answer))) if isinstance(answer, dict) else []


def _written(answer: dict[str, Any]) -> Any:
    """The part of an answer that a model wrote."""
    choices, kind = answer.get("choices"), answer.get("type")
    if isinstance(choices, list):
        said = [choice for choice in choices if isinstance(choice, dict)]
        return [choice.get("delta") or choice.get("message") or choice.get("text") for choice in said]
    if kind == "content_block_delta" and isinstance(answer.get("delta"), dict):
        return [answer["delta"].get(field) for field in _DELTAS]
    if isinstance(kind, str) and kind.endswith(".delta"):
        return answer.get("delta")  # responses and transcriptions
    if isinstance(kind, str) and "." in kind:
        return None  # says again what was said
    return answer.get("output") or answer.get("content") or answer.get("text")
