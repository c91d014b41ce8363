"""Upstreams that speak OpenAI's HTTP interface: OpenAI, OpenRouter, Groq, vLLM, llama.cpp, Ollama and others; and Azure's
form of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from node.errors import UpstreamRefused, UpstreamUnreachable
from node.translation.base import Translation
from node.translation.messages_to_chat import MessagesToChat
from node.translation.responses_to_chat import ResponsesToChat
from node.upstream.base import UNKNOWN_THERE, UpstreamReply, UpstreamRequest
from node.upstream.http import HttpPool
from node.upstream.kind import Kind, Surroundings
from node.upstream.spec import Timeouts, UpstreamSpec
from node.upstream.translated import TranslatedReply, counted
from relays.endpoints import CHAT, COUNT_TOKENS, MESSAGES, RESPONSES, Endpoint
from relays.jsontext import from_json
from relays.routes import DIRECT, Routes

_WISH: Final = "stream_options"


class OpenAIUpstream:
    """One server at `base_url` (with its `/v1`). Anthropic's messages are translated unless the server has them itself, and
    Responses for models that it has in chat alone."""

    def __init__(self, spec: UpstreamSpec, timeouts: Timeouts, routes: Routes = DIRECT) -> None:
        self.name = spec.name
        self._spec = spec
        self._pool = HttpPool(spec.base_url, _credential(spec), timeouts, routes)
        # OpenAI's reasoning models take the newer name alone; other servers may know none but the older.
        newer = spec.kind == "azure" or urlsplit(spec.base_url).hostname == "api.openai.com"
        self._by_chat: set[str] = set()
        """Models that answered in chat, and were not there at Responses."""
        self._max_tokens_field = "max_completion_tokens" if newer else "max_tokens"

    async def models(self) -> list[Mapping[str, Any]]:
        if self._spec.kind == "azure":  # its list names base models, not what is deployed
            return [{"id": model} for model in self._spec.models if "*" not in model]
        listed = (await self._pool.get_json(f"{self._spec.base_url}/models")).get("data")
        if not isinstance(listed, list):
            raise UpstreamUnreachable("the upstream's list of models has no 'data'")
        return [entry for entry in listed if isinstance(entry, dict)]

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        endpoint = request.endpoint
        if endpoint in (MESSAGES, COUNT_TOKENS) and "messages" not in self._spec.native:
            if endpoint is COUNT_TOKENS:
                return await counted(request)
            return await self._translated(request, MessagesToChat(self._max_tokens_field))
        if endpoint is RESPONSES:
            return await self._responses(request)
        body = request.body
        if endpoint is CHAT and (
            limit := request.fields.get("max_tokens") or request.fields.get("max_completion_tokens")
        ):
            body = self._with_limit(request.fields, limit)
        return await self._post(self._url(endpoint, request), body, request, request.headers)

    async def _responses(self, request: UpstreamRequest) -> UpstreamReply:
        """As the server has them, or by chat: most servers beside OpenAI's know that alone, and their lists do not say."""
        model = str(request.fields["model"])
        if model not in self._by_chat:
            try:
                return await self._pool.post(self._url(RESPONSES, request), request.body, request)
            except UpstreamRefused as error:
                if error.status not in UNKNOWN_THERE:
                    raise
        reply = await self._translated(request, ResponsesToChat(self._max_tokens_field))
        self._by_chat.add(model)
        return reply

    async def _translated(self, request: UpstreamRequest, translation: Translation) -> UpstreamReply:
        body = msgspec.json.encode(translation.request(request.fields))
        return TranslatedReply(await self._post(self._url(CHAT, request), body, request, {}), translation)

    async def _post(self, url: str, body: bytes, request: UpstreamRequest, headers: Mapping[str, str]) -> UpstreamReply:
        """Once more without the wish to be told the usage of a stream where the server says that it knows none such, as
        Mistral's and Azure's older ones do. It is not remembered: a caller's own words may have been at fault."""
        may_wish = request.stream and not request.endpoint.multipart
        try:
            return await self._pool.post(url, body, request, headers)
        except UpstreamRefused as error:
            if not (may_wish and error.status in (400, 422) and _WISH in error.message):
                raise
        fields = from_json(body, dict[str, msgspec.Raw])
        fields.pop(_WISH, None)
        return await self._pool.post(url, msgspec.json.encode(fields), request, headers)

    def _with_limit(self, fields: Mapping[str, Any], limit: int) -> bytes:
        """The request with its output limit in the one field that the server is sure to know: what another field says is not
        written, and not paid."""
        others = {name: value for name, value in fields.items() if name not in ("max_tokens", "max_completion_tokens")}
        return msgspec.json.encode({**others, self._max_tokens_field: limit})

    async def close(self) -> None:
        await self._pool.close()

    def _url(self, endpoint: Endpoint, request: UpstreamRequest) -> str:
        spec = self._spec
        if spec.kind == "azure" and not spec.base_url.endswith("/v1"):
            deployment = quote(str(request.fields["model"]), safe="")
            version = quote(spec.api_version, safe="")
            return f"{spec.base_url}/openai/deployments/{deployment}{endpoint.path}?api-version={version}"
        return spec.base_url + endpoint.path


def _credential(spec: UpstreamSpec) -> Mapping[str, str]:
    if not spec.api_key:
        return {}
    return {"api-key": spec.api_key} if spec.kind == "azure" else {"Authorization": f"Bearer {spec.api_key}"}


async def _open(spec: UpstreamSpec, surroundings: Surroundings) -> OpenAIUpstream:
    return OpenAIUpstream(spec, surroundings.timeouts, surroundings.routes_to(spec))


KINDS: Final = (Kind("openai", _open, "https://api.openai.com/v1"), Kind("azure", _open))
