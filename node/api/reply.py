"""One request and its reply on plain ASGI: the body in, headers and chunks out, and a caller who may leave at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from litestar.types import HTTPScope, Receive, Scope, Send

from node.errors import Refusal
from node.replay import MAX_KEPT_BYTES, Kept
from relays import payment

T = TypeVar("T")

LAST_WRITE_S: Final = 30.0
"""A caller that stopped reading does not keep its connection for longer."""

ID_HEADERS: Final = (payment.REQUEST_ID_HEADER, payment.ROUTSTR_ID_HEADER, "x-request-id", "request-id")
"""The last two are what OpenAI's and Anthropic's SDKs show."""

Headers = list[tuple[bytes, bytes]]


class CallerGone(Exception):
    """The caller closed the connection; nobody reads an answer."""


class Reply:
    """The response on its way out. `request_id` may change until it has started."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.started = False
        self._told: Mapping[str, str] = {}
        self._record: bytearray | None = None

    def tell(self, headers: Mapping[str, str]) -> None:
        """Headers that any answer is to have."""
        self._told = headers

    def record(self) -> None:
        """Remember what is streamed from now on, up to what is worth keeping."""
        self._record = bytearray()

    @property
    def recorded(self) -> bytes | None:
        """What was streamed; None when it was not recorded or is too long."""
        return None if self._record is None else bytes(self._record)

    async def whole(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        content_type: str = "application/json",
        challenges: Iterable[str] = (),
    ) -> None:
        """The whole response, with a line of `WWW-Authenticate` for each of the `challenges`. Raises TimeoutError for a
        caller that does not read."""
        fixed = [(b"content-type", content_type.encode("latin-1")), (b"content-length", str(len(body)).encode())]
        fixed += _encoded(("www-authenticate", challenge) for challenge in challenges)
        async with asyncio.timeout(LAST_WRITE_S):
            await self._start(status, [*fixed, *_encoded(headers.items())])
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def begin_stream(self, headers: Mapping[str, str] | None = None) -> None:
        """The head of a stream of events."""
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        fixed = [kind, (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await self._start(200, [*fixed, *_encoded((headers or {}).items())])

    async def write(self, chunk: bytes) -> None:
        """A piece of the stream."""
        if self._record is not None:
            self._record += chunk
            if len(self._record) > MAX_KEPT_BYTES:
                self._record = None
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """The end of the stream."""
        async with asyncio.timeout(LAST_WRITE_S):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def replay(self, kept: Kept, more: Mapping[str, str]) -> None:
        """An answer that was given before, with more headers of today."""
        headers = {**dict(kept.headers), payment.REPLAYED_HEADER: "true", **more}
        if not kept.is_stream:
            await self.whole(200, kept.body, headers, headers.pop("content-type", "application/json"))
            return
        await self.begin_stream(headers)
        async with asyncio.timeout(LAST_WRITE_S):
            await self.write(kept.body)
        await self.end()

    async def _start(self, status: int, headers: Headers) -> None:
        self.started = True
        ids = [(name.encode(), self.request_id.encode()) for name in ID_HEADERS]
        told = [*headers, *_encoded(self._told.items()), *ids]
        await self._send({"type": "http.response.start", "status": status, "headers": told})


def method_of(scope: Scope) -> str:
    """Of a request: nothing but HTTP comes to our endpoints."""
    return cast(HTTPScope, scope)["method"]


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The request body. Raises Refusal 413 at the header already, when that says too much, and 415 for one that is packed:
    a few bytes can unpack to gigabytes."""
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
        raise Refusal(415, payment.INVALID_REQUEST, "send the request as it is, without Content-Encoding")
    too_large = Refusal(413, payment.INVALID_REQUEST, f"the request is larger than {limit} bytes")
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise CallerGone
        chunks.append(message["body"])
        size += len(message["body"])
        if size > limit:
            raise too_large
        if not message["more_body"]:
            return b"".join(chunks)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the caller goes away; then raises CallerGone."""
    ours = asyncio.current_task()
    assert ours is not None, "requests run in tasks"
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        ours.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left and not ours.uncancel():  # by nobody else beside
            raise CallerGone from None
        raise
    finally:
        watching.cancel()


def _encoded(pairs: Iterable[tuple[str, str]]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
