"""What a model wrote, in an answer or a chunk of one, whatever its language. Not understood is not free."""

from __future__ import annotations

from typing import Any, Final

from node.metering.tokens import strings_in
from relays.errors import InvalidJson
from relays.jsontext import from_json

_PIECES: Final = {
    "content_block_start": ("content_block", ("text", "thinking", "input")),
    "content_block_delta": ("delta", ("text", "thinking", "partial_json")),
}
"""Where Anthropic's events have their text."""
_THOUGHTS: Final = ("reasoning_content", "reasoning", "reasoning_details")
"""What servers of chat call a model's thoughts; some send them under two of these names, or all."""


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
        return [_once(choice.get("delta") or choice.get("message") or choice.get("text")) for choice in said]
    if isinstance(kind, str) and kind in _PIECES:
        place, fields = _PIECES[kind]
        piece = answer.get(place)
        return [piece.get(field) for field in fields] if isinstance(piece, dict) else None
    if isinstance(kind, str) and kind.endswith(".delta"):
        return answer.get("delta")  # responses and transcriptions
    if isinstance(kind, str) and "." in kind:
        return None  # says again what was said
    return answer.get("output") or answer.get("content") or answer.get("text")


def _once(said: Any) -> Any:
    """A message, or a piece of one, without the thoughts that it says again."""
    if not isinstance(said, dict):
        return said
    again = [name for name in _THOUGHTS if said.get(name)][1:]
    return {name: value for name, value in said.items() if name not in again} if again else said
