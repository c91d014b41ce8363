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
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from relays.money import ceil_div

HEAD_CHARS: Final = 256 * 1024
"""Of a picture's base64: its size stands at its beginning."""
MOST_TOKENS: Final = 16_384
"""Of a picture that nothing is known of: what Qwen's models make of the largest."""
LEAST_TOKENS: Final = 6_500
"""Of a picture at a model that nobody knows: some scale even the smallest up to four tiles of 1,601 tokens."""
LIKELY_TOKENS: Final = 1000
"""Of a picture at a model that nobody knows: a large one at most providers."""
MOST_URL_CHARS: Final = 4096
_FORMATS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF")
"""The formats that models read; what is in another is taken for more than a picture."""
_PLACES: Final = ("messages", "input", "system")
_PARTS: Final = ("content", "output")
_DETAILS: Final = (None, "auto", "low", "high")

_Size = tuple[int, int] | None


Rule = Callable[[_Size, bool], int]
"""How a family of models counts, by size and whether low detail was asked for; None is a size that is not known."""


def _tiles(base: int, tile: int) -> Rule:
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


def _patches(percent: int) -> Rule:
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
        return MOST_TOKENS
    if max(size) <= 384:
        return 1120
    side = min(768, max(256, int(min(size) / 1.5)))
    return min(MOST_TOKENS, max(2240, 258 * ceil_div(size[0], side) * ceil_div(size[1], side)))


def _unknown(size: _Size, low: bool) -> int:
    if size is None:
        return MOST_TOKENS
    return min(MOST_TOKENS, max(LEAST_TOKENS, (ceil_div(size[0], 14) + 1) * ceil_div(size[1], 14)))


UNKNOWN: Final = ""
LARGEST: Final = "largest"
"""Of a model that is served by several with different rules, or whose rule is not known here."""
RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        UNKNOWN: _unknown,
        "openai-mini": _tiles(2833, 5667),
        "openai-patches-162": _patches(162),
        "openai-patches-172": _patches(172),
        "openai-patches-246": _patches(246),
        "openai-tiles": _tiles(85, 170),
        "anthropic": _anthropic,
        "gemini": _gemini,
    }
)
_NAMES: Final = (
    (re.compile(r"gpt-4o-mini"), "openai-mini"),
    (re.compile(r"(gpt-4\.1|gpt-5)-mini"), "openai-patches-162"),
    (re.compile(r"(gpt-4\.1|gpt-5)-nano"), "openai-patches-246"),
    (re.compile(r"o4-mini"), "openai-patches-172"),
    (re.compile(r"gpt-4o|gpt-4\.1|gpt-4\.5|gpt-4-turbo|chatgpt-4o|gpt-5(?!\.)|o1|o3"), "openai-tiles"),
    (re.compile(r"claude"), "anthropic"),
    (re.compile(r"gemini"), "gemini"),
)
"""By the beginning of a model's name at its server, after its maker's; the first that fits. Later models than these count
otherwise, and are taken for unknown."""


def rule_for(model: str) -> str:
    """The name of the rule that a model's maker counts pictures by."""
    name = model.rsplit("/", 1)[-1].lower()
    return next((rule for names, rule in _NAMES if names.match(name)), UNKNOWN)


def rule_of_all(rules: Iterable[str]) -> str:
    """The rule of a model that several serve."""
    different = set(rules)
    return different.pop() if len(different) == 1 else LARGEST


def picture_tokens(part: Mapping[str, Any], rule: str) -> int:
    """At most how many tokens a part of a prompt that is a picture becomes."""
    data, low = _data_of(part)
    size = None if data is None else size_of(data)
    if rule in RULES:
        return RULES[rule](size, low)
    return max(tokens(size, low) for tokens in RULES.values())


def likely_tokens(part: Mapping[str, Any], rule: str) -> int:
    """How many it probably becomes, for when nobody reports it."""
    return LIKELY_TOKENS if rule in (UNKNOWN, LARGEST) else picture_tokens(part, rule)


def without_pictures(body: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """A request without its pictures, and the pictures: they stand among the parts of messages, and nowhere else."""
    pictures: list[Mapping[str, Any]] = []

    def bare(part: Any) -> Any:
        if isinstance(part, list):
            return [bare(inner) for inner in part]
        if not isinstance(part, Mapping):
            return part
        if is_picture(part):
            pictures.append(part)
            return None
        return {name: bare(inner) if name in _PARTS else inner for name, inner in part.items()}

    return {name: bare(value) if name in _PLACES else value for name, value in body.items()}, pictures


def is_picture(part: Mapping[str, Any]) -> bool:
    """Whether a part of a message is a picture and nothing else, in OpenAI's or Anthropic's form: what is called one may be
    a file, or text in fields that its server reads all the same."""
    kind, image, source = part.get("type"), part.get("image_url"), part.get("source")
    if kind == "image":
        if part.keys() - {"type", "source", "cache_control"} or not isinstance(source, Mapping):
            return False
        if source.keys() == {"type", "url"}:
            return _is_address(source["url"])
        return source.keys() == {"type", "media_type", "data"} and _is_image(source["data"])
    if kind == "image_url":
        if part.keys() - {"type", "image_url", "cache_control"}:
            return False
        if isinstance(image, Mapping):
            if image.keys() - {"url", "detail"} or image.get("detail") not in _DETAILS:
                return False
            image = image.get("url")
    elif kind != "input_image" or part.keys() - {"type", "image_url", "detail"} or part.get("detail") not in _DETAILS:
        return False
    if isinstance(image, str) and image.startswith("data:image/"):
        head, found, data = image.partition(";base64,")
        return bool(found) and len(head) < 40 and _is_image(data)
    return _is_address(image)


def _is_address(url: object) -> bool:
    return isinstance(url, str) and url.startswith(("https://", "http://")) and len(url) <= MOST_URL_CHARS


def _is_image(data: object) -> bool:
    """Whether base64 begins as a picture does."""
    if not isinstance(data, str):
        return False
    try:
        return base64.b64decode(data[:16]).startswith(_FORMATS)
    except (binascii.Error, ValueError):
        return False


def size_of(data: str) -> _Size:
    """Width and height of a picture in base64, by its header; None where it does not tell."""
    head = data[:HEAD_CHARS]
    try:
        raw = base64.b64decode(head[: len(head) // 4 * 4])
    except (binascii.Error, ValueError):
        return None
    if not raw.startswith(_FORMATS) or raw.startswith(b"GIF"):  # a GIF's frames may be larger than it says
        return None
    width, height = import_module("imagesize").get(io.BytesIO(raw), exif_rotation=False)
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
    if isinstance(image, str) and image.startswith("data:"):
        return image.partition(";base64,")[2], detail == "low"
    return None, detail == "low"
