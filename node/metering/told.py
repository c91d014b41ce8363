"""What a request cost, told in its answer: in the body as `usage.cost`, in Routstr's form."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from node.metering.private import public
from node.sse import data_of, write
from relays.endpoints import (
    CHAT,
    COMPLETIONS,
    IMAGE_EDITS,
    IMAGES,
    MESSAGES,
    RESPONSES,
    SPEECH,
    TRANSCRIPTIONS,
    Endpoint,
)
from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.money import MSAT_PER_SAT
from relays.pricing import PARTS, Usage, parts_of
from relays.receipt import Receipt

NULL: Final = msgspec.Raw(b"null")
_TELLING: Final = (
    *(b'"usage"', b'"message_delta"', b'"response.completed"', b'"response.incomplete"', b'"transcript.text.done"'),
    *(b'"image_generation.completed"', b'"image_edit.completed"', b'"speech.audio.done"'),
)
"""In the events that tell what it cost, also where their server reports nothing."""


def cost_of(receipt: Receipt) -> dict[str, Any]:
    """`usage.cost` and what stands beside it. The parts add up to what was charged, which a hold may have bounded."""
    usage, price = receipt.usage, receipt.price
    pieces_msat = usage.images * price.image_msat + usage.searches * price.search_msat
    base_msat = min(receipt.cost_msat, price.request_msat + pieces_msat)
    written = Usage(
        0, usage.completion_tokens, reasoning_tokens=usage.reasoning_tokens, speech_tokens=usage.speech_tokens
    )
    alone = msgspec.structs.replace(price, request_msat=0)
    output_msat = min(receipt.cost_msat - base_msat, parts_of(written, alone) // PARTS)
    return {
        "cost": {
            "base_msats": base_msat,
            "input_msats": receipt.cost_msat - base_msat - output_msat,
            "output_msats": output_msat,
            "total_msats": receipt.cost_msat,
        },
        "cost_sats": receipt.cost_msat / MSAT_PER_SAT,  # Routstr's field, to be shown: what counts is in msat
        "remaining_balance_msats": receipt.balance_msat,
    }


def told_in_body(body: bytes, receipt: Receipt, endpoint: Endpoint) -> bytes:
    """A JSON answer that tells what it cost; any other as it is. Nothing else in it is touched."""
    told = _with_cost(body, receipt, endpoint)
    return body if told is None else msgspec.json.encode(told)


def told_in_events(events: list[bytes], receipt: Receipt, endpoint: Endpoint) -> bytes:
    """The last events of a stream, the one with the usage telling what it cost."""
    return b"".join(
        _told_in_event(event, receipt, endpoint) if any(word in event for word in _TELLING) else event
        for event in events
    )


def usage_event(receipt: Receipt, endpoint: Endpoint, created_at: int) -> bytes:
    """The event of chat with the usage and the cost, for a caller who asked for one that the upstream did not send."""
    kind = "text_completion" if endpoint is COMPLETIONS else "chat.completion.chunk"
    usage = {**_usage_of(receipt, endpoint), **cost_of(receipt)}
    head = {"id": receipt.request_id, "object": kind, "created": created_at, "model": receipt.model}
    return write({**head, "choices": [], "usage": usage})


def _told_in_event(event: bytes, receipt: Receipt, endpoint: Endpoint) -> bytes:
    data = data_of(event)
    try:
        top = from_json(data, dict[str, msgspec.Raw])
    except InvalidJson:
        return event
    told: dict[str, Any] | None
    inner = None if "response" not in top else _with_cost(bytes(top["response"]), receipt, endpoint)
    told = _with_cost(data, receipt, endpoint) if inner is None else {**top, "response": inner}
    names = [line[6:].strip().decode(errors="replace") for line in event.splitlines() if line.startswith(b"event:")]
    return event if told is None else write(told, names[-1] if names else "")


def _with_cost(data: bytes, receipt: Receipt, endpoint: Endpoint) -> dict[str, Any] | None:
    try:
        top = from_json(data, dict[str, msgspec.Raw])
        told = bytes(top.get("usage", NULL))
        usage = {} if told == b"null" else from_json(told, dict[str, msgspec.Raw])
    except InvalidJson:
        return None
    said: dict[str, Any] = public(usage) or _usage_of(receipt, endpoint)
    if receipt.metered == "counted" and endpoint in (CHAT, COMPLETIONS):  # what was reported cannot be true
        said |= _usage_of(receipt, endpoint)
    return {**top, "usage": {**said, **cost_of(receipt)}}


def _usage_of(receipt: Receipt, endpoint: Endpoint) -> dict[str, Any]:
    """For an answer that reported none, in its language."""
    read, written = receipt.usage.prompt_tokens, receipt.usage.completion_tokens
    if endpoint is MESSAGES:
        return {"input_tokens": read, "output_tokens": written}
    if endpoint in (RESPONSES, IMAGES, IMAGE_EDITS, TRANSCRIPTIONS, SPEECH):
        return {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
