"""Requests passed on to the till over its socket, and its answers back, piece by piece: the caller sees one node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
from litestar.types import Receive, ReceiveMessage, Scope, Send
from multidict import CIMultiDict
from yarl import URL

from node.api.errors import error_body, new_request_id
from node.api.reply import ID_HEADERS, LAST_WRITE_S, CallerGone, method_of, while_connected
from node.errors import Refusal
from relays import payment

log = logging.getLogger(__name__)

MAX_AT_ONCE: Final = 1000
WAIT_S: Final = 10.0
"""For a place among those, and for the till to take a connection."""
RETRY_S: Final = 2
STUCK_S: Final = 60.0
"""A caller who does not take a piece for so long does not keep its place."""
MAX_FIELD_BYTES: Final = 256 * 1024
"""Of a header of the till's answers: change is a token of as many coins as it takes."""
OF_THE_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"}
)
OURS: Final = OF_THE_CONNECTION | {b"date"}
"""What the server of this process writes itself."""


class Passing:
    """A reverse proxy to one Unix socket, as an ASGI application."""

    def __init__(self, path: Path) -> None:
        # A connection for each: one that was kept could be closed by the till just as a request is sent.
        connector = aiohttp.UnixConnector(str(path), limit=MAX_AT_ONCE, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(connect=WAIT_S),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_field_size=MAX_FIELD_BYTES,
        )

    async def close(self) -> None:
        await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = asyncio.Event()
        """The request has gone out; until then `receive` gives its body, and from then on whether the caller has left."""

        async def body() -> AsyncIterator[bytes]:
            while (message := await receive())["type"] == "http.request":
                yield message["body"]
                if not message["more_body"]:
                    sent.set()
                    return
            raise CallerGone

        async def gone() -> ReceiveMessage:
            await sent.wait()
            return await receive()

        asked = dict(scope["headers"])
        has_body = asked.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in asked
        if not has_body:
            sent.set()
        try:
            await while_connected(gone, self._passed(scope, body() if has_body else None, send))
        except (CallerGone, TimeoutError):
            return

    async def _passed(self, scope: Scope, body: AsyncIterator[bytes] | None, send: Send) -> None:
        begun = False
        try:
            async with self._session.request(
                method_of(scope),
                _url(scope),
                headers=_asked(scope),
                data=body,
                allow_redirects=False,
            ) as answer:
                headers = [(name.lower(), value) for name, value in answer.raw_headers if name.lower() not in OURS]
                begun = True
                await send({"type": "http.response.start", "status": answer.status, "headers": headers})
                while chunk := await answer.content.readany():
                    async with asyncio.timeout(STUCK_S):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                async with asyncio.timeout(LAST_WRITE_S):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (aiohttp.ClientError, OSError) as error:
            log.warning("the till did not answer: %r", error)
            if not begun:  # else the connection is cut, as the till's was
                await _unavailable(send)


async def _unavailable(send: Send) -> None:
    message = "a part of this node is starting again: try again in a moment"
    refusal, request_id = Refusal(503, payment.INTERNAL, message), new_request_id()
    told = [*dict.fromkeys(ID_HEADERS, request_id).items(), ("retry-after", str(RETRY_S))]
    headers = [(b"content-type", b"application/json"), *((name.encode(), value.encode()) for name, value in told)]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": error_body(refusal, request_id), "more_body": False})


def _url(scope: Scope) -> URL:
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return URL.build(scheme="http", host="till", path=path or "/", query_string=query, encoded=True)


def _asked(scope: Scope) -> CIMultiDict[str]:
    return CIMultiDict(
        (name.decode("latin-1"), value.decode("utf-8", "replace"))
        for name, value in scope["headers"]
        if name not in OF_THE_CONNECTION
    )
