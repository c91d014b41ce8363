"""Quotes: a chat request to the most it can cost. Pure; what cannot be served is refused here, before money moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from node.catalogue import Catalogue, Model
from node.errors import Refusal
from relays import payment
from relays.bounds import likely_prompt_tokens, most_usage
from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.money import Msat
from relays.pricing import Usage, cost

CHAT_FIELDS: Final = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "stop", "seed"),
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "frequency_penalty", "presence_penalty", "logit_bias"),
        *("repetition_penalty", "repeat_penalty", "logprobs", "top_logprobs", "tools", "tool_choice", "functions"),
        *("parallel_tool_calls", "function_call", "response_format", "reasoning_effort", "verbosity", "modalities"),
        *("user", "metadata", "store", "safety_identifier", "prompt_cache_key"),
    }
)
"""What is sent upstream: OpenAI's fields and the common sampling parameters. Others are refused, since servers have fields
of their own that change the model, its length or its price (`models`, `n_predict`, `service_tier`, `plugins` …)."""


class Quote(msgspec.Struct, frozen=True):
    """What a request asks for and the hold it needs. `likely_prompt_tokens` serves when nobody counts."""

    body: dict[str, Any]
    model: Model
    most: Usage
    hold_msat: Msat
    likely_prompt_tokens: int
    stream: bool
    wants_usage: bool


def quote_chat(raw: bytes, catalogue: Catalogue) -> Quote:
    """Read a chat completion request. Raises Refusal 400 or 404 with what is wrong."""
    body = _body(raw)
    _check(body)
    model = catalogue.get(body["model"])
    _check_modalities(body["messages"], model)
    most = most_usage(body, model.limits, model.price)
    options = body.get("stream_options")
    return Quote(
        body=body,
        model=model,
        most=most,
        hold_msat=cost(most, model.price),
        likely_prompt_tokens=likely_prompt_tokens(body),
        stream=bool(body.get("stream")),
        wants_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def upstream_body(quote: Quote) -> bytes:
    """The request as the upstream gets it: the caller's, asking for no more tokens than are held, and for a stream the
    wish to be told the usage."""
    body = quote.body
    longest = quote.model.limits.max_output_tokens
    for field in ("max_tokens", "max_completion_tokens"):
        if (body.get(field) or 0) > longest:
            body = {**body, field: longest}
    if quote.stream:
        options = body.get("stream_options") or {}
        body = {**body, "stream_options": {**options, "include_usage": True}}
    return msgspec.json.encode(body)


def _body(raw: bytes) -> dict[str, Any]:
    try:
        body = from_json(raw)
    except InvalidJson as error:
        raise _bad(f"the request body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _bad("the request body is not a JSON object")
    return body


def _check(body: Mapping[str, Any]) -> None:
    if strange := sorted(str(field)[:40] for field in body if field not in CHAT_FIELDS):
        raise _bad(f"unknown field {strange[0]!r}: a field that is not known here could cost more than was agreed")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise _bad("'model' is missing: name one of GET /v1/models")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad("'messages' is missing: a list of at least one message")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise _bad("every message is an object with a 'role'")
    for field in ("max_tokens", "max_completion_tokens", "n"):
        value = body.get(field)
        if value is not None and (type(value) is not int or value < 1):
            raise _bad(f"'{field}' is a whole number from 1")
    if (body.get("n") or 1) > 128:
        raise _bad("'n' is at most 128")
    if not isinstance(body.get("stream", False), bool | None):
        raise _bad("'stream' is true or false")
    if not isinstance(body.get("stream_options"), dict | None):
        raise _bad("'stream_options' is an object")


def _check_modalities(messages: list[dict[str, Any]], model: Model) -> None:
    """Refuse what the model cannot read; a part's type is `text`, `image_url`, `input_audio` or `file`."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in ("text", "refusal") and str(kind).removeprefix("input_").removesuffix("_url") not in (
                model.input_modalities
            ):
                raise _bad(f"{model.id} does not read parts of type {str(kind)[:40]!r}")


def _bad(message: str) -> Refusal:
    return Refusal(400, payment.INVALID_REQUEST, message)
