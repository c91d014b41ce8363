"""Answers of OpenAI's servers as Anthropic's: whole and streamed, every block in its turn, no token lost or invented."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import UpstreamUnreachable
from node.sse import EventReader
from node.translation.endings import MESSAGES_ERROR
from node.translation.messages_to_chat import MessagesToChat
from tests.node.translations import CUTS, ENDS, JSON, LIKELY, pieces, sse

FULL = {
    "input_tokens": 60,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 30,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 2, "reasoning_tokens": 2},
}


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(index: int | None, arguments: Any, name: str = "", call_id: str = "") -> dict[str, Any]:
    number = {} if index is None else {"index": index}
    known = {"id": call_id, "type": "function"} if call_id else {}
    return {**number, **known, "function": {"arguments": arguments} | ({"name": name} if name else {})}


def usage(prompt: Any, completion: Any, **details: Any) -> dict[str, Any]:
    return {"id": "c1", "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion} | details}


def full_usage() -> dict[str, Any]:
    return usage(
        100,
        7,
        prompt_tokens_details={"cached_tokens": 30, "cache_write_tokens": 10},
        completion_tokens_details={"reasoning_tokens": 2},
    )


def translate(*chunks: bytes) -> bytes:
    stream = MessagesToChat().stream()
    return b"".join([*(stream.feed(each) for each in chunks), stream.finish()])


def streamed(*upstream: object) -> list[dict[str, Any]]:
    found = []
    for event in EventReader().feed(translate(sse(*upstream))):
        found.append(json.loads(event.data))
        assert event.name == found[-1]["type"]
    return found


def kinds(found: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in found]


def blocks_of(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks as a client puts them together: each is started, filled and stopped before the next."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in found:
        if event["type"] == "content_block_start":
            assert not is_open
            assert event["index"] == len(blocks)
            is_open = True
            blocks.append({**event["content_block"], "json": ""})
        elif event["type"] in ("content_block_delta", "content_block_stop"):
            assert is_open
            assert event["index"] == len(blocks) - 1
            is_open = event["type"] == "content_block_delta"
            for field, piece in event.get("delta", {}).items():
                if field != "type":
                    blocks[-1]["json" if field == "partial_json" else field] += piece
    assert not is_open
    for block in blocks:
        arguments = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(arguments or "{}")
    return blocks


def answer(message: Any, finish: str = "stop", **fields: Any) -> dict[str, Any]:
    chat = {"id": "c1", "model": "m", "choices": [{"message": message, "finish_reason": finish}]} | fields
    found: dict[str, Any] = json.loads(MessagesToChat().answer(json.dumps(chat).encode()))
    return found


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def used(call_id: str, name: str, given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


GOLDEN = [
    chunk(role="assistant", content=""),
    chunk(reasoning_content="Hm "),
    chunk(reasoning="ok"),
    chunk(content="Let me "),
    chunk(content="see ⚡"),
    chunk(tool_calls=[call(0, "", "weather", "t1")]),
    chunk(tool_calls=[call(0, '{"city": "K')]),
    chunk(tool_calls=[call(0, 'øln"}')]),
    chunk(tool_calls=[call(1, "{}", "clock", "t2")]),
    chunk("tool_calls"),
    full_usage(),
    "[DONE]",
]


def test_a_golden_stream_of_thought_text_and_tools() -> None:
    found = streamed(*GOLDEN)
    assert found[0]["message"] == {
        "id": "msg_c1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    assert blocks_of(found) == [
        {"type": "thinking", "thinking": "Hm ok", "signature": ""},
        text("Let me see ⚡"),
        used("t1", "weather", {"city": "Køln"}),
        used("t2", "clock", {}),
    ]
    assert found[-2:] == [
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": FULL},
        {"type": "message_stop"},
    ]


def test_text_and_calls_go_out_as_they_come() -> None:
    stream = MessagesToChat().stream()
    assert b"message_start" in stream.feed(sse(GOLDEN[0]))
    assert b'"text":"a"' in stream.feed(sse(chunk(content="a")))
    assert b'"partial_json":"{"' in stream.feed(sse(chunk(tool_calls=[call(0, "{", "f", "t1")])))
    assert b'"partial_json":"' in stream.feed(sse(chunk(tool_calls=[call(0, '"\\"": 1}')])))
    second = stream.feed(sse(chunk(tool_calls=[call(1, "{", "g", "t2")])))
    assert second.index(b"content_block_stop") < second.index(b"content_block_start")
    assert b'"partial_json":"{"' in second


@given(CUTS, ENDS)
def test_any_cut_of_a_stream_translates_to_the_same_bytes(cuts: list[int], end: str) -> None:
    assert translate(*pieces(sse(*GOLDEN, end=end), cuts)) == translate(sse(*GOLDEN))


def test_byte_by_byte() -> None:
    assert translate(*(bytes([byte]) for byte in sse(*GOLDEN))) == translate(sse(*GOLDEN))


def test_pieces_of_several_calls_and_text_between_them_find_their_blocks() -> None:
    found = streamed(
        chunk(tool_calls=[call(0, '{"a"', "f", "t1"), call(1, '{"b": "}', "g", "t2")]),
        chunk(content="mean"),
        chunk(tool_calls=[call(1, '\\""}'), call(0, ": [1]}")]),
        chunk(content="while"),
        chunk("tool_calls"),
        "[DONE]",
    )
    assert blocks_of(found) == [used("t1", "f", {"a": [1]}), used("t2", "g", {"b": '}"'}), text("meanwhile")]


def test_a_call_is_not_complete_before_its_last_brace() -> None:
    found = streamed(
        chunk(tool_calls=[call(0, "", "f", "t1"), call(1, "", "g", "t2")]),  # both begin before either goes on
        chunk(tool_calls=[call(0, '{"a": "\\"}'), call(1, "{}")]),
        chunk(tool_calls=[call(0, '\\\\"}')]),
        "[DONE]",
    )
    assert blocks_of(found) == [used("t1", "f", {"a": '"}\\'}), used("t2", "g", {})]
    never = streamed(chunk(tool_calls=[call(0, "", "f", "t1"), call(1, "", "g", "t2")]), "[DONE]")
    assert blocks_of(never) == [used("t1", "f", {}), used("t2", "g", {})]


def test_calls_without_numbers_or_all_with_the_same_are_told_apart_by_their_ids() -> None:
    for number in (None, 0):
        calls = [chunk(tool_calls=[call(number, {"n": n}, "f", f"t{n}")]) for n in range(3)]
        assert blocks_of(streamed(*calls, "[DONE]")) == [used(f"t{n}", "f", {"n": n}) for n in range(3)]


def test_a_call_without_an_id_gets_one_from_the_answer() -> None:
    calls = chunk(tool_calls=[call(0, "{}", "f"), call(1, "{}", "f")])
    assert [block["id"] for block in blocks_of(streamed(calls, "[DONE]"))] == ["toolu_c1_0", "toolu_c1_1"]


def test_other_choices_are_left_out() -> None:
    other = {"id": "c1", "choices": [{"index": 1, "delta": {"content": "no"}}]}
    assert blocks_of(streamed(chunk(content="yes"), other, "[DONE]")) == [text("yes")]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        ("tool_calls", "end_turn"),
        ("odd", "end_turn"),
    ],
)
def test_why_it_stopped_is_told_in_anthropics_words(finish: str, reason: str) -> None:
    assert streamed(chunk(content="x"), chunk(finish), "[DONE]")[-2]["delta"]["stop_reason"] == reason
    assert answer({"content": "x"}, finish)["stop_reason"] == reason


def test_a_call_is_told_though_the_server_says_stop() -> None:
    calls = [call(0, "{}", "f", "t1")]
    assert streamed(chunk("stop", tool_calls=calls), "[DONE]")[-2]["delta"]["stop_reason"] == "tool_use"
    assert answer({"tool_calls": calls}, "stop")["stop_reason"] == "tool_use"


def test_a_refusal_is_text_that_ends_with_refusal() -> None:
    found = streamed(chunk(content="No: ", refusal="I will not"), chunk("stop"), "[DONE]")
    assert blocks_of(found) == [text("No: I will not")]
    assert found[-2]["delta"]["stop_reason"] == "refusal"
    assert answer({"content": None, "refusal": "No"})["stop_reason"] == "refusal"


def test_the_last_of_several_usages_holds() -> None:
    first = usage(9, 1) | chunk(content="a")
    found = streamed(first, chunk("stop"), usage(9, 3), "[DONE]")
    assert found[0]["message"]["usage"]["input_tokens"] == 9
    assert found[-2]["usage"]["output_tokens"] == 3


UNTRUE: list[Any] = [
    *(
        {"prompt_tokens": p, "completion_tokens": c}
        for p, c in [(-1, 5), (5, -1), (10**12, 1), ("a", 1), (1.5, 2), (True, 1)]
    ),
    *({"prompt_tokens": 5}, {"completion_tokens": 5}, {}, 7, [], "x"),
    {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": -2}},
]


@pytest.mark.parametrize("untrue", UNTRUE)
def test_a_usage_that_cannot_be_true_is_left_out(untrue: Any) -> None:
    assert "usage" not in answer({"content": "x"}, usage=untrue)
    assert streamed(chunk(content="x"), {"choices": [], "usage": untrue}, "[DONE]")[-2]["usage"] == {}


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_every_token_is_counted_once(fresh: int, cached: int, to_cache: int, written: int) -> None:
    details = {"cached_tokens": cached, "cache_write_tokens": to_cache}
    told = usage(fresh + cached + to_cache, written, prompt_tokens_details=details)["usage"]
    assert answer({"content": "x"}, usage=told)["usage"] == {
        "input_tokens": fresh,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": to_cache,
        "output_tokens": written,
    }


def test_kinds_that_exceed_their_sum_do_not_change_it() -> None:
    told = usage(5, 1, prompt_tokens_details={"cached_tokens": 9})["usage"]
    found = answer({"content": "x"}, usage=told)["usage"]
    assert (found["input_tokens"], found["cache_read_input_tokens"]) == (5, 0)


def test_a_server_that_writes_both_languages_is_not_counted_twice() -> None:
    told = usage(50, 1, cache_read_input_tokens=30, prompt_tokens_details={"cached_tokens": 30})["usage"]
    found = answer({"content": "x"}, usage=told)["usage"]
    assert (found["input_tokens"], found["cache_read_input_tokens"]) == (20, 30)


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "bad key", "type": "authentication_error"}},
        {"error": "boom"},
        {"object": "error", "message": "out of memory"},
        chunk("error"),
    ],
)
def test_an_error_in_a_stream_is_told_without_its_words_and_nothing_after_it(error: Any) -> None:
    found = streamed(chunk(content="x"), error, chunk("stop"), "[DONE]")
    assert found[-1] == MESSAGES_ERROR
    assert "message_stop" not in kinds(found)


def test_a_stream_without_its_end_is_not_made_to_look_complete() -> None:
    for cut in (sse(chunk(content="x")), sse(chunk(content="x")) + b'data: {"choices": [{"de', b""):
        assert b"message_stop" not in translate(cut)


def test_a_finish_reason_is_an_end_without_done() -> None:
    assert kinds(streamed(chunk(content="x"), chunk("stop"), usage(3, 1)))[-1] == "message_stop"
    assert b'"output_tokens":1' in translate(sse(chunk("stop")) + sse(usage(3, 1)).rstrip())


def test_a_stream_that_ends_before_it_began_is_none() -> None:
    with pytest.raises(UpstreamUnreachable):
        streamed("[DONE]")


def test_a_filters_report_before_the_answer_does_not_begin_it() -> None:
    azure = {"choices": [], "id": "", "model": "", "prompt_filter_results": []}
    assert streamed(azure, chunk(content="x"), "[DONE]")[0]["message"]["id"] == "msg_c1"


def test_what_came_before_a_broken_event_is_given_out_first() -> None:
    stream = MessagesToChat().stream()
    assert b'"x"' in stream.feed(sse(chunk(content="x"), "{"))
    with pytest.raises(UpstreamUnreachable):
        stream.feed(b"")
    assert stream.feed(sse(chunk("stop"), "[DONE]")) + stream.finish() == b""


@pytest.mark.parametrize(
    "nonsense",
    [
        *(b"data: {\n\n", b"data: 7\n\n", b"data: \xff\xfe\n\n", b'data: {"choices": ' + b"[" * 5000 + b"\n\n"),
        sse(chunk(tool_calls=[call(0, "{}")])),
        b"data: " + b"x" * 9_000_000,
    ],
)
def test_what_is_no_stream_is_an_upstreams_failure(nonsense: bytes) -> None:
    with pytest.raises(UpstreamUnreachable):
        MessagesToChat().stream().feed(nonsense)


@pytest.mark.parametrize("noise", [b": ping\n\n", b"event: x\n\n", b"\xff\xfe\n\n", b"data: {}\n\n", b"\n\n\n\n"])
def test_noise_between_events_is_left_out(noise: bytes) -> None:
    assert translate(noise, *(sse(each) + noise for each in GOLDEN)) == translate(sse(*GOLDEN))


@given(st.lists(LIKELY | st.builds(lambda delta: chunk(**{"content": "x", "tool_calls": delta}), JSON), max_size=4))
def test_no_stream_raises_anything_but_a_failure(events: list[Any]) -> None:
    with suppress(UpstreamUnreachable):
        translate(sse(chunk(content="x"), *events, "[DONE]"))


def test_a_whole_answer_with_everything() -> None:
    calls = [call(0, '{"city": "Køln"}', "weather", "t1"), call(1, "", "clock", "t2")]
    message = {"role": "assistant", "content": "See", "reasoning_content": "Hm", "tool_calls": calls}
    assert answer(message, "tool_calls", **full_usage() | {"choices": [{"message": message}]}) == {
        "id": "msg_c1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": ""},
            text("See"),
            used("t1", "weather", {"city": "Køln"}),
            used("t2", "clock", {}),
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": FULL,
    }


@pytest.mark.parametrize("written", ['{"a', "[1, 2]", '{"a": NaN}', '{"a": ' + "[" * 2000 + "]" * 2000 + "}"])
def test_arguments_that_are_no_object_are_given_as_they_were_written(written: str) -> None:
    """They are paid for at the upstream: who has a model write such would have all of its answer for nothing."""
    broken = {"tool_calls": [call(0, written, "f", "t1")]}
    assert answer(broken, "tool_calls")["content"] == [used("t1", "f", {"INVALID_JSON": written})]
    assert answer(broken, "length")["content"] == [used("t1", "f", {})]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"error": {}}',
        b'{"choices": []}',
        b'{"choices": [{"message": 1}]}',
        b"\xff",
        b"[" * 9999,
        b'{"choices": [{"message": {"tool_calls": [{}]}}]}',
        b'{"error": 1, "choices": [{"message": {}}]}',
    ],
)
def test_what_is_no_answer_is_an_upstreams_failure(body: bytes) -> None:
    with pytest.raises(UpstreamUnreachable):
        MessagesToChat().answer(body)


@given(LIKELY | st.fixed_dictionaries({"choices": st.lists(st.fixed_dictionaries({"message": LIKELY}))}), st.binary())
def test_no_answer_raises_anything_but_a_failure(body: Any, noise: bytes) -> None:
    for raw in (json.dumps(body).encode(), noise):
        with suppress(UpstreamUnreachable):
            MessagesToChat().answer(raw)
