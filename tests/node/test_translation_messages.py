"""Callers of Anthropic's Messages API at OpenAI's servers: the same words, tools and tokens, whole and streamed."""

import json
from typing import Any

import pytest
from hypothesis import given
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import TypeAdapter

from node.errors import Refusal
from node.translation.base import StreamTranslation, Translation
from node.translation.messages_to_chat import MessagesToChat
from relays import payment
from tests.node.translations import HELLO, PNG, bodies

WEATHER = {"name": "weather", "description": "Now", "input_schema": {"type": "object", "properties": {}}}
PLAIN: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
STREAMED: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming)

FIELDS = ("system", "tools", "tool_choice", "thinking", "output_config", "metadata", "stop_sequences", "stream")


def request(**fields: Any) -> dict[str, Any]:
    """A request translated, and what OpenAI's SDK thinks of it."""
    chat = MessagesToChat().request({"model": "m", "max_tokens": 100, "messages": HELLO} | fields)
    (STREAMED if "stream" in chat else PLAIN).validate_python(chat)
    return chat


def conversation(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = request(messages=list(messages))["messages"]
    return found


def refused(**fields: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        request(**fields)
    assert (refusal.value.status, refusal.value.code) == (400, payment.INVALID_REQUEST)
    return refusal.value.message


def test_it_is_a_translation() -> None:
    translation: Translation = MessagesToChat()
    stream: StreamTranslation = translation.stream()
    assert stream.finish() == b""


def test_a_plain_request_says_the_same_in_chat() -> None:
    asked = request(
        system="Be brief", temperature=0.5, top_p=0.9, top_k=5, stop_sequences=["END"], metadata={"user_id": "u1"}
    )
    assert asked == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}],
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stop": ["END"],
        "user": "u1",
    }


def test_a_stream_is_asked_to_tell_its_usage() -> None:
    assert request(stream=True)["stream_options"] == {"include_usage": True}
    assert "stream" not in request(stream=False)


def test_the_newer_name_of_the_limit_can_be_chosen() -> None:
    asked = MessagesToChat("max_completion_tokens").request({"model": "m", "max_tokens": 7, "messages": HELLO})
    assert asked["max_completion_tokens"] == 7
    assert "max_tokens" not in asked


def test_the_callers_request_is_not_changed() -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [*HELLO, *HELLO], "tools": [WEATHER]}
    body["system"] = [{"type": "text", "text": "a"}]
    before = json.dumps(body)
    MessagesToChat().request(body)
    assert json.dumps(body) == before


def test_system_blocks_become_one_system_message() -> None:
    blocks = [{"type": "text", "text": "One", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "Two"}]
    assert request(system=blocks)["messages"][0] == {"role": "system", "content": "One\n\nTwo"}


def test_a_system_message_amid_the_conversation_keeps_its_place() -> None:
    found = conversation(*HELLO, {"role": "assistant", "content": "Hi"}, {"role": "system", "content": "Now in French"})
    assert found[2] == {"role": "system", "content": "Now in French"}


def test_messages_of_one_role_in_a_row_are_one_turn() -> None:
    found = conversation(*HELLO, {"role": "user", "content": "again"}, {"role": "assistant", "content": "Hi"})
    assert found[0]["content"] == [{"type": "text", "text": "Hello"}, {"type": "text", "text": "again"}]
    assert found[1] == {"role": "assistant", "content": "Hi"}


def test_images_go_as_data_or_as_their_address() -> None:
    sources = [
        {"type": "base64", "media_type": "image/png", "data": PNG},
        {"type": "url", "url": "https://a.example/b.png"},
    ]
    found = conversation({"role": "user", "content": [{"type": "image", "source": source} for source in sources]})
    urls = [part["image_url"]["url"] for part in found[0]["content"]]
    assert urls == [f"data:image/png;base64,{PNG}", "https://a.example/b.png"]


def test_documents_go_as_files_and_texts() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    inside = {"type": "content", "content": [{"type": "text", "text": "inner"}]}
    blocks = [
        {"type": "document", "source": pdf, "title": "a.pdf", "context": "Why"},
        {"type": "document", "source": plain, "title": "T"},
        {"type": "document", "source": inside},
    ]
    assert conversation({"role": "user", "content": blocks})[0]["content"] == [
        {"type": "text", "text": "Why"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
        {"type": "text", "text": "T"},
        {"type": "text", "text": "words"},
        {"type": "text", "text": "inner"},
    ]


def test_tools_and_their_use_are_told_in_openais_words() -> None:
    choices: list[tuple[dict[str, Any], Any]] = [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ]
    for said, meant in choices:
        asked = request(tools=[WEATHER | {"strict": True}], tool_choice=said)
        assert asked["tool_choice"] == meant
        assert "parallel_tool_calls" not in asked
    function = {"name": "weather", "description": "Now", "parameters": WEATHER["input_schema"], "strict": True}
    assert asked["tools"] == [{"type": "function", "function": function}]
    one = request(tools=[WEATHER], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert one["parallel_tool_calls"] is False


def test_calls_and_results_keep_their_order_and_thoughts_stay_behind() -> None:
    used = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Let me see"},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Køln"}},
        {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
    ]
    results = [
        {"type": "text", "text": "and now?"},
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]},
        {"type": "tool_result", "tool_use_id": "t2", "content": "no such town", "is_error": True},
    ]
    found = conversation(*HELLO, {"role": "assistant", "content": used}, {"role": "user", "content": results})
    assert found[1]["content"] == "Let me see"
    assert [(each["id"], json.loads(each["function"]["arguments"])) for each in found[1]["tool_calls"]] == [
        ("t1", {"city": "Køln"}),
        ("t2", {}),
    ]
    assert found[2:] == [
        {"role": "tool", "tool_call_id": "t1", "content": "sun"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no such town"},
        {"role": "user", "content": "and now?"},
    ]


def test_an_image_in_a_result_comes_in_the_message_after_it() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [image]}
    found = conversation({"role": "user", "content": [{"type": "text", "text": "Here"}, result]})
    assert found[0] == {"role": "tool", "tool_call_id": "t1", "content": "The result is in the next message."}
    assert [part["type"] for part in found[1]["content"]] == ["text", "text", "image_url"]


@pytest.mark.parametrize(
    ("thinking", "effort", "meant"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, None, "low"),
        ({"type": "enabled", "budget_tokens": 4096}, None, "medium"),
        ({"type": "enabled", "budget_tokens": 16384}, None, "high"),
        ({"type": "adaptive"}, None, "medium"),
        ({"type": "adaptive"}, "max", "max"),
        ({"type": "disabled"}, "high", None),
        (None, "low", "low"),
        (None, None, None),
    ],
)
def test_thinking_becomes_an_effort(thinking: Any, effort: Any, meant: str | None) -> None:
    asked = request(thinking=thinking, output_config={"effort": effort})
    assert asked.get("reasoning_effort") == meant


def test_a_promised_schema_is_asked_for_strictly() -> None:
    schema = {"type": "object"}
    form = request(output_config={"format": {"type": "json_schema", "schema": schema}})["response_format"]
    assert form == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def test_a_user_id_that_openai_would_refuse_is_left_out() -> None:
    assert "user" not in request(metadata={"user_id": "u" * 65})


def test_hints_are_left_out() -> None:
    asked = request(service_tier="auto", context_management={"edits": []}, mcp_servers=[], container=None)
    assert set(asked) == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": [1]}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]}, "server_tool_use"),
        ({"messages": [{"role": "oracle", "content": "x"}]}, "oracle"),
        ({"messages": [{"role": "assistant", "content": [{"type": "thinking"}]}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": "x"}]}]}, "content[0].input"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_k": "5"}, "top_k"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"output_config": {"effort": 5}}, "output_config.effort"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"made_up": 1}, "made_up"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_name(fields: dict[str, Any], named: str) -> None:
    assert named in refused(**fields)


@pytest.mark.parametrize(
    "source",
    [
        {"type": "base64", "media_type": "text/csv", "data": "eA=="},
        {"type": "url", "url": "https://a.example/b.pdf"},
        {"type": "file", "file_id": "f"},
        {"type": "content", "content": [{"type": "document", "source": {}}]},
    ],
)
def test_a_document_of_another_kind_is_refused(source: Any) -> None:
    assert "source" in refused(messages=[{"role": "user", "content": [{"type": "document", "source": source}]}])


@pytest.mark.parametrize(
    "source",
    [
        {"type": "file", "file_id": "f"},
        {"type": "url", "url": "file:///etc/passwd"},
        {"type": "base64", "media_type": "image/png"},
        "x",
    ],
)
def test_an_image_from_nowhere_is_refused(source: Any) -> None:
    assert "source" in refused(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])


def test_a_request_that_nests_without_end_is_refused() -> None:
    nest: Any = {}
    for _ in range(50_000):
        nest = {"a": [nest]}
    assert "nests" in refused(tools=[{"name": "x", "input_schema": nest}])


@given(bodies("max_tokens", FIELDS))
def test_no_request_raises_anything_but_a_refusal(body: dict[str, Any]) -> None:
    try:
        json.dumps(MessagesToChat().request(body))
    except Refusal as refusal:
        assert refusal.status == 400
