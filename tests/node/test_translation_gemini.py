"""Chat completions asked of Gemini: what can be said is said, what cannot is refused by its name, nothing is fetched."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import Refusal
from relays import payment
from relays.jsontext import MAX_DEPTH
from tests.node.test_translation_gemini_stream import GEMINI, answer, call, response
from tests.node.translations import JSON, spoiled

PIXEL = base64.b64encode(b"\x89PNG\r\n").decode()
HI = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}


def request(**fields: Any) -> dict[str, Any]:
    return GEMINI.request({"model": "gemini-3", "messages": HI, **fields})


def refused(**fields: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        request(**fields)
    assert (refusal.value.status, refusal.value.code) == (400, payment.INVALID_REQUEST)
    return refusal.value.message


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    [content] = request(messages=[{"role": "user", "content": list(parts)}])["contents"]
    part: dict[str, Any] = content["parts"][0]
    return part


def test_a_whole_request() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look:"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]},
        {"role": "assistant", "content": "A dot."},
        {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
        {"role": "user", "content": "Thanks", "name": "Ann"},
    ]
    body = {
        "model": "gemini-3",
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "n": 2,
        "max_tokens": 7,
        "max_completion_tokens": 99,
        "stop": ["END", "STOP"],
        "seed": -3,
        "presence_penalty": 1,
        "frequency_penalty": -0.5,
        "logprobs": True,
        "top_logprobs": 4,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "user": "u",
        "store": False,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "logit_bias": {},
        "modalities": ["text"],
    }
    before = json.dumps(body)
    assert GEMINI.request(body) == {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "And kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Look:"}, {"inlineData": {"mimeType": "image/png", "data": PIXEL}}]},
            {"role": "model", "parts": [{"text": "A dot."}]},
            {"role": "user", "parts": [{"text": "Thanks"}]},
        ],
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40,
            "candidateCount": 2,
            "maxOutputTokens": 99,
            "stopSequences": ["END", "STOP"],
            "seed": -3,
            "presencePenalty": 1,
            "frequencyPenalty": -0.5,
            "responseLogprobs": True,
            "logprobs": 4,
            "thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": False},
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
        },
    }
    assert json.dumps(body) == before


def test_a_plain_request_says_no_more_than_was_asked() -> None:
    assert request() == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


def test_empty_messages_are_left_out_since_gemini_refuses_empty_texts() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "b"},
    ]
    assert request(messages=messages)["contents"] == [{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}]


def test_files_and_sounds_are_given_as_data() -> None:
    pdf = {
        "type": "file",
        "file": {"file_data": f"data:application/pdf;name=x.pdf;base64,{PIXEL}", "filename": "x.pdf"},
    }
    assert user(pdf) == {"inlineData": {"mimeType": "application/pdf", "data": PIXEL}}
    sound = {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}}
    assert user(sound) == {"inlineData": {"mimeType": "audio/wav", "data": PIXEL}}


@pytest.mark.parametrize(
    "url",
    [
        *("https://example.com/cat.png", "http://127.0.0.1/", "file:///etc/passwd", "gs://a/b", "", None, 7),
        *("data:,hello", "data:image/png,hello", f"data:;base64,{PIXEL}", f"data:image/p\nng;base64,{PIXEL}"),
    ],
)
def test_nothing_is_fetched_for_the_caller(url: Any) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    message = refused(messages=[{"role": "user", "content": [part]}])
    assert "messages[0].content[0].image_url.url" in message
    assert "data: URL" in message


@pytest.mark.parametrize("data", ["", "####", "abc", "é", "QQ==\n", 7, None])
def test_data_that_is_not_base64_is_refused(data: Any) -> None:
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}}
    assert "input_audio.data" in refused(messages=[{"role": "user", "content": [part]}])


@pytest.mark.parametrize(
    ("effort", "budget"), [("none", 0), ("minimal", 512), ("low", 1024), ("medium", 8192), ("high", 24576)]
)
def test_effort_is_a_budget_of_thought(effort: str, budget: int) -> None:
    config = request(reasoning_effort=effort)["generationConfig"]
    assert config["thinkingConfig"] == {"thinkingBudget": budget, "includeThoughts": False}


def test_json_without_a_schema() -> None:
    config = request(response_format={"type": "json_object"})["generationConfig"]
    assert config == {"responseMimeType": "application/json"}
    assert "generationConfig" not in request(response_format={"type": "text"})


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"mode": "ANY", "allowedFunctionNames": ["weather"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
            {"mode": "ANY", "allowedFunctionNames": ["weather"]},
        ),
    ],
)
def test_tools_and_which_of_them_to_call(choice: Any, config: dict[str, Any]) -> None:
    said = request(tools=[WEATHER], tool_choice=choice)
    declared = {
        "name": "weather",
        "description": "Tells it",
        "parametersJsonSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    assert said["tools"] == [{"functionDeclarations": [declared]}]
    assert said["toolConfig"] == {"functionCallingConfig": config}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logit_bias", {"50256": -100}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("parallel_tool_calls", False),
        ("store", True),
        ("verbosity", "low"),
        ("service_tier", "priority"),
        ("min_p", 0.1),
        ("repetition_penalty", 1.2),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("web_search_options", {}),
        ("plugins", [1]),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", 0),
        ("n", 2.0),
        ("seed", 2**31),
        ("max_tokens", 0),
        ("max_completion_tokens", -1),
        ("stop", [""]),
        ("stop", 5),
        ("logprobs", "yes"),
        ("top_logprobs", 3),
        ("reasoning_effort", "utmost"),
        ("reasoning_effort", []),
        ("response_format", {"type": "grammar"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": 1}}),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
        ("tools", [{"type": "function", "function": {"name": ""}}]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "weather"}}),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}}),
        ("messages", []),
        ("messages", [{"role": "system", "content": "alone"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "function", "name": "f", "content": "x"}]),
        ("messages", [{"role": "user", "content": [{"type": "video_url"}]}]),
        ("messages", [{"role": "assistant", "audio": {"id": "a"}}]),
        ("messages", [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(field: str, value: Any) -> None:
    assert field in refused(**{field: value})


def test_null_is_as_good_as_left_out() -> None:
    fields = ("temperature", "n", "stop", "tools", "tool_choice", "logit_bias", "response_format", "audio", "logprobs")
    assert request(**dict.fromkeys(fields)) == request()


# --- tools, there and back


def test_a_tool_conversation_there_and_back() -> None:
    parts = [
        {"functionCall": {"name": "weather", "args": {"city": "Köln"}}, "thoughtSignature": "c2ln"},
        {"functionCall": {"id": "given", "name": "weather", "args": {"city": "Rome"}}},
    ]
    choice = answer(response(*parts))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    first, second = choice["message"]["tool_calls"]
    assert first == call(arguments='{"city":"Köln"}', call_id="call_r1_0_0") | {
        "extra_content": {"google": {"thought_signature": "c2ln"}}
    }
    assert second == call(arguments='{"city":"Rome"}', call_id="given")
    messages = [
        *HI,
        choice["message"],
        {"role": "tool", "tool_call_id": "given", "content": '{"sky": "blue"}'},
        {"role": "tool", "tool_call_id": "call_r1_0_0", "content": [{"type": "text", "text": "rain"}]},
    ]
    assert request(messages=messages)["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {
                    "functionCall": {"id": "call_r1_0_0", "name": "weather", "args": {"city": "Köln"}},
                    "thoughtSignature": "c2ln",
                },
                parts[1],
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "given", "name": "weather", "response": {"sky": "blue"}}},
                {"functionResponse": {"id": "call_r1_0_0", "name": "weather", "response": {"result": "rain"}}},
            ],
        },
    ]


@pytest.mark.parametrize("content", ["[1, 2]", "7", "null", '"text"', "{", "", "plain"])
def test_a_result_that_is_no_object_is_wrapped_as_it_is(content: str) -> None:
    messages = [
        {"role": "assistant", "tool_calls": [call()]},
        {"role": "tool", "tool_call_id": "c1", "content": content},
    ]
    result = request(messages=messages)["contents"][1]["parts"][0]["functionResponse"]
    assert result["response"] == {"result": content}


@pytest.mark.parametrize("arguments", ["{", "[]", "7", "null", "nonsense", None, {}, '{"a": 1e999}', "[" * 5000])
def test_arguments_that_are_no_object_are_refused(arguments: Any) -> None:
    message = refused(messages=[{"role": "assistant", "tool_calls": [call(arguments=arguments)]}])
    assert "messages[0].tool_calls[0].function.arguments" in message


@pytest.mark.parametrize("call_id", ["c2", "", None, 7])
def test_a_result_without_its_call_is_refused(call_id: Any) -> None:
    messages = [
        {"role": "assistant", "tool_calls": [call()]},
        {"role": "tool", "tool_call_id": call_id, "content": "x"},
    ]
    assert "messages[1].tool_call_id" in refused(messages=messages)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5000])
def test_what_is_nested_too_deeply_to_be_written_again_is_refused(depth: int) -> None:
    deep: Any = {}
    for _ in range(depth):
        deep = {"a": deep}
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    assert "nests deeper" in refused(tools=[tool])
    assert "response_format" in refused(response_format={"type": "json_schema", "json_schema": {"schema": deep}})


# --- strangers

REQUEST = {
    "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:a/b;base64,AAAA"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_data": "data:a/b;base64,AAAA"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
        {
            "role": "assistant",
            "content": "x",
            "tool_calls": [call(extra_content={"google": {"thought_signature": "s"}})],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "{}"},
    ],
    "tools": [WEATHER],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
    "response_format": {"type": "json_schema", "json_schema": {"schema": {}}},
    "logprobs": True,
    "top_logprobs": 2,
    "stop": ["x"],
    "reasoning_effort": "low",
}


ANY_FIELDS = st.dictionaries(st.sampled_from([*REQUEST, "n", "store", "seed", "x"]) | st.text(max_size=5), JSON)


@settings(max_examples=400)
@given(spoiled(REQUEST) | ANY_FIELDS)
def test_any_body_is_translated_or_refused(body: Any) -> None:
    if not isinstance(body, dict):
        return
    before = msgspec.json.encode(body)
    try:
        msgspec.json.encode(GEMINI.request(body))
    except Refusal as refusal:
        assert refusal.status == 400
        assert 0 < len(refusal.message) < 300
    assert msgspec.json.encode(body) == before


def test_the_whole_of_what_is_spoiled_is_translated() -> None:
    assert len(GEMINI.request(REQUEST)["contents"]) == 3
