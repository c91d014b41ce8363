"""Events in the same frame are passed on without being looked at, and come to the same as if they were."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from node.metering.frame import MOST_MISSES, Frame
from tests.node.streams import run, usage

PLAIN = ("", "a", " ship", "usage", "error", "[DONE]", "data: [DONE]", "finish_reason", "⚡")
WORDS = (*PLAIN, 'the "error"', '"usage":{}', "\\", "\n\n", "\r")


def said(text: str, *, reason: str | None = None, null: bool = False, index: int = 0) -> bytes:
    event: dict[str, Any] = {
        "id": "c",
        "choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}],
    }
    event |= {"usage": None} if null else {}
    return f"data: {json.dumps(event, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()


def other(event: object) -> bytes:
    return f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()


TEXTS = st.builds(said, st.sampled_from(WORDS) | st.text(max_size=5), null=st.booleans(), index=st.integers(0, 1))
OTHERS = st.sampled_from(
    [
        other({"error": {"message": "no"}}),
        other(usage(9, 3)),
        other(usage(9, 3, [{"index": 0, "delta": {"content": "x"}}])),
        said("end", reason="stop"),
        said("bad", reason="error"),
        b": a comment\n\n",
        b'data: {"choices":[]}\ndata: {}\n\n',
    ]
)


@given(events=st.lists(TEXTS | OTHERS, max_size=14), hide=st.booleans(), done=st.booleans())
@example(events=[said("a"), other(usage(9, 3)), said("b")], hide=False, done=True)
@example(events=[said("a"), said("error"), said("b"), other(usage(9, 3))], hide=True, done=True)
@example(events=[said("a", null=True), said("b", null=True), said('"')], hide=True, done=False)
def test_event_by_event_is_as_all_at_once(events: list[bytes], hide: bool, done: bool) -> None:
    events = [*events, other("[DONE]")] if done else events
    one_by_one, meter = run(events, hide=hide)
    at_once, looked = run([b"".join(events)], hide=hide)
    assert one_by_one == at_once
    assert meter.measured() == looked.measured()
    assert (meter.broken, meter.ended, meter.done) == (looked.broken, looked.ended, looked.done)


def test_what_differs_in_its_text_alone_is_passed_on() -> None:
    frame = Frame()
    assert frame.passed(said("a")) is None, "nothing is known yet"
    frame.learn(said("a"), said("a"))
    assert frame.passed(said("b")) == said("b")
    assert frame.passed(said("a", null=True)) is None
    for text in ('"', "a\nb"):
        raw = said("X").replace(b"X", text.encode())
        assert frame.passed(raw) is None
    assert frame.passed(said("")[:-1]) is None
    frame.forget()
    assert frame.passed(said("b")) is None


def test_what_is_left_out_of_one_is_left_out_of_the_next() -> None:
    frame = Frame()
    frame.learn(said("a", null=True), said("a"))
    assert frame.passed(said("b", null=True)) == said("b")


def test_head_and_tail_do_not_overlap() -> None:
    frame = Frame()
    event = b'data: {"content":""}\n\n'
    frame.learn(event, event)
    assert frame.passed(event) == event
    assert frame.passed(b'data: {"content":"}\n\n') is None


def test_a_stream_whose_events_are_all_framed_otherwise_is_given_up() -> None:
    frame = Frame()
    for number in range(MOST_MISSES + 1):
        event = said(str(number), index=number)
        assert frame.passed(event) is None
        frame.learn(event, event)
    assert frame.passed(event) is None, "the last was not learned"
