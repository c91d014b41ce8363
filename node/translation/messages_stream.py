"""A streamed chat completion as Anthropic's events. Pure."""

from __future__ import annotations

from typing import Any

from node import sse
from node.errors import UpstreamUnreachable
from node.translation import endings, tokens
from node.translation.answers import EventTranslation, arguments, fields, items, reasoned, said, word
from node.translation.calls import Calls
from node.translation.messages_blocks import Block, BlockWriter
from relays.pricing import Usage


class MessagesStream(EventTranslation):
    """One stream. It ends well with `[DONE]`, or without it after a finish reason."""

    def __init__(self) -> None:
        super().__init__()
        self._id = ""
        self._started = False
        self._blocks = BlockWriter()
        self._calls = Calls()
        self._open: list[Block] = []
        """Of each call, by its number."""
        self._refused = False
        self._finish: str | None = None
        self.usage: Usage | None = None

    def _take(self, event: dict[str, Any] | None) -> bytes:
        if event is None:
            if not self._started:
                raise UpstreamUnreachable("the upstream's stream ended before it began")
            self._check_said(self.usage)
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
        begun, written = self._start(event), self._delta(fields(choice.get("delta")))
        self._said |= bool(written or self._finish)
        return begun + written

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
        number, begins = self._calls.place(piece)
        function = fields(piece.get("function"))
        written = b""
        if begins:
            call_id = word(piece.get("id"), f"toolu_{self._id}_{number}")
            self._open.append(Block({"type": "tool_use", "id": call_id, "name": function["name"], "input": {}}))
            written = self._blocks.begin(self._open[number])
        block, said_arguments = self._open[number], arguments(function.get("arguments"))
        if not block.closed:
            return written + self._blocks.go_on(block, said_arguments)
        if said_arguments.strip():
            raise UpstreamUnreachable("the upstream went on with a tool call that was complete")
        return written

    def _fail(self) -> bytes:
        self._over = True
        return sse.write(endings.MESSAGES_ERROR, "error")

    def _end(self) -> bytes:
        return b"" if self._finish is None else self._close()

    def _close(self) -> bytes:
        self._over = True
        reason = endings.stop_reason(self._finish, called=self._calls.begun > 0, refused=self._refused)
        # Anthropic's SDK breaks on a missing usage; an empty one says as little.
        usage = {} if self.usage is None else tokens.for_messages(self.usage)
        last = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
        stop = sse.write({"type": "message_stop"}, "message_stop")
        return self._blocks.end() + sse.write(last, "message_delta") + stop
