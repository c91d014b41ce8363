"""Prices and the one function that turns usage into money.

The node charges with `cost`, the client verifies with the same `cost`: there is no second formula to disagree with.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from relays.endpoints import COUNT_TOKENS, IMAGE_EDITS, IMAGES, Endpoint
from relays.money import Msat, ceil_div, msat

TOKENS_PER_PRICE: Final = 1_000_000
"""Token and character prices are whole msat per this many: exact integers down to a thousandth of a sat per million."""
MS_PER_HOUR: Final = 3_600_000
PARTS: Final = 18_000_000
"""Both of the above divide this: a cost is summed in these parts of a msat and rounded once."""
_PER_TOKEN: Final = PARTS // TOKENS_PER_PRICE
_PER_MS: Final = PARTS // MS_PER_HOUR


class SizePrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an image of one size costs, in one quality or in any."""

    size: str
    """As it is asked for, such as `1024x1792`."""
    msat: int
    quality: str = ""
    """As it is asked for; empty: any that has no price of its own, and where none is asked for."""

    def __post_init__(self) -> None:
        msat(self.msat)


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
    audio_msat_per_mtok: int | None = None
    """For what of the prompt is sound; None: as the rest of the prompt."""
    speech_msat_per_mtok: int | None = None
    """For what of the completion is sound; None: as the rest of it."""
    image_msat: int = 0
    """Per image made, where sizes have no prices of their own."""
    image_sizes: tuple[SizePrice, ...] = ()
    audio_msat_per_hour: int = 0
    """Per hour of sound heard."""
    characters_msat_per_mchar: int = 0
    """Per million characters spoken."""
    search_msat: int = 0
    """Per search of the web that the model's server makes."""

    def __post_init__(self) -> None:
        for amount_msat in msgspec.structs.astuple(self):
            if isinstance(amount_msat, int):
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

    @property
    def audio(self) -> int:
        return self.prompt_msat_per_mtok if self.audio_msat_per_mtok is None else self.audio_msat_per_mtok

    @property
    def speech(self) -> int:
        return self.completion_msat_per_mtok if self.speech_msat_per_mtok is None else self.speech_msat_per_mtok

    @property
    def largest_image_msat(self) -> int:
        """What no image costs more than."""
        return max((self.image_msat, *(size.msat for size in self.image_sizes)))

    def of_image(self, size: str, quality: str) -> int:
        """What an image costs that is asked for in this size and quality; the dearest where the server chooses, or where no
        price fits: a missing price is never zero."""
        if not self.image_sizes:
            return self.image_msat
        prices = {each.quality: each.msat for each in self.image_sizes if each.size == size}
        if not prices:
            return self.largest_image_msat
        if quality == "auto" or not prices.keys() & {quality, ""}:
            return max(self.image_msat, *prices.values())
        return prices[quality] if quality in prices else prices[""]


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
    audio_tokens: int = 0
    """Of the prompt, heard; none of those that were read from a cache or written to one."""
    speech_tokens: int = 0
    """Of the completion, spoken; none of those that are reasoning."""
    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    searches: int = 0

    def __post_init__(self) -> None:
        if (
            min(msgspec.structs.astuple(self)) < 0
            or self.prompt_tokens < self.cached_tokens + self.cache_write_tokens + self.audio_tokens
            or self.completion_tokens < self.reasoning_tokens + self.speech_tokens
        ):
            raise ValueError(f"this usage cannot be: {self}")

    @property
    def has_kinds(self) -> bool:
        """Whether tokens of other kinds than plain ones are among them."""
        return bool(
            self.cached_tokens
            or self.cache_write_tokens
            or self.reasoning_tokens
            or self.audio_tokens
            or self.speech_tokens
        )

    def within(self, most: Usage) -> bool:
        """Whether it is no more than `most` of anything. Kinds of tokens are among those read and written."""
        return (
            self.prompt_tokens <= most.prompt_tokens
            and self.completion_tokens <= most.completion_tokens
            and self.images <= most.images
            and self.audio_ms <= most.audio_ms
            and self.characters <= most.characters
            and self.searches <= most.searches
        )


def price_for(fields: Mapping[str, Any], endpoint: Endpoint, price: ModelPrice) -> ModelPrice:
    """A model's price as it is for one request: for images of the size that it asks for. Counting tokens runs no model, and
    costs the request's fee alone."""
    if endpoint is COUNT_TOKENS:
        return ModelPrice(0, 0, price.request_msat)
    if not price.image_sizes:
        return price
    image_msat = price.image_msat
    if endpoint in (IMAGES, IMAGE_EDITS):
        image_msat = price.of_image(str(fields.get("size") or ""), str(fields.get("quality") or ""))
    return msgspec.structs.replace(price, image_msat=image_msat, image_sizes=())


def cost(usage: Usage, price: ModelPrice) -> Msat:
    """What `usage` costs at `price`, in msat, rounded up once over the whole request.

    Raises MoneyError when the result is beyond all bitcoin.
    """
    return msat(ceil_div(parts_of(usage, price), PARTS))


def parts_of(usage: Usage, price: ModelPrice) -> int:
    """The exact cost, in parts of a msat."""
    by_million = (
        usage.prompt_tokens * price.prompt_msat_per_mtok + usage.completion_tokens * price.completion_msat_per_mtok
    )
    if usage.cached_tokens:
        by_million += usage.cached_tokens * (price.cached - price.prompt_msat_per_mtok)
    if usage.cache_write_tokens:
        by_million += usage.cache_write_tokens * (price.cache_write - price.prompt_msat_per_mtok)
    if usage.audio_tokens:
        by_million += usage.audio_tokens * (price.audio - price.prompt_msat_per_mtok)
    if usage.reasoning_tokens:
        by_million += usage.reasoning_tokens * (price.reasoning - price.completion_msat_per_mtok)
    if usage.speech_tokens:
        by_million += usage.speech_tokens * (price.speech - price.completion_msat_per_mtok)
    if usage.characters:
        by_million += usage.characters * price.characters_msat_per_mchar
    whole = usage.images * price.image_msat + usage.searches * price.search_msat + price.request_msat
    return by_million * _PER_TOKEN + usage.audio_ms * price.audio_msat_per_hour * _PER_MS + whole * PARTS


def dearest(usage: Usage, price: ModelPrice) -> Usage:
    """The same tokens in the kinds that cost most: what a bound has to reckon with. Sound is not more than `usage` says."""
    read = [(price.cached, "cached_tokens"), (price.cache_write, "cache_write_tokens")]
    written = [(price.reasoning, "reasoning_tokens")]
    if usage.audio_tokens:
        read.append((price.audio, "audio_tokens"))
    if usage.speech_tokens:
        written.append((price.speech, "speech_tokens"))
    kinds = {}
    for all_of_them, plain_msat, others in (
        (usage.prompt_tokens, price.prompt_msat_per_mtok, read),
        (usage.completion_tokens, price.completion_msat_per_mtok, written),
    ):
        most_msat, kind = max(others)
        if most_msat > plain_msat:
            kinds[kind] = all_of_them
    return msgspec.structs.replace(usage, **(_NO_KINDS | kinds)) if kinds or usage.has_kinds else usage


_NO_KINDS: Final = MappingProxyType(
    dict.fromkeys(("cached_tokens", "cache_write_tokens", "audio_tokens", "reasoning_tokens", "speech_tokens"), 0)
)
_PARTS: Final = (
    *("prompt_msat_per_mtok", "completion_msat_per_mtok", "request_msat", "image_msat", "audio_msat_per_hour"),
    *("characters_msat_per_mchar", "search_msat"),
)
_KINDS: Final = ("cached", "cache_write", "reasoning", "audio", "speech")


def at_most(price: ModelPrice, other: ModelPrice) -> bool:
    """Whether `price` is no more than `other` for any usage, images of any size included."""
    if any(getattr(price, part) > getattr(other, part) for part in (*_PARTS, *_KINDS)):
        return False
    listed = (*price.image_sizes, *other.image_sizes)
    sizes, qualities = {"", "other", *(each.size for each in listed)}, {"", "other", *(each.quality for each in listed)}
    return all(
        price.of_image(size, quality) <= other.of_image(size, quality) for size in sizes for quality in qualities
    )


def ceiling(first: ModelPrice, second: ModelPrice) -> ModelPrice:
    """The lowest price that neither of two is above, for any usage; images at the dearest where sizes differ."""
    if at_most(first, second):
        return second
    if at_most(second, first):
        return first
    parts: dict[str, int] = {part: max(getattr(first, part), getattr(second, part)) for part in _PARTS}
    kinds = {f"{kind}_msat_per_mtok": max(getattr(first, kind), getattr(second, kind)) for kind in _KINDS}
    if first.image_sizes != second.image_sizes:
        parts["image_msat"] = max(first.largest_image_msat, second.largest_image_msat)
        sizes: tuple[SizePrice, ...] = ()
    else:
        sizes = first.image_sizes
    return plainest(ModelPrice(**parts, **kinds, image_sizes=sizes))


def floor(first: ModelPrice, second: ModelPrice) -> ModelPrice:
    """The highest price that is above neither of two, part by part; for images the second where their sizes differ and it
    is lower, else the first."""
    parts: dict[str, Any] = {part: min(getattr(first, part), getattr(second, part)) for part in _PARTS}
    parts |= {f"{kind}_msat_per_mtok": min(getattr(first, kind), getattr(second, kind)) for kind in _KINDS}
    lower = second if at_most(_images_of(second), _images_of(first)) else first
    parts |= {"image_msat": lower.image_msat, "image_sizes": lower.image_sizes}
    return plainest(ModelPrice(**parts))


def _images_of(price: ModelPrice) -> ModelPrice:
    return ModelPrice(0, 0, image_msat=price.image_msat, image_sizes=price.image_sizes)


def plainest(price: ModelPrice) -> ModelPrice:
    """The same price, without prices of kinds of tokens that cost what the rest does."""
    read, written = price.prompt_msat_per_mtok, price.completion_msat_per_mtok
    usual = {"cached": read, "cache_write": read, "audio": read, "reasoning": written, "speech": written}
    names = [f"{kind}_msat_per_mtok" for kind, msat_ in usual.items() if getattr(price, kind) == msat_]
    return msgspec.structs.replace(price, **dict.fromkeys(names))
