"""Why an answer ended, and that it broke off on its way, in the two languages. Pure."""

from __future__ import annotations

from typing import Final

_STOP_REASONS: Final = {"length": "max_tokens", "content_filter": "refusal"}
_FINISH_REASONS: Final = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_FAILED: Final = "the model's server failed while it answered"
"""Its own words stay here: they may tell of the operator's account."""
CHAT_ERROR: Final = {"error": {"message": _FAILED, "type": "server_error", "param": None, "code": None}}
"""How a stream of OpenAI's breaks off."""
RESPONSES_ERROR: Final = {"type": "error", "code": "server_error", "message": _FAILED, "param": None}
"""How one of OpenAI's Responses does."""
MESSAGES_ERROR: Final = {"type": "error", "error": {"type": "api_error", "message": _FAILED}}
"""How one of Anthropic's does."""


def stop_reason(finish: object, *, called: bool, refused: bool) -> str:
    """Anthropic's word. Servers that call tools and say `stop` exist, and clients go by this word."""
    if isinstance(finish, str) and finish in _STOP_REASONS:
        return _STOP_REASONS[finish]
    if refused:
        return "refusal"
    return "tool_use" if called else "end_turn"


def finish_reason(stop: object, *, called: bool) -> str:
    """OpenAI's word."""
    if isinstance(stop, str) and stop in _FINISH_REASONS:
        return _FINISH_REASONS[stop]
    return "tool_calls" if called else "stop"
