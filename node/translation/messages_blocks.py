"""Anthropic's content blocks out of pieces that come in any order: one block is open at a time, in order of beginning."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from node import sse

_DELTAS: Final = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


class Block:
    """One content block, with the pieces of it that are not written yet."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.kind: str = start["type"]
        self.waiting: list[str] = []
        self.opened = False
        self.closed = False
        self._arguments = _Nesting()

    def add(self, piece: str) -> None:
        """A piece of its text or its arguments."""
        if piece:
            self.waiting.append(piece)
            if self.kind == "tool_use":
                self._arguments.read(piece)

    @property
    def may_close(self) -> bool:
        """Whether no more of it can come: text goes on in another block, arguments end with their last brace."""
        return self.kind != "tool_use" or self._arguments.complete


class BlockWriter:
    """Writes blocks as events. What belongs to another block waits until the open one is complete."""

    def __init__(self) -> None:
        self._queue: deque[Block] = deque()
        self._index = 0

    def prose(self, kind: str, piece: str) -> bytes:
        """A piece of `text` or `thinking`, which joins the last block if that is of its kind."""
        if not self._queue or self._queue[-1].kind != kind:
            empty = {"type": "text", "text": ""} if kind == "text" else {"type": kind, "thinking": "", "signature": ""}
            self._queue.append(Block(empty))
        self._queue[-1].add(piece)
        return self._write()

    def begin(self, block: Block) -> bytes:
        """A tool call, whose turn comes after what began before it."""
        self._queue.append(block)
        return self._write()

    def go_on(self, block: Block, piece: str) -> bytes:
        """A piece of a tool call's arguments."""
        block.add(piece)
        return self._write()

    def end(self) -> bytes:
        """All that waits, and the last block's stop."""
        written = b""
        while self._queue:
            written += self._write() + self._close()
        return written

    def _write(self) -> bytes:
        written = b""
        while True:
            written += self._open(self._queue[0])
            if len(self._queue) == 1 or not self._queue[0].may_close:
                return written
            written += self._close()

    def _open(self, block: Block) -> bytes:
        written = b""
        if not block.opened:
            block.opened = True
            written = self._event("content_block_start", {"content_block": block.start})
        if block.waiting:
            kind, field = _DELTAS[block.kind]
            written += self._event("content_block_delta", {"delta": {"type": kind, field: "".join(block.waiting)}})
            block.waiting.clear()
        return written

    def _close(self) -> bytes:
        written = self._event("content_block_stop", {})
        self._queue.popleft().closed = True
        self._index += 1
        return written

    def _event(self, kind: str, data: dict[str, Any]) -> bytes:
        return sse.write({"type": kind, "index": self._index, **data}, kind)


class _Nesting:
    """Whether a JSON object that comes in pieces is complete: braces are counted outside of strings, each letter once."""

    def __init__(self) -> None:
        self._depth = 0
        self._begun = False
        self._quoted = False
        self._escaped = False

    @property
    def complete(self) -> bool:
        return self._begun and self._depth <= 0

    def read(self, piece: str) -> None:
        for letter in piece:
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = letter == "\\"
                self._quoted = letter != '"'
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
                self._begun = True
            elif letter in "}]":
                self._depth -= 1
