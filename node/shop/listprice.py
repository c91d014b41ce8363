"""What a model costs by its list, in USD or in msat, and that in msat at a tariff. Pure; a missing price is never zero.

The fields are OpenRouter's `pricing` (USD per token, request, search), with ours beside them: `image_sizes`, `audio_second`,
`character` and `audio_output`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Final

import msgspec

from relays.money import MSAT_PER_BTC
from relays.pricing import MS_PER_HOUR, TOKENS_PER_PRICE, ModelPrice, SizePrice, plainest

SECONDS_PER_HOUR: Final = MS_PER_HOUR // 1000
MOST_DIGITS: Final = 200
"""Products are exact: of a price with 30 digits behind the point, a markup, a factor and what a bitcoin has of msat."""
_NEEDED: Final = {"prompt": "prompt_msat_per_mtok", "completion": "completion_msat_per_mtok"}
_KINDS: Final = {
    "input_cache_read": "cached_msat_per_mtok",
    "input_cache_write": "cache_write_msat_per_mtok",
    "internal_reasoning": "reasoning_msat_per_mtok",
    "audio": "audio_msat_per_mtok",
    "audio_output": "speech_msat_per_mtok",
}
"""Kinds of tokens: one without a price costs what the others do."""
_PIECES: Final = {
    "request": ("request_msat", 1),
    "web_search": ("search_msat", 1),
    "image": ("image_msat", 1),
    "audio_second": ("audio_msat_per_hour", SECONDS_PER_HOUR),
    "character": ("characters_msat_per_mchar", TOKENS_PER_PRICE),
}
"""What is paid by the piece, and how many of them our price is for."""


class Tariff(msgspec.Struct, frozen=True):
    """What turns list prices into those that are asked now."""

    btc_usd: Decimal | None
    """USD per bitcoin; None: not known, and nothing priced in USD is sold."""
    factor: Decimal = Decimal(1)
    """Of how busy the node is."""


class UsdPrice(msgspec.Struct, frozen=True, tag="usd"):
    """A price in USD: `parts` by the names of OpenRouter's fields, images by size and quality."""

    parts: Mapping[str, Decimal]
    image_sizes: tuple[tuple[str, str, Decimal], ...] = ()
    """(size, quality, USD)."""
    markup: Decimal = Decimal(1)
    request_msat: Decimal = Decimal(0)
    """On top of every request, without markup."""

    def at(self, tariff: Tariff) -> ModelPrice:
        """In msat, every part rounded up. Raises ValueError where bitcoin has no price, MoneyError beyond all bitcoin."""
        if tariff.btc_usd is None:
            raise ValueError("the price of bitcoin is not known")
        with localcontext(prec=MOST_DIGITS):
            msat_for_usd = self.markup * tariff.factor * MSAT_PER_BTC

            def msat(usd: Decimal, pieces: int) -> int:
                assert tariff.btc_usd is not None
                return _ceil_div(usd * pieces * msat_for_usd, tariff.btc_usd)

            parts: dict[str, Any] = {
                field: msat(self.parts[name], TOKENS_PER_PRICE)
                for name, field in (_NEEDED | _KINDS).items()
                if name in self.parts
            }
            for name, (field, number) in _PIECES.items():
                if name in self.parts:
                    parts[field] = msat(self.parts[name], number)
            fee_msat = _ceil_div(self.request_msat * tariff.factor, Decimal(1))
            parts["request_msat"] = parts.get("request_msat", 0) + fee_msat
            parts["image_sizes"] = tuple(
                SizePrice(size, msat(usd, 1), quality) for size, quality, usd in self.image_sizes
            )
        return plainest(ModelPrice(**parts))


class MsatPrice(msgspec.Struct, frozen=True, tag="msat"):
    """A price in msat: the operator's own word, or that of a node whose answers are sold on."""

    price: ModelPrice
    markup: Decimal = Decimal(1)

    def at(self, tariff: Tariff) -> ModelPrice:
        """With markup and tariff, every part rounded up."""
        return scaled(self.price, Fraction(self.markup) * Fraction(tariff.factor))


ListPrice = UsdPrice | MsatPrice


def scaled(price: ModelPrice, factor: Fraction) -> ModelPrice:
    """Every part of a price times a factor, rounded up."""
    if factor == 1:
        return price

    def times(amount_msat: int) -> int:
        return -(-amount_msat * factor.numerator // factor.denominator)

    parts = {
        name: times(part) for name in ModelPrice.__struct_fields__ if isinstance(part := getattr(price, name), int)
    }
    sizes = tuple(msgspec.structs.replace(size, msat=times(size.msat)) for size in price.image_sizes)
    return msgspec.structs.replace(price, **parts, image_sizes=sizes)


def read_usd(pricing: Mapping[str, Any], *, makes_images: bool, markup: Decimal, request_msat: Decimal) -> UsdPrice:
    """OpenRouter's `pricing`. Raises ValueError for one that lacks what is needed, or is not fixed."""
    if any(pricing.get(name) is None for name in _NEEDED):
        raise ValueError("it has no price")
    # What a picture in a prompt costs is told for people: it is paid for by its tokens, if those have a price.
    makes_images = makes_images or not any(_decimal(pricing[name]) for name in _NEEDED)
    told = [name for name in (*_NEEDED, *_KINDS, *_PIECES) if name != "image" or makes_images]
    parts = {name: _decimal(pricing[name]) for name in told if pricing.get(name) is not None}
    sizes = pricing.get("image_sizes") or {}
    if not isinstance(sizes, Mapping):
        raise ValueError("its 'image_sizes' is no object")
    by_size = tuple((*_size(str(size)), _decimal(usd)) for size, usd in sizes.items())
    return UsdPrice(
        # A kind of tokens at no price is one that the list does not tell apart.
        {name: usd for name, usd in parts.items() if usd or name in _NEEDED},
        by_size,
        markup,
        request_msat,
    )


def _size(name: str) -> tuple[str, str]:
    """`1024x1792:hd` is a size and a quality."""
    size, _, quality = name.partition(":")
    return size, quality


def _decimal(value: object) -> Decimal:
    number = Decimal(str(value))
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or number < 0:  # NaN; or OpenRouter's -1: depends on where it is routed
        raise ValueError("its price is not fixed")
    if exponent < -30 or number > 10**9:
        raise ValueError("its price cannot be")
    return number


def _ceil_div(dividend: Decimal, divisor: Decimal) -> int:
    whole, rest = divmod(dividend, divisor)
    return int(whole) + (rest > 0)
