"""OpenAI's Responses as they are bought: nothing is kept between them, and they are judged in the words of chat. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from relays.endpoints import RESPONSES, Endpoint
from router_client.errors import BadRequest

_KEPT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "previous_response_id": "send what was said before in 'input'",
        "conversation": "send what was said before in 'input'",
        "prompt": "send its text in 'instructions'",
        "background": "wait for the answer, or stream it",
        "store": "leave it out, or send false",
    }
)
"""Fields that want something kept at a server, which would be another one's for the next request, and what to do instead."""
_OTHERWISE: Final = ("input", "instructions", "text", "max_output_tokens")


def stateless(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request without those fields, which it may have as null or false. Raises BadRequest."""
    for name, instead in _KEPT.items():
        if body.get(name):
            raise BadRequest(f"nothing is kept here between requests, so '{name}' cannot be: {instead}", name)
    return {name: value for name, value in body.items() if name not in _KEPT}


def as_chat(endpoint: Endpoint, body: Mapping[str, Any]) -> dict[str, Any]:
    """The request in the words of chat, as far as they tell how hard it is and what it needs of a model."""
    if endpoint is not RESPONSES:
        return dict(body)
    said, told, text = body.get("input"), body.get("instructions"), body.get("text")
    messages = said if isinstance(said, list) else [{"role": "user", "content": said}]
    if told:
        messages = [{"role": "system", "content": told}, *messages]
    form = text.get("format") if isinstance(text, Mapping) else None
    rest = {name: value for name, value in body.items() if name not in _OTHERWISE}
    return rest | {"messages": messages, "max_tokens": body.get("max_output_tokens"), "response_format": form}
