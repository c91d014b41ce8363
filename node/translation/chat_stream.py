"""Anthropic's streamed message as chunks of a chat completion. Pure."""

from __future__ import annotations

from typing import Any, Final

from node import sse
from node.errors import UpstreamUnreachable
from node.translation import endings, tokens
from node.translation.answers import EventTranslation, arguments, fields, read, word
from relays.jsontext import folded
from relays.pricing import Usage

_BLOCK_START: Final = "content_block_start"
_START_INPUT_LEVEL: Final = 2
"""Where that event has the input of a tool, as deep as a model likes: `content_block.input`."""

_IN_A_MESSAGE: Final = (
    _BLOCK_START,
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
)


class _Call:
    """A tool call: its number among the calls, and the input that came with its start, as JSON text."""

    def __init__(self, number: int, given: object) -> None:
        self.number = number
        self.given = arguments(given) or "{}"
        self.said = False


class ChatStream(EventTranslation):
    """One stream. It ends well with `message_stop` alone."""

    def __init__(self, created: int) -> None:
        super().__init__()
        self._created = created
        self._started = False
        self._id = self._model = ""
        self._calls: dict[int, _Call] = {}
        self._called = 0
        self._stop: object = None
        self._usage: dict[str, Any] = {}

    @property
    def usage(self) -> Usage | None:
        return tokens.from_messages({"output_tokens": 0, **self._usage})

    def _read(self, data: bytes) -> dict[str, Any]:
        """An input that comes at once and nests too deeply is JSON text. Raises UpstreamUnreachable."""
        try:
            return read(data)
        except UpstreamUnreachable:
            event = read(folded(data, _START_INPUT_LEVEL))
            if event.get("type") != _BLOCK_START:
                raise
            return event

    def _take(self, event: dict[str, Any] | None) -> bytes:
        kind = "" if event is None else event.get("type")
        if event is None:
            return b""  # not a word of this language
        if kind == "error" or event.get("error"):
            self._over = True
            return sse.write(endings.CHAT_ERROR)
        if kind == "message_start":
            return self._start(fields(event.get("message")))
        if kind in _IN_A_MESSAGE and not self._started:
            raise UpstreamUnreachable("the upstream's stream did not begin with its message")
        if kind == _BLOCK_START:
            return self._block(event.get("index"), fields(event.get("content_block")))
        if kind == "content_block_delta":
            return self._delta(event.get("index"), fields(event.get("delta")))
        if kind == "content_block_stop":
            return self._block_end(event.get("index"))
        if kind == "message_delta":
            self._stop = fields(event.get("delta")).get("stop_reason") or self._stop
            self._note(fields(event.get("usage")))
        if kind != "message_stop":
            return b""
        self._said |= self._stop is not None
        self._check_said(self.usage)
        return self._close()

    def _start(self, message: dict[str, Any]) -> bytes:
        if self._started:
            return b""
        self._started = True
        self._id, self._model = "chatcmpl-" + word(message.get("id")), word(message.get("model"))
        # How much was written is not known yet; the number that stands here is a beginning.
        self._note({**fields(message.get("usage")), "output_tokens": None, "output_tokens_details": None})
        return self._chunk({"role": "assistant", "content": ""})

    def _block(self, index: object, block: dict[str, Any]) -> bytes:
        if block.get("type") in ("text", "thinking"):
            return self._prose(block.get("text"), block.get("thinking"))
        if block.get("type") != "tool_use" or type(index) is not int:
            return b""
        if not (name := word(block.get("name"))):
            raise UpstreamUnreachable("the upstream called a tool without a name")
        call = self._calls[index] = _Call(self._called, block.get("input"))
        self._called += 1
        function = {"name": name, "arguments": ""}
        call_id = word(block.get("id"), f"call_{self._id}_{call.number}")
        return self._piece({"index": call.number, "id": call_id, "type": "function", "function": function})

    def _delta(self, index: object, delta: dict[str, Any]) -> bytes:
        if delta.get("type") in ("text_delta", "thinking_delta"):
            return self._prose(delta.get("text"), delta.get("thinking"))
        call, piece = self._call(index), delta.get("partial_json")
        if delta.get("type") != "input_json_delta" or call is None or not isinstance(piece, str) or not piece:
            return b""
        call.said = True
        return self._piece({"index": call.number, "function": {"arguments": piece}})

    def _block_end(self, index: object) -> bytes:
        """Arguments that were never said piece by piece: clients of OpenAI read them as JSON, which nothing is not."""
        call = self._call(index)
        if call is None or call.said:
            return b""
        call.said = True
        return self._piece({"index": call.number, "function": {"arguments": call.given}})

    def _close(self) -> bytes:
        self._over = True
        finish = endings.finish_reason(self._stop, called=self._called > 0)
        written = self._chunk({}, finish)
        if (usage := tokens.from_messages(self._usage)) is not None:
            written += sse.write({**self._head(), "choices": [], "usage": tokens.for_chat(usage)})
        return written + sse.DONE

    def _note(self, usage: dict[str, Any]) -> None:
        """Counts are cumulative: the last of each holds."""
        self._usage |= {field: count for field, count in usage.items() if count is not None}

    def _call(self, index: object) -> _Call | None:
        return self._calls.get(index) if type(index) is int else None

    def _prose(self, text: object, thought: object) -> bytes:
        if isinstance(text, str) and text:
            return self._chunk({"content": text})
        return self._chunk({"reasoning_content": thought}) if isinstance(thought, str) and thought else b""

    def _piece(self, call: dict[str, Any]) -> bytes:
        return self._chunk({"tool_calls": [call]})

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        self._said |= "role" not in delta and bool(delta)
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse.write({**self._head(), "choices": [choice]})

    def _head(self) -> dict[str, Any]:
        return {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}
