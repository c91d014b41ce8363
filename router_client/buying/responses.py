"""OpenAI's Responses as their buyer reads them: events with types, of which the last says the whole answer again."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from relays.errors import InvalidJson
from relays.jsontext import from_json
from router_client.buying.reading import Piece
from router_client.buying.stream import AnswerStream

NULL: Final = msgspec.Raw(b"null")
SILENT: Final = ("response.created", "response.queued", "response.in_progress")
"""Events before an answer begins."""
FAILED: Final = ("error", "response.failed")
LAST: Final = ("response.completed", "response.incomplete")
TEXT: Final = "response.output_text.delta"
CALLS: Final = ("function_call", "custom_tool_call")
CUT_OFF: Final = "max_output_tokens"


class _Event(msgspec.Struct):
    type: str = ""
    delta: Any = None
    message: Any = None
    """Of an error, beside its type."""
    error: Any = None
    """Of one in the form that chat has."""
    response: msgspec.Raw = NULL


class _Item(msgspec.Struct):
    type: str = ""


class _Response(msgspec.Struct):
    """The whole answer, as far as it is looked at."""

    output: list[_Item]
    incomplete_details: Any = None
    error: Any = None


class ResponseStream(AnswerStream):
    """It is whole with its last event; until then it is no answer."""

    def end(self) -> None:
        if self.body is None and self.error is None:
            raise self._broken("the stream ended without its last event")

    def _take_data(self, data: str) -> None:
        try:
            event = from_json(data, _Event)
        except InvalidJson:
            return
        if event.type in FAILED or event.error is not None:
            self.error = _failure(event)
        elif event.type in LAST:
            self._conclude(event.type, data, event.response)
        elif event.type:
            said = event.delta if event.type == TEXT and isinstance(event.delta, str) else ""
            if event.type not in SILENT:
                self._say(said)
            self._untold.append(Piece(data, event=event.type, said=said))

    def _conclude(self, type_: str, data: str, raw: msgspec.Raw) -> None:
        try:
            response, self.body = from_json(bytes(raw), _Response), dict(from_json(bytes(raw), dict[str, msgspec.Raw]))
        except InvalidJson:
            self.error = "its last event has no response"
            return
        why = response.incomplete_details.get("reason") if isinstance(response.incomplete_details, dict) else None
        if type_ != LAST[0]:
            self.finish_reason = "length" if why in (None, CUT_OFF) else str(why)
        else:
            self.finish_reason = "tool_calls" if any(item.type in CALLS for item in response.output) else "stop"
        self.done = True
        self._say("")
        self._untold.append(Piece(data, event=type_, is_last=True))


def _failure(event: _Event) -> str:
    """In the server's words."""
    error = event.error
    if event.type == "response.failed":
        try:
            error = from_json(bytes(event.response), _Response).error
        except InvalidJson:
            error = None
    words = error.get("message") if isinstance(error, dict) else error
    return str(event.message or words or "the answer failed")
