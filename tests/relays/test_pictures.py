"""Pictures in prompts are bounded by their tiles: by the rules of the model's maker, and never by fetching anything."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays.bounds import ModelLimits, largest_usage, likely_prompt_tokens, prompt_bound
from relays.endpoints import CHAT, MESSAGES, RESPONSES
from relays.pictures import LEAST_TOKENS, MOST_TOKENS, is_picture, picture_tokens, size_of, without_pictures


def png(width: int, height: int) -> str:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return base64.b64encode(raw + b"\0" * 100).decode()


def gif(width: int, height: int) -> str:
    return base64.b64encode(b"GIF89a" + struct.pack("<HH", width, height) + b"\0" * 50).decode()


def jpeg(width: int, height: int) -> str:
    padding = b"\xff\xe0" + struct.pack(">H", 40_002) + b"\0" * 40_000
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\0" * 9
    return base64.b64encode(b"\xff\xd8" + padding + frame + b"\xff\xd9").decode()


def webp(width: int, height: int) -> str:
    frame = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (width - 1).to_bytes(3, "little")
    frame += (height - 1).to_bytes(3, "little")
    return base64.b64encode(b"RIFF" + struct.pack("<I", 4 + len(frame)) + b"WEBP" + frame).decode()


def part(data: str, **detail: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", **detail}}


@pytest.mark.parametrize("made", [png, gif, jpeg, webp])
def test_a_size_is_read_from_the_header(made: Any) -> None:
    assert size_of(made(640, 480)) == (640, 480)


@pytest.mark.parametrize(
    "data", ["", "!", "AAAA", png(5, 5)[:20], base64.b64encode(b"<svg width='9' height='9'/>").decode()]
)
def test_a_picture_that_does_not_tell_has_no_size(data: str) -> None:
    assert size_of(data) is None


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF"]))
def test_no_bytes_break_the_reader(data: bytes, magic: bytes) -> None:
    size = size_of(base64.b64encode(magic + data).decode())
    assert size is None or min(size) > 0


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        # as their makers' own pages reckon
        ("openai/gpt-4o", (1024, 1024), {}, 765),
        ("gpt-4o", (2048, 4096), {}, 1105),
        ("gpt-4o", (4096, 8192), {"detail": "low"}, 85),
        ("gpt-4o-mini", (1024, 1024), {}, 25_501),
        ("gpt-4o-mini", (1024, 1024), {"detail": "low"}, 2833),
        ("gpt-4.1-mini", (1024, 1024), {}, 1659),
        ("gpt-4.1-nano", (8000, 8000), {}, 3779),
        ("anthropic/claude-sonnet-4", (1000, 1000), {}, 1335),
        ("claude-3-haiku", (200, 200), {}, 55),
        ("google/gemini-2.5-flash", (300, 300), {}, 1120),
        ("unknown", (2000, 1000), {}, 10_368),
        ("unknown", (10, 10), {}, LEAST_TOKENS),
        ("unknown", (99_999, 99_999), {}, MOST_TOKENS),
    ],
)
def test_tokens_by_the_makers_rules(model: str, size: tuple[int, int], detail: dict[str, str], tokens: int) -> None:
    assert picture_tokens(part(png(*size), **detail), model) == tokens


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4o-mini", "claude-opus", "gemini-3-pro", "o3", "gpt-5-nano", "unknown"]
)
def test_a_picture_behind_a_url_is_taken_for_the_largest(model: str) -> None:
    there = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    largest = max(picture_tokens(part(png(side, side)), model) for side in (64, 512, 768, 2048, 3072))
    assert picture_tokens(there, model) >= largest


sides = st.integers(1, 5000)


@given(sides, sides, st.sampled_from(["gpt-4o", "gpt-4o-mini", "gpt-5-mini", "claude", "gemini-2.5-pro", "llava"]))
def test_a_picture_is_never_free_and_never_boundless(width: int, height: int, model: str) -> None:
    assert 0 < picture_tokens(part(png(width, height)), model) <= 50_000


ANTHROPIC = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(1000, 1000)}}
RESPONSE = {"type": "input_image", "image_url": f"data:image/png;base64,{png(1024, 1024)}", "detail": "high"}


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        (CHAT, {"model": "gpt-4o", "messages": [{"role": "user", "content": [part(png(1024, 1024))]}]}, 765),
        (MESSAGES, {"model": "claude-x", "messages": [{"role": "user", "content": [ANTHROPIC, ANTHROPIC]}]}, 2670),
        (RESPONSES, {"model": "gpt-4o", "input": [{"role": "user", "content": [RESPONSE]}]}, 765),
    ],
)
def test_a_request_holds_its_text_and_its_tiles_not_the_window(
    endpoint: Any, body: dict[str, Any], tokens: int
) -> None:
    window = ModelLimits(128_000, 1000)
    assert tokens < largest_usage(body, window, endpoint).prompt_tokens <= tokens + 300
    assert tokens < prompt_bound(body, endpoint) <= tokens + 300
    assert tokens <= likely_prompt_tokens(body, endpoint) <= tokens + 100


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "AAAA"}},
        {"type": "image_url", "image_url": {"url": "x"}, "text": "very long"},
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
    ],
)
def test_what_is_more_than_a_picture_holds_the_window(odd: dict[str, Any]) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": [odd, part(png(9, 9))]}]}
    assert largest_usage(body, ModelLimits(128_000, 1000)).prompt_tokens == 128_000
    assert not is_picture(odd)


def test_only_pictures_are_left_out() -> None:
    body = [{"role": "user", "content": [{"type": "text", "text": "a"}, ANTHROPIC, [part("AAAA")]]}]
    bare, pictures = without_pictures(body)
    assert bare == [{"role": "user", "content": [{"type": "text", "text": "a"}, None, [None]]}]
    assert pictures == [ANTHROPIC, part("AAAA")]
