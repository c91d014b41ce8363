"""How the local endpoint tells of an answer: headers, OpenAI's whole and streamed forms, the list of models. Pure.

Headers are Pura's and Routstr's, with ours in msat; amounts in USD are told where a price of bitcoin is known. Of a stream,
what is known at its end alone comes as comments before `[DONE]`, and `usage` where `stream_options.include_usage` asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from relays import payment
from relays.endpoints import CHAT, RESPONSES, Endpoint
from relays.jsontext import from_json
from relays.money import MSAT_PER_SAT
from relays.pricing import TOKENS_PER_PRICE, ModelPrice, Usage
from router_client.buying.answer import Answer
from router_client.buying.reading import Head
from router_client.discovery.directory import Provider
from router_client.proxy.exchange import plain
from router_client.proxy.retelling import retold
from router_client.routing.market import Market
from router_client.routing.stall import Stall
from router_client.routing.wishes import AUTO

OWNER: Final = "satroute"
ID_HEADERS: Final = (payment.REQUEST_ID_HEADER, payment.PURA_REQUEST_ID_HEADER, "x-request-id")
"""The last is what OpenAI's SDKs look at."""
DONE: Final = b"data: [DONE]\n\n"


def in_usd(amount_msat: int, msat_per_usd: float) -> str:
    return f"{amount_msat / msat_per_usd:.9f}"


def head_headers(head: Head) -> dict[str, str]:
    """What is known when an answer begins."""
    ids = dict.fromkeys(ID_HEADERS, head.request_id)
    return {
        payment.PURA_MODEL_HEADER: head.model,
        payment.PURA_PROVIDER_HEADER: head.node,
        payment.PURA_TIER_HEADER: head.tier,
        payment.HOLD_HEADER: str(head.hold_msat),
        **(ids if head.request_id else {}),
    }


def cost_headers(answer: Answer, msat_per_usd: float | None) -> dict[str, str]:
    """What is known when it has ended."""
    headers = {
        payment.COST_HEADER: str(answer.cost_msat),
        payment.ROUTSTR_COST_HEADER: str(answer.cost_msat),
        payment.SAVED_HEADER: str(answer.saved_msat),
        payment.VERIFIED_HEADER: str(answer.verified).lower(),
    }
    left_msat = answer.budget_left_msat
    if left_msat is not None:
        headers[payment.BUDGET_LEFT_HEADER] = str(left_msat)
    if answer.steps:
        headers[payment.PURA_DEPTH_HEADER] = str(len(answer.steps))
    if answer.confidence is not None:
        headers[payment.PURA_CONFIDENCE_HEADER] = f"{answer.confidence:.3f}"
    if msat_per_usd is not None:
        usd = in_usd(answer.cost_msat, msat_per_usd)
        headers |= {payment.PURA_COST_HEADER: usd, payment.ROUTSTR_USD_HEADER: usd}
        if left_msat is not None:
            headers[payment.PURA_BUDGET_HEADER] = in_usd(left_msat, msat_per_usd)
        if answer.steps:
            headers[payment.PURA_SAVINGS_HEADER] = in_usd(answer.saved_msat, msat_per_usd)
    return headers


def headers_of(answer: Answer, msat_per_usd: float | None) -> dict[str, str]:
    """Of a whole answer."""
    head = Head(
        model=answer.model,
        tier=answer.tier,
        node=answer.node,
        node_name=answer.node_name,
        request_id=answer.request_id,
        hold_msat=answer.cost_msat,
    )
    known = head_headers(head)
    del known[payment.HOLD_HEADER]
    return known | cost_headers(answer, msat_per_usd)


def whole(endpoint: Endpoint, answer: Answer, now: int) -> bytes:
    """OpenAI's answer at that endpoint: a `chat.completion`, or what the node gave, with the usage that was verified."""
    if answer.body is not None:
        return msgspec.json.encode({**answer.body, "usage": _usage(endpoint, answer)})
    return msgspec.json.encode({
        "id": _name(answer),
        "object": "chat.completion",
        "created": now,
        "model": answer.model,
        "choices": answer.choices,
        "usage": _usage(endpoint, answer),
    })  # fmt: skip


def unstreamed(endpoint: Endpoint, answer: Answer, now: int) -> Iterator[bytes]:
    """An answer of which nothing was streamed: its chunks, or its events but for the last."""
    if endpoint is RESPONSES:
        for said in retold(answer)[0]:
            yield event(msgspec.json.encode(said).decode(), said["type"])
    for choice in answer.choices:
        message = dict(choice["message"])
        if calls := message.get("tool_calls"):
            message["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
        said = {"index": choice["index"], "delta": message, "finish_reason": None, "logprobs": choice["logprobs"]}
        yield _chunk(answer, now, [said])
        yield _chunk(
            answer, now, [{**said, "delta": {}, "finish_reason": choice["finish_reason"], "logprobs": None}], None
        )


def usage_chunk(answer: Answer, now: int, name: str) -> bytes:
    """The chunk with what was used, of a stream whose chunks are called so."""
    return _chunk(answer, now, [], _usage(CHAT, answer), name)


def ending(answer: Answer, msat_per_usd: float | None) -> bytes:
    """The end of a stream."""
    return _comments(answer, msat_per_usd) + DONE


def _comments(answer: Answer, msat_per_usd: float | None) -> bytes:
    """What is known when it has ended."""
    comments = "".join(f": {name} {plain(value)}\n" for name, value in cost_headers(answer, msat_per_usd).items())
    return comments.encode() + b"\n"


def event(data: str, name: str = "") -> bytes:
    """A line of JSON as a server-sent event: a carriage return, which may stand between its parts, would end the line."""
    head = f"event: {plain(name)}\n" if name else ""
    return head.encode() + b"data: " + data.replace("\r", " ").encode() + b"\n\n"


def concluding(answer: Answer, msat_per_usd: float | None, last: str) -> bytes:
    """The end of a streamed response: its `last` event, if that has come, with the usage that was verified."""
    assert answer.body is not None
    said = from_json(last or msgspec.json.encode(retold(answer)[1]), dict[str, msgspec.Raw])
    said |= {"response": msgspec.Raw(whole(RESPONSES, answer, 0))}
    return _comments(answer, msat_per_usd) + event(
        msgspec.json.encode(said).decode(), from_json(bytes(said["type"]), str)
    )


def error_event(body: bytes, *, typed: bool) -> bytes:
    """An error as a stream has it, where events have types or not: SDKs raise at it, or hand it on."""
    if not typed:
        return event(body.decode())
    error = from_json(body, dict[str, Any])
    told = {**error["error"], "type": "error", "request_id": error["request_id"]}
    return event(msgspec.json.encode(told).decode(), "error")


def _chunk(
    answer: Answer, now: int, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None, name: str = ""
) -> bytes:
    chunk = {
        "id": name or _name(answer),
        "object": "chat.completion.chunk",
        "created": now,
        "model": answer.model,
        "choices": choices,
        "usage": usage,
    }
    return event(msgspec.json.encode(chunk).decode())


def _name(answer: Answer) -> str:
    return answer.request_id or "chatcmpl-satroute"


def _usage(endpoint: Endpoint, answer: Answer) -> dict[str, Any]:
    """OpenAI's, with what it cost as Routstr has it."""
    used: Usage = answer.usage
    read, written = ("input", "output") if endpoint is RESPONSES else ("prompt", "completion")
    told: dict[str, Any] = {
        f"{read}_tokens": used.prompt_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "cost": {"total_msats": answer.cost_msat},
        "cost_sats": answer.cost_msat / MSAT_PER_SAT,
    }
    if endpoint.writes:
        told[f"{written}_tokens"] = used.completion_tokens
        told[f"{read}_tokens_details"] = {"cached_tokens": used.cached_tokens}
        told[f"{written}_tokens_details"] = {"reasoning_tokens": used.reasoning_tokens}
    return told


def models_of(providers: Iterable[Provider], msat_per_usd: float | None) -> list[dict[str, Any]]:
    """`auto`, and what is sold, each at the price of its cheapest node (OpenAI's form, with OpenRouter's `pricing`)."""
    market = Market(providers)
    since = max((p.announcement.created_at for p in market.providers), default=0)
    listed: list[dict[str, Any]] = [{"id": AUTO, "object": "model", "created": since, "owned_by": OWNER}]
    for name, stall in sorted(market.stalls.items()):
        rates = [3 * read + written for read, written in zip(stall.read, stall.written, strict=True)]
        cheapest = stall.offers[min(range(len(rates)), key=lambda place: rates[place])]
        price = cheapest.price
        listed.append({
            "id": name,
            "object": "model",
            "created": max(market.providers[place].announcement.created_at for place in stall.sellers),
            "owned_by": OWNER,
            "context_length": max(stall.context),
            "sellers": len(set(stall.sellers)),
            "endpoints": _endpoints(stall),
            "tier": market.tier_of(name) if market.writes(name) else None,
            "pricing": None if msat_per_usd is None else _in_usd(price, msat_per_usd),
            "msat_pricing": price,
        })  # fmt: skip
    return listed


def _endpoints(stall: Stall) -> list[str] | None:
    """Where one of its sellers says that it serves the model; None where one says nothing."""
    named = [offer.endpoints for offer in stall.offers]
    return None if None in named else sorted({name for names in named for name in names or ()})


def _in_usd(price: ModelPrice, msat_per_usd: float) -> dict[str, str]:
    """Per token and per request, as OpenRouter has it."""
    assert not math.isclose(msat_per_usd, 0)
    return {
        "prompt": f"{price.prompt_msat_per_mtok / TOKENS_PER_PRICE / msat_per_usd:.12f}",
        "completion": f"{price.completion_msat_per_mtok / TOKENS_PER_PRICE / msat_per_usd:.12f}",
        "request": f"{price.request_msat / msat_per_usd:.12f}",
    }
