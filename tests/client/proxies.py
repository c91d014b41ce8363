"""The local endpoint for tests: what a node streams behind it, and how it is called."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai

from router_client.proxy.app import Proxy

URL = "http://127.0.0.1:8402"


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"


HELLO = [chunk({"role": "assistant", "content": ""}), chunk({"content": "hel"}), chunk({"content": "lo"}, "stop")]


def calling(proxy: Proxy) -> httpx.AsyncClient:
    door: Any = proxy
    return httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url=URL)


def sdk_by(caller: httpx.AsyncClient, max_retries: int = 0) -> openai.AsyncOpenAI:
    """OpenAI's SDK, which tells of every refusal unless it may try again."""
    http: Any = caller  # the SDK has a fork of httpx
    return openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="any", http_client=http, max_retries=max_retries)
