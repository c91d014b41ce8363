"""Usage is read as each provider means it: no token is lost, invented, or counted twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays.pricing import Usage
from relays.usage import merged, report_in, usage_of


def read(answer: Any) -> Usage | None:
    report = report_in(json.dumps(answer).encode())
    return None if report is None else usage_of(report)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 6}, Usage(20, 6)),
        (
            {
                "prompt_tokens": 20,
                "completion_tokens": 6,
                "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(20, 6, cached_tokens=8, reasoning_tokens=2),
        ),
        (
            {"prompt_tokens": 20, "completion_tokens": 6, "prompt_tokens_details": {"cache_write_tokens": 5}},
            Usage(20, 6, cache_write_tokens=5),
        ),
        (
            {
                "input_tokens": 20,
                "output_tokens": 6,
                "input_tokens_details": {"cached_tokens": 8},
                "output_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(20, 6, cached_tokens=8, reasoning_tokens=2),
        ),
        (
            {
                "input_tokens": 12,
                "cache_read_input_tokens": 5,
                "cache_creation_input_tokens": 3,
                "output_tokens": 6,
                "output_tokens_details": {"thinking_tokens": 4},
            },
            Usage(20, 6, cached_tokens=5, cache_write_tokens=3, reasoning_tokens=4),
        ),
        # A server of both languages: the cache is among what was read already.
        (
            {"prompt_tokens": 50, "completion_tokens": 1, "cache_read_input_tokens": 30},
            Usage(50, 1, cached_tokens=30),
        ),
        ({"prompt_tokens": 50, "completion_tokens": 1, "prompt_cache_hit_tokens": 30}, Usage(50, 1, cached_tokens=30)),
        # One that counts reasoning beside the rest.
        (
            {
                "prompt_tokens": 20,
                "completion_tokens": 6,
                "total_tokens": 126,
                "completion_tokens_details": {"reasoning_tokens": 100},
            },
            Usage(20, 106, reasoning_tokens=100),
        ),
        ({"prompt_tokens": 7, "total_tokens": 7}, Usage(7, 0)),
        ({"total_tokens": 30}, Usage(30, 0)),
        ({"type": "duration", "seconds": 2.0004}, Usage(0, 0, audio_ms=2001)),
        # What cannot be true.
        ({"prompt_tokens": -1, "completion_tokens": 6}, None),
        ({"prompt_tokens": 1.5, "completion_tokens": 6}, None),
        ({"prompt_tokens": 10**12, "completion_tokens": 6}, None),
        ({"prompt_tokens": True, "completion_tokens": 6}, None),
        ({}, None),
        (7, None),
        # Kinds of tokens that are more than there are.
        (
            {"prompt_tokens": 5, "completion_tokens": 6, "prompt_tokens_details": {"cached_tokens": 8}},
            Usage(5, 6),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 6, "completion_tokens_details": {"reasoning_tokens": 9}},
            Usage(5, 6),
        ),
    ],
)
def test_each_language(usage: Any, expected: Usage | None) -> None:
    assert read({"usage": usage}) == expected


@pytest.mark.parametrize(
    "answer",
    [
        {"usage": {"input_tokens": 3, "output_tokens": 1}},
        {"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"meta": {"tokens": {"input_tokens": 3, "output_tokens": 1}, "billed_units": {"search_units": 1}}},
        {"usage": {"input_tokens": 3, "output_tokens": 1}, "response": "words", "message": [1], "duration": "x"},
    ],
)
def test_wherever_it_stands(answer: Any) -> None:
    assert read(answer) == Usage(3, 1)


@pytest.mark.parametrize("duration", [8.47, "8.47"])
def test_a_transcription_tells_its_length(duration: Any) -> None:
    assert read({"text": "hi", "duration": duration}) == Usage(0, 0, audio_ms=8470)


def test_a_stream_tells_of_input_and_output_in_different_events() -> None:
    start = report_in(b'{"message":{"usage":{"input_tokens":3,"cache_read_input_tokens":4,"output_tokens":1}}}')
    end = report_in(b'{"usage":{"output_tokens":9}}')
    assert start is not None
    assert end is not None
    assert usage_of(merged(start, end)) == Usage(7, 9, cached_tokens=4)


counts = st.none() | st.integers(-5, 200) | st.sampled_from(["x", 1.5, {}])
details = st.none() | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("cached_tokens", "cache_write_tokens", "reasoning_tokens"), counts)
)
names = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens")
caches = ("cache_read_input_tokens", "cache_creation_input_tokens", "prompt_cache_hit_tokens", "seconds")
usages = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys((*names, *caches), counts),
        **{name + "_details": details for name in names[:4]},
    },
)


@given(usages)
def test_whatever_is_reported_is_a_usage_that_can_be_or_none(usage: dict[str, Any]) -> None:
    found = read({"usage": usage})
    assert found is None or found.prompt_tokens >= found.cached_tokens + found.cache_write_tokens


@pytest.mark.parametrize("kinds", [[], "none", 0])
def test_kinds_of_tokens_that_are_no_object_do_not_spoil_the_report(kinds: object) -> None:
    """PHP writes an empty object as a list; what is thought unseen is in the report alone."""
    told = {
        "prompt_tokens": 20,
        "completion_tokens": 600,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": kinds,
    }
    for answer in ({"usage": told}, {"response": {"usage": told}}):
        report = report_in(json.dumps(answer).encode())
        assert report is not None
        assert usage_of(report) == Usage(20, 600, cached_tokens=8)
