"""The HTTP application of a counter: paid requests of who has a key, and everything else passed on to the till."""

from __future__ import annotations

from typing import Final, cast

from litestar.types import ASGIApp, HTTPReceiveMessage, Receive, Scope, Send

from node.api.browsers import for_pages_too
from node.api.intake import Intake
from node.api.paid import paid_endpoints
from node.api.reply import method_of
from node.errors import NotHere
from node.node import Node
from relays import payment

CASH: Final = payment.CASHU_HEADER.encode()
CREDENTIALS: Final = (b"authorization", b"x-api-key")


class _Read:
    """A request's body as it is read, which the till is sent if it is not served here after all."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[HTTPReceiveMessage] = []

    async def receive(self) -> HTTPReceiveMessage:
        message = cast(HTTPReceiveMessage, await self._receive())
        if message["type"] == "http.request":
            self._messages.append(message)
        return message

    async def again(self) -> HTTPReceiveMessage:
        return self._messages.pop(0) if self._messages else cast(HTTPReceiveMessage, await self._receive())


def create_counter(node: Node, till: ASGIApp) -> ASGIApp:
    """The application of the counter `node`, which must be open."""
    served = paid_endpoints(node, Intake(node.settings.max_body_bytes))

    async def counter(scope: Scope, receive: Receive, send: Send) -> None:
        paid = served.get(scope["path"])
        headers, method = dict(scope["headers"]), method_of(scope)
        if paid is None or method != "POST" or CASH in headers or not any(c in headers for c in CREDENTIALS):
            await till(scope, receive, send)
            return
        read = _Read(receive)
        try:
            await paid(scope, read.receive, send)
        except NotHere:
            await till(scope, read.again, send)

    return for_pages_too(counter)
