"""How many tokens a picture in a prompt becomes at most: what both sides hold for it.

Providers cut pictures into tiles or patches after scaling them; their published rules are here by model. For models that
nobody here knows, patches of 14 pixels are counted, the smallest in use. A picture behind a URL is never fetched: it is
taken for the largest that the model reads.

Sources: OpenAI "Images and vision", Anthropic "Vision", Google "Understand images" (Gemini API), Qwen2-VL's processor.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import imagesize

from relays.money import ceil_div

HEAD_CHARS: Final = 256 * 1024
"""Of a picture's base64: its size stands at its beginning."""
MOST_TOKENS: Final = 16_384
"""Of a picture that nothing is known of: what Qwen's models make of the largest."""
LEAST_TOKENS: Final = 6_500
"""Of a picture at a model that nobody knows: some scale even the smallest up to four tiles of 1,601 tokens."""
LIKELY_TOKENS: Final = 1000
"""Of a picture at a model that nobody knows: a large one at most providers."""
_READ: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF")
"""The formats that models read; of others no size is looked for, since their readers do more than read a header."""

_Size = tuple[int, int] | None


class Rule(NamedTuple):
    """How a family of models counts, by size and whether low detail was asked for; None is a size that is not known."""

    names: re.Pattern[str]
    tokens: Callable[[_Size, bool], int]


def _tiles(base: int, tile: int) -> Callable[[_Size, bool], int]:
    """OpenAI: into 2,048 by 2,048, then the shorter side to 768, then tiles of 512; at low detail the base alone."""

    def tokens(size: _Size, low: bool) -> int:
        if low:
            return base
        if size is None:
            return base + 8 * tile
        shrunk = min(1.0, 2048 / max(size))
        width, height = size[0] * shrunk, size[1] * shrunk
        shrunk = min(1.0, 768 / min(width, height))
        return base + tile * math.ceil(width * shrunk / 512) * math.ceil(height * shrunk / 512)

    return tokens


def _patches(percent: int) -> Callable[[_Size, bool], int]:
    """OpenAI's small models: patches of 32 pixels, at most 1,536 of them, times a factor."""

    def tokens(size: _Size, low: bool) -> int:
        count = 1536 if size is None else min(1536, ceil_div(size[0], 32) * ceil_div(size[1], 32))
        return ceil_div(count * percent, 100)

    return tokens


def _anthropic(size: _Size, low: bool) -> int:
    """One token for 750 pixels, after scaling to 2,576 pixels and 4,784 tokens at most."""
    if size is None:
        return 4784
    shrunk = min(1.0, 2576 / max(size))
    return min(4784, math.ceil(size[0] * shrunk * size[1] * shrunk / 750) + 1)


def _gemini(size: _Size, low: bool) -> int:
    """258 tokens a tile, whose side is two thirds of the shorter one, from 256 to 768; later models up to 2,240 in all."""
    if size is None:
        return 4128
    if max(size) <= 384:
        return 1120
    side = min(768, max(256, int(min(size) / 1.5)))
    return max(2240, 258 * ceil_div(size[0], side) * ceil_div(size[1], side))


def _unknown(size: _Size, low: bool) -> int:
    if size is None:
        return MOST_TOKENS
    return min(MOST_TOKENS, max(LEAST_TOKENS, (ceil_div(size[0], 14) + 1) * ceil_div(size[1], 14)))


def _rule(names: str, tokens: Callable[[_Size, bool], int]) -> Rule:
    return Rule(re.compile(names), tokens)


RULES: Final = (
    _rule(r"gpt-4o-mini", _tiles(2833, 5667)),
    _rule(r"gpt-4\.1-mini|gpt-5(\.\d)?-mini", _patches(162)),
    _rule(r"gpt-4\.1-nano|gpt-5(\.\d)?-nano", _patches(246)),
    _rule(r"o4-mini", _patches(172)),
    _rule(r"gpt-4o|gpt-4\.1|gpt-4\.5|gpt-4-turbo|chatgpt-4o", _tiles(85, 170)),
    _rule(r"gpt-5", _tiles(85, 170)),
    _rule(r"o1|o3", _tiles(75, 150)),
    _rule(r"claude", _anthropic),
    _rule(r"gemini", _gemini),
)
"""By the beginning of a model's name, after its maker's; the first that fits."""


def picture_tokens(part: Mapping[str, Any], model: str) -> int:
    """At most how many tokens a part of a prompt that is a picture becomes."""
    data, low = _data_of(part)
    return (_rule_for(model) or _unknown)(None if data is None else size_of(data), low)


def likely_tokens(part: Mapping[str, Any], model: str) -> int:
    """How many it probably becomes, for when nobody reports it."""
    return LIKELY_TOKENS if _rule_for(model) is None else picture_tokens(part, model)


def _rule_for(model: str) -> Callable[[_Size, bool], int] | None:
    name = model.rsplit("/", 1)[-1].lower()
    return next((rule.tokens for rule in RULES if rule.names.match(name)), None)


def without_pictures(value: Any) -> tuple[Any, list[Mapping[str, Any]]]:
    """The same without the data of its pictures, and the pictures. Nests no deeper than a request may."""
    pictures: list[Mapping[str, Any]] = []

    def bare(part: Any) -> Any:
        if isinstance(part, list):
            return [bare(inner) for inner in part]
        if not isinstance(part, Mapping):
            return part
        if is_picture(part):
            pictures.append(part)
            return None
        return {name: bare(inner) for name, inner in part.items()}

    return bare(value), pictures


def is_picture(part: Mapping[str, Any]) -> bool:
    """Whether a part of a message is a picture and nothing else, in OpenAI's or Anthropic's form."""
    kind = part.get("type")
    if kind == "image_url":
        return part.keys() <= {"type", "image_url", "cache_control"}
    if kind == "input_image":
        return part.keys() <= {"type", "image_url", "detail"}
    return kind == "image" and part.keys() <= {"type", "source", "cache_control"}


def size_of(data: str) -> _Size:
    """Width and height of a picture in base64, by its header; None where it does not tell."""
    head = data[:HEAD_CHARS]
    try:
        raw = base64.b64decode(
            head[: len(head) // 4 * 4] + ("" if len(data) > HEAD_CHARS else data[len(head) // 4 * 4 :])
        )
    except (binascii.Error, ValueError):
        return None
    if not raw.startswith(_READ):
        return None
    width, height = imagesize.get(io.BytesIO(raw), exif_rotation=False)
    return (width, height) if width > 0 and height > 0 else None


def _data_of(part: Mapping[str, Any]) -> tuple[str | None, bool]:
    """A picture's base64, if it came along, and whether low detail is enough."""
    image, source, detail = part.get("image_url"), part.get("source"), part.get("detail")
    if isinstance(source, Mapping):
        data = source.get("data")
        return (data if isinstance(data, str) else None), False
    if isinstance(image, Mapping):
        detail = image.get("detail")
        image = image.get("url")
    if isinstance(image, str) and image.startswith("data:") and ";base64," in image[:100]:
        return image.partition(";base64,")[2], detail == "low"
    return None, detail == "low"
