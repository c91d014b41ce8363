"""HTTP to a node, with its errors translated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import httpx
import msgspec

from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.payment import CASHU_HEADER, PAID_BACK
from router_client.errors import NodeBusy, NodeError, NodeRefused, NodeUnavailable, NodeUnreached
from router_client.net.fetch import FetchFailed, NotReached, fetch

DEADLINE_S: Final = 60.0
MAX_WORDS_CHARS: Final = 500
MOST_RETRY_AFTER_S: Final = 3600.0
MAX_DIGITS: Final = 10
TOO_MANY, UNAVAILABLE = 429, 503
NONE: Final[Mapping[str, str]] = MappingProxyType({})
TOKEN: Final = re.compile(r"cashu[AB][A-Za-z0-9_=+/-]*")


async def call(
    http: httpx.AsyncClient, method: str, url: str, headers: Mapping[str, str], body: object = None
) -> dict[str, Any]:
    """Ask and decode. Raises NodeUnavailable, as NodeUnreached where no connection was made and NodeBusy where
    it takes no more at the moment, or NodeRefused."""
    content = None if body is None else msgspec.json.encode(body)
    try:
        reply = await fetch(http, method, url, content=content, headers=headers, deadline_s=DEADLINE_S)
    except NotReached as error:
        raise NodeUnreached(f"{url}: {error}") from error
    except FetchFailed as error:
        raise NodeUnavailable(f"{url}: {error}") from error
    if not reply.is_success:
        raise error_of(reply.status, reply.body, reply.headers)
    try:
        return from_json(reply.body, dict[str, Any])
    except InvalidJson as error:
        raise NodeUnavailable(f"{url} does not answer with JSON") from error


def as_bearer(token: str) -> dict[str, str]:
    """Headers that name the balance which the token opened, or opens."""
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def with_money(token: str) -> dict[str, str]:
    """Headers of a request that brings its own money (NUT-24)."""
    return {CASHU_HEADER: token, "Content-Type": "application/json"}


def said(words: object) -> str:
    """A stranger's words for our errors and logs: not many, and without the tokens that it may repeat to us."""
    return TOKEN.sub("cashu…", str(words)[:MAX_WORDS_CHARS])


def error_of(status: int, body: bytes, headers: Mapping[str, str] = NONE) -> NodeError:
    """A node's error answer, in OpenAI's shape or Routstr's: NodeUnavailable where it says nothing of the request, as
    NodeBusy where it takes no more at the moment, else NodeRefused. Names of headers are in lower case."""
    try:
        answer = from_json(body, dict[str, Any])
    except InvalidJson:
        answer = {}
    error, words = answer.get("error"), answer.get("detail")
    detail = next((each for each in (error, words) if isinstance(each, dict)), {})
    reason = detail.get("message") or detail.get("reason") or (words if isinstance(words, str) else None)
    message = said(reason or f"HTTP {status}").removesuffix(PAID_BACK)  # that is for us, who paid
    after = headers.get("retry-after", "")
    known = after.isascii() and after.isdecimal() and len(after) < MAX_DIGITS
    if status == TOO_MANY or (status == UNAVAILABLE and known):
        return NodeBusy(message, min(float(after), MOST_RETRY_AFTER_S) if known else None)
    if status >= 500 or status < 400:
        return NodeUnavailable(message)
    return NodeRefused(status, str(detail.get("code") or "")[:100], message)
