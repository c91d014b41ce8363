"""A caller's connection: what comes of a request before anybody looks at it has a bound in bytes and in time, and so has the
wait for who takes no answer.

uvicorn's own reads heads and trailers of any length, put together ever more slowly while all others wait, waits for ever for
the next byte and for the last to be taken, and takes trailers for headers.
"""

from __future__ import annotations

from asyncio import BaseTransport, TimerHandle, Transport
from http import HTTPStatus
from typing import Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from node.api.errors import error_body, new_request_id
from node.api.reply import ID_HEADERS
from node.errors import Refusal
from relays import payment

MAX_HEAD_BYTES: Final = 256 * 1024
"""Of a head; of trailers too. The longest token takes 100,000."""
HEAD_S: Final = 30.0
"""For the first request of a connection to begin, and for the head of each to come."""
BODY_S: Final = 300.0
"""For the rest of it: the largest through Tor."""
STUCK_S: Final = 60.0
"""A caller who takes nothing of an answer for so long has left: what is not taken is kept in memory."""


class Connection(HttpToolsProtocol):
    """One of them."""

    _late: TimerHandle | None = None
    _late_s = 0.0
    """What it was set to."""
    _bare_bytes = 0
    """Of the request that is on its way, since there was a piece of its body."""
    _is_whole = _has_head = _has_piece = False
    _stuck: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Transport, transport))
        self._wait(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(0)
        self._heed_taking(0)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._heed_taking(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._heed_taking(0)
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self._is_whole = self._has_piece = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_whole:
            self._bare_bytes = 0
            self._wait(0)
            return
        self._bare_bytes = 0 if self._has_piece else self._bare_bytes + len(data)
        if self._bare_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the head of this request is longer than {MAX_HEAD_BYTES} bytes")
            return
        self._wait(BODY_S if self._has_head else HEAD_S)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_whole = self._has_head = False

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._has_head = True
        self.headers = []  # for trailers, which nobody reads

    def on_body(self, body: bytes) -> None:
        self._has_piece = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_whole, self._has_head = True, False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no HTTP request that can be read")

    def _wait(self, within_s: float) -> None:
        """For what is to come next, since it began to be waited for; 0: for nothing."""
        if self._late is not None:
            if self._late_s == within_s:
                return
            self._late.cancel()
        self._late_s = within_s
        self._late = self.loop.call_later(within_s, self._give_up) if within_s else None

    def _heed_taking(self, left_bytes: int) -> None:
        """Of so much of an answer that is left, something is taken soon."""
        if self._stuck is not None:
            self._stuck.cancel()
        self._stuck = self.loop.call_later(STUCK_S, self._look, left_bytes) if left_bytes else None

    def _look(self, left_bytes: int) -> None:
        now_bytes = self.transport.get_write_buffer_size()
        if now_bytes < left_bytes:
            self._heed_taking(now_bytes)
        else:
            self.transport.abort()

    def _give_up(self) -> None:
        self._late = None
        if self._is_answering:  # another one came behind the request that is served
            self._wait(self._late_s)
        elif not (self._bare_bytes or self._has_head):
            self.transport.close()
        else:
            self._refuse(408, f"the request did not come within {self._late_s:g} s")

    @property
    def _is_answering(self) -> bool:
        cycle = self.cycle
        if self.pipeline:
            return True
        return cycle is not None and not cycle.response_complete and (cycle.response_started or not cycle.more_body)

    def _refuse(self, status: int, message: str) -> None:
        """The last answer of this connection; none within another."""
        self._wait(0)
        if not self._is_answering:
            request_id = new_request_id()
            body = error_body(Refusal(status, payment.INVALID_REQUEST, message), request_id)
            told = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            lines = [f"{name}: {value}\r\n" for name, value in (told | dict.fromkeys(ID_HEADERS, request_id)).items()]
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{''.join(lines)}\r\n"
            self.transport.write(head.encode("ascii") + body)
        self.transport.close()
