"""Errors to HTTP: everything that goes wrong becomes `{"error": {"message", "type", "code", "param"}, "request_id"}`."""

from __future__ import annotations

import logging
import random
import time
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from node.api.reply import ID_HEADERS
from node.credentials import authorization_in
from node.errors import Refusal, not_found
from relays import payment
from relays.endpoints import CHAT, COUNT_TOKENS, MESSAGES, Endpoint
from router_client.errors import StorageError

log = logging.getLogger(__name__)


def authorization_of(request: Request[Any, Any, Any]) -> str:
    """The caller's credential, however it was sent."""
    return authorization_in(request.headers.get("authorization"), request.headers.get("x-api-key"))


def new_request_id() -> str:
    """A fresh id that begins with the time, so that rows of requests lie side by side and a commit touches few pages.

    It is no secret, and so not from the system's random bytes: asking for those lets other threads in between each time.
    """
    return f"req_{time.time_ns() // 1_000_000:012x}{random.getrandbits(48):012x}"


def as_refusal(error: Exception) -> Refusal:
    """Any error as the caller is told of it. What nobody foresaw is logged and says nothing of the inside."""
    match error:
        case Refusal():
            return error
        case StorageError():
            log.error("storage: %s", error)
            headers = {"retry-after": "5"}
            return Refusal(503, payment.INTERNAL, "the node's books are not available: try again", headers=headers)
        case HTTPException(status_code=404):
            return not_found("there is nothing at this path; GET /schema lists what is")
        case HTTPException(status_code=405, headers={"allow": allowed}):
            return Refusal(405, payment.INVALID_REQUEST, f"use {allowed}", headers={"allow": allowed})
        case UnicodeDecodeError() | RecursionError():
            return Refusal(400, payment.INVALID_REQUEST, "the request body is not JSON that can be read")
        case HTTPException():
            return Refusal(error.status_code, payment.INVALID_REQUEST, _words(error))
        case _:
            log.error("unforeseen: %r", error, exc_info=error)
            return Refusal(500, payment.INTERNAL, "the node failed; the request id finds it in the operator's log")


def error_body(refusal: Refusal, request_id: str, endpoint: Endpoint = CHAT) -> bytes:
    """The error in OpenAI's shape; at Anthropic's endpoints with its types, and a type beside it."""
    anthropic = endpoint in (MESSAGES, COUNT_TOKENS)
    error = {
        "message": refusal.message,
        "type": refusal.anthropic_type if anthropic else refusal.type,
        "code": refusal.code,
        "param": refusal.param,
        **refusal.details,
    }
    return msgspec.json.encode({**({"type": "error"} if anthropic else {}), "error": error, "request_id": request_id})


def _respond(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    refusal, request_id = as_refusal(error), new_request_id()
    return Response(
        error_body(refusal, request_id),
        status_code=refusal.status,
        media_type="application/json",
        headers={**dict.fromkeys(ID_HEADERS, request_id), **refusal.headers},
    )


EXCEPTION_HANDLERS: ExceptionHandlersMap = {Exception: _respond, HTTPException: _respond}


def _words(error: HTTPException) -> str:
    """A validation error says which part of the request is wrong."""
    extra = error.extra if isinstance(error.extra, list) else []
    parts = [f"{part.get('key', '')}: {part.get('message', '')}" for part in extra if isinstance(part, dict)]
    detail = error.detail.split(" for ")[0] if parts else error.detail
    return "; ".join([detail, *parts])
