"""Upstreams that speak Google's Gemini API. OpenAI's chat completions are translated, Anthropic's messages and OpenAI's
Responses by way of them; for embeddings Google has OpenAI's form itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from node.errors import Unsupported, UpstreamUnreachable
from node.translation.base import Translation
from node.translation.chat_to_gemini import ChatToGemini
from node.translation.messages_to_chat import MessagesToChat
from node.translation.responses_to_chat import ResponsesToChat
from node.upstream.base import UpstreamReply, UpstreamRequest
from node.upstream.http import HttpPool
from node.upstream.kind import Kind, Surroundings
from node.upstream.spec import Timeouts, UpstreamSpec
from node.upstream.translated import Chained, TranslatedReply, counted
from relays.endpoints import CHAT, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES
from relays.routes import DIRECT, Routes


class GeminiUpstream:
    """One server at `base_url` (with its `/v1beta`)."""

    def __init__(self, spec: UpstreamSpec, timeouts: Timeouts, routes: Routes = DIRECT) -> None:
        self.name = spec.name
        self._base_url = spec.base_url
        self._pool = HttpPool(spec.base_url, {"x-goog-api-key": spec.api_key}, timeouts, routes)
        self._openai_pool = HttpPool(spec.base_url, {"Authorization": f"Bearer {spec.api_key}"}, timeouts, routes)

    async def models(self) -> list[Mapping[str, Any]]:
        listed = (await self._pool.get_json(f"{self._base_url}/models?pageSize=1000")).get("models")
        if not isinstance(listed, list):
            raise UpstreamUnreachable("the upstream's list of models has no 'models'")
        return [_in_openais_form(entry) for entry in listed if isinstance(entry, dict)]

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        if request.endpoint is COUNT_TOKENS:
            return await counted(request)
        if request.endpoint is EMBEDDINGS:
            url = f"{self._base_url}/openai{EMBEDDINGS.path}"
            return await self._openai_pool.post(url, request.body, request)
        if request.endpoint not in (CHAT, MESSAGES, RESPONSES):
            raise Unsupported(f"{self.name} has no {request.endpoint.name}")
        translation: Translation = ChatToGemini()
        if request.endpoint is not CHAT and _draws(str(request.fields["model"])):
            # Its pictures would be paid for, and answers of other endpoints than chat have no place for them.
            raise Unsupported(f"{self.name} draws, and {request.endpoint.name} hold no pictures")
        if request.endpoint is MESSAGES:
            translation = Chained(MessagesToChat(), translation)
        elif request.endpoint is RESPONSES:
            translation = Chained(ResponsesToChat(), translation)
        body = msgspec.json.encode(translation.request(request.fields))
        call = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
        url = f"{self._base_url}/models/{quote(str(request.fields['model']), safe='')}:{call}"
        return TranslatedReply(await self._pool.post(url, body, request), translation)

    async def close(self) -> None:
        await self._pool.close()
        await self._openai_pool.close()


def _in_openais_form(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(entry.get("name") or "").removeprefix("models/")
    return {
        "id": name,
        "name": entry.get("displayName"),
        "description": entry.get("description"),
        "context_length": entry.get("inputTokenLimit"),
        "max_output_tokens": entry.get("outputTokenLimit"),
        "thinks": entry.get("thinking") is True,
        "architecture": {
            "input_modalities": ["text", "image", "audio", "file", "video"],
            "output_modalities": ["text", "image"] if _draws(name) else ["text"],
        },
        "endpoints": _endpoints(entry, name),
    }


def _endpoints(entry: Mapping[str, Any], name: str) -> list[str] | None:
    """Where a model is served, by what Google says that it can do; None where it does not."""
    able = entry.get("supportedGenerationMethods")
    if not isinstance(able, list):
        return None
    talks = (CHAT,) if _draws(name) else (CHAT, RESPONSES, MESSAGES, COUNT_TOKENS)
    found = [*(talks if "generateContent" in able else ()), *((EMBEDDINGS,) if "embedContent" in able else ())]
    return [endpoint.name for endpoint in found]


def _draws(model: str) -> bool:
    """Whether a model's answers hold pictures: Google's list does not tell, their names do."""
    return "-image" in model


async def _open(spec: UpstreamSpec, surroundings: Surroundings) -> GeminiUpstream:
    return GeminiUpstream(spec, surroundings.timeouts, surroundings.routes_to(spec))


KINDS: Final = (Kind("gemini", _open, "https://generativelanguage.googleapis.com/v1beta"),)
