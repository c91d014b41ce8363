"""One HTTP exchange by ASGI: a bounded request in, an answer out, whole or in pieces, and whether anyone still waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from relays import payment
from relays.errors import InvalidJson
from relays.jsontext import from_cut_json, has_many, too_deep
from router_client.proxy.refusal import Refusal, bad
from router_client.proxy.replay import Kept, Once

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
MAX_READING_BYTES: Final = 4 * MAX_BODY_BYTES
"""Of all requests that are being read."""
MAX_VALUES: Final = 200_000
MAX_MESSAGES: Final = 10_000
"""While a request is looked through, all others wait."""
READ_S: Final = 60.0
"""For the whole request."""
WRITE_S: Final = 60.0
"""For a piece of the answer: who does not read for so long has left."""
JSON: Final = "application/json"


class CallerLeft(Exception):
    """Nobody waits for the answer any more."""


class Reading:
    """The requests that are being read, and what has come of them so far, in bytes."""

    def __init__(self) -> None:
        self.requests = 0
        self.size = 0


class Exchange:
    """A request and its answer."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.begun = False
        """Whether the head of the answer is out."""
        self.left = asyncio.Event()
        """Whether nobody waits for the answer any more."""
        self.once: Once | None = None
        """Of a request that its caller has named: it is not to be paid twice."""
        self._receive = receive
        self._send = send

    async def body(self, reading: Reading | None = None) -> dict[str, Any]:
        """The request's JSON object, read beside those of `reading`. Raises Refusal, or CallerLeft."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON or self.headers.get("content-encoding", "identity") != "identity":
            raise bad(f"send plain JSON: Content-Type: {JSON}, and no Content-Encoding", 415)
        length = self.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            raise bad(f"the request is larger than {MAX_BODY_BYTES} bytes", 413)
        try:
            async with asyncio.timeout(READ_S):
                raw = await self._raw(reading or Reading())
        except TimeoutError:
            raise bad(f"the request did not come within {READ_S:g} s", 408) from None
        if has_many(raw, MAX_VALUES):
            raise bad(f"the request has more than {MAX_VALUES} values", 413)
        try:
            body = from_cut_json(raw)
        except InvalidJson as error:
            raise bad(f"the request is not JSON that can be read: {error}") from error
        if not isinstance(body, dict) or too_deep(body):
            raise bad("the request is not a JSON object, or nests too deeply")
        said = body.get("messages") or body.get("input")
        if isinstance(said, list) and len(said) > MAX_MESSAGES:
            raise bad(f"the request has more than {MAX_MESSAGES} messages or inputs", 413)
        return body

    async def _raw(self, reading: Reading) -> bytes:
        raw = bytearray()
        reading.requests += 1
        try:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise CallerLeft
                piece = message.get("body", b"")
                reading.size += len(piece)
                raw += piece
                if len(raw) > MAX_BODY_BYTES:
                    raise bad(f"the request is larger than {MAX_BODY_BYTES} bytes", 413)
                if reading.size > MAX_READING_BYTES:
                    raise too_busy("other large requests are being read")
                if not message.get("more_body"):
                    return bytes(raw)
        finally:
            reading.requests -= 1
            reading.size -= len(raw)

    async def gone(self) -> None:
        """Return when the caller has left. The body has been read before."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def again(self, kept: Kept) -> None:
        """Answer as before."""
        await self.begin(kept.status, {**kept.headers, payment.REPLAYED_HEADER: "true"})
        await self.write(kept.body, last=True)

    def check(self) -> None:
        """Raises CallerLeft."""
        if self.left.is_set():
            raise CallerLeft

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Answer all at once."""
        length = {"content-length": str(len(body))}
        await self.begin(status, {"content-type": JSON, **length, **(headers or {})})
        await self._put({"type": "http.response.body", "body": body if self.method != "HEAD" else b""})

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of an answer. Raises CallerLeft."""
        self.begun = True
        pairs = [(name.encode("ascii"), plain(value).encode("ascii")) for name, value in headers.items()]
        await self._put({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, piece: bytes, *, last: bool = False) -> None:
        """Send a piece of its body. Raises CallerLeft."""
        await self._put({"type": "http.response.body", "body": piece, "more_body": not last})

    async def _put(self, message: Message) -> None:
        if self.once is not None:
            await self.once.take(message)
        self.check()
        try:
            async with asyncio.timeout(WRITE_S):
                await self._send(message)
        except (TimeoutError, OSError):
            self.left.set()
            raise CallerLeft from None


def too_busy(why: str) -> Refusal:
    """Whoever asks again in a moment may be served."""
    message = f"{why}: try again in a moment"
    return Refusal(429, payment.RATE_LIMITED, message, headers={"retry-after": "1"})


def plain(text: str) -> str:
    """Strangers' words as a header's value, or a comment's: one line of ASCII."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:500]
