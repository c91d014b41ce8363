"""What has come of the requests that are being read, of all callers together: nobody has said yet who pays for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from litestar.types import Receive, ReceiveMessage

from node.errors import Refusal
from relays import payment

ALWAYS_BYTES: Final = 128 * 1024
"""Of each request, which do not count: who fills the room with large ones keeps no small one out."""
LARGEST_AT_ONCE: Final = 8
"""Requests of the largest size for which there is room."""


class Intake:
    """Room for requests that are being read, beside the small ones."""

    def __init__(self, max_body_bytes: int) -> None:
        self._room_bytes = LARGEST_AT_ONCE * max_body_bytes
        self._taken_bytes = 0

    @contextmanager
    def reading(self, receive: Receive) -> Iterator[Receive]:
        """A block in which a request is read, by what is given in the place of `receive`, and looked through. Reading raises
        Refusal 503 when there is no room."""
        size = taken = 0

        async def receive_in_room() -> ReceiveMessage:
            nonlocal size, taken
            message = await receive()
            if message["type"] == "http.request" and (piece := len(message["body"])):
                size += piece
                more = max(0, size - ALWAYS_BYTES) - taken
                if self._taken_bytes + more > self._room_bytes:
                    raise _no_room()
                taken += more
                self._taken_bytes += more
            return message

        try:
            yield receive_in_room
        finally:
            self._taken_bytes -= taken


def _no_room() -> Refusal:
    message = "other large requests are being read: try again in a moment"
    return Refusal(503, payment.INTERNAL, message, headers={"retry-after": "2"})
