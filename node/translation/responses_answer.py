"""A chat completion as OpenAI's Responses answer, whole or streamed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node import sse
from node.errors import UpstreamUnreachable
from node.translation import endings, tokens
from node.translation.answers import EventTranslation, arguments, fields, items, reasoned, said, word
from node.translation.calls import Calls
from node.translation.responses_output import Output
from relays.pricing import Usage

Json = dict[str, Any]
_CUT: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Chat's reasons of an answer that is not whole, in the words of Responses."""


class ResponsesStream(EventTranslation):
    """One stream. It ends well with `[DONE]`, or without it after a finish reason. `asked` is what an answer says again of
    its request."""

    def __init__(self, asked: Mapping[str, Any], created: int) -> None:
        super().__init__()
        self._answer = Answer(asked, created)
        self._started = False
        self._finish: str | None = None
        self._sequence = 0

    @property
    def usage(self) -> Usage | None:
        return self._answer.usage

    def _take(self, event: Json | None) -> bytes:
        if event is None:
            if not self._started:
                raise UpstreamUnreachable("the upstream's stream ended before it began")
            self._check_said(self.usage)
            return self._close()
        choice = next((each for each in items(event.get("choices")) if each.get("index") in (None, 0)), {})
        finish = choice.get("finish_reason")
        if event.get("error") or event.get("object") == "error" or finish == "error":
            self._over = True
            return self._write([endings.RESPONSES_ERROR])
        self._answer.note(event)
        if isinstance(finish, str) and finish:
            self._finish = finish
        begun, grown = self._start(event), self._answer.grow(fields(choice.get("delta")))
        self._said |= bool(grown or self._finish)
        return begun + self._write(grown)

    def _start(self, event: Json) -> bytes:
        # Azure's first event has neither: it tells of its filter.
        if self._started or not (event.get("id") or event.get("choices")):
            return b""
        self._started = True
        begun = self._answer.shown("in_progress")
        return self._write([{"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")])

    def _end(self) -> bytes:
        return b"" if self._finish is None else self._close()

    def _close(self) -> bytes:
        self._over = True
        status = _status(self._finish)
        last = self._answer.end(status)
        whole = self._answer.shown(status, self._finish)
        return self._write([*last, {"type": f"response.{status}", "response": whole}])

    def _write(self, events: list[Json]) -> bytes:
        written = []
        for event in events:
            written.append(sse.write({**event, "sequence_number": self._sequence}, event["type"]))
            self._sequence += 1
        return b"".join(written)


class Answer:
    """One answer, that grows by the messages or deltas of a chat completion."""

    def __init__(self, asked: Mapping[str, Any], created: int) -> None:
        self._asked = asked
        self._created = created
        self._begun = False
        self._id = self._model = ""
        self._calls = Calls()
        self._output = Output("")
        self.usage: Usage | None = None

    def note(self, chat: Json) -> None:
        """What a completion, or a chunk of one, says of itself."""
        if not self._begun and (chat.get("id") or chat.get("choices")):
            self._begun, self._id = True, word(chat.get("id"))
            self._output = Output(self._id)
        self._model = self._model or word(chat.get("model"))
        if chat.get("usage") is not None:
            self.usage = tokens.from_chat(chat["usage"])

    def grow(self, message: Json) -> list[Json]:
        """The events of what a message or a delta says."""
        events = self._output.say("reasoning", reasoned(message))
        events += self._output.say("output_text", said(message.get("content")))
        events += self._output.say("refusal", said(message.get("refusal")))
        for piece in items(message.get("tool_calls")):
            number, begins = self._calls.place(piece)
            function = fields(piece.get("function"))
            if begins:
                call_id = word(piece.get("id"), f"call_{self._id}_{number}")
                events += self._output.call(call_id, function["name"])
            events += self._output.argue(number, arguments(function.get("arguments")))
        return events

    def end(self, status: str) -> list[Json]:
        """The last events of its items."""
        return self._output.end(status)

    def shown(self, status: str, finish: object = None) -> Json:
        """The answer as it is now; `finish` is chat's reason of its end."""
        reason = _CUT.get(finish) if isinstance(finish, str) else None
        return {
            "id": "resp_" + self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": self._model,
            "output": [] if status == "in_progress" else self._output.shown(),
            **self._asked,
            "usage": None if self.usage is None else tokens.for_responses(self.usage),
        }


def whole_answer(chat: Json, asked: Mapping[str, Any], created: int) -> Json:
    """A chat completion as a response. Raises UpstreamUnreachable for what is none."""
    choice = next(iter(items(chat.get("choices"))), {})
    message, finish = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise UpstreamUnreachable("the upstream answered without a choice that has a message")
    answer = Answer(asked, created)
    answer.note(chat)
    # A whole answer's calls may be without numbers, and some number each of them 0.
    calls = [{**call, "index": number} for number, call in enumerate(items(message.get("tool_calls")))]
    answer.grow({**message, "tool_calls": calls})
    status = _status(finish)
    answer.end(status)
    return answer.shown(status, finish)


def _status(finish: object) -> str:
    return "incomplete" if isinstance(finish, str) and finish in _CUT else "completed"
