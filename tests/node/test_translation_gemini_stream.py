"""Gemini's answers as chat completions: whole and streamed, however they are cut, and their usage exactly."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from node.errors import UpstreamUnreachable
from node.translation.base import StreamTranslation, Translation
from node.translation.chat_to_gemini import ChatToGemini
from node.translation.endings import CHAT_ERROR
from node.translation.gemini_stream import MAX_EVENT_BYTES, usage_of
from relays.pricing import Usage
from relays.usage import MAX_TOKENS
from tests.node.translations import CUTS, ENDS, pieces, spoiled

NOW = 1_750_000_000
GEMINI: Translation = ChatToGemini(clock=lambda: NOW + 0.5)
USAGE = {"promptTokenCount": 12, "candidatesTokenCount": 5, "thoughtsTokenCount": 30, "totalTokenCount": 47}


def call(name: str = "weather", arguments: Any = "{}", call_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def response(*parts: Any, reason: str | None = "STOP", usage: Any = None, **fields: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    return {
        "candidates": [candidate | ({"finishReason": reason} if reason else {})],
        "usageMetadata": USAGE if usage is None else usage,
        "modelVersion": "gemini-3-flash",
        "responseId": "r1",
        **fields,
    }


def answer(said: Any) -> dict[str, Any]:
    raw = json.loads(GEMINI.answer(json.dumps(said).encode()))
    ChatCompletion.model_validate(raw, strict=True)
    assert isinstance(raw, dict)
    return raw


def sse(*events: Any, end: str = "\r\n\r\n") -> bytes:
    return b"".join(f"data: {json.dumps(event, ensure_ascii=False)}{end}".encode() for event in events)


def run(*chunks: bytes) -> bytes:
    stream: StreamTranslation = GEMINI.stream()
    return b"".join([stream.feed(chunk) for chunk in chunks]) + stream.finish()


def events(stream: bytes) -> list[Any]:
    """Of a stream of ours: the chunks, each valid, and "[DONE]" if it is there."""
    datas = [event.removeprefix(b"data: ") for event in stream.split(b"\n\n")[:-1]]
    read = ["[DONE]" if data == b"[DONE]" else json.loads(data) for data in datas]
    for chunk in read:
        if isinstance(chunk, dict) and "error" not in chunk:
            ChatCompletionChunk.model_validate(chunk, strict=True)
    return read


def streamed(*said: Any) -> list[Any]:
    return events(run(sse(*said)))


def test_a_whole_answer() -> None:
    parts = [{"text": "Let me see", "thought": True}, {"text": "Hello"}, {"text": " wörld", "thoughtSignature": "eA=="}]
    chosen = [{"token": "Hello", "logProbability": -0.1}, {"token": "ö", "logProbability": -0.5, "tokenId": 4}]
    tops = [{"candidates": [{"token": "Hi", "logProbability": "-Infinity"}]}]
    said = response(*parts)
    said["candidates"][0]["logprobsResult"] = {"chosenCandidates": chosen, "topCandidates": tops}
    other = {"index": 1, "finishReason": "MAX_TOKENS", "content": {}}
    assert answer(said | {"candidates": [*said["candidates"], other]}) == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "created": NOW,
        "model": "gemini-3-flash",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello wörld", "reasoning_content": "Let me see"},
                "logprobs": {
                    "content": [
                        {
                            "token": "Hello",
                            "logprob": -0.1,
                            "bytes": [72, 101, 108, 108, 111],
                            "top_logprobs": [{"token": "Hi", "logprob": -9999.0, "bytes": [72, 105]}],
                        },
                        {"token": "ö", "logprob": -0.5, "bytes": [195, 182], "top_logprobs": []},
                    ],
                    "refusal": None,
                },
                "finish_reason": "stop",
            },
            {"index": 1, "message": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": "length"},
        ],
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 35,
            "total_tokens": 47,
            "completion_tokens_details": {"reasoning_tokens": 30},
        },
    }


PICTURE = {"inlineData": {"mimeType": "image/png", "data": "eA=="}}
PICTURED = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}


def test_pictures_that_are_paid_for_are_passed_on() -> None:
    sound = {"inlineData": {"mimeType": "audio/wav", "data": "eA=="}}
    thought = {**PICTURE, "thought": True}
    message = answer(response({"text": "Here:"}, PICTURE, sound, thought, PICTURE))["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "Here:", "images": [PICTURED, PICTURED]}
    alone = answer(response(PICTURE))["choices"][0]["message"]
    assert alone == {"role": "assistant", "content": "", "images": [PICTURED]}
    chunks = streamed(response({"text": "Here:"}, reason=None), response(PICTURE))
    assert [chunk["choices"][0]["delta"].get("images") for chunk in chunks[:2]] == [None, [PICTURED]]


def test_a_picture_without_a_count_of_what_was_written_is_no_report() -> None:
    said = response(PICTURE) | {"usageMetadata": {"promptTokenCount": 9}}
    assert "usage" not in answer(said)


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        *(("STOP", "stop"), ("MAX_TOKENS", "length"), ("OTHER", "stop"), ("LANGUAGE", "stop"), (None, "stop")),
        *(("MALFORMED_FUNCTION_CALL", "stop"), ("SOMETHING_NEW", "stop")),
        *((held, "content_filter") for held in ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII")),
    ],
)
def test_why_an_answer_ended(reason: str | None, ours: str) -> None:
    assert answer(response({"text": "x"}, reason=reason))["choices"][0]["finish_reason"] == ours


def test_a_blocked_prompt_is_an_empty_filtered_answer() -> None:
    said = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}, "responseId": "r1"}
    read = answer(said)
    [choice] = read["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "content_filter")
    assert read["usage"] == {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}


def test_an_answer_without_a_name_gets_the_same_each_time() -> None:
    said = response({"functionCall": {"name": "f"}}, responseId=None, modelVersion=None)
    read = answer(said)
    assert read == answer(said)
    assert len(read["id"]) > len("chatcmpl-")
    assert read["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"null", b"7", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000),
        *(b'{"candidates": 7}', b'{"candidates": []}'),
        *(b'{"error": {"code": 503, "message": "secret", "status": "UNAVAILABLE"}}', b'[{"error": {"code": 400}}]'),
        *(b'{"error": "text"}', b'{"candidates": [{"index": -1}]}', b'{"candidates": [{"content": {"parts": [7]}}]}'),
        b'{"candidates": [{"content": {"parts": [{"functionCall": {"args": {}}}]}}]}',
        b'{"candidates": [{"content": {"parts": [{"text": "\\ud800"}]}}]}',
    ],
)
def test_what_is_no_answer_is_an_upstream_that_did_not_deliver(body: bytes) -> None:
    with pytest.raises(UpstreamUnreachable) as error:
        GEMINI.answer(body)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("levels", [150, 800, 985, 3_000])
def test_arguments_that_nest_deeply_are_delivered(levels: int) -> None:
    """From some depth on they were lost, though Google had been paid for them."""
    given = '{"a":' * levels + '"}"' + "}" * levels
    call = '{"name": "f", "args": ' + given + "}"
    body = '{"candidates": [{"content": {"parts": [{"text": "Look."}, {"functionCall": ' + call + '}]}, "index": 0}]}'
    (choice,) = json.loads(GEMINI.answer(body.encode()))["choices"]
    assert choice["message"]["content"] == "Look."
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == given
    stream = GEMINI.stream()
    written = stream.feed(b"data: " + body.encode() + b"\n\n")
    assert json.dumps(given).encode() in written


# --- usage


def test_usage_adds_up_to_what_gemini_counts() -> None:
    reported = {
        "promptTokenCount": 100,
        "toolUsePromptTokenCount": 7,
        "cachedContentTokenCount": 64,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 300,
        "totalTokenCount": 427,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
    }
    assert usage_of(reported, written=True) == {
        "prompt_tokens": 107,
        "completion_tokens": 320,
        "total_tokens": 427,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 300},
    }


def test_an_answer_that_is_all_thought_has_no_candidates_count() -> None:
    counted = usage_of({"promptTokenCount": 3, "thoughtsTokenCount": 9}, written=False)
    assert counted is not None
    assert counted["completion_tokens"] == 9


NO_COUNTS: list[Any] = [-1, 1.5, 3.0, "3", True, [], MAX_TOKENS + 1]


@pytest.mark.parametrize(
    "untrue",
    [
        *(None, 7, [], {}, {"candidatesTokenCount": 3}, {"promptTokenCount": 3}),
        *({"promptTokenCount": wrong, "candidatesTokenCount": 3} for wrong in [*NO_COUNTS, None]),
        *({"promptTokenCount": 3, "candidatesTokenCount": wrong} for wrong in [*NO_COUNTS, None]),
        *({"promptTokenCount": 3, "candidatesTokenCount": 1, "thoughtsTokenCount": wrong} for wrong in NO_COUNTS),
        {"promptTokenCount": 3, "candidatesTokenCount": 1, "cachedContentTokenCount": 4},
    ],
)
def test_a_usage_that_cannot_be_true_is_left_out(untrue: Any) -> None:
    assert "usage" not in answer(response({"text": "x"}) | {"usageMetadata": untrue})
    assert all("usage" not in chunk for chunk in streamed(response({"text": "x"}) | {"usageMetadata": untrue}))


COUNTS = st.one_of(st.none(), st.integers(0, MAX_TOKENS))


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.booleans())
def test_a_told_usage_is_the_sum_of_its_parts(p: Any, t: Any, c: Any, a: Any, th: Any, written: bool) -> None:
    names = ("promptTokenCount", "toolUsePromptTokenCount", "cachedContentTokenCount")
    reported = dict(zip(names, (p, t, c), strict=True)) | {"candidatesTokenCount": a, "thoughtsTokenCount": th}
    if (told := usage_of(reported, written=written)) is None:
        assert p is None or (a is None and written) or (c or 0) > p
    else:
        assert told["prompt_tokens"] == p + (t or 0)
        assert told["completion_tokens"] == (a or 0) + (th or 0)
        assert told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"]


# --- streams

STREAM = [
    response({"text": "Hmm", "thought": True}, reason=None, usage={"promptTokenCount": 12, "thoughtsTokenCount": 2}),
    response({"text": "Hello ⚡"}, reason=None, usage=USAGE | {"candidatesTokenCount": 2}),
    response({"text": " wörld"}, reason=None, usage=USAGE | {"candidatesTokenCount": 4}),
    response({"text": ""}),
]
WHOLE = sse(*STREAM)


def test_a_whole_stream() -> None:
    head = {"id": "chatcmpl-r1", "object": "chat.completion.chunk", "created": NOW, "model": "gemini-3-flash"}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    assert streamed(*STREAM) == [
        chunk({"role": "assistant", "content": "", "reasoning_content": "Hmm"}),
        chunk({"content": "Hello ⚡"}),
        chunk({"content": " wörld"}),
        chunk({}, "stop"),
        head
        | {
            "choices": [],
            "usage": {
                "prompt_tokens": 12,
                "completion_tokens": 35,
                "total_tokens": 47,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
        },
        "[DONE]",
    ]


@given(CUTS, ENDS)
def test_any_cut_of_a_stream_is_translated_the_same(cuts: list[int], end: str) -> None:
    whole = sse(*STREAM, end=end)
    assert run(*pieces(whole, cuts)) == run(whole)


def test_byte_by_byte() -> None:
    assert run(*[bytes([byte]) for byte in WHOLE]) == run(WHOLE)


def test_an_end_without_a_boundary_is_an_end() -> None:
    assert run(WHOLE.rstrip()) == run(WHOLE)


@given(st.integers(0, len(WHOLE.rstrip()) - 1))
def test_a_stream_that_breaks_off_does_not_look_complete(place: int) -> None:
    read = events(run(WHOLE[:place]))
    assert "[DONE]" not in read
    assert all(choice["finish_reason"] is None for chunk in read for choice in chunk["choices"])


def test_a_stream_that_breaks_off_tells_the_usage_so_far() -> None:
    *_, last = streamed(*STREAM[:2])
    assert last["usage"]["completion_tokens"] == 32


def test_calls_in_a_stream_are_counted_on() -> None:
    def calling(name: str, reason: str | None) -> dict[str, Any]:
        return response({"functionCall": {"name": name, "args": {"a": 1}}, "thoughtSignature": "c2ln"}, reason=reason)

    first, second, usage, done = streamed(calling("f", None), calling("g", "STOP"))
    assert first["choices"][0]["delta"]["tool_calls"] == [
        call("f", '{"a":1}', "call_r1_0_0", index=0, extra_content={"google": {"thought_signature": "c2ln"}})
    ]
    assert second["choices"][0]["delta"]["tool_calls"][0]["index"] == 1
    assert second["choices"][0]["delta"]["tool_calls"][0]["id"] == "call_r1_0_1"
    assert second["choices"][0]["finish_reason"] == "tool_calls"
    assert (usage["choices"], done) == ([], "[DONE]")


def test_each_choice_of_a_stream_must_end() -> None:
    def both(*reasons: str | None) -> dict[str, Any]:
        said = response()
        said["candidates"] = [
            {"index": i, "content": {"parts": [{"text": "x"}]}} | ({"finishReason": reason} if reason else {})
            for i, reason in enumerate(reasons)
        ]
        return said

    assert streamed(both(None, None), both("STOP", None))[-1] != "[DONE]"
    assert streamed(both(None, None), both("STOP", "SAFETY"))[-1] == "[DONE]"


def test_an_end_is_told_once() -> None:
    *chunks, _, _ = streamed(response({"text": "x"}), response(), response({"text": "y"}))
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == ["stop", None]


def test_a_blocked_prompt_ends_a_stream() -> None:
    blocked = {"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": {"promptTokenCount": 9}}
    chunk, usage, done = streamed(blocked)
    assert chunk["choices"][0]["finish_reason"] == "content_filter"
    assert (usage["usage"]["prompt_tokens"], done) == (9, "[DONE]")


def test_what_was_reported_so_far_is_known_before_the_end() -> None:
    stream = ChatToGemini().stream()
    assert stream.usage is None
    stream.feed(sse(response({"text": "wave"}, usageMetadata={"promptTokenCount": 9, "candidatesTokenCount": 3})))
    assert stream.usage == Usage(9, 3)


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: [error]])
def test_an_error_in_a_stream_is_the_last_that_is_said(wrap: Any) -> None:
    error = wrap({"error": {"code": 503, "message": "project 1234 is out of quota", "status": "UNAVAILABLE"}})
    stream = run(sse(*STREAM[:2], error, *STREAM[2:]))
    *_, told, usage = events(stream)
    assert told == CHAT_ERROR
    assert usage["usage"]["completion_tokens"] == 32
    assert b"1234" not in stream
    assert b"wo" not in stream
    assert b"[DONE]" not in stream


@pytest.mark.parametrize(
    "noise", [b": comment\n\n", b"event: ping\n\n", b"\n\n\n\n", b"data: [DONE]\n\n", b"\xff\xfe\n\n"]
)
def test_noise_between_events_is_nothing(noise: bytes) -> None:
    assert run(sse(*STREAM[:2]) + noise + sse(*STREAM[2:])) == run(WHOLE)


@pytest.mark.parametrize(
    "broken", [b"data: {\n\n", b"data: \xff\xfe\n\n", b"data: 7\n\n", b'data: {"candidates": {}}\n\n']
)
def test_what_is_no_stream_is_an_upstream_that_did_not_deliver(broken: bytes) -> None:
    stream = GEMINI.stream()
    stream.feed(WHOLE)
    with pytest.raises(UpstreamUnreachable):
        stream.feed(broken)
    assert stream.feed(WHOLE) == b""
    assert b"[DONE]" not in stream.finish()


def test_an_event_without_an_end_is_not_kept_for_ever() -> None:
    stream = GEMINI.stream()
    with pytest.raises(UpstreamUnreachable):
        stream.feed(b"data: " + b"x" * MAX_EVENT_BYTES)


@pytest.mark.parametrize("nothing", [b"", b"\n\n", b"[{}]", b"data: {}\n\n"])
def test_nothing_is_not_complete(nothing: bytes) -> None:
    assert run(nothing) == b""


# --- strangers

SPOILT = STREAM[1] | {"promptFeedback": {"blockReason": "X"}}


@settings(max_examples=400)
@given(spoiled(SPOILT) | spoiled({"error": {"status": "X"}}), st.binary(max_size=40))
def test_any_answer_is_translated_or_did_not_come(said: Any, noise: bytes) -> None:
    for body in (json.dumps(said).encode(), noise):
        with suppress(UpstreamUnreachable):
            ChatCompletion.model_validate_json(GEMINI.answer(body))
        with suppress(UpstreamUnreachable):
            events(run(b"data: " + body + b"\n\n"))
