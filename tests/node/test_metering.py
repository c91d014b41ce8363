"""Bytes pass as they are; tokens are metered the same however the stream is cut; no usage is neither free nor the hold."""

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.metering.measure import IMAGE_TOKENS, Known, Measured
from node.metering.stream import MAX_HELD_BYTES, StreamMeter
from node.metering.tokens import count, strings_in
from node.metering.whole import measured
from node.metering.written import MAX_KEPT_BYTES
from node.sse import Cutter, data_of, split
from relays.endpoints import CHAT, EMBEDDINGS, IMAGES, MESSAGES, RESPONSES, Endpoint
from relays.pricing import Usage
from tests.node.streams import FINISHED, meter_of, odd, picture, run, sse, text, usage


def usage_of_body(body: bytes, prompt_tokens: int) -> Measured:
    return measured(body, CHAT, Known(lambda: prompt_tokens))


STREAM = [text("Hello"), text(" wörld ⚡"), usage(31, 5), "[DONE]"]


def test_usage_is_metered_and_hidden_from_who_did_not_ask() -> None:
    passed, meter = run([sse(*STREAM)])
    assert passed == sse(*STREAM[:2])
    assert meter.measured().usage == Usage(31, 5)
    assert meter.measured().by == "upstream"


def test_who_asked_sees_the_usage() -> None:
    passed, _ = run([sse(*STREAM)], hide=False)
    assert passed == sse(*STREAM[:3])


@given(st.lists(st.integers(0, 400), max_size=12), st.sampled_from(["\n\n", "\r\n\r\n"]), st.booleans())
def test_any_cut_of_a_stream_meters_and_passes_the_same(cuts: list[int], end: str, hide: bool) -> None:
    whole = sse(*STREAM, end=end)
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    chunks = [whole[a:b] for a, b in itertools.pairwise(places)]
    passed, meter = run(chunks, hide=hide)
    assert passed == sse(*(STREAM[:2] if hide else STREAM[:3]), end=end)
    assert meter.measured().usage == Usage(31, 5)


def test_byte_by_byte() -> None:
    passed, meter = run([bytes([byte]) for byte in sse(*STREAM)])
    assert passed == sse(*STREAM[:2])
    assert meter.measured().usage == Usage(31, 5)


def test_a_usage_beside_text_is_for_who_asked_for_it() -> None:
    mixed = usage(3, 1, [{"delta": {"content": "x"}}])
    bare = {"choices": mixed["choices"]}
    assert json.loads(data_of(run([sse(mixed, "[DONE]")])[0])) == bare
    passed, meter = run([sse(mixed, "[DONE]")], hide=False)
    assert passed == sse(mixed)
    assert meter.measured().usage == Usage(3, 1)


def test_text_that_speaks_of_usage_is_text() -> None:
    sly = text('{"usage": {"prompt_tokens": 0, "completion_tokens": 0}} data: [DONE]')
    passed, meter = run([sse(sly, usage(9, 4), "[DONE]")])
    assert passed == sse(sly)
    assert meter.measured().usage == Usage(9, 4)


def test_the_last_of_several_usages_holds() -> None:
    assert run([sse(text("a"), usage(3, 1), usage(3, 2))])[1].measured().usage == Usage(3, 2)


@pytest.mark.parametrize(
    "untrue",
    [
        usage(-1, 5),
        usage(5, -1),
        usage(10**12, 1),
        usage("a", 1),
        usage(None, None),
        usage(1.5, 2),
        usage(0, 0),
        {"choices": [], "usage": None},
        {"choices": [], "usage": 7},
    ],
)
def test_a_usage_that_cannot_be_true_is_counted_instead(untrue: dict[str, Any]) -> None:
    measured = run([sse(text("abcd" * 10), untrue, "[DONE]")])[1].measured()
    assert measured.by == "counted"
    assert measured.usage == Usage(11, 10)


def test_an_abort_is_counted_by_what_was_streamed() -> None:
    for n in (1, 5, 50):
        measured = run([sse(text("tok"))] * n)[1].measured()
        assert (measured.by, measured.usage) == ("counted", Usage(11, n))


def test_reasoning_and_tool_calls_are_counted() -> None:
    deltas: list[dict[str, Any]] = [
        {"reasoning_content": "abcdefgh"},
        {"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    ]
    measured = run([sse(*({"choices": [{"delta": delta}]} for delta in deltas))])[1].measured()
    assert measured.usage.completion_tokens == count("abcdefghf{}")


@pytest.mark.parametrize("more", [{}, {"reasoning_content": "abcdefgh"}], ids=["OpenRouter", "vLLM"])
def test_thoughts_that_are_sent_under_several_names_are_counted_once(more: dict[str, Any]) -> None:
    """A stream of OpenRouter's that broke off cost its thoughts twice."""
    details = [{"type": "reasoning.text", "text": "abcdefgh", "format": "unknown", "index": 0}]
    said = {"content": "x", "reasoning": "abcdefgh", "reasoning_details": details, **more}
    _, meter = run([sse({"choices": [{"delta": said}]})])
    assert meter.measured().usage.completion_tokens == count("xabcdefgh")
    whole = json.dumps({"choices": [{"message": said}]}).encode()
    assert usage_of_body(whole, 11).usage.completion_tokens == count("xabcdefgh")


def test_a_long_stream_is_counted_in_bounded_memory() -> None:
    meter = meter_of()
    event = sse(text("tok"))
    n = 4 * MAX_KEPT_BYTES // len(event)
    for _ in range(n):
        meter.feed(event)
    assert meter.written.kept_bytes <= MAX_KEPT_BYTES + len(event)
    counted = meter.measured().usage.completion_tokens
    assert counted == pytest.approx(n, abs=8), "text is counted in pieces, which cost a token more each"


def test_a_giant_event_passes_without_being_held() -> None:
    meter = meter_of()
    giant = b"data: " + b"x" * (MAX_HELD_BYTES + 1)
    assert meter.feed(giant) == giant


@pytest.mark.parametrize("type_last", [False, True])
@pytest.mark.parametrize("chunk", [617, 16_384, 100_007])
@pytest.mark.parametrize("over", [1, 60_000])
def test_pictures_too_large_to_be_held_are_counted_each(
    monkeypatch: pytest.MonkeyPatch, type_last: bool, chunk: int, over: int
) -> None:
    monkeypatch.setattr("node.metering.stream.MAX_HELD_BYTES", 100_000)
    told = {"input_tokens": 10, "output_tokens": 4000, "input_tokens_details": {"text_tokens": 10}}
    begun = picture("image_generation.partial_image", 100)
    made = [picture("image_generation.completed", 100_000 + over, type_last=type_last) for _ in range(3)]
    last = picture("image_generation.completed", 100_000 + over, type_last=type_last, report=told)
    whole = b"".join([begun, *made, last])
    meter = StreamMeter(IMAGES, Known(lambda: 11), hide_usage=False)
    passed = b"".join(meter.feed(whole[at : at + chunk]) for at in range(0, len(whole), chunk)) + meter.finish()
    assert passed + b"".join(meter.kept_back) == whole
    assert meter.ended
    assert meter.measured() == Measured(Usage(10, 4000, images=4), "upstream")


def test_large_pictures_are_told_apart_wherever_their_stream_is_cut() -> None:
    """A cut within the boundary between two of them makes no one of two."""
    first = picture("image_generation.completed", MAX_HELD_BYTES + 1)
    whole = first + picture("image_generation.completed", 1)
    for cut in range(len(first) - 2, len(first) + 3):
        meter = StreamMeter(IMAGES, Known(lambda: 11), hide_usage=False)
        passed = meter.feed(whole[:cut]) + meter.feed(whole[cut:]) + meter.finish()
        assert passed + b"".join(meter.kept_back) == whole
        assert meter.measured().usage == Usage(11, 2 * IMAGE_TOKENS, images=2)


@pytest.mark.parametrize(
    "noise", [b"\xff\xfe\xfd\n\n", b": comment\n\n", b"event: ping\n\n", b"data: {\n\n", b"\n\n\n\n"]
)
def test_what_is_not_understood_passes(noise: bytes) -> None:
    passed, meter = run([noise, sse(text("hi"), usage(3, 1), "[DONE]")])
    assert passed == noise + sse(text("hi"))
    assert meter.measured().usage == Usage(3, 1)


def test_a_stream_that_ends_without_a_boundary() -> None:
    passed, meter = run([sse(text("hi")), b"data: " + json.dumps(usage(3, 1)).encode()])
    assert passed == sse(text("hi"))
    assert meter.measured().usage == Usage(3, 1)


def answer(**fields: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": "abcd" * 5}}]} | fields).encode()


@pytest.mark.parametrize(
    ("body", "expected", "by"),
    [
        (answer(usage={"prompt_tokens": 7, "completion_tokens": 3}), Usage(7, 3), "upstream"),
        (answer(), Usage(11, 5), "counted"),
        (answer(usage=None), Usage(11, 5), "counted"),
        (answer(usage={}), Usage(11, 5), "counted"),
        (answer(usage={"prompt_tokens": 7, "completion_tokens": 0}), Usage(7, 5), "counted"),
        (answer(usage={"prompt_tokens": -7, "completion_tokens": 3}), Usage(11, 5), "counted"),
        (answer(usage={"total_tokens": 30}), Usage(25, 5), "counted"),
        (answer(usage={"total_tokens": 3}), Usage(0, 3), "counted"),
        (
            answer(usage={"total_tokens": 30, "prompt_tokens_details": {"cached_tokens": 27}}),
            Usage(27, 3, cached_tokens=27),
            "counted",
        ),
        (b'{"choices":[]}', Usage(11, 0), "counted"),
        (b"\xff", Usage(11, 1), "counted"),
    ],
)
def test_whole_answers(body: bytes, expected: Usage, by: str) -> None:
    measured = usage_of_body(body, prompt_tokens=11)
    assert (measured.usage, measured.by) == (expected, by)


RESPONSES_STREAM = [
    {"type": "response.created", "response": {"usage": None}},
    {"type": "response.output_text.delta", "delta": "Hel"},
    {"type": "response.output_text.delta", "delta": "lo ⚡"},
    {"type": "response.completed", "response": {"usage": {"input_tokens": 31, "output_tokens": 5}}},
]
MESSAGES_STREAM = [
    {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 20, "cache_read_input_tokens": 11, "output_tokens": 1}},
    },
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello ⚡"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
]


@pytest.mark.parametrize(
    ("endpoint", "events", "used", "written"),
    [
        (CHAT, STREAM, Usage(31, 5), "Hello wörld ⚡"),
        (RESPONSES, RESPONSES_STREAM, Usage(31, 5), "Hello ⚡"),
        (MESSAGES, MESSAGES_STREAM, Usage(31, 5, cached_tokens=11), "Hello ⚡"),
    ],
    ids=["chat", "responses", "messages"],
)
@given(cuts=st.lists(st.integers(0, 700), max_size=12), end=st.sampled_from(["\n\n", "\r\n\r\n"]))
def test_any_cut_of_a_stream_in_any_language_meters_the_same(
    endpoint: Endpoint, events: list[Any], used: Usage, written: str, cuts: list[int], end: str
) -> None:
    """With the usage that is reported, and with our own count where the report is left out."""
    for told in (True, False):
        kept = events if told else [e for e in events if isinstance(e, str) or not json.dumps(e).count('"usage": {')]
        whole = sse(*kept, end=end)
        places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
        meter = StreamMeter(endpoint, Known(lambda: 11), hide_usage=False)
        passed = b"".join(meter.feed(whole[a:b]) for a, b in itertools.pairwise(places)) + meter.finish()
        assert passed + b"".join(meter.kept_back) == whole.replace(f"data: [DONE]{end}".encode(), b"")
        assert meter.measured().usage == (used if told else Usage(11, count(written)))


def test_an_anthropic_stream_that_ends_early_is_charged_by_what_it_wrote() -> None:
    """What its beginning says of tokens written is of the first alone; the prompt is as it says."""
    meter = StreamMeter(MESSAGES, Known(lambda: 11), hide_usage=False)
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " wave"}}
    meter.feed(sse(MESSAGES_STREAM[0], *[text] * 300))
    measured = meter.measured()
    assert measured.by == "counted"
    assert measured.usage == Usage(31, count(" wave" * 300), cached_tokens=11)
    assert measured.usage.completion_tokens > 200


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": " wave" * 30},
        {"type": "thinking", "thinking": " wave" * 30},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": " wave" * 30}},
    ],
    ids=["text", "thinking", "input"],
)
def test_what_an_anthropic_block_begins_with_is_counted(block: dict[str, Any]) -> None:
    """Some servers give a tool's whole input there: where none reports, it was free."""
    meter = StreamMeter(MESSAGES, Known(lambda: 11), hide_usage=False)
    meter.feed(sse({"type": "content_block_start", "index": 0, "content_block": block}))
    assert meter.measured().usage == Usage(11, count(" wave" * 30))


@pytest.mark.parametrize(
    ("reported", "known", "charged"),
    [
        (30, Known(lambda: 11, choices=3), Measured(Usage(31, 90), "counted")),
        (30, Known(lambda: 11, choices=3, most=Usage(99, 80)), Measured(Usage(31, 80), "counted")),
        (90, Known(lambda: 11, choices=3), Measured(Usage(31, 90), "upstream")),
        (70, Known(lambda: 11, choices=3), Measured(Usage(31, 70), "upstream")),  # by another vocabulary
        (30, Known(lambda: 11, choices=3, echoes=True), Measured(Usage(31, 30), "upstream")),
        (30, Known(lambda: 11), Measured(Usage(31, 30), "upstream")),
    ],
    ids=["of one", "bounded", "of all", "otherwise counted", "with the prompt", "one"],
)
def test_a_report_of_the_first_of_several_answers_is_none_of_all(
    reported: int, known: Known, charged: Measured
) -> None:
    answers = [{"index": index, "message": {"content": " wave" * 30}} for index in range(3)]
    body = json.dumps({"choices": answers} | {"usage": usage(31, reported)["usage"]}).encode()
    assert measured(body, CHAT, known) == charged
    meter = StreamMeter(CHAT, known, hide_usage=True)
    meter.feed(sse(*(text(" wave" * 30) for _ in answers), usage(31, reported)))
    assert meter.measured() == charged


def test_text_is_found_however_deep_it_nests_and_in_its_order() -> None:
    deep: Any = ["c", {"content": "d", "role": "x"}, "e"]
    for _ in range(100_000):
        deep = [deep]
    assert "".join(strings_in({"a": "a", "content": ["b", deep], "text": "f"})) == "abcdef"


@pytest.mark.parametrize("depth", [150, 400, 900, 2_000, 100_000])
def test_an_answer_that_nests_deeply_is_counted(depth: int) -> None:
    """Python's own stack ends at a thousand calls; what was served is charged all the same."""
    nested = b'[{"text":' * depth + b'"wave"' + b"}]" * depth
    whole = b'{"choices":[{"message":{"content":' + nested + b"}}]}"
    assert 0 < usage_of_body(whole, 11).usage.completion_tokens < len(whole)
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":' + nested + b"}}]}\n\n"
    _, meter = run([sse(text("wave")), chunk])
    assert 0 < meter.measured().usage.completion_tokens < len(chunk)


def test_an_error_in_a_stream_is_kept_from_the_caller_and_its_report_counts() -> None:
    error = {"error": {"message": "your account is out of credits"}, **usage(31, 2)}
    passed, meter = run([sse(text("a"), error)], hide=False)
    assert passed == sse(text("a"))
    assert meter.broken
    assert meter.measured() == Measured(Usage(31, 2), "upstream")


def test_what_was_reported_beside_a_stream_counts_until_its_own_report_comes() -> None:
    _, meter = run([sse(text(" wave" * 30))])
    assert meter.measured(Usage(31, 0, cached_tokens=8)).usage == Usage(31, count(" wave" * 30), cached_tokens=8)
    assert meter.measured(Usage(31, 200)) == Measured(Usage(31, 200), "upstream")
    meter.feed(sse(usage(32, 40)))
    assert meter.measured(Usage(31, 0)) == Measured(Usage(32, 40), "upstream")


def test_a_count_beside_a_report_is_not_more_than_can_be() -> None:
    meter = StreamMeter(CHAT, Known(lambda: 11, Usage(100, 8)), hide_usage=True)
    meter.feed(sse(usage(4, 8, [{"delta": {"content": "a b c d e f g h i j k l m n"}}])))
    assert meter.measured().usage == Usage(4, 8)


@pytest.mark.parametrize("beside", [[], [{"index": 0, "delta": {"content": ""}}]])
def test_a_sum_of_what_was_read_and_written_is_not_counted_twice(beside: list[Any]) -> None:
    """At the end of a stream, and beside a piece of it."""
    meter = meter_of()
    meter.feed(sse(text(" wave" * 5), {"choices": beside, "usage": {"total_tokens": 30}}))
    assert meter.measured() == Measured(Usage(25, 5), "counted")


def test_a_sum_is_all_read_where_nothing_is_written() -> None:
    body = b'{"data":[{"embedding":[1]}],"usage":{"total_tokens":30}}'
    assert measured(body, EMBEDDINGS, Known(lambda: 11, writes=False)) == Measured(Usage(30, 0), "upstream")


@given(
    cuts=st.lists(st.integers(0, 900), max_size=12),
    space=st.sampled_from([" ", "", "\t", "   "]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    spread=st.booleans(),
    bom=st.booleans(),
    told=st.booleans(),
)
def test_any_way_to_write_a_stream_meters_the_same(
    cuts: list[int], space: str, end: str, spread: bool, bom: bool, told: bool
) -> None:
    events: list[Any] = [text("Hello"), text(" wörld ⚡"), FINISHED, *([usage(31, 5)] if told else []), "[DONE]"]
    written = odd(events, space, end, spread=spread, bom=bom)
    whole = b"".join(written)
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    meter = meter_of(hide=False)
    passed = b"".join(meter.feed(whole[a:b]) for a, b in itertools.pairwise(places)) + meter.finish()
    assert passed + b"".join(meter.kept_back) == b"".join(written[:-1])
    assert meter.ended
    assert meter.done
    counted = Measured(Usage(11, count("Hello wörld ⚡")), "counted")
    assert meter.measured() == (Measured(Usage(31, 5), "upstream") if told else counted)


@given(st.text("\r\nx", max_size=12), st.lists(st.integers(0, 12), max_size=6))
def test_a_boundary_is_two_line_ends_of_any_kind(raw: str, cuts: list[int]) -> None:
    """However it comes: what an event reads as is not changed by where it is cut."""
    whole = b"data: a" + raw.encode() + b"data: b\n\n"
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    cutter = Cutter()
    parts = [*(cutter.feed(whole[a:b]) for a, b in itertools.pairwise(places)), cutter.rest()]
    seen = [data_of(event) for events in parts for event in split(events) if data_of(event)]
    assert seen == [data_of(event) for event in split(whole) if data_of(event)]
    ends = re.sub("\r\n|\r", "\n", raw)
    if set(raw) <= {"\r", "\n"}:
        assert seen == {0: [b"adata: b"], 1: [b"a\nb"]}.get(len(ends), [b"a", b"b"])
