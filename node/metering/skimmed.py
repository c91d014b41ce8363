"""What is read of an event that is too long to be held, and passes in pieces: its type and its report, wherever they are."""

from __future__ import annotations

import re
from typing import Final

import msgspec

WINDOW_BYTES: Final = 4096
"""Of the piece before: a type or a report is shorter, and may be cut anywhere."""
# In a text quotes are escaped, so nothing that a model writes reads like either.
_TYPE: Final = re.compile(rb'"type"\s{0,16}:\s{0,16}"([a-z_.]{1,64})"')
_USAGE: Final = re.compile(rb'"usage"\s{0,16}:\s{0,16}(\{(?:[^{}"]|"[^"\\]{0,64}"|\{[^{}]{0,512}\}){0,1024}\})')


class Skimmed:
    """One such event; `data` is what is left of its data."""

    def __init__(self) -> None:
        self._window = b""
        self._type: bytes | None = None
        self._usage: bytes | None = None

    def feed(self, piece: bytes) -> None:
        seen = self._window + piece
        # The first `"type"` is the event's own where it stands before what it holds; Images API events hold no other.
        if self._type is None and (found := _TYPE.search(seen)) is not None:
            self._type = found[1]
        if (report := _USAGE.search(seen)) is not None:
            self._usage = report[1]
        self._window = seen[-WINDOW_BYTES:]

    @property
    def data(self) -> bytes:
        """A JSON object with the type and the report, as far as they were found."""
        told: dict[str, object] = {}
        if self._type is not None:
            told["type"] = self._type.decode()
        if self._usage is not None:
            told["usage"] = msgspec.Raw(self._usage)
        return msgspec.json.encode(told)
