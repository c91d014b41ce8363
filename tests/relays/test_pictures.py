"""Pictures in prompts are bounded by their tiles: by the rules of the model's maker, and never by fetching anything."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays.bounds import ModelLimits, largest_usage
from relays.endpoints import CHAT, MESSAGES, RESPONSES
from relays.pictures import (
    LEAST_TOKENS,
    MOST_TOKENS,
    is_picture,
    picture_tokens,
    rule_for,
    rule_of_all,
    size_of,
    without_pictures,
)
from relays.prompt import read_prompt


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


@pytest.mark.parametrize("made", [png, jpeg, webp])
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
        ("gpt-5.6", (10, 10), {}, LEAST_TOKENS),
        ("gpt-5", (1024, 1024), {}, 765),
        ("unknown", (99_999, 99_999), {}, MOST_TOKENS),
    ],
)
def test_tokens_by_the_makers_rules(model: str, size: tuple[int, int], detail: dict[str, str], tokens: int) -> None:
    assert picture_tokens(part(png(*size), **detail), rule_for(model)) == tokens


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4o-mini", "claude-opus", "gemini-3-pro", "o3", "gpt-5-nano", "unknown"]
)
def test_a_picture_behind_a_url_is_taken_for_the_largest(model: str) -> None:
    there = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    largest = max(picture_tokens(part(png(side, side)), rule_for(model)) for side in (64, 512, 768, 2048, 3072, 10_000))
    assert picture_tokens(there, rule_for(model)) >= largest


sides = st.integers(1, 5000)


@given(sides, sides, st.sampled_from(["gpt-4o", "gpt-4o-mini", "gpt-5-mini", "claude", "gemini-2.5-pro", "llava"]))
def test_a_picture_is_never_free_and_never_boundless(width: int, height: int, model: str) -> None:
    assert 0 < picture_tokens(part(png(width, height)), rule_for(model)) <= 50_000


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
    window = ModelLimits(128_000, 1000, rule_for(body["model"]))
    assert tokens < largest_usage(body, window, endpoint).prompt_tokens <= tokens + 300
    assert tokens < read_prompt(body, endpoint).bound(window.pictures) <= tokens + 300
    assert tokens <= read_prompt(body, endpoint).likely(window.pictures) <= tokens + 100


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
    seen = part(png(9, 9))
    result = {"type": "tool_result", "content": [ANTHROPIC]}
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, seen, result]}], "model": "m"}
    bare, pictures = without_pictures(body)
    left = [{"type": "text", "text": "a"}, None, {"type": "tool_result", "content": [None]}]
    assert bare == {"messages": [{"role": "user", "content": left}], "model": "m"}
    assert pictures == [seen, ANTHROPIC]


LONG = "word " * 10_000
SLY: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": {"url": "data:text/plain;base64," + "d29yZCA" * 9000}},
    {"type": "image_url", "image_url": {"url": "data:application/pdf;base64," + png(9, 9)}},
    {"type": "image_url", "image_url": {"url": "data:video/mp4;base64," + png(9, 9)}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "d29yZCA" * 9000}},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(9, 9)}", "text": LONG}},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(9, 9)}", "detail": LONG}},
    {"type": "image_url", "image_url": {"url": "https://example.com/" + LONG}},
    {"type": "image_url", "image_url": LONG},
    {"type": "input_image", "image_url": LONG},
    {"type": "image", "source": LONG},
    {"type": "image", "source": {"data": png(9, 9), "text": LONG}},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "d29yZCA" * 9000}},
    {"type": "image", "source": {"type": "text", "media_type": "text/plain", "data": LONG}},
]


@pytest.mark.parametrize("sly", SLY, ids=range(len(SLY)))
def test_what_is_only_called_a_picture_holds_the_window(sly: dict[str, Any]) -> None:
    assert not is_picture(sly)
    for endpoint, field in ((CHAT, "messages"), (MESSAGES, "messages"), (RESPONSES, "input")):
        body = {"model": "m", field: [{"role": "user", "content": [sly]}]}
        assert largest_usage(body, ModelLimits(128_000, 1000, "openai-tiles"), endpoint).prompt_tokens == 128_000


@pytest.mark.parametrize(
    ("endpoint", "where"),
    [
        (MESSAGES, lambda sly: {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": sly}]}]}),
        (MESSAGES, lambda sly: {"messages": [], "output_config": {"format": sly}}),
        (CHAT, lambda sly: {"messages": [], "response_format": {"enum": [sly]}}),
        (CHAT, lambda sly: {"messages": [], "functions": [sly]}),
        (RESPONSES, lambda sly: {"input": "x", "text": {"format": sly}}),
    ],
)
def test_what_stands_among_no_message_parts_is_text(endpoint: Any, where: Any) -> None:
    sly = {"type": "image_url", "image_url": f"data:image/png;base64,{png(9, 9)}{'A' * 40_000}"}
    assert read_prompt(where(sly), endpoint).bound("anthropic") > 40_000


def test_a_gif_is_as_large_as_can_be_since_its_frames_may_be_larger_than_it_says() -> None:
    small = {"type": "image_url", "image_url": {"url": f"data:image/gif;base64,{gif(1, 1)}"}}
    assert picture_tokens(small, "openai-tiles") == 85 + 8 * 170
    assert size_of(gif(1, 1)) is None


def test_a_model_of_several_servers_counts_by_the_largest_rule() -> None:
    assert rule_of_all(["anthropic", "anthropic"]) == "anthropic"
    both = rule_of_all(["anthropic", "openai-mini"])
    for width in (10, 1000, 3000):
        each = [picture_tokens(part(png(width, width)), rule) for rule in ("anthropic", "openai-mini", both, "newer")]
        assert each[2] == each[3] >= max(each[:2])
