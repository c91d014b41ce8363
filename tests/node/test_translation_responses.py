"""OpenAI's Responses at servers that have chat alone: requests to chat, whole answers and streams back, no token lost."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from node.errors import Refusal, UpstreamUnreachable
from node.sse import EventReader
from node.translation.responses_output import MAX_CHARS
from node.translation.responses_to_chat import ResponsesToChat
from tests.node.translations import CUTS, ENDS, HELLO, JSON, LIKELY, pieces, spoiled, sse

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
FIELDS = (
    *("instructions", "parallel_tool_calls", "reasoning", "stream", "temperature", "text", "tool_choice", "tools"),
    *("top_p", "user", "include", "metadata", "truncation", "store", "top_logprobs", "max_output_tokens"),
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "name": "weather", "description": "Of a city.", "parameters": SCHEMA, "strict": True}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA, "strict": True},
}
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 7,
    "total_tokens": 107,
    "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
TOLD = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 107,
}


def request(**fields: Any) -> dict[str, Any]:
    return ResponsesToChat().request({"model": "m", "input": "Hello", **fields})


def refused(**fields: Any) -> str:
    with pytest.raises(Refusal) as caught:
        request(**fields)
    assert caught.value.status == 400
    return caught.value.message


def called(call_id: str, city: str) -> dict[str, Any]:
    arguments = json.dumps({"city": city})
    return {"type": "function_call", "id": "fc_1", "call_id": call_id, "name": "weather", "arguments": arguments}


def result(call_id: str, output: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def chat_call(call_id: str, city: str) -> dict[str, Any]:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    return {"id": call_id, "type": "function", "function": function}


def test_a_plain_request() -> None:
    assert request() == {"model": "m", "messages": HELLO}
    assert request(input=HELLO, stream=True) == {
        **request(),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_chat_says_otherwise() -> None:
    form = {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}
    asked = request(
        instructions="Be short.",
        max_output_tokens=9,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": form, "verbosity": "low"},
        tools=[TOOL],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        temperature=0.5,
        top_p=0.9,
        user="u",
        store=False,
        include=["reasoning.encrypted_content"],
        metadata={"a": "b"},
        truncation="auto",
    )
    assert asked == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be short."}, *HELLO],
        "max_tokens": 9,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        "verbosity": "low",
        "tools": [CHAT_TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "user": "u",
    }
    assert request(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    newer = ResponsesToChat("max_completion_tokens").request({"model": "m", "input": "x", "max_output_tokens": 9})
    assert newer["max_completion_tokens"] == 9


def test_a_conversation_with_tools() -> None:
    """An assistant's words and calls are one message of chat, thoughts are none, pictures come after the results."""
    picture = {"type": "input_image", "image_url": "https://a.example/b.png", "detail": "low"}
    shown = {"type": "image_url", "image_url": {"url": "https://a.example/b.png", "detail": "low"}}
    asked = request(
        input=[
            {"role": "developer", "content": "Be short."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}, picture]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]},
            called("call_1", "Lisbon"),
            called("call_2", "Porto"),
            result("call_1", "21"),
            result("call_2", [{"type": "input_text", "text": "19"}, picture]),
            {"role": "assistant", "content": "Fine."},
            {"role": "user", "content": "Thanks"},
            called("call_3", "Faro"),
            result("call_3", [picture]),
        ]
    )
    assert asked["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}, shown]},
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [chat_call("call_1", "Lisbon"), chat_call("call_2", "Porto")],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "21"},
        {"role": "tool", "tool_call_id": "call_2", "content": "19"},
        {"role": "user", "content": [{"type": "text", "text": "From the result of tool call call_2:"}, shown]},
        {"role": "assistant", "content": "Fine."},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": None, "tool_calls": [chat_call("call_3", "Faro")]},
        {"role": "tool", "tool_call_id": "call_3", "content": "The result is in the next message."},
        {"role": "user", "content": [{"type": "text", "text": "From the result of tool call call_3:"}, shown]},
    ]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            {"type": "input_file", "file_data": "data:application/pdf;base64,eA==", "filename": "a.pdf"},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,eA==", "filename": "a.pdf"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}},
        ),
    ],
)
def test_other_parts(part: dict[str, Any], said: dict[str, Any]) -> None:
    assert request(input=[{"role": "user", "content": [part]}])["messages"][0]["content"] == [said]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"include": 5}, "include"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"instructions": ["x"]}, "instructions"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "file_data"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "image_url"),
        ({"input": [{"role": "system", "content": [{"type": "input_image", "image_url": "x"}]}]}, "content"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "arguments"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "call_id"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_name(fields: dict[str, Any], named: str) -> None:
    assert named in refused(**fields)


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def piece(index: int, arguments: str, **begun: str) -> dict[str, Any]:
    known = {"id": begun["call_id"], "type": "function"} if begun else {}
    name = {"name": begun["name"]} if begun else {}
    return {"index": index, **known, "function": {**name, "arguments": arguments}}


STREAM: list[Any] = [
    chunk(role="assistant", content=""),
    chunk(reasoning_content="A "),
    chunk(reasoning_content="sum."),
    chunk(content="Let me "),
    chunk(content="look."),
    chunk(tool_calls=[piece(0, "", call_id="call_1", name="weather")]),
    chunk(tool_calls=[piece(0, '{"city":')]),
    chunk(tool_calls=[piece(1, '{"city"', call_id="call_2", name="weather")]),
    chunk(tool_calls=[piece(0, '"Lisbon"}'), piece(1, ':"Porto"}')]),
    chunk("tool_calls"),
    {"id": "c1", "model": "m", "choices": [], "usage": USAGE},
    "[DONE]",
]
MESSAGE = {
    "role": "assistant",
    "reasoning_content": "A sum.",
    "content": "Let me look.",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Lisbon"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Porto"}'}},
    ],
}
WHOLE = {
    "id": "c1",
    "model": "m",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}],
    "usage": USAGE,
}


def translation(**fields: Any) -> ResponsesToChat:
    made = ResponsesToChat(clock=lambda: 5.0)
    made.request({"model": "m", "input": "Hello", "tools": [TOOL], "metadata": {"a": "b"}, **fields})
    return made


def answer(chat: dict[str, Any] = WHOLE) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(translation().answer(json.dumps(chat).encode()))
    Response.model_validate(found)
    return found


def translated(*chunks: bytes) -> list[dict[str, Any]]:
    """The events, each of which the SDK knows."""
    found = events_of(*chunks)
    for event in found:
        EVENT.validate_python(event)
    return found


def events_of(*chunks: bytes) -> list[dict[str, Any]]:
    stream = translation().stream()
    written = b"".join([*(stream.feed(each) for each in chunks), stream.finish()])
    found = []
    for event in EventReader().feed(written):
        found.append(json.loads(event.data))
        assert event.name == found[-1]["type"]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def ended(chat: dict[str, Any], finish: object) -> dict[str, Any]:
    return {**chat, "choices": [{**chat["choices"][0], "finish_reason": finish}]}


def test_a_whole_answer() -> None:
    found = answer()
    assert [item["type"] for item in found["output"]] == ["reasoning", "message", "function_call", "function_call"]
    thought, said, first, second = found["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "A sum."}]
    assert said["content"] == [{"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []}]
    assert [(c["call_id"], c["name"], c["arguments"]) for c in (first, second)] == [
        ("call_1", "weather", '{"city":"Lisbon"}'),
        ("call_2", "weather", '{"city":"Porto"}'),
    ]
    assert {item["status"] for item in (said, first, second)} == {"completed"}
    assert (found["id"], found["status"], found["model"], found["created_at"]) == ("resp_c1", "completed", "m", 5)
    assert (found["usage"], found["tools"], found["metadata"]) == (TOLD, [TOOL], {"a": "b"})
    assert (found["store"], found["error"], found["incomplete_details"]) == (False, None, None)


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        (None, "completed", None),
        (["x"], "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_why_it_ended(finish: Any, status: str, reason: str | None) -> None:
    found = answer(ended(WHOLE, finish))
    assert (found["status"], (found["incomplete_details"] or {}).get("reason")) == (status, reason)
    last = translated(sse(chunk(content="Half"), chunk(finish), "[DONE]"))[-1]
    assert (last["type"], last["response"]["status"]) == (f"response.{status}", status)
    assert last["response"]["output"][0]["status"] == status


def test_a_refusal_is_one() -> None:
    message = {"role": "assistant", "content": None, "refusal": "No."}
    found = answer({**WHOLE, "choices": [{"message": message, "finish_reason": "stop"}]})
    assert found["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]
    events = translated(sse(chunk(refusal="N"), chunk(refusal="o."), chunk("stop"), "[DONE]"))
    assert [event["delta"] for event in events if event["type"] == "response.refusal.delta"] == ["N", "o."]


@pytest.mark.parametrize(
    "chat", [{}, {"choices": []}, {"error": {"message": "x"}, **WHOLE}, ended(WHOLE, "error"), {"choices": [{}]}]
)
def test_what_is_no_answer_is_none(chat: dict[str, Any]) -> None:
    with pytest.raises(UpstreamUnreachable):
        answer(chat)


def test_a_stream_event_by_event() -> None:
    found = translated(sse(*STREAM))
    assert [event["type"].removeprefix("response.") for event in found] == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added"),
        *["reasoning_summary_text.delta"] * 2,
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added"),
        *["output_text.delta"] * 2,
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "output_item.added"),
        *["function_call_arguments.delta"] * 3,
        *["function_call_arguments.done", "output_item.done"] * 2,
        "completed",
    ]
    assert found[0]["response"]["output"] == []
    assert found[0]["response"]["usage"] is None
    assert found[-1]["response"] == answer(), "what was streamed is what a whole answer says"
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == found[-1]["response"]["output"]


def test_a_stream_before_its_first_word_is_silent() -> None:
    """Until then its failure is free, and another server may be asked."""
    events = translated(sse(chunk(role="assistant", content="")))
    assert [event["type"] for event in events] == ["response.created", "response.in_progress"]


@given(CUTS, ENDS)
def test_a_stream_may_be_cut_anywhere(cuts: list[int], end: str) -> None:
    assert events_of(*pieces(sse(*STREAM, end=end), cuts)) == events_of(sse(*STREAM))


def test_a_stream_that_is_cut_off_stays_cut_off() -> None:
    found = translated(sse(*STREAM[:5]))
    assert found[-1]["type"] == "response.output_text.delta"
    stream = translation().stream()
    stream.feed(sse(*STREAM[:5], {"choices": [], "usage": USAGE}))
    assert stream.usage is not None
    assert stream.usage.prompt_tokens == 100


def test_a_stream_may_end_without_done_and_without_usage() -> None:
    last = translated(sse(chunk(content="Hi"), chunk("stop")))[-1]
    assert (last["type"], last["response"]["usage"]) == ("response.completed", None)


@pytest.mark.parametrize("error", [{"error": {"message": "the operator's account"}}, chunk("error")])
def test_an_error_inside_is_told_in_our_words(error: dict[str, Any]) -> None:
    found = translated(sse(chunk(content="Hi"), error, "[DONE]"))
    assert (found[-1]["type"], found[-1]["code"]) == ("error", "server_error")
    assert "account" not in json.dumps(found)


def test_an_answer_without_end_is_none() -> None:
    stream = translation().stream()
    long = sse(chunk(content="x" * (MAX_CHARS // 4)))
    with pytest.raises(UpstreamUnreachable):
        for _ in range(6):
            stream.feed(long)


@given(st.lists(LIKELY | spoiled(STREAM[3]) | spoiled(STREAM[5]) | spoiled(STREAM[10]), max_size=5))
def test_no_stream_raises_anything_but_that_it_is_none(events: list[Any]) -> None:
    stream = translation().stream()
    with suppress(UpstreamUnreachable):
        stream.feed(sse(*events))
        stream.finish()


@given(spoiled(WHOLE))
def test_no_answer_raises_anything_but_that_it_is_none(chat: Any) -> None:
    with suppress(UpstreamUnreachable):
        translation().answer(json.dumps(chat).encode())


NEAR = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        called("call_1", "Lisbon"),
        result("call_1", [{"type": "input_text", "text": "21"}]),
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "name": "weather"},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
    "reasoning": {"effort": "low"},
}


@given(spoiled(NEAR), st.dictionaries(st.sampled_from(FIELDS), LIKELY | JSON, max_size=3))
def test_no_request_raises_anything_but_a_refusal(body: Any, more: dict[str, Any]) -> None:
    try:
        json.dumps(ResponsesToChat().request({**(body if isinstance(body, dict) else {}), **more}))
    except Refusal as refusal:
        assert refusal.status == 400
