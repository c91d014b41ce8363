"""One pool of connections to an upstream: requests out, replies in, what aiohttp raises translated."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, Final

import aiohttp

from node.errors import UpstreamDown, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from node.upstream.base import UpstreamRequest
from node.upstream.spec import Timeouts
from relays.dialing import connector_to
from relays.errors import InvalidJson
from relays.jsontext import from_json, with_whole_characters
from relays.routes import DIRECT, Purpose, Routes

MAX_ERROR_BYTES: Final = 64 * 1024
MAX_LIST_BYTES: Final = 32 * 1024 * 1024
LIST_TIMEOUT_S: Final = 20.0
MAX_CONNECTIONS: Final = 1000
MAX_FIELD_BYTES: Final = 64 * 1024
"""Of a header: an answer is not lost for a long one."""
LONG_BODY_BYTES: Final = 512 * 1024
ROUND_TRIP_S: Final = 1.0
"""Within it a server that had closed a connection says so to who still uses it, by Tor too."""


_OF_THE_ACCOUNT: Final = re.compile(
    r"api[ _-]?key|credit balance|billing|insufficient (quota|funds|balance)|exceeded your current quota|permission denied"
    r"|usage limits?\b|location is not supported|organization has been|budget has been|spend limit"
    r"|your (organization|project)\b|your (current )?(plan|subscription|tier)\b|(your|this) account",
    re.IGNORECASE,
)
MIN_SECRET_CHARS: Final = 6
"""A shorter credential, as play servers have, is found in any text."""


class HttpReply:
    """A reply of status 200, its body still on the wire."""

    usage = None

    def __init__(self, response: aiohttp.ClientResponse, idle_s: float) -> None:
        self._response = response
        self._idle_s = idle_s
        self._begins = False
        """The limit of silences is to be set before the next piece is waited for."""
        kind = response.content_type
        self.content_type = kind if kind.isascii() and kind.isprintable() else "application/octet-stream"

    async def read(self, limit: int) -> bytes:
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise UpstreamUnreachable(f"the upstream's answer is larger than {limit} bytes")
        return with_whole_characters(bytes(body)) if self.content_type == "application/json" else bytes(body)

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            while chunk := await self._response.content.readany():
                yield chunk
                if self._begins:
                    self._limit_silences()
        except TimeoutError as error:
            raise UpstreamTimeout("the upstream stopped answering") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable("the upstream broke off") from error

    def begun(self) -> None:
        self._begins = True

    def close(self) -> None:
        self._response.close()

    def _limit_silences(self) -> None:
        """By the connection's own clock: a timeout around each piece would cost more than the piece."""
        self._begins = False
        connection = self._response.connection
        protocol = None if connection is None else connection.protocol
        if protocol is not None:  # else it has all come
            protocol.read_timeout = self._idle_s
            protocol.start_timeout()


class HttpPool:
    """Connections to the server at `url`. `headers` carry its credential, for it alone: redirects are not followed."""

    def __init__(self, url: str, headers: Mapping[str, str], timeouts: Timeouts, routes: Routes = DIRECT) -> None:
        """Raises NoTor."""
        self._stream = aiohttp.ClientTimeout(sock_connect=timeouts.connect_s)
        self._idle_s = timeouts.idle_s
        self._whole = aiohttp.ClientTimeout(total=timeouts.whole_s, sock_connect=timeouts.connect_s)
        self._list = aiohttp.ClientTimeout(total=LIST_TIMEOUT_S, sock_connect=timeouts.connect_s)
        words = [word for value in headers.values() for word in value.split()]
        self._secrets = [word for word in words if len(word) > MIN_SECRET_CHARS]
        self._session = aiohttp.ClientSession(
            connector=connector_to(url, routes, Purpose.UPSTREAMS, limit=MAX_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),  # what a server sets for one caller is not sent for the next
            headers={"Accept-Encoding": "identity", **headers},
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            max_field_size=MAX_FIELD_BYTES,
        )

    async def post(
        self, url: str, body: bytes, request: UpstreamRequest, headers: Mapping[str, str] = MappingProxyType({})
    ) -> HttpReply:
        """Send the body of a request, `headers` beside the pool's own. How long a stream takes to begin is for who called.
        Raises UpstreamRefused, UpstreamUnreachable or UpstreamTimeout."""
        timeout = self._stream if request.stream else self._whole
        return await self._request("POST", url, body, {"Content-Type": request.content_type, **headers}, timeout)

    async def get_json(self, url: str) -> dict[str, Any]:
        """A short JSON object. Raises the same."""
        reply = await self._request("GET", url, None, {}, self._list)
        try:
            return from_json(await reply.read(MAX_LIST_BYTES), dict[str, Any])
        except InvalidJson as error:
            raise UpstreamUnreachable("the upstream's list of models is not JSON") from error
        finally:
            reply.close()

    async def close(self) -> None:
        await self._session.close()

    async def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> HttpReply:
        try:
            response = await self._sent(method, url, body, headers, timeout)
            if response.status == 200:
                return HttpReply(response, self._idle_s)
            async with response:
                message = message_of(await response.content.read(MAX_ERROR_BYTES))
                # Some say with 400 that the key or the credit is no good: that is the operator's, and not of the request.
                its_own = _OF_THE_ACCOUNT.search(message) or any(secret in message for secret in self._secrets)
                status = 401 if response.status in (400, 413, 422) and its_own else response.status
                raise UpstreamRefused(status, "" if its_own else message, response.headers.get("Retry-After"))
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise UpstreamDown("the upstream cannot be reached") from error
        except TimeoutError as error:
            raise UpstreamTimeout("the upstream did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable("the upstream hung up without an answer") from error

    async def _sent(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """A server may close a kept connection just as it is used again (RFC 9112, 9.3.1). It has then done nothing for the
        request, which is sent once more. A server that hung up later may have worked on it."""

        async def send() -> aiohttp.ClientResponse:
            return await self._session.request(
                method, url, data=_readable(body), headers=headers, timeout=timeout, allow_redirects=False
            )

        began = monotonic()
        try:
            return await send()
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if monotonic() - began > ROUND_TRIP_S:
                raise
        return await send()


def _readable(body: bytes | None) -> bytes | io.BytesIO | None:
    """A long body is written piece by piece, so that others are served meanwhile."""
    return io.BytesIO(body) if body is not None and len(body) > LONG_BODY_BYTES else body


def message_of(body: bytes) -> str:
    """The words of an error answer, in the forms that servers use; empty when there are none."""
    try:
        answer = from_json(body)
    except InvalidJson:
        return ""
    if isinstance(answer, list) and answer:
        answer = answer[0]  # Gemini's
    error = answer.get("error", answer) if isinstance(answer, dict) else None
    message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
    if isinstance(message, dict):
        message = message.get("detail")  # Mistral's
    if isinstance(message, list):
        message = "; ".join(_detail(each) for each in message if isinstance(each, dict))
    return message[:500] if isinstance(message, str) else ""


def _detail(told: dict[str, Any]) -> str:
    """What servers on FastAPI say of one field. What its value was stays here."""
    place = told.get("loc")
    where = ".".join(str(part)[:40] for part in place[:8]) if isinstance(place, list) else ""
    return f"{where}: {str(told.get('msg'))[:200]}"
