"""`POST /v1/chat/completions`: the hot path, straight on ASGI, so that stream chunks pass without being wrapped."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from node.api.errors import as_refusal, error_body, new_request_id
from node.errors import Refusal
from node.node import Node
from node.quote import Quote, quote_chat
from relays import payment, receipt

T = TypeVar("T")

LAST_WRITE_S = 30.0
"""A caller that stopped reading does not keep its connection for longer."""

Headers = list[tuple[bytes, bytes]]


class CallerGone(Exception):
    """The caller closed the connection; nobody reads an answer."""


def chat_route(node: Node) -> ASGIRouteHandler:
    """The handler for one node."""

    @asgi(["/v1/chat/completions", "/chat/completions"], copy_scope=False)
    async def chat(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_request_id()
        reply = _Reply(send, request_id)
        try:
            if scope["method"] != "POST":  # type: ignore[typeddict-item] # asgi handlers get HTTP scopes alone
                raise Refusal(405, payment.INVALID_REQUEST, "use POST", headers={"allow": "POST"})
            headers = dict(scope["headers"])
            quote = quote_chat(await _read_body(headers, receive, node.settings.max_body_bytes), node.catalogue)
            authorization = headers.get(b"authorization", b"").decode("latin-1")
            await _while_connected(receive, _serve(node, reply, request_id, quote, authorization))
        except (CallerGone, TimeoutError):  # nobody reads any more; the books are closed already
            return
        except Exception as error:  # noqa: BLE001 - the edge: whatever it was, the caller gets an answer and the log a line
            refusal = as_refusal(error)
            if not reply.started:
                await reply.whole(refusal.status, error_body(refusal, request_id), _headers(refusal.headers.items()))
            else:
                await reply.end()

    return chat


async def _serve(node: Node, reply: _Reply, request_id: str, quote: Quote, authorization: str) -> None:
    key = await node.credentials.key(authorization)
    await node.completions.hold(key, request_id, quote)
    if quote.stream:
        stream = await node.completions.open_stream(request_id, quote)
        await stream.run(reply.begin_stream, reply.write)
        await reply.end()
        return
    answer = await node.completions.answer(request_id, quote)
    paid = {
        payment.COST_HEADER: str(answer.cost_msat),
        payment.BALANCE_HEADER: str(answer.balance_msat),
        payment.RECEIPT_HEADER: receipt.to_header(answer.receipt),
    }
    await reply.whole(200, answer.body, _headers(paid.items()))


class _Reply:
    """The response on its way out."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._id = (payment.REQUEST_ID_HEADER.encode(), request_id.encode())
        self.started = False

    async def whole(self, status: int, body: bytes, headers: Headers) -> None:
        length = (b"content-length", str(len(body)).encode())
        async with asyncio.timeout(LAST_WRITE_S):
            await self._start(status, [(b"content-type", b"application/json"), length, self._id, *headers])
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def begin_stream(self) -> None:
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        await self._start(200, [kind, (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"), self._id])

    async def write(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        async with asyncio.timeout(LAST_WRITE_S):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, status: int, headers: Headers) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


async def _read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The request body. Raises Refusal 413 at the header already, when that says too much."""
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


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the caller goes away; then raises CallerGone."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CallerGone
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(pairs: Iterable[tuple[str, str]]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
