"""Quotes: a request to the most it can cost, and to the upstreams that may serve it. Pure; what cannot be served is refused
here, before money moves."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cache, partial
from typing import Final

import msgspec

from node.asks import Ask
from node.catalogue import Catalogue, Model
from node.errors import Refusal
from node.forms import write_form
from node.metering.measure import Known
from node.metering.tokens import count_prompt
from node.upstream.base import Source, UpstreamRequest
from relays import payment
from relays.bounds import choices, largest_usage, likely_prompt_tokens, media_types, most_usage, prompt_bound
from relays.endpoints import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    IMAGE_EDITS,
    IMAGES,
    RESPONSES,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    Endpoint,
)
from relays.errors import MoneyError
from relays.money import Msat, ceil_div
from relays.pricing import ModelPrice, Usage, cost

LIKELY_OUTPUT: Final = 500
"""Tokens of an answer, to tell which upstream is cheapest."""
TOKENS_PER_SECOND: Final = 17
"""Of sound that is heard, where nobody reports tokens: what gpt-4o-transcribe makes of it."""


class Quote(msgspec.Struct, frozen=True):
    """What a request asks for, who may serve it, cheapest first, and the hold that covers the dearest of them."""

    ask: Ask
    model: Model
    sources: tuple[Source, ...]
    hold_msat: Msat
    likely_tokens: int
    """Read and asked for, as rate limits count them."""

    @property
    def stream(self) -> bool:
        return self.ask.stream


def quote_for(ask: Ask, catalogue: Catalogue) -> Quote:
    """The quote for a request. Raises Refusal 400 or 404."""
    model = catalogue.get(ask.model)
    _check_media(ask, model)
    try:
        return _quoted(ask, model)
    except MoneyError as error:
        raise _bad("this request could cost more than all bitcoin: ask for less with 'max_tokens'") from error


def _quoted(ask: Ask, model: Model) -> Quote:
    prompt_tokens = likely_prompt_tokens(ask.fields, ask.endpoint)
    sources = [source for source in model.sources if not _lacks_price(ask.endpoint, source.price)]
    if not sources:
        raise _bad(f"{model.id} has no price for this endpoint: choose another model")
    roomy = [source for source in sources if prompt_tokens < source.limits.context_length]
    if not roomy:  # whoever knows the window will refuse it, or read less; elsewhere it could be read and not be paid
        roomy = [source for source in sources if source.known_context or media_types(ask.fields, ask.endpoint)]
    if not roomy:
        raise _bad(f"this request is longer than the context of {model.id}, {model.limits.context_length} tokens")
    likely = Usage(prompt_tokens, LIKELY_OUTPUT if ask.endpoint.writes else 0)
    ordered = sorted(roomy, key=lambda source: cost(likely, price_at(ask.endpoint, source.price)))
    asked = next((ask.fields[field] for field in ask.endpoint.output_fields if ask.fields.get(field)), None)
    return Quote(
        ask,
        model,
        tuple(ordered),
        hold_msat=max(_most(ask, source) for source in ordered),
        likely_tokens=prompt_tokens
        + choices(ask.fields, ask.endpoint)
        * min(likely.completion_tokens if asked is None else asked, model.limits.max_output_tokens),
    )


def price_at(endpoint: Endpoint, price: ModelPrice) -> ModelPrice:
    """The price of a model at an endpoint: counting tokens runs no model, and costs the request's fee alone."""
    return ModelPrice(0, 0, price.request_msat) if endpoint is COUNT_TOKENS else price


def known_of(ask: Ask, source: Source) -> Known:
    """What the request says of its own usage. What has a price of its own is not also estimated in tokens."""
    price, sound = source.price, ask.endpoint in (TRANSCRIPTIONS, TRANSLATIONS)
    count: Callable[[], int] = cache(partial(count_prompt, ask.fields, ask.endpoint))
    if sound:
        tokens = 0 if price.audio_msat_per_hour else ceil_div(ask.audio_ms * TOKENS_PER_SECOND, 1000)
        count = partial(int, tokens)
    return Known(
        count,
        largest_usage(ask.fields, source.limits, ask.endpoint, audio_ms=ask.most_audio_ms),
        characters=len(ask.fields["input"]) if ask.endpoint is SPEECH else 0,
        audio_ms=ask.audio_ms,
        writes=ask.endpoint.writes,
        estimate=not (price.image_msat or price.characters_msat_per_mchar),
    )


def upstream_request(quote: Quote, source: Source) -> UpstreamRequest:
    """The request as that upstream gets it: the caller's, asking for no more tokens than are held, and for a stream of
    chat the wish to be told the usage."""
    ask = quote.ask
    fields = {**ask.fields, "model": source.model, **_output_limit(ask, source)}
    if ask.endpoint is RESPONSES:
        fields["store"] = False
    if ask.stream and ask.endpoint in (CHAT, COMPLETIONS):
        # Nothing else passes: usage that is told piece by piece is of one choice alone at some servers.
        fields["stream_options"] = {"include_usage": True}
    if ask.form is None:
        return UpstreamRequest(ask.endpoint, fields, msgspec.json.encode(fields), "application/json", ask.stream)
    boundary = secrets.token_hex(16)
    body = write_form(ask.form, {"model": source.model}, boundary)
    kind = f"multipart/form-data; boundary={boundary}"
    return UpstreamRequest(ask.endpoint, fields, body, kind, ask.stream, ask.most_audio_ms)


def _output_limit(ask: Ask, source: Source) -> dict[str, int]:
    """How many tokens may be written, in the field that the caller used: what is held and no more. A caller who did not say
    gets the model's own limit, where that leaves room for the prompt."""
    longest = source.limits.max_output_tokens
    named = {field: min(ask.fields[field], longest) for field in ask.endpoint.output_fields if ask.fields.get(field)}
    if named or not ask.endpoint.output_fields or longest >= source.limits.context_length:
        return named
    room = source.limits.context_length - prompt_bound(ask.fields, ask.endpoint)
    return {ask.endpoint.output_fields[-1]: min(longest, room)} if room > 0 else {}


def _most(ask: Ask, source: Source) -> Msat:
    price = price_at(ask.endpoint, source.price)
    return cost(most_usage(ask.fields, source.limits, price, ask.endpoint, audio_ms=ask.most_audio_ms), price)


def _lacks_price(endpoint: Endpoint, price: ModelPrice) -> bool:
    """Whether a model that costs something would be given away at this endpoint."""
    if price == ModelPrice(0, 0) or price.request_msat or endpoint is COUNT_TOKENS:
        return False
    tokens = price.completion_msat_per_mtok if endpoint.writes else price.prompt_msat_per_mtok
    if endpoint in (IMAGES, IMAGE_EDITS):
        return not (tokens or price.image_msat)
    if endpoint is SPEECH:
        return not (tokens or price.characters_msat_per_mchar)
    if endpoint in (TRANSCRIPTIONS, TRANSLATIONS):
        return not (tokens or price.audio_msat_per_hour or price.prompt_msat_per_mtok)
    return not (tokens or price.prompt_msat_per_mtok)


def _check_media(ask: Ask, model: Model) -> None:
    """Refuse what the model cannot read; a part's type is `text`, `image_url`, `input_audio`, `document` or the like."""
    if ask.endpoint.multipart:
        return
    for kind in sorted(media_types(ask.fields, ask.endpoint)):
        plain = kind.removeprefix("input_").removesuffix("_url")
        if {"document": "file"}.get(plain, plain) not in model.input_modalities:
            raise _bad(f"{model.id} does not read parts of type {kind[:40]!r}")


def _bad(message: str) -> Refusal:
    return Refusal(400, payment.INVALID_REQUEST, message)
