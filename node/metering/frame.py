"""Events of a stream that differ from each other in their text alone: what one was looked at for, the next need not be.

Whatever is looked for in an event stands between quotation marks, or begins a line. A text without either adds nothing to
what stands around it, so that an event in the same frame is passed on as the one before was.
"""

from __future__ import annotations

import re
from typing import Final

_TEXT: Final = re.compile(rb'"(?:content|text|thinking)":\s?"')
"""Where a text begins in a piece of an answer, in OpenAI's and Anthropic's streams."""
END: Final = b"\n\n"
MOST_MISSES: Final = 8
"""A stream whose events are all framed otherwise is not tried for longer."""


class Frame:
    """What stood around the text of the last event that held nothing but text, and around it as it was passed on."""

    def __init__(self) -> None:
        self._head = self._tail = b""
        self._passed: tuple[bytes, bytes] | None = None
        """None: it is passed on as it is."""
        self._misses = 0

    def learn(self, event: bytes, passed: bytes) -> None:
        """From an event with its boundary, and what was passed on of it."""
        self.forget()
        if self._misses == MOST_MISSES or event.count(END) != 1 or not event.endswith(END):
            return
        around, shown = _around(event), _around(passed)
        if around is not None and shown is not None:
            (self._head, self._tail), self._passed = around, None if passed == event else shown
            self._misses += 1

    def forget(self) -> None:
        """What came was of another kind."""
        self._head = b""

    def passed(self, chunk: bytes) -> bytes | None:
        """What is passed on of a chunk that is one event like that, but for its text; None if it is anything else."""
        head, tail = self._head, self._tail
        if not head or not chunk.startswith(head) or not chunk.endswith(tail):
            return None
        text = chunk[len(head) : -len(tail)]
        if b'"' in text or b"\n" in text or b"\r" in text or len(chunk) < len(head) + len(tail):
            return None
        self._misses = 0
        return chunk if self._passed is None else self._passed[0] + text + self._passed[1]


def _around(event: bytes) -> tuple[bytes, bytes] | None:
    begin = _TEXT.search(event)
    end = -1 if begin is None else event.find(b'"', begin.end())
    return None if begin is None or end == -1 else (event[: begin.end()], event[end:])
