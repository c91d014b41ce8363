"""Which report is the bill, and what ends a stream, whether or not it tells one."""

from __future__ import annotations

from typing import Any

import pytest

from node.metering.measure import Known, Measured
from node.metering.stream import StreamMeter
from node.metering.told import told_in_events
from relays.endpoints import CHAT, IMAGES, MESSAGES, RESPONSES, TRANSCRIPTIONS, Endpoint
from relays.pricing import Usage
from tests.node.drafts import draft
from tests.node.streams import FINISHED, meter_of, run, sse, text, usage


@pytest.mark.parametrize(
    "after", [[], [FINISHED], [{"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}]]
)
def test_a_report_beside_the_end_is_the_bill(after: list[dict[str, Any]]) -> None:
    """By our vocabulary it may be more: what its own server says of a whole answer counts."""
    words = "these are words that make more tokens than are told"
    told = usage(31, 2, [{"delta": {"content": words}, "finish_reason": None if after else "stop"}])
    _, meter = run([sse(text("before"), told, *after, "[DONE]")])
    assert meter.measured() == Measured(Usage(31, 2), "upstream")


def test_a_report_beside_the_end_of_one_of_two_choices_is_not() -> None:
    meter = StreamMeter(CHAT, Known(lambda: 11, choices=2), hide_usage=True)
    told = usage(31, 2, [{"index": 1, "delta": {"content": "many words of the other choice"}, "finish_reason": "stop"}])
    meter.feed(sse(text("words of the first choice"), told, FINISHED, "[DONE]"))
    used = meter.measured()
    assert used.usage.completion_tokens > 2
    assert used.by == "counted", "whoever counted says so"


def test_words_after_a_report_are_counted() -> None:
    _, meter = run(
        [sse(usage(31, 1, [{"delta": {"content": "one"}}]), text(" and then many more words"), FINISHED, "[DONE]")]
    )
    assert meter.measured().usage.completion_tokens > 4


@pytest.mark.parametrize("reason", ['""', "null"])
def test_a_reason_that_is_none_does_not_end_a_stream(reason: str) -> None:
    meter = meter_of()
    meter.feed(b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":' + reason.encode() + b"}]}\n\n")
    assert not meter.ended
    meter.feed(sse(FINISHED))
    assert meter.ended


def test_one_of_two_choices_does_not_end_a_stream() -> None:
    meter = StreamMeter(CHAT, Known(lambda: 11, choices=2), hide_usage=True)
    meter.feed(sse(FINISHED))
    assert not meter.ended
    meter.feed(sse(FINISHED))
    assert meter.ended


@pytest.mark.parametrize("null", [',"usage":null', ', "usage": null'])
def test_a_usage_that_is_null_is_not_for_who_did_not_ask(null: str) -> None:
    event = 'data: {"choices":[{"delta":{"content":"the \\"usage\\":null of it"}}]%s}\n\n'
    meter = meter_of()
    assert meter.feed((event % null).encode()) == (event % "").encode()
    seen = meter_of(hide=False)
    assert seen.feed((event % null).encode()) == (event % null).encode()


@pytest.mark.parametrize(
    ("endpoint", "last"),
    [
        (MESSAGES, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        (MESSAGES, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": None}),
        (RESPONSES, {"type": "response.incomplete", "response": {"id": "r", "usage": None}}),
        (TRANSCRIPTIONS, {"type": "transcript.text.done", "text": "so"}),
        (IMAGES, {"type": "image_generation.completed", "b64_json": "iVBORw0KGgo="}),
    ],
)
def test_the_last_event_is_known_without_a_report_and_tells_the_cost(endpoint: Endpoint, last: dict[str, Any]) -> None:
    whole = sse({"type": "content_block_delta", "delta": {"text": "so"}}, last)
    for cut in range(len(whole) + 1):
        meter = StreamMeter(endpoint, Known(lambda: 11), hide_usage=False)
        passed = meter.feed(whole[:cut]) + meter.feed(whole[cut:]) + meter.finish()
        assert meter.ended
        assert passed == whole[: len(whole) - len(sse(last))]
        assert b'"total_msats":7' in told_in_events(meter.kept_back, draft("req_1", 10, 7), endpoint)


def test_an_event_too_long_to_be_held_may_be_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.metering.stream.MAX_HELD_BYTES", 1000)
    whole = sse(text("word " * 1000))
    meter = meter_of()
    assert meter.feed(whole[:-2]) + meter.feed(whole[-2:]) + meter.finish() == whole
    short = meter_of()
    assert short.feed(whole[:-2]) + short.finish() == whole[:-2]
    assert short.measured().usage.completion_tokens > 500
