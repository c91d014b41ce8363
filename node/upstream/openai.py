"""Upstreams that speak OpenAI's HTTP interface: OpenAI, OpenRouter, Groq, vLLM, llama.cpp, Ollama and others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import aiohttp

from node.errors import UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from relays.errors import InvalidJson
from relays.jsontext import from_json

MAX_ERROR_BYTES: Final = 64 * 1024
MAX_LIST_BYTES: Final = 32 * 1024 * 1024
LIST_TIMEOUT_S: Final = 20.0
MAX_CONNECTIONS: Final = 1000


class OpenAIReply:
    """A reply of status 200, its body still on the wire."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.content_type: str = response.content_type

    async def read(self, limit: int) -> bytes:
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise UpstreamUnreachable(f"the upstream's answer is larger than {limit} bytes")
        return bytes(body)

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except TimeoutError as error:
            raise UpstreamTimeout("the upstream stopped answering") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable("the upstream broke off") from error

    def close(self) -> None:
        self._response.close()


class OpenAIUpstream:
    """One server at `base_url` (with its `/v1`), over one pool of connections."""

    def __init__(self, base_url: str, api_key: str, *, connect_timeout_s: float, idle_timeout_s: float) -> None:
        self._base_url = base_url
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s, sock_read=idle_timeout_s),
            skip_auto_headers=("User-Agent", "Accept"),
        )

    async def models(self) -> list[Mapping[str, Any]]:
        timeout = aiohttp.ClientTimeout(total=LIST_TIMEOUT_S)
        reply = await self._request("GET", "/models", None, timeout)
        try:
            listed = from_json(await reply.read(MAX_LIST_BYTES), dict[str, Any]).get("data")
        except InvalidJson as error:
            raise UpstreamUnreachable("the upstream's list of models is not JSON") from error
        finally:
            reply.close()
        if not isinstance(listed, list):
            raise UpstreamUnreachable("the upstream's list of models has no 'data'")
        return [entry for entry in listed if isinstance(entry, dict)]

    async def chat(self, body: bytes) -> OpenAIReply:
        return await self._request("POST", "/chat/completions", body, None)

    async def close(self) -> None:
        await self._session.close()

    async def _request(
        self, method: str, path: str, body: bytes | None, timeout: aiohttp.ClientTimeout | None
    ) -> OpenAIReply:
        try:
            response = await self._session.request(
                method,
                self._base_url + path,
                data=body,
                timeout=timeout or self._session.timeout,
                allow_redirects=False,
            )
            if response.status == 200:
                return OpenAIReply(response)
            async with response:
                raise UpstreamRefused(
                    response.status,
                    _message(await response.content.read(MAX_ERROR_BYTES)),
                    response.headers.get("Retry-After"),
                )
        except TimeoutError as error:
            raise UpstreamTimeout("the upstream did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable("the upstream cannot be reached") from error


def _message(body: bytes) -> str:
    """The words of an error answer, in the forms that servers use; empty when there are none."""
    try:
        answer = from_json(body)
    except InvalidJson:
        return ""
    error = answer.get("error", answer) if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message[:500] if isinstance(message, str) else ""
