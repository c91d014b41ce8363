"""Quotes: a request to the most it can cost, and to the upstreams that may serve it. Pure; what cannot be served is refused
here, before money moves."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cache, partial
from typing import Final

import msgspec

from node import betas
from node.asks import Ask
from node.errors import Refusal
from node.forms import write_form
from node.metering.measure import Known
from node.metering.tokens import count_prompt
from node.shop.catalogue import Catalogue, Model
from node.upstream.base import Source, UpstreamRequest
from relays import payment
from relays.bounds import (
    ModelLimits,
    choices,
    largest_usage,
    most_usage,
    searches,
)
from relays.endpoints import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    IMAGE_EDITS,
    IMAGES,
    MESSAGES,
    RESPONSES,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)
from relays.errors import MoneyError
from relays.money import Msat, ceil_div
from relays.pricing import ModelPrice, Usage, cost, price_for
from relays.quote import QuoteAnswer

LIKELY_OUTPUT: Final = 500
"""Tokens of an answer, to tell which upstream is cheapest."""
TOKENS_PER_SECOND: Final = 17
"""Of sound that is heard, where nobody reports tokens: what gpt-4o-transcribe makes of it."""


_TALKS: Final = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)


class Quote(msgspec.Struct, frozen=True):
    """What a request asks for, who may serve it, cheapest first, and the hold that covers the dearest of them."""

    ask: Ask
    model: Model
    sources: tuple[Source, ...]
    hold_msat: Msat
    likely: Usage
    """What it will probably use."""

    @property
    def likely_tokens(self) -> int:
        """Read and asked for, as rate limits count them."""
        return self.likely.prompt_tokens + self.likely.completion_tokens

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
    likely = likely_usage(ask, model.limits)
    sources = [source for source in model.sources if not _lacks_price(ask, source)]
    if not sources:
        what = "searches of the web" if searches(ask.fields, ask.endpoint) else "this endpoint"
        if ask.endpoint in (IMAGES, IMAGE_EDITS) and (_draws_more(ask) or _shows_more(ask)):
            what = "the tokens of 'partial_images', of 'input_fidelity' and of more than one picture"
        if ask.endpoint in _TALKS and any(source.draws_unpriced for source in model.sources):
            what = "the pictures that it draws in its answers"
        raise _bad(f"{model.id} has no price for {what}: choose another model")
    roomy = [source for source in sources if likely.prompt_tokens < source.limits.context_length]
    if not roomy:  # whoever knows the window will refuse it, or read less; elsewhere it could be read and not be paid
        roomy = [source for source in sources if source.known_context or ask.prompt.media]
    if not roomy:
        longer = f"this request is longer than the context of {model.id}, {model.limits.context_length} tokens"
        raise Refusal(400, payment.CONTEXT_EXCEEDED, longer)
    ordered = sorted(roomy, key=lambda source: cost(likely, price_for(ask.fields, ask.endpoint, source.price)))
    return Quote(ask, model, tuple(ordered), max(_most(ask, source) for source in ordered), likely)


def likely_usage(ask: Ask, limits: ModelLimits) -> Usage:
    """A guess: the prompt by its length, and an answer as long as was asked for, or of usual length."""
    fields, endpoint = ask.fields, ask.endpoint
    asked = next((fields[field] for field in endpoint.output_fields if fields.get(field)), LIKELY_OUTPUT)
    many = choices(fields, endpoint)
    return Usage(
        ask.prompt.likely(limits.pictures),
        many * min(asked, limits.max_output_tokens) if endpoint.writes else 0,
        images=many if endpoint in (IMAGES, IMAGE_EDITS) else 0,
        audio_ms=ask.audio_ms,
        characters=len(fields["input"]) if endpoint is SPEECH else 0,
        searches=searches(fields, endpoint),
    )


def told(quote: Quote, holds_s: int) -> QuoteAnswer:
    """A quote for who asks for one; it holds for a minute, or until a rise that was announced before takes effect."""
    ask, model = quote.ask, quote.model
    cheapest = price_for(ask.fields, ask.endpoint, quote.sources[0].price)
    return QuoteAnswer(
        model=model.id,
        endpoint="/v1" + ask.endpoint.path,
        hold_msat=quote.hold_msat,
        expected_msat=min(quote.hold_msat, cost(quote.likely, cheapest)),
        expected_usage=quote.likely,
        price=price_for(ask.fields, ask.endpoint, model.price),
        valid_s=holds_s,
    )


def known_of(ask: Ask, source: Source) -> Known:
    """What the request says of its own usage. What has a price of its own is not also estimated in tokens."""
    price, sound = source.price, ask.endpoint in (TRANSCRIPTIONS, TRANSLATIONS)
    count: Callable[[], int] = cache(partial(count_prompt, ask.fields, ask.endpoint, source.limits.pictures))
    if sound:
        tokens = 0 if price.audio_msat_per_hour else ceil_div(ask.audio_ms * TOKENS_PER_SECOND, 1000)
        count = partial(int, tokens)
    return Known(
        count,
        largest_usage(ask.fields, source.limits, ask.endpoint, audio_ms=ask.most_audio_ms, prompt=ask.prompt),
        characters=len(ask.fields["input"]) if ask.endpoint is SPEECH else 0,
        audio_ms=ask.audio_ms,
        writes=ask.endpoint.writes,
        choices=choices(ask.fields, ask.endpoint),
        echoes=bool(ask.fields.get("echo")),
        estimate=not (price.largest_image_msat or price.characters_msat_per_mchar),
        searches=searches(ask.fields, ask.endpoint),
        searches_are_told=ask.endpoint is not CHAT,
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
        headers = {betas.HEADER: ",".join(ask.betas)} if ask.betas else {}
        body = msgspec.json.encode(fields)
        return UpstreamRequest(ask.endpoint, fields, body, "application/json", ask.stream, headers=headers)
    boundary = secrets.token_hex(16)
    body = write_form(ask.form, {"model": source.model}, boundary)
    kind = f"multipart/form-data; boundary={boundary}"
    return UpstreamRequest(ask.endpoint, fields, body, kind, ask.stream, ask.most_audio_ms)


def _output_limit(ask: Ask, source: Source) -> dict[str, int]:
    """How many tokens may be written, in the field that the caller used: what is held and no more. A caller who did not say
    gets the model's own limit, where that leaves room for the prompt, and the window ends it where that is all there is; one
    that is assumed ends nothing, so that it is said."""
    longest, window = source.limits.max_output_tokens, source.limits.context_length
    named = {field: min(ask.fields[field], longest) for field in ask.endpoint.output_fields if ask.fields.get(field)}
    if named or not ask.endpoint.output_fields or (longest >= window and source.known_context):
        return named
    rooms = [window - ask.prompt.bound(source.limits.pictures)]
    if not source.known_context:
        rooms += [window - ask.prompt.likely(source.limits.pictures), longest]
    room = next((room for room in rooms if room > 0), 0)
    return {ask.endpoint.output_fields[-1]: min(longest, room)} if room else {}


def _most(ask: Ask, source: Source) -> Msat:
    price = price_for(ask.fields, ask.endpoint, source.price)
    return cost(
        most_usage(ask.fields, source.limits, price, ask.endpoint, audio_ms=ask.most_audio_ms, prompt=ask.prompt), price
    )


def _lacks_price(ask: Ask, source: Source) -> bool:
    """Whether a model that costs something would be given away at this endpoint, or a search or a picture would."""
    endpoint, price = ask.endpoint, source.price
    if endpoint in _TALKS and source.draws_unpriced:
        return True
    if searches(ask.fields, endpoint) and not price.search_msat:
        return True
    if price == ModelPrice(0, 0) or price.request_msat or endpoint is COUNT_TOKENS:
        return False
    tokens = price.completion_msat_per_mtok if endpoint.writes else price.prompt_msat_per_mtok
    if endpoint in (IMAGES, IMAGE_EDITS):
        if (_draws_more(ask) and not tokens) or (_shows_more(ask) and not price.prompt_msat_per_mtok):
            return True
        return not (tokens or price.largest_image_msat)
    if endpoint is SPEECH:
        return not (tokens or price.characters_msat_per_mchar)
    if endpoint in (TRANSCRIPTIONS, TRANSLATIONS):
        return not (tokens or price.audio_msat_per_hour or price.prompt_msat_per_mtok)
    return not (tokens or price.prompt_msat_per_mtok)


def _draws_more(ask: Ask) -> bool:
    """Whether pictures are wanted that are not finished: each costs tokens beside the price of the picture."""
    return ask.fields.get("partial_images") not in (None, 0, "", "0")


def _shows_more(ask: Ask) -> bool:
    """Whether more is read than the one picture that the price of a picture has in it: several, or one in every detail."""
    pictures = [] if ask.form is None else [part for part in ask.form.files if part.name != "mask"]
    return len(pictures) > 1 or ask.fields.get("input_fidelity") not in (None, "", "low")


def _check_media(ask: Ask, model: Model) -> None:
    """Refuse what the model cannot read; a part's type is `text`, `image_url`, `input_audio`, `document` or the like."""
    if ask.endpoint.multipart:
        return
    for kind in sorted(ask.prompt.media):
        plain = kind.removeprefix("input_").removesuffix("_url")
        if {"document": "file"}.get(plain, plain) not in model.input_modalities:
            raise _bad(f"{model.id} does not read parts of type {kind[:40]!r}")


def _bad(message: str) -> Refusal:
    return Refusal(400, payment.INVALID_REQUEST, message)
