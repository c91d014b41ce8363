"""HTTP to a node, with its errors translated."""

from __future__ import annotations

from typing import Any, Final

import httpx
import msgspec

from router_client.errors import NodeError, NodeRefused, NodeUnavailable

TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
STREAM_TIMEOUT: Final = httpx.Timeout(300.0, connect=10.0)


async def post_json(http: httpx.AsyncClient, url: str, body: object, bearer: str) -> dict[str, Any]:
    """POST and decode. Raises NodeUnavailable or NodeRefused."""
    try:
        reply = await http.post(url, content=msgspec.json.encode(body), headers=headers(bearer), timeout=TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NodeUnavailable(f"{url} cannot be reached") from error
    if not reply.is_success:
        raise error_of(reply.status_code, reply.content)
    try:
        return msgspec.json.decode(reply.content, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise NodeUnavailable(f"{url} does not answer with JSON") from error


def headers(bearer: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}


def error_of(status: int, body: bytes) -> NodeError:
    """A node's error answer: NodeUnavailable where another node may do better, else NodeRefused."""
    try:
        error = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except msgspec.MsgspecError:
        error = None
    detail = error if isinstance(error, dict) else {}
    message = str(detail.get("message") or f"HTTP {status}")
    if status >= 500 or status == 429:
        return NodeUnavailable(message)
    return NodeRefused(status, str(detail.get("code") or ""), message)
