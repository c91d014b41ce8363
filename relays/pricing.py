"""Prices and the one function that turns usage into money.

The node charges with `cost`, the client verifies with the same `cost`: there is no second formula to disagree with.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relays.money import Msat, ceil_div, msat

TOKENS_PER_PRICE: Final = 1_000_000
"""Token and character prices are whole msat per this many: exact integers down to a thousandth of a sat per million."""
MS_PER_HOUR: Final = 3_600_000
PARTS: Final = 18_000_000
"""Both of the above divide this: a cost is summed in these parts of a msat and rounded once."""
_PER_TOKEN: Final = PARTS // TOKENS_PER_PRICE
_PER_MS: Final = PARTS // MS_PER_HOUR


class ModelPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a model costs, in whole msat: per million tokens read and written, per request, and per what else it takes."""

    prompt_msat_per_mtok: int
    completion_msat_per_mtok: int
    request_msat: int = 0
    cached_msat_per_mtok: int | None = None
    """For what of the prompt was read from a cache; None: as the rest of the prompt."""
    cache_write_msat_per_mtok: int | None = None
    """For what of the prompt was written to a cache; None: as the rest of the prompt."""
    reasoning_msat_per_mtok: int | None = None
    """For what of the completion is reasoning; None: as the rest of it."""
    image_msat: int = 0
    """Per image made."""
    audio_msat_per_hour: int = 0
    """Per hour of sound heard."""
    characters_msat_per_mchar: int = 0
    """Per million characters spoken."""

    def __post_init__(self) -> None:
        for amount_msat in msgspec.structs.astuple(self):
            if amount_msat is not None:
                msat(amount_msat)

    @property
    def cached(self) -> int:
        return self.prompt_msat_per_mtok if self.cached_msat_per_mtok is None else self.cached_msat_per_mtok

    @property
    def cache_write(self) -> int:
        return self.prompt_msat_per_mtok if self.cache_write_msat_per_mtok is None else self.cache_write_msat_per_mtok

    @property
    def reasoning(self) -> int:
        return self.completion_msat_per_mtok if self.reasoning_msat_per_mtok is None else self.reasoning_msat_per_mtok


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a request used. Never negative; tokens of a kind are among the tokens read or written."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt, read from a cache."""
    cache_write_tokens: int = 0
    """Of the prompt, written to a cache."""
    reasoning_tokens: int = 0
    """Of the completion."""
    images: int = 0
    audio_ms: int = 0
    characters: int = 0

    def __post_init__(self) -> None:
        if (
            self.cached_tokens < 0
            or self.cache_write_tokens < 0
            or self.reasoning_tokens < 0
            or self.prompt_tokens < self.cached_tokens + self.cache_write_tokens
            or self.completion_tokens < self.reasoning_tokens
            or self.images < 0
            or self.audio_ms < 0
            or self.characters < 0
        ):
            raise ValueError(f"this usage cannot be: {self}")

    def within(self, most: Usage) -> bool:
        """Whether it is no more than `most` of anything. Kinds of tokens are among those read and written."""
        return (
            self.prompt_tokens <= most.prompt_tokens
            and self.completion_tokens <= most.completion_tokens
            and self.images <= most.images
            and self.audio_ms <= most.audio_ms
            and self.characters <= most.characters
        )


def cost(usage: Usage, price: ModelPrice) -> Msat:
    """What `usage` costs at `price`, in msat, rounded up once over the whole request.

    Raises MoneyError when the result is beyond all bitcoin.
    """
    return msat(ceil_div(parts_of(usage, price), PARTS))


def parts_of(usage: Usage, price: ModelPrice) -> int:
    """The exact cost, in parts of a msat."""
    read = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    written = usage.completion_tokens - usage.reasoning_tokens
    by_million = read * price.prompt_msat_per_mtok + written * price.completion_msat_per_mtok
    if usage.cached_tokens or usage.cache_write_tokens or usage.reasoning_tokens or usage.characters:
        by_million += (
            usage.cached_tokens * price.cached
            + usage.cache_write_tokens * price.cache_write
            + usage.reasoning_tokens * price.reasoning
            + usage.characters * price.characters_msat_per_mchar
        )
    whole = usage.images * price.image_msat + price.request_msat
    return by_million * _PER_TOKEN + usage.audio_ms * price.audio_msat_per_hour * _PER_MS + whole * PARTS


def dearest(usage: Usage, price: ModelPrice) -> Usage:
    """The same tokens in the kinds that cost most: what a bound has to reckon with."""
    cached = write = 0
    if max(price.cached, price.cache_write) > price.prompt_msat_per_mtok:
        cached, write = (usage.prompt_tokens, 0) if price.cached > price.cache_write else (0, usage.prompt_tokens)
    reasoning = usage.completion_tokens if price.reasoning > price.completion_msat_per_mtok else 0
    return msgspec.structs.replace(usage, cached_tokens=cached, cache_write_tokens=write, reasoning_tokens=reasoning)


def at_most(price: ModelPrice, other: ModelPrice) -> bool:
    """Whether `price` is no more than `other` for any usage."""
    return all(
        getattr(price, part) <= getattr(other, part)
        for part in (
            "prompt_msat_per_mtok",
            "completion_msat_per_mtok",
            "request_msat",
            "cached",
            "cache_write",
            "reasoning",
            "image_msat",
            "audio_msat_per_hour",
            "characters_msat_per_mchar",
        )
    )


def ceiling(first: ModelPrice, second: ModelPrice) -> ModelPrice:
    """The lowest price that neither of two is above, for any usage."""
    if at_most(first, second):
        return second
    if at_most(second, first):
        return first
    prompt = max(first.prompt_msat_per_mtok, second.prompt_msat_per_mtok)
    completion = max(first.completion_msat_per_mtok, second.completion_msat_per_mtok)
    cached, write = max(first.cached, second.cached), max(first.cache_write, second.cache_write)
    reasoning = max(first.reasoning, second.reasoning)
    return ModelPrice(
        prompt,
        completion,
        max(first.request_msat, second.request_msat),
        cached_msat_per_mtok=None if cached == prompt else cached,
        cache_write_msat_per_mtok=None if write == prompt else write,
        reasoning_msat_per_mtok=None if reasoning == completion else reasoning,
        image_msat=max(first.image_msat, second.image_msat),
        audio_msat_per_hour=max(first.audio_msat_per_hour, second.audio_msat_per_hour),
        characters_msat_per_mchar=max(first.characters_msat_per_mchar, second.characters_msat_per_mchar),
    )
