"""Callers of OpenAI's chat completions at Anthropic's servers: requests say the same, or are refused by a field's name."""

import json
from typing import Any

import pytest
from hypothesis import given

from node.errors import Refusal
from node.translation.base import StreamTranslation, Translation
from node.translation.chat_to_messages import ChatToMessages
from node.translation.messages_to_chat import MessagesToChat
from relays import payment
from tests.node.translations import HELLO, PNG, bodies

WEATHER = {"name": "weather", "description": "Now", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": WEATHER}]
SAID_HELLO = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
FIELDS = (
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "stop", "n", "user"),
    *("temperature", "top_p", "top_k", "stream", "logit_bias", "modalities"),
)


def request(**fields: Any) -> dict[str, Any]:
    return ChatToMessages(500).request({"model": "m", "messages": HELLO} | fields)


def conversation(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = request(messages=list(messages))["messages"]
    return found


def refused(**fields: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        request(**fields)
    assert (refusal.value.status, refusal.value.code) == (400, payment.INVALID_REQUEST)
    return refusal.value.message


def call(call_id: str, arguments: str, name: str = "weather") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_it_is_a_translation() -> None:
    translation: Translation = ChatToMessages(500)
    stream: StreamTranslation = translation.stream()
    assert stream.finish() == b""


def test_a_plain_request_says_the_same_in_messages() -> None:
    assert request(temperature=1, top_p=0.9, top_k=5, stop="END", user="u1", stream=True) == {
        "model": "m",
        "max_tokens": 500,
        "messages": [SAID_HELLO],
        "temperature": 1,
        "top_p": 0.9,
        "top_k": 5,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "stream": True,
    }


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 500),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8, "max_tokens": 7}, 8),
        ({"max_completion_tokens": None, "max_tokens": 7}, 7),
    ],
)
def test_anthropic_gets_the_limit_it_wants(fields: dict[str, Any], limit: int) -> None:
    assert request(**fields)["max_tokens"] == limit


def test_the_callers_request_is_not_changed() -> None:
    body = {
        "model": "m",
        "messages": [*HELLO, *HELLO],
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
    }
    before = json.dumps(body)
    ChatToMessages(9).request(body)
    assert json.dumps(body) == before


def test_system_messages_from_anywhere_are_one_system_prompt() -> None:
    developer = {"role": "developer", "content": [{"type": "text", "text": "Be kind"}]}
    asked = request(messages=[{"role": "system", "content": "Be brief"}, *HELLO, developer])
    assert asked["system"] == "Be brief\n\nBe kind"
    assert asked["messages"] == [SAID_HELLO]


def test_messages_of_one_role_in_a_row_are_one_turn() -> None:
    found = conversation(*HELLO, {"role": "user", "content": "again"}, {"role": "assistant", "content": "Hi"}, *HELLO)
    assert [message["role"] for message in found] == ["user", "assistant", "user"]
    assert [block["text"] for block in found[0]["content"]] == ["Hello", "again"]


def test_images_go_as_data_or_as_their_address() -> None:
    urls = [f"data:image/jpg;base64,{PNG}", "https://a.example/b.png"]
    found = conversation(
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}} for url in urls]}
    )
    assert [block["source"] for block in found[0]["content"]] == [
        {"type": "base64", "media_type": "image/jpeg", "data": PNG},
        {"type": "url", "url": "https://a.example/b.png"},
    ]


def test_files_go_as_documents() -> None:
    files = [
        {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        {"file_data": "JVBERi0="},
        {"file_data": "data:text/plain;charset=utf-8;base64,d8O2cmRz"},
    ]
    found = conversation({"role": "user", "content": [{"type": "file", "file": file} for file in files]})
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    assert found[0]["content"] == [
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": pdf},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "wörds"}},
    ]


@pytest.mark.parametrize(
    ("said", "parallel", "meant"),
    [
        (None, None, None),
        (None, True, None),
        ("auto", None, {"type": "auto"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ({"type": "function", "function": {"name": "weather"}}, None, {"type": "tool", "name": "weather"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
    ],
)
def test_how_tools_may_be_used_is_told_in_anthropics_words(said: Any, parallel: Any, meant: Any) -> None:
    asked = request(tools=TOOLS, tool_choice=said, parallel_tool_calls=parallel)
    assert asked.get("tool_choice") == meant
    assert asked["tools"] == [{"name": "weather", "description": "Now", "input_schema": WEATHER["parameters"]}]


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    asked = request(tools=[{"type": "function", "function": {"name": "clock", "strict": True}}])
    assert asked["tools"] == [{"name": "clock", "input_schema": {"type": "object"}, "strict": True}]


def test_results_in_a_row_are_one_user_turn_with_what_the_user_said() -> None:
    found = conversation(
        *HELLO,
        {
            "role": "assistant",
            "content": "\n\n",
            "reasoning_content": "hm",
            "tool_calls": [call("a.1", "{}"), call("b", "")],
        },
        {"role": "tool", "tool_call_id": "a.1", "content": "sun"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "rain"}]},
        {"role": "user", "content": "and now?"},
    )
    assert found[1] == {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": "a_1", "name": "weather", "input": {}},
            {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
        ],
    }
    assert found[2:] == [
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a_1", "content": [{"type": "text", "text": "sun"}]},
                {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "and now?"},
            ],
        }
    ]


TOOL_TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief"},
    {"role": "user", "content": "Weather in Køln?"},
    {"role": "assistant", "content": "I look", "tool_calls": [call("a", '{"city":"Køln"}'), call("b", "{}")]},
    {"role": "tool", "tool_call_id": "a", "content": "sun"},
    {"role": "tool", "tool_call_id": "b", "content": "noon"},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Sun at noon"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "And this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
        ],
    },
]


def test_a_conversation_with_tools_comes_back_as_it_went() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}
    for choice in ("auto", "none", "required", {"type": "function", "function": {"name": "weather"}}):
        body: dict[str, Any] = {
            "model": "m",
            "messages": TOOL_TALK,
            "max_tokens": 9000,
            "temperature": 1,
            "stop": ["END"],
            "user": "u1",
            "tools": TOOLS,
            "tool_choice": choice,
            "response_format": schema,
        }
        assert MessagesToChat().request(ChatToMessages(9).request(body)) == body


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
@pytest.mark.parametrize("model", ["m", "claude-sonnet-4-5", "claude-opus-4-7"])
def test_an_effort_comes_back_as_it_went(effort: str, model: str) -> None:
    body = {"model": model, "messages": HELLO, "max_tokens": 64000, "reasoning_effort": effort}
    assert MessagesToChat().request(ChatToMessages(9).request(body)) == body


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({"reasoning_effort": "low", "max_tokens": 64000}, 2048),
        ({"reasoning_effort": "high", "max_tokens": 64000}, 24576),
        ({"reasoning_effort": "high", "max_tokens": 4096}, 2048),
        ({"reasoning_effort": "low", "max_tokens": 2048}, 1024),
        ({"reasoning_effort": "high", "max_tokens": 2047}, None),
        ({"reasoning_effort": "none", "max_tokens": 64000}, None),
        ({"reasoning_effort": "minimal", "max_tokens": 64000}, None),
        ({"reasoning_effort": "high", "max_tokens": 64000, "temperature": 0.2}, None),
        ({"reasoning_effort": "high", "max_tokens": 64000, "tools": TOOLS, "tool_choice": "required"}, None),
        ({"reasoning_effort": "high", "max_tokens": 64000, "messages": TOOL_TALK[:5]}, None),
        ({"reasoning_effort": "high", "max_tokens": 64000, "messages": TOOL_TALK}, 24576),
    ],
)
def test_an_effort_is_a_budget_where_anthropic_takes_one(fields: dict[str, Any], budget: int | None) -> None:
    thinking = request(**fields).get("thinking")
    assert thinking == (None if budget is None else {"type": "enabled", "budget_tokens": budget})


BUDGET = {"thinking": {"type": "enabled", "budget_tokens": 24576}}
ADAPTIVE = {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        *(
            (old, BUDGET)
            for old in (
                *("claude-3-7-sonnet-20250219", "claude-3.7-sonnet", "claude-sonnet-4-20250514", "claude-opus-4"),
                *("claude-opus-4@20250514", "claude-opus-4-1-20250805", "claude-haiku-4-5", "Claude-Opus-4.5"),
                *("anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-4.5-sonnet", "kimi-k2.7", "deepseek-v4"),
            )
        ),
        *(
            (new, ADAPTIVE)
            for new in (
                *("claude-opus-4-6", "claude-sonnet-4.6", "claude-opus-4-7", "anthropic.claude-opus-4-8-v1:0"),
                *("claude-opus-5", "claude-sonnet-5-5", "claude-opus-10-20300101", "claude-mythos-preview"),
                *("claude-fable-5-2", "anthropic/claude-4.8-opus"),
            )
        ),
    ],
)
def test_an_effort_is_said_as_the_model_understands_it(model: str, said: dict[str, Any]) -> None:
    """Opus 4.7 and later refuse a budget, models before 4.6 know nothing else."""
    asked = request(model=model, reasoning_effort="high", max_tokens=64000)
    assert {name: asked[name] for name in ("thinking", "output_config") if name in asked} == said


@pytest.mark.parametrize(
    ("fields", "thinks", "effort"),
    [
        ({"reasoning_effort": "xhigh"}, True, "xhigh"),
        ({"reasoning_effort": "xhigh", "model": "claude-opus-4-6"}, True, "high"),
        ({"reasoning_effort": "max", "model": "claude-opus-4-6"}, True, "max"),
        ({"reasoning_effort": "low", "max_tokens": 16}, True, "low"),
        ({"reasoning_effort": "none"}, False, None),
        ({"reasoning_effort": "high", "temperature": 0.2}, False, "high"),
        ({"reasoning_effort": "high", "tools": TOOLS, "tool_choice": "required"}, False, "high"),
        ({"reasoning_effort": "high", "messages": TOOL_TALK[:5]}, True, "high"),
    ],
)
def test_an_adaptive_model_thinks_within_its_answer(fields: dict[str, Any], thinks: bool, effort: str | None) -> None:
    asked = request(**{"model": "claude-opus-4-7", "max_tokens": 64000, **fields})
    assert ("thinking" in asked, asked.get("output_config", {}).get("effort")) == (thinks, effort)
    assert asked["max_tokens"] == fields.get("max_tokens", 64000), "what is held bounds its thoughts too"


def test_an_effort_and_a_schema_go_together() -> None:
    schema = {"type": "object", "additionalProperties": False}
    described = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = request(model="claude-opus-4-7", reasoning_effort="low", response_format=described)
    assert asked["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}


def test_a_schema_is_asked_for_in_anthropics_way() -> None:
    schema = {"type": "object", "additionalProperties": False}
    asked = request(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert asked["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert "output_config" not in request(response_format={"type": "text"})


def test_hints_and_what_changes_nothing_are_left_out() -> None:
    asked = request(
        **{"seed": 1, "store": False, "metadata": {"a": "b"}, "n": 1, "logprobs": False, "logit_bias": {}, "min_p": 0},
        **{"frequency_penalty": 0, "presence_penalty": 0.0, "modalities": ["text"], "stream_options": {}, "top_k": -1},
        **{"prompt_cache_key": "k", "user": "mail@a.example", "stop": None, "response_format": None, "tools": []},
    )
    assert asked == {"model": "m", "max_tokens": 500, "messages": [SAID_HELLO]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"50256": -100}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -0.5),
        ("repetition_penalty", 1.1),
        ("min_p", 0.1),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("store", True),
        ("functions", [{"name": "x"}]),
        ("web_search_options", {}),
        ("verbosity", "low"),
        ("made_up", 1),
        ("temperature", 1.5),
        ("temperature", "hot"),
        ("top_p", 2),
        ("stop", ["\n"]),
        ("stop", [None]),
        ("max_tokens", 0),
        ("max_completion_tokens", 1.5),
        ("stream", 1),
        ("reasoning_effort", "heroic"),
        ("reasoning_effort", ["low"]),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
        ("tools", "x"),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "allowed_tools"}),
        ("tool_choice", "any"),
        ("messages", [1]),
        ("messages", []),
        ("messages", [{"role": "system", "content": "alone"}]),
        ("model", ""),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_name(field: str, value: Any) -> None:
    assert f"'{field}" in refused(**{field: value})


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"role": "user", "content": {"a": 1}}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "input_audio"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "image_url"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
            "image_url.url",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,x"}}]},
            "svg",
        ),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}, "file.file_data"),
        (
            {"role": "user", "content": [{"type": "file", "file": {"file_data": "data:text/plain;base64,?"}}]},
            "file_data",
        ),
        ({"role": "function", "name": "x", "content": "y"}, "function"),
        ({"role": ["user"], "content": "y"}, "messages[0].role"),
        ({"role": "tool", "content": "y"}, "tool_call_id"),
        ({"role": "assistant", "function_call": {}}, "function_call"),
        ({"role": "assistant", "tool_calls": [call("a", "{")]}, "tool_calls[0].function.arguments"),
        ({"role": "assistant", "tool_calls": [call("a", "[1]")]}, "tool_calls[0].function.arguments"),
        ({"role": "assistant", "tool_calls": [call("a", '{"a":' * 5000)]}, "tool_calls[0].function.arguments"),
        ({"role": "assistant", "tool_calls": [call("", "{}")]}, "tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [{"type": "custom"}]}, "tool_calls[0].type"),
        ({"role": "system", "content": [{"type": "image_url"}]}, "messages[0].content[0]"),
    ],
)
def test_a_message_that_cannot_be_said_is_refused_by_its_place(message: dict[str, Any], named: str) -> None:
    assert named in refused(messages=[message, *HELLO])


def test_a_request_that_nests_without_end_is_refused() -> None:
    nest: Any = {}
    for _ in range(50_000):
        nest = {"a": [nest]}
    assert "nests" in refused(tools=[{"type": "function", "function": {"name": "x", "parameters": nest}}])


@given(bodies("max_tokens", FIELDS))
def test_no_request_raises_anything_but_a_refusal(body: dict[str, Any]) -> None:
    try:
        json.dumps(ChatToMessages(500).request(body))
    except Refusal as refusal:
        assert refusal.status == 400
