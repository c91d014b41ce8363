"""Streams of chat as a model's server writes them, and what a meter makes of them."""

from __future__ import annotations

import json
from typing import Any

from node.metering.measure import Known
from node.metering.stream import StreamMeter
from relays.endpoints import CHAT

FINISHED = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def sse(*events: object, end: str = "\n\n") -> bytes:
    return b"".join(f"data: {e if isinstance(e, str) else json.dumps(e)}{end}".encode() for e in events)


def text(content: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}}]}


def usage(prompt: Any, completion: Any, choices: list[Any] | None = None) -> dict[str, Any]:
    return {"choices": choices or [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def meter_of(*, hide: bool = True) -> StreamMeter:
    return StreamMeter(CHAT, Known(lambda: 11), hide_usage=hide)


def run(chunks: list[bytes], *, hide: bool = True) -> tuple[bytes, StreamMeter]:
    meter = meter_of(hide=hide)
    passed = b"".join(meter.feed(chunk) for chunk in chunks) + meter.finish()
    return passed + b"".join(meter.kept_back), meter


def picture(kind: str, size: int, *, type_last: bool = False, report: Any = None) -> bytes:
    """An event of a streamed picture."""
    event: dict[str, Any] = {"b64_json": "x" * size, "revised_prompt": 'a "type":"image_edit.completed"'}
    if report is not None:
        event["usage"] = report
    event = {**event, "type": kind} if type_last else {"type": kind, **event}
    return f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode()


def odd(events: list[Any], space: str, end: str, *, spread: bool, bom: bool) -> list[bytes]:
    """The events as the standard allows to write them: other line ends, other spaces, data on several lines."""
    written = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event, indent=1 if spread else None)
        lines = [f"data:{space}{line}" for line in data.split("\n")]
        written.append((end.join(lines) + end + end).encode())
    return [b"\xef\xbb\xbf" + written[0], *written[1:]] if bom else written
