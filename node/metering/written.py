"""What a stream wrote, counted as late as possible: most streams report it themselves."""

from __future__ import annotations

from typing import Final

from node.metering.texts import texts_of
from node.metering.tokens import count
from node.sse import data_of, split

MAX_KEPT_BYTES: Final = 256 * 1024
"""Events are kept for counting up to here, then counted and let go."""
MAX_COUNTED_CHARS: Final = 4096
"""Text is counted in pieces that do not depend on how the stream was cut."""


class Written:
    """Give it the events as they pass; `tokens` counts what is new in them."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._text: list[str] = []
        self._text_chars = 0
        self._tokens = 0

    @property
    def kept_bytes(self) -> int:
        """How much is kept for counting."""
        return self._kept_bytes

    def keep(self, events: bytes) -> None:
        self._kept.append(events)
        self._kept_bytes += len(events)
        if self._kept_bytes > MAX_KEPT_BYTES:
            self._read()

    def tokens(self) -> int:
        """All tokens so far."""
        self._read()
        return self._tokens + (count("".join(self._text)) if self._text else 0)

    def _read(self) -> None:
        for events in self._kept:
            for event in split(events):
                for text in texts_of(data_of(event)):
                    self._take(text)
        self._kept, self._kept_bytes = [], 0

    def _take(self, text: str) -> None:
        self._text.append(text)
        self._text_chars += len(text)
        if self._text_chars > MAX_COUNTED_CHARS:
            self._tokens += count("".join(self._text))
            self._text, self._text_chars = [], 0
