"""Answers of Anthropic's servers as OpenAI's: whole and streamed, as its SDK reads them, no token lost or invented."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageFunctionToolCall

from node.errors import UpstreamUnreachable
from node.translation.chat_to_messages import ChatToMessages
from node.translation.endings import CHAT_ERROR
from node.translation.messages_to_chat import MessagesToChat
from tests.node.translations import CUTS, ENDS, JSON, LIKELY, pieces, sse

NOW = 1_700_000_000
FULL = {
    "prompt_tokens": 100,
    "completion_tokens": 7,
    "total_tokens": 107,
    "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
TOLD = {
    "input_tokens": 60,
    "cache_read_input_tokens": 30,
    "cache_creation_input_tokens": 10,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 2},
}


def start(**usage: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def block(index: int, *deltas: dict[str, Any], **content: Any) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(index: int, *said: str) -> list[dict[str, Any]]:
    return block(index, *({"type": "text_delta", "text": each} for each in said), type="text", text="")


def tool(index: int, call_id: str, *arguments: str, **given: Any) -> list[dict[str, Any]]:
    deltas = ({"type": "input_json_delta", "partial_json": each} for each in arguments)
    return block(index, *deltas, type="tool_use", id=call_id, name="weather", input=given)


def end(reason: Any = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    return [
        {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]


GOLDEN = [
    start(**TOLD | {"output_tokens": 1}),
    {"type": "ping"},
    *block(
        0,
        {"type": "thinking_delta", "thinking": "Hm"},
        {"type": "signature_delta", "signature": "sig"},
        type="thinking",
        thinking="",
        signature="",
    ),
    *text(1, "Let me ", "see ⚡"),
    *tool(2, "t1", "", '{"city": "K', 'øln"}'),
    *tool(3, "t2", ""),
    *text(4, "."),
    *end("tool_use", output_tokens=7, output_tokens_details={"thinking_tokens": 2}),
]


def translation() -> ChatToMessages:
    return ChatToMessages(500, clock=lambda: NOW + 0.5)


def translate(*chunks: bytes) -> bytes:
    stream = translation().stream()
    return b"".join([*(stream.feed(each) for each in chunks), stream.finish()])


def chunks_of(raw: bytes) -> list[Any]:
    return [
        data if data == "[DONE]" else json.loads(data) for data in raw.decode().replace("data: ", "").split("\n\n")[:-1]
    ]


def streamed(*upstream: object) -> list[Any]:
    return chunks_of(translate(sse(*upstream)))


def read_by_the_sdk(raw: bytes) -> ChatCompletion:
    """The answer that OpenAI's SDK puts together from a stream."""
    state = ChatCompletionStreamState()
    *found, done = chunks_of(raw)
    assert done == "[DONE]"
    for chunk in found:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk, strict=True))
    return state.get_final_completion()


def answer(*content: Any, stop: Any = "end_turn", **fields: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": list(content)}
    raw = translation().answer(json.dumps(message | {"stop_reason": stop} | fields).encode())
    if "usage" in fields:
        ChatCompletion.model_validate_json(raw, strict=True)
    found: dict[str, Any] = json.loads(raw)
    return found


def test_a_golden_stream_of_thought_text_and_tools() -> None:
    found = streamed(*GOLDEN)
    assert found[-1] == "[DONE]"
    head = {"id": "chatcmpl-msg_1", "object": "chat.completion.chunk", "created": NOW, "model": "m"}
    assert found[-2] == {**head, "choices": [], "usage": FULL}
    assert all({key: chunk[key] for key in head} == head for chunk in found[:-1])

    def called(index: int, arguments: str, call_id: str = "") -> dict[str, Any]:
        known = {"id": call_id, "type": "function"} if call_id else {}
        function = {"name": "weather", "arguments": arguments} if call_id else {"arguments": arguments}
        return {"tool_calls": [{"index": index, **known, "function": function}]}

    assert [chunk["choices"][0]["delta"] for chunk in found[:-2]] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm"},
        {"content": "Let me "},
        {"content": "see ⚡"},
        called(0, "", "t1"),
        called(0, '{"city": "K'),
        called(0, 'øln"}'),
        called(1, "", "t2"),
        called(1, "{}"),
        {"content": "."},
        {},
    ]
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in found[:-2]]
    assert finishes == [None] * 10 + ["tool_calls"]


def test_openais_sdk_puts_a_stream_together() -> None:
    completion = read_by_the_sdk(translate(sse(*GOLDEN)))
    message = completion.choices[0].message
    assert message.content == "Let me see ⚡."
    calls = [each.model_dump() for each in message.tool_calls or ()]
    assert [(each["id"], json.loads(each["function"]["arguments"])) for each in calls] == [
        ("t1", {"city": "Køln"}),
        ("t2", {}),
    ]
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage is not None
    assert completion.usage.to_dict() == FULL


@given(CUTS, ENDS)
def test_any_cut_of_a_stream_translates_to_the_same_bytes(cuts: list[int], end: str) -> None:
    assert translate(*pieces(sse(*GOLDEN, end=end), cuts)) == translate(sse(*GOLDEN))


def test_byte_by_byte() -> None:
    assert translate(*(bytes([byte]) for byte in sse(*GOLDEN))) == translate(sse(*GOLDEN))


def test_a_stream_there_and_back_says_the_same() -> None:
    back = MessagesToChat().stream()
    chat = translate(sse(*GOLDEN))
    messages = back.feed(chat) + back.finish()
    again = translate(messages)
    first, second = read_by_the_sdk(chat), read_by_the_sdk(again)
    assert second.choices == first.choices
    assert second.usage == first.usage


def test_input_that_comes_with_the_start_of_a_call_is_told_at_its_end() -> None:
    found = streamed(start(), *tool(0, "t1", city="Køln"), *end("tool_use"))
    arguments = [chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for chunk in found[1:3]]
    assert arguments == ["", '{"city":"Køln"}']


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("odd", "stop"),
        (None, "stop"),
        (["x"], "stop"),
    ],
)
def test_why_it_stopped_is_told_in_openais_words(reason: Any, finish: str) -> None:
    assert streamed(start(), *text(0, "x"), *end(reason))[-2]["choices"][0]["finish_reason"] == finish
    assert answer({"type": "text", "text": "x"}, stop=reason)["choices"][0]["finish_reason"] == finish


def test_usage_that_is_told_late_overrides_what_was_told_first() -> None:
    found = streamed(start(input_tokens=0, output_tokens=0), *end(input_tokens=9, output_tokens=3))
    assert (found[-2]["usage"]["prompt_tokens"], found[-2]["usage"]["completion_tokens"]) == (9, 3)
    found = streamed(start(input_tokens=9), *end(input_tokens=None, output_tokens=3))
    assert found[-2]["usage"]["prompt_tokens"] == 9


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ({"input_tokens": 5, "output_tokens": 1}, {}),  # the first count is a beginning
        ({}, {"output_tokens": 5}),
        ({"input_tokens": 5}, {"output_tokens": -1}),
        ({"input_tokens": -5}, {"output_tokens": 1}),
        ({"input_tokens": "5"}, {"output_tokens": 1}),
        ({"input_tokens": 5, "cache_read_input_tokens": 1.5}, {"output_tokens": 1}),
        ({"input_tokens": 10**12}, {"output_tokens": 1}),
        ({"input_tokens": True}, {"output_tokens": 1}),
    ],
)
def test_a_usage_that_cannot_be_true_is_left_out(first: dict[str, Any], last: dict[str, Any]) -> None:
    found = streamed(start(**first), *text(0, "x"), *end(**last))
    assert not any("usage" in chunk for chunk in found)
    assert found[-1] == "[DONE]"
    if last:
        assert "usage" not in answer(usage=first | last)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_every_token_is_counted_once(fresh: int, cached: int, to_cache: int, written: int) -> None:
    told = {
        "input_tokens": fresh,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": to_cache,
        "output_tokens": written,
    }
    found = answer(usage=told)["usage"]
    assert found == {
        "prompt_tokens": fresh + cached + to_cache,
        "completion_tokens": written,
        "total_tokens": fresh + cached + to_cache + written,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": to_cache},
    }
    chat = {"choices": [{"message": {"content": "x"}}], "usage": found}
    assert json.loads(MessagesToChat().answer(json.dumps(chat).encode()))["usage"] == told


@pytest.mark.parametrize("error", [{"type": "authentication_error", "message": "your key"}, None])
def test_an_error_in_a_stream_is_told_without_its_words_and_nothing_after_it(error: Any) -> None:
    found = streamed(start(), *text(0, "x"), {"type": "error", "error": error}, *end())
    assert found[-1] == CHAT_ERROR


def test_a_stream_without_its_end_is_not_made_to_look_complete() -> None:
    cut = sse(*GOLDEN[:-1])
    for raw in (cut, cut + b'data: {"type": "message_st', cut + sse("[DONE]"), b""):
        translated = translate(raw)
        assert b"[DONE]" not in translated
        assert b'"finish_reason":"' not in translated


def test_a_last_event_without_its_boundary_counts() -> None:
    assert translate(sse(*GOLDEN).rstrip()) == translate(sse(*GOLDEN))


def test_what_is_not_known_is_left_out() -> None:
    strange: list[dict[str, Any]] = [
        {"type": "new_event", "a": 1},
        *block(
            0, {"type": "input_json_delta", "partial_json": "{}"}, type="server_tool_use", id="s", name="web", input={}
        ),
        *block(
            1, {"type": "citations_delta", "citation": {}}, {"type": "new_delta"}, type="redacted_thinking", data="x"
        ),
        {"type": "content_block_delta", "index": [9], "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 99},
        {"type": ["x"]},
        start(input_tokens=9),
    ]
    assert streamed(start(), *strange, *text(2, "x"), *end()) == streamed(start(), *text(2, "x"), *end())


@pytest.mark.parametrize(
    "nonsense",
    [
        *(b"data: {\n\n", b"data: 7\n\n", b"data: \xff\xfe\n\n", b'data: {"message": ' + b"[" * 5000 + b"\n\n"),
        *(sse(*end()), sse(*text(0, "x"))),
        b"data: " + b"x" * 9_000_000,
    ],
)
def test_what_is_no_stream_is_an_upstreams_failure(nonsense: bytes) -> None:
    with pytest.raises(UpstreamUnreachable):
        translation().stream().feed(nonsense)


def test_a_call_without_a_name_is_an_upstreams_failure() -> None:
    with pytest.raises(UpstreamUnreachable):
        streamed(*block(0, type="tool_use", id="t1", input={}))
    with pytest.raises(UpstreamUnreachable):
        answer({"type": "tool_use", "id": "t1"})


@pytest.mark.parametrize("noise", [b": ping\n\n", b"event: x\n\n", b"\xff\xfe\n\n", b"data: {}\n\n", b"\n\n\n\n"])
def test_noise_between_events_is_left_out(noise: bytes) -> None:
    assert translate(noise, *(sse(each) + noise for each in GOLDEN)) == translate(sse(*GOLDEN))


@pytest.mark.parametrize("levels", [150, 250, 3_000, 100_000])
def test_an_input_that_comes_at_once_is_delivered_however_deeply_it_nests(levels: int) -> None:
    """Over 200 levels it broke the stream, which the upstream had made, and is paid for."""
    given = '{"a b":' + '[{"]":' * (levels // 2) + '"\\"}"' + "}]" * (levels // 2) + "}"
    whole = b"".join(map(sse, tool(0, "t1"))).replace(b'"input": {}', b'"input": ' + given.encode())
    assert given.encode() in whole
    raw = translate(sse(start(input_tokens=9)) + whole + sse(*end("tool_use", output_tokens=5)))
    called = read_by_the_sdk(raw).choices[0].message.tool_calls
    assert called is not None
    (call,) = called
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert (call.function.name, call.function.arguments) == ("weather", given)


def test_what_nests_deeply_elsewhere_is_an_upstreams_failure() -> None:
    """Folded, its report would be no report."""
    begun = json.dumps(start(input_tokens=9)).replace("[]", "[" * 1000 + "]" * 1000)
    with pytest.raises(UpstreamUnreachable):
        translate(b"data: " + begun.encode() + b"\n\n", sse(*text(0, "x"), *end()))


KINDS = ("content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_start", "error")
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS) | JSON},
    optional={"index": st.just(0) | JSON}
    | dict.fromkeys(("content_block", "delta", "usage", "message", "error"), LIKELY | JSON),
)


@given(st.lists(EVENTS, max_size=4))
def test_no_stream_raises_anything_but_a_failure(events: list[Any]) -> None:
    with suppress(UpstreamUnreachable):
        translate(sse(start(), *events, *end()))


def test_a_whole_answer_with_everything() -> None:
    found = answer(
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Let me "},
        {"type": "text", "text": "see", "citations": [{}]},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Køln"}},
        stop="tool_use",
        usage=TOLD,
    )
    function = {"name": "weather", "arguments": '{"city":"Køln"}'}
    message = {
        "role": "assistant",
        "content": "Let me see",
        "refusal": None,
        "reasoning_content": "Hm",
        "tool_calls": [{"id": "t1", "type": "function", "function": function}],
    }
    assert found == {
        "id": "chatcmpl-msg_1",
        "object": "chat.completion",
        "created": NOW,
        "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}],
        "usage": FULL,
    }


def test_an_answer_of_calls_alone_has_no_content() -> None:
    used = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    assert answer(used, usage=TOLD)["choices"][0]["message"]["content"] is None
    assert answer(usage=TOLD)["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"x",
            b"[]",
            b"{}",
            b'{"content": "x"}',
            b"\xff",
            b"[" * 9999,
            b'{"content": ' + b'{"a":' * 300 + b"}" * 301,
        ),
        b'{"type": "error", "error": {"type": "overloaded_error", "message": "x"}}',
        b'{"type": "error", "content": []}',
    ],
)
def test_what_is_no_answer_is_an_upstreams_failure(body: bytes) -> None:
    with pytest.raises(UpstreamUnreachable):
        translation().answer(body)


@given(
    st.fixed_dictionaries({"content": LIKELY | st.lists(LIKELY)}, optional={"usage": LIKELY, "id": JSON}), st.binary()
)
def test_no_answer_raises_anything_but_a_failure(body: Any, noise: bytes) -> None:
    for raw in (json.dumps(body).encode(), noise):
        with suppress(UpstreamUnreachable):
            translation().answer(raw)
