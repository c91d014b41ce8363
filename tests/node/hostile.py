"""A model's server that misbehaves on purpose; the real one passes `test_chat.py`."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from tests.node.harness import HELLO

Answer = tuple[int, dict[str, str], list[bytes]]

TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"abcd"}}]}\n\n'
"""A word of a stream."""


class Hostile:
    """Answers every request with `answer`; keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = (200, {}, [])
        self.pause_s = 3.0
        self.head_after_s = 0.0
        self.asked: list[dict[str, Any]] = []
        self.ended = 0
        """How many answers were taken to their end."""
        self.entry: dict[str, Any] = {}
        """What its list says of its model beside the usual."""

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": HELLO["model"], "context_length": 2048, **self.entry}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        status, headers, chunks = self.answer
        await asyncio.sleep(self.head_after_s)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        for chunk in chunks:
            if chunk == b"WAIT":
                await asyncio.sleep(self.pause_s)
                continue
            if chunk == b"CUT":
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(chunk)
            await asyncio.sleep(0.01)
        await response.write_eof()
        self.ended += 1
        return response
