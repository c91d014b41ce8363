"""A model's server that plays a part: what each request gets stands in a script that the caller chose beforehand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

import msgspec

from node.errors import UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from node.upstream.base import UpstreamRequest

MODEL = "m"
CONTEXT = 4096
PIECE = " word"
"""One token, as often as it comes."""
"""Four bytes: counted as one token where nobody reports usage."""
SILENCE_S = 120.0

Act = Literal["serve", "unreachable", "busy", "refuse", "timeout", "error as an answer", "break", "silence"]
"""The last two only after some pieces of a stream; before the first, nothing was served."""


class Script(msgspec.Struct):
    """What becomes of one request."""

    act: Act
    pieces: int = 3
    prompt_tokens: int = 10
    """Reported, if `reports`."""
    reports: bool = True
    breaks_after: int = 0
    pause_s: float = 0.0
    """Before the answer begins and between pieces."""
    reached: bool = False
    """Whether the request arrived."""
    written: int = 0
    """Pieces that left the server."""
    asked_for: int = 1_000_000
    """Tokens that its caller wanted at most: no more are counted where none are reported."""


class ScriptedUpstream:
    """Follows `scripts`, each named by the text of the request's last message."""

    name = "upstream"

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}

    async def models(self) -> list[Mapping[str, Any]]:
        return [{"id": MODEL, "context_length": CONTEXT}]

    async def send(self, request: UpstreamRequest) -> _Reply:
        asked = request.fields
        script = self.scripts[asked["messages"][-1]["content"]]
        script.reached = True
        await asyncio.sleep(script.pause_s)
        match script.act:
            case "unreachable":
                raise UpstreamUnreachable("nobody is there")
            case "busy":
                raise UpstreamRefused(429, "busy", "1")
            case "refuse":
                raise UpstreamRefused(400, "no such thing")
            case "timeout":
                await asyncio.sleep(SILENCE_S)
                raise UpstreamTimeout("silent")
        return _Reply(script, stream=bool(asked.get("stream")))

    async def close(self) -> None:
        return None


class _Reply:
    usage = None

    def __init__(self, script: Script, *, stream: bool) -> None:
        self._script = script
        self.content_type = "text/event-stream" if stream else "application/json"

    async def read(self, limit: int) -> bytes:
        script = self._script
        if script.act == "error as an answer":
            return b'{"error": {"message": "overloaded"}}'
        if script.act in ("break", "silence"):
            await asyncio.sleep(SILENCE_S if script.act == "silence" else 0)
            raise UpstreamUnreachable("broke off")
        # One text a piece, so that counting it is counting pieces.
        choices = [{"index": i, "message": {"role": "assistant", "content": PIECE}} for i in range(script.pieces)]
        answer: dict[str, Any] = {"id": "x", "object": "chat.completion", "model": MODEL, "choices": choices}
        script.written = script.pieces
        return json.dumps(answer | self._usage()).encode()

    async def chunks(self) -> AsyncIterator[bytes]:
        script = self._script
        yield b": hello\n\n"
        if script.act == "error as an answer":
            yield b'data: {"error": {"message": "overloaded"}}\n\n'
            return
        for number in range(script.pieces):
            await asyncio.sleep(script.pause_s)
            if number == script.breaks_after and script.act in ("break", "silence"):
                if script.act == "break":
                    raise UpstreamUnreachable("broke off")
                await asyncio.sleep(SILENCE_S)
                raise UpstreamTimeout("silent")
            script.written += 1
            yield self._event([{"index": 0, "delta": {"content": PIECE}}], {})
        if script.reports:
            yield self._event([], self._usage())
        yield b"data: [DONE]\n\n"

    def begun(self) -> None:
        """Its silences are the script's."""

    def close(self) -> None:
        return None

    def _usage(self) -> dict[str, Any]:
        if not self._script.reports:
            return {}
        return {"usage": {"prompt_tokens": self._script.prompt_tokens, "completion_tokens": self._script.pieces}}

    def _event(self, choices: list[Any], more: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps({"id": "x", "choices": choices} | more).encode() + b"\n\n"
