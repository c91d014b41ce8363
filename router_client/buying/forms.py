"""The endpoints that are bought: what each is sent, and how its answer is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relays.endpoints import CHAT, EMBEDDINGS, RESPONSES, Endpoint
from router_client.buying.incoming import Incoming
from router_client.buying.responses import ResponseStream
from router_client.buying.stream import ChatStream
from router_client.buying.vectors import Vectors

BOUGHT: Final = (CHAT, RESPONSES, EMBEDDINGS)


def sent(endpoint: Endpoint, request: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The request as a node gets it. What is written streams, also for who wants it whole: there is one way to leave, to
    settle and to verify."""
    named = {**request, "model": model}
    if endpoint is CHAT:
        return named | {"stream": True, "stream_options": {"include_usage": True}}
    return named | {"stream": True} if endpoint is RESPONSES else named


def incoming(endpoint: Endpoint, request: Mapping[str, Any]) -> Incoming:
    """What will come for a request."""
    if endpoint is EMBEDDINGS:
        return Vectors(request)
    return ResponseStream() if endpoint is RESPONSES else ChatStream()
