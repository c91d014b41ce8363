"""Why an answer ended, and how it failed on its way, between the two languages. Pure."""

from __future__ import annotations

from typing import Any, Final

from node.translation.answers import fields, said, word

_STOP_REASONS: Final = {"length": "max_tokens", "content_filter": "refusal"}
_FINISH_REASONS: Final = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
# Others would tell the caller of the node's own account, such as a key that is wrong.
_TOLD_ERRORS: Final = ("invalid_request_error", "rate_limit_error", "overloaded_error")
_MAX_MESSAGE: Final = 500


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


def messages_error(error: object) -> dict[str, Any]:
    """An upstream's error as Anthropic tells it."""
    kind = fields(error).get("type")
    return {"type": "error", "error": {"type": kind if kind in _TOLD_ERRORS else "api_error", "message": _told(error)}}


def chat_error(error: object) -> dict[str, Any]:
    """An upstream's error as OpenAI tells it."""
    kind = fields(error).get("type")
    known = kind in ("invalid_request_error", "rate_limit_error")
    code = kind if kind in _TOLD_ERRORS else None
    return {"error": {"message": _told(error), "type": kind if known else "server_error", "param": None, "code": code}}


def _told(error: object) -> str:
    message = said(fields(error).get("message")) or word(error)
    return message[:_MAX_MESSAGE] or "the model's server failed while it answered"
