"""One HTTP exchange with a stranger: bounded in time and size, every failure as one error.

httpx's timeouts are per read, so a server that drips a byte a second is never late; here the whole exchange has a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx
import msgspec

from router_client.errors import ClientError
from router_client.net.outside import NoWay

MAX_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES: Final = 64 * 1024
"""Of an answer that is no success, no more is read."""


class FetchFailed(ClientError):
    """No answer, not in time, or too long a one."""


class NotReached(FetchFailed):
    """No connection was made."""


class Reply(msgspec.Struct, frozen=True):
    """A whole answer; the names of its headers are in lower case."""

    status: int
    body: bytes
    headers: dict[str, str] = {}

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


def plain(headers: Mapping[str, str] | None = None) -> dict[str, str]:
    """The headers, with the wish for an answer that is not packed: a few packed bytes can unpack to gigabytes."""
    return {**(headers or {}), "Accept-Encoding": "identity"}


def check_plain(reply: httpx.Response) -> None:
    """Raise FetchFailed for an answer that is packed all the same."""
    if reply.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        raise FetchFailed("the answer is packed though a plain one was asked for")


async def first_bytes(reply: httpx.Response) -> bytes:
    """Enough of an error answer to tell what it is. The caller's deadline holds; raises what httpx does."""
    body = bytearray()
    async for chunk in reply.aiter_raw():
        body += chunk
        if len(body) > MAX_ERROR_BYTES:
            break
    return bytes(body)


async def fetch(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    deadline_s: float,
    most_bytes: int = MAX_BYTES,
) -> Reply:
    """The whole answer, whatever its status. Raises FetchFailed."""
    try:
        async with (
            asyncio.timeout(deadline_s),
            http.stream(method, url, content=content, headers=plain(headers), timeout=deadline_s) as reply,
        ):
            check_plain(reply)
            body = bytearray()
            async for chunk in reply.aiter_raw():
                body += chunk
                if len(body) > most_bytes:
                    raise FetchFailed(f"the answer is longer than {most_bytes} bytes")
            return Reply(reply.status_code, bytes(body), dict(reply.headers.items()))
    except TimeoutError as error:
        raise FetchFailed(f"no answer within {deadline_s:g} s") from error
    except FetchFailed:
        raise
    except NoWay as error:
        raise NotReached(str(error)) from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NotReached(f"no connection: {type(error).__name__}") from error
    except Exception as error:  # a stranger's URL breaks httpx, idna and anyio in many ways, groups included
        raise FetchFailed(f"no connection: {type(error).__name__}") from error
