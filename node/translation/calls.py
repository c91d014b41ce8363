"""Which tool call a piece of a chat stream belongs to. Pure."""

from __future__ import annotations

from typing import Any

from node.errors import UpstreamUnreachable
from node.translation.answers import fields, word


class Calls:
    """The tool calls of one stream, numbered as they begin."""

    def __init__(self) -> None:
        self._at: dict[int, tuple[int, str]] = {}
        """By the server's index, the number of the call that is there and its id."""
        self._last = -1
        self.begun = 0

    def place(self, piece: dict[str, Any]) -> tuple[int, bool]:
        """The number of the call that a piece is of, and whether that begins with it. Raises UpstreamUnreachable for one
        without a name."""
        name, call_id = word(fields(piece.get("function")).get("name")), word(piece.get("id"))
        index = piece.get("index")
        if type(index) is not int:  # some servers send whole calls without numbers
            index = self._last + bool(name)
        self._last = index
        number, known_id = self._at.get(index, (-1, ""))
        # Some give every call the number 0: a name with another id begins another call.
        if number >= 0 and not (name and call_id and call_id != known_id):
            return number, False
        if not name:
            raise UpstreamUnreachable("the upstream called a tool without a name")
        number, self.begun = self.begun, self.begun + 1
        self._at[index] = number, call_id
        return number, True
