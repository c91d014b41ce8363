"""Upstreams that speak Anthropic's HTTP interface. OpenAI's chat completions are translated, its Responses by way of
them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from node.errors import Unsupported, UpstreamUnreachable
from node.translation.base import Translation
from node.translation.chat_to_messages import ChatToMessages
from node.translation.responses_to_chat import ResponsesToChat
from node.upstream.base import UpstreamReply, UpstreamRequest
from node.upstream.http import HttpPool
from node.upstream.kind import Kind, Surroundings
from node.upstream.spec import Timeouts, UpstreamSpec
from node.upstream.translated import Chained, TranslatedReply
from relays.endpoints import CHAT, COUNT_TOKENS, MESSAGES, RESPONSES
from relays.routes import DIRECT, Routes

VERSION: Final = "2023-06-01"
DEFAULT_MAX_TOKENS: Final = 4096
"""Anthropic wants to be told: for a caller who did not say how much may be written."""


class AnthropicUpstream:
    """One server at `base_url` (with its `/v1`)."""

    def __init__(self, spec: UpstreamSpec, timeouts: Timeouts, routes: Routes = DIRECT) -> None:
        self.name = spec.name
        self._base_url = spec.base_url
        self._pool = HttpPool(
            spec.base_url, {"x-api-key": spec.api_key, "anthropic-version": VERSION}, timeouts, routes
        )

    async def models(self) -> list[Mapping[str, Any]]:
        listed = (await self._pool.get_json(f"{self._base_url}/models?limit=1000")).get("data")
        if not isinstance(listed, list):
            raise UpstreamUnreachable("the upstream's list of models has no 'data'")
        return [_in_openais_form(entry) for entry in listed if isinstance(entry, dict)]

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        if request.endpoint in (MESSAGES, COUNT_TOKENS):
            url = self._base_url + request.endpoint.path
            return await self._pool.post(url, request.body, request, request.headers)
        if request.endpoint not in (CHAT, RESPONSES):
            raise Unsupported(f"{self.name} has no {request.endpoint.name}")
        translation: Translation = ChatToMessages(DEFAULT_MAX_TOKENS)
        if request.endpoint is RESPONSES:
            translation = Chained(ResponsesToChat(), translation)
        body = msgspec.json.encode(translation.request(request.fields))
        reply = await self._pool.post(self._base_url + MESSAGES.path, body, request)
        return TranslatedReply(reply, translation)

    async def close(self) -> None:
        await self._pool.close()


def _in_openais_form(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "id": entry.get("id"),
        "name": entry.get("display_name"),
        "context_length": entry.get("max_input_tokens"),
        "max_output_tokens": entry.get("max_tokens"),
        "architecture": {"input_modalities": ["text", "image", "file"]},
        "endpoints": [endpoint.name for endpoint in (CHAT, RESPONSES, MESSAGES, COUNT_TOKENS)],
    }


async def _open(spec: UpstreamSpec, surroundings: Surroundings) -> AnthropicUpstream:
    return AnthropicUpstream(spec, surroundings.timeouts, surroundings.routes_to(spec))


KINDS: Final = (Kind("anthropic", _open, "https://api.anthropic.com/v1"),)
