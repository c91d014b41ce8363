"""A streamed chat completion as Anthropic's events. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from node import sse
from node.errors import UpstreamUnreachable
from node.translation import endings, tokens
from node.translation.answers import EventTranslation, fields, items, reasoned, said, word
from node.translation.messages_blocks import Block, BlockWriter
from relays.pricing import Usage


class MessagesStream(EventTranslation):
    """One stream. It ends well with `[DONE]`, or without it after a finish reason."""

    def __init__(self) -> None:
        super().__init__()
        self._id = ""
        self._started = False
        self._blocks = BlockWriter()
        self._calls: dict[int, Block] = {}
        self._last_call = -1
        self._called = 0
        self._refused = False
        self._finish: str | None = None
        self.usage: Usage | None = None

    def _take(self, event: dict[str, Any] | None) -> bytes:
        if event is None:
            if not self._started:
                raise UpstreamUnreachable("the upstream's stream ended before it began")
            return self._close()
        choice = next((each for each in items(event.get("choices")) if each.get("index") in (None, 0)), {})
        if event.get("error") or event.get("object") == "error":
            return self._fail()
        if event.get("usage") is not None:
            self.usage = tokens.from_chat(event["usage"])
        finish = choice.get("finish_reason")
        if finish == "error":
            return self._fail()
        if isinstance(finish, str) and finish:
            self._finish = finish
        return self._start(event) + self._delta(fields(choice.get("delta")))

    def _start(self, event: dict[str, Any]) -> bytes:
        # Azure's first event has neither: it tells of its filter.
        if self._started or not (event.get("id") or event.get("choices")):
            return b""
        self._started = True
        self._id = word(event.get("id"))
        usage = {"input_tokens": 0, "output_tokens": 0} if self.usage is None else tokens.for_messages(self.usage)
        message: dict[str, Any] = {
            "id": "msg_" + self._id,
            "type": "message",
            "role": "assistant",
            "model": word(event.get("model")),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return sse.write({"type": "message_start", "message": message}, "message_start")

    def _delta(self, delta: dict[str, Any]) -> bytes:
        written = b""
        if thought := reasoned(delta):
            written += self._blocks.prose("thinking", thought)
        if text := said(delta.get("content")):
            written += self._blocks.prose("text", text)
        if refusal := said(delta.get("refusal")):
            self._refused = True
            written += self._blocks.prose("text", refusal)
        for piece in items(delta.get("tool_calls")):
            written += self._call(piece)
        return written

    def _call(self, piece: dict[str, Any]) -> bytes:
        function = fields(piece.get("function"))
        name, call_id = word(function.get("name")), word(piece.get("id"))
        index = piece.get("index")
        if type(index) is not int:  # some servers send whole calls without numbers
            index = self._last_call + bool(name)
        self._last_call = index
        block = self._calls.get(index)
        # Some give every call the number 0: a name with another id begins another call.
        written = b""
        if block is None or (name and call_id and call_id != block.start["id"]):
            block = self._calls[index] = self._new_call(name, call_id)
            written = self._blocks.begin(block)
        arguments = _arguments(function.get("arguments"))
        if not block.closed:
            return written + self._blocks.go_on(block, arguments)
        if arguments.strip():
            raise UpstreamUnreachable("the upstream went on with a tool call that was complete")
        return written

    def _new_call(self, name: str, call_id: str) -> Block:
        if not name:
            raise UpstreamUnreachable("the upstream called a tool without a name")
        call_id = call_id or f"toolu_{self._id}_{self._called}"
        self._called += 1
        return Block({"type": "tool_use", "id": call_id, "name": name, "input": {}})

    def _fail(self) -> bytes:
        self._over = True
        return sse.write(endings.MESSAGES_ERROR, "error")

    def _end(self) -> bytes:
        return b"" if self._finish is None else self._close()

    def _close(self) -> bytes:
        self._over = True
        reason = endings.stop_reason(self._finish, called=self._called > 0, refused=self._refused)
        # Anthropic's SDK breaks on a missing usage; an empty one says as little.
        usage = {} if self.usage is None else tokens.for_messages(self.usage)
        last = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
        stop = sse.write({"type": "message_stop"}, "message_stop")
        return self._blocks.end() + sse.write(last, "message_delta") + stop


def _arguments(arguments: object) -> str:
    """A piece of JSON text; some servers send the object itself."""
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments if isinstance(arguments, str) else ""
