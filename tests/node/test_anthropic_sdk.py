"""The official `anthropic` SDK works unchanged, whichever language the model's server speaks; and so does `openai`'s chat at
a server that speaks Anthropic's. Each is charged for exactly what it used."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import anthropic
import httpx
import msgspec
import openai
import pydantic
import pytest
from anthropic.types import Message, TextBlock, ThinkingBlock, ToolUseBlock

from relays.pricing import Usage, cost
from relays.receipt import Receipt
from tests.conftest import DEAD_MINT
from tests.node.harness import Running, bearer, granted_key, receipt_of, running_node
from tests.node.shopful import WORDS
from tests.node.test_endpoints import MODEL, PRICE, models_file
from tests.node.toolful import (
    BEFORE_CALLS,
    BY_SCHEMA,
    CALLS,
    CHAT_USED,
    MESSAGES_USED,
    SCHEMA,
    THOUGHT,
    Toolful,
    running_toolful,
)

SAID: Final = "".join(WORDS)
ASK: Final[list[Any]] = [{"role": "user", "content": "What is two and two?"}]
ARGUMENTS: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Final[list[Any]] = [{"name": "weather", "description": "Of a city.", "input_schema": ARGUMENTS}]
FUNCTIONS: Final[list[Any]] = [
    {"type": "function", "function": {"name": "weather", "strict": True, "parameters": ARGUMENTS}}
]
RESULTS: Final = ("21°", "18°")
ANTHROPIC: Final = pytest.mark.parametrize("kind", ["anthropic"])
"""An upstream of that kind alone; else each test runs with both."""


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.fixture(params=["openai", "anthropic"])
def kind(request: pytest.FixtureRequest) -> str:
    """What the model's server speaks."""
    return str(request.param)


@pytest.fixture
async def shop() -> AsyncIterator[tuple[Toolful, str]]:
    async with running_toolful(MODEL) as running:
        yield running


@pytest.fixture
async def node(folder: Path, shop: tuple[Toolful, str], kind: str) -> AsyncIterator[Running]:
    models = models_file(folder, shop_1=PRICE)
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_kind=kind, upstream_base_url=shop[1], models_path=models
    ) as running:
        yield running


@pytest.fixture
async def key(node: Running) -> str:
    return (await granted_key(node.node, 10_000_000))[1]


@pytest.fixture
async def sdk(node: Running, key: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=node.url, api_key=key, max_retries=0) as opened:
        yield opened


@pytest.fixture
async def chat(node: Running, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key=key, max_retries=0) as opened:
        yield opened


@pytest.fixture
def used(kind: str) -> Usage:
    """What the server says of every answer."""
    return MESSAGES_USED if kind == "anthropic" else CHAT_USED


async def receipt_later(node: Running, key: str, http: httpx.AsyncClient, reply: Any) -> Receipt:
    """Of a stream that was read, whose receipt the SDK does not show."""
    url = f"{node.url}/v1/receipts/{reply.headers['x-satroute-request-id']}"
    return msgspec.convert((await http.get(url, headers=bearer(key))).json()["receipt"], Receipt)


def charged(receipt: Receipt, used: Usage) -> None:
    """For what the server said, at the price."""
    assert (receipt.usage, receipt.metered, receipt.outcome) == (used, "upstream", "complete")
    assert receipt.cost_msat == cost(used, PRICE)


def told(message: Message, used: Usage) -> None:
    """The usage of Anthropic's answer adds up to what was used, and tells what it cost."""
    usage = message.usage
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (
        used.cached_tokens,
        used.cache_write_tokens,
    )
    assert usage.input_tokens == used.prompt_tokens - used.cached_tokens - used.cache_write_tokens
    assert usage.output_tokens == used.completion_tokens
    thought = 0 if usage.output_tokens_details is None else usage.output_tokens_details.thinking_tokens
    assert thought == used.reasoning_tokens


async def test_a_message_is_written_and_charged_for_what_it_used(sdk: anthropic.AsyncAnthropic, used: Usage) -> None:
    reply = await sdk.messages.with_raw_response.create(
        model=MODEL, max_tokens=50, messages=ASK, system="Be brief.", stop_sequences=["END"]
    )
    message = await reply.parse()
    assert [block.text for block in message.content if block.type == "text"] == [SAID]
    assert (message.role, message.model, message.stop_reason) == ("assistant", MODEL, "end_turn")
    told(message, used)
    charged(receipt_of(reply.http_response), used)
    assert reply.headers["x-satroute-cost-msat"] == str(cost(used, PRICE))
    assert (message.usage.model_extra or {})["cost"]["total_msats"] == cost(used, PRICE)


async def test_a_streamed_message_comes_in_pieces_and_is_charged_the_same(
    sdk: anthropic.AsyncAnthropic, node: Running, key: str, http: httpx.AsyncClient, used: Usage
) -> None:
    async with sdk.messages.stream(model=MODEL, max_tokens=50, messages=ASK) as stream:
        assert [text async for text in stream.text_stream] == WORDS
        message = await stream.get_final_message()
        told(message, used)
        charged(await receipt_later(node, key, http, stream.response), used)
    assert [block.text for block in message.content if block.type == "text"] == [SAID]
    assert message.stop_reason == "end_turn"
    kinds = [e.type async for e in await sdk.messages.create(model=MODEL, max_tokens=50, messages=ASK, stream=True)]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])


async def test_tools_are_called_and_their_results_read(
    sdk: anthropic.AsyncAnthropic, node: Running, key: str, http: httpx.AsyncClient, used: Usage
) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 50, "tools": TOOLS}
    whole = await sdk.messages.create(**asked, messages=ASK)
    async with sdk.messages.stream(**asked, messages=ASK) as stream:
        streamed = await stream.get_final_message()
        charged(await receipt_later(node, key, http, stream.response), used)
    for message in (whole, streamed):
        text, *calls = message.content
        assert isinstance(text, TextBlock)
        assert text.text == BEFORE_CALLS
        uses = [call for call in calls if isinstance(call, ToolUseBlock)]
        assert [(use.id, use.name, use.input) for use in uses] == [*CALLS]
        assert message.stop_reason == "tool_use"
        told(message, used)
    results = [
        {"type": "tool_result", "tool_use_id": call_id, "content": result}
        for (call_id, _, _), result in zip(CALLS, RESULTS, strict=True)
    ]
    turns: list[Any] = [*ASK, {"role": "assistant", "content": whole.content}, {"role": "user", "content": results}]
    last = await sdk.messages.create(**asked, messages=turns)
    assert [block.text for block in last.content if block.type == "text"] == ["It is 21° and 18°"]


async def test_an_answer_keeps_to_a_schema(sdk: anthropic.AsyncAnthropic, shop: tuple[Toolful, str]) -> None:
    message = await sdk.messages.parse(model=MODEL, max_tokens=50, messages=ASK, output_format=Weather)
    assert message.parsed_output == Weather.model_validate(BY_SCHEMA)
    body = shop[0].asked[-1][1]
    form = body["response_format"]["json_schema"] if "response_format" in body else body["output_config"]["format"]
    assert form["schema"]["required"] == ["city", "degrees"]


async def test_thoughts_come_before_the_answer(sdk: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 1024 * 3, "messages": ASK}
    asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    whole = await sdk.messages.create(**asked)
    async with sdk.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        thought, text = message.content
        assert isinstance(thought, ThinkingBlock)
        assert isinstance(text, TextBlock)
        assert (thought.thinking, text.text) == ("".join(THOUGHT), SAID)


async def test_counting_tokens_costs_the_requests_fee_alone(
    sdk: anthropic.AsyncAnthropic, kind: str, shop: tuple[Toolful, str]
) -> None:
    reply = await sdk.messages.with_raw_response.count_tokens(
        model=MODEL, messages=ASK, tools=TOOLS, system="Be brief."
    )
    counted = (await reply.parse()).input_tokens
    assert counted == 14 if kind == "anthropic" else 14 < counted < 60  # by the server; by the node
    assert len(shop[0].asked) == (kind == "anthropic")
    assert reply.headers["x-satroute-cost-msat"] == str(PRICE.request_msat)


async def test_a_key_is_taken_from_either_header(node: Running, key: str) -> None:
    """As the SDK sends it today, and as its earlier releases and other clients of Anthropic's do."""
    headers: list[dict[str, Any]] = [{}, {"X-Api-Key": key, "Authorization": anthropic.Omit()}]
    async with anthropic.AsyncAnthropic(base_url=node.url, auth_token=key, max_retries=0) as sdk:
        for more in headers:
            message = await sdk.messages.create(model=MODEL, max_tokens=50, messages=ASK, extra_headers=more)
            assert message.stop_reason == "end_turn"
        with pytest.raises(anthropic.PaymentRequiredError):
            await sdk.messages.create(
                model=MODEL, max_tokens=50, messages=ASK, extra_headers={"Authorization": anthropic.Omit()}
            )


async def test_the_beta_resource_is_served_the_same(sdk: anthropic.AsyncAnthropic, used: Usage) -> None:
    """It asks at `?beta=true`, and names its features in a header."""
    message = await sdk.beta.messages.create(
        model=MODEL, max_tokens=50, messages=ASK, betas=["interleaved-thinking-2025-05-14"]
    )
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", used.completion_tokens)


async def test_errors_are_its_exception_classes(
    sdk: anthropic.AsyncAnthropic, node: Running, shop: tuple[Toolful, str]
) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 50, "messages": ASK}
    with pytest.raises(anthropic.NotFoundError, match="gpt-9"):
        await sdk.messages.create(**{**asked, "model": "gpt-9"})
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        await sdk.messages.create(**{**asked, "messages": []})
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        await sdk.messages.count_tokens(model=MODEL, messages=[])
    with pytest.raises(anthropic.AuthenticationError):
        await sdk.with_options(api_key="sk-wrong").messages.create(**asked)
    poor = sdk.with_options(api_key=(await granted_key(node.node, 0))[1])
    for stream in (False, True):
        with pytest.raises(anthropic.PaymentRequiredError) as caught:
            await poor.messages.create(**asked, stream=stream)
        body: Any = caught.value.body
        assert (body["type"], body["error"]["code"]) == ("error", "insufficient_balance")
    assert shop[0].asked == []
    shop[0].fails = [429]
    with pytest.raises(anthropic.RateLimitError, match="nothing was charged"):
        await sdk.messages.create(**asked)


async def test_a_stream_that_breaks_off_raises_where_it_broke(
    sdk: anthropic.AsyncAnthropic, shop: tuple[Toolful, str], node: Running, key: str, http: httpx.AsyncClient
) -> None:
    """And is charged for what it wrote, not for what its beginning said."""
    shop[0].breaks = True
    texts = []
    async with sdk.messages.stream(model=MODEL, max_tokens=50, messages=ASK) as stream:
        with pytest.raises(anthropic.APIStatusError, match="did not deliver"):
            async for text in stream.text_stream:
                texts.append(text)
    assert 0 < len(texts) < len(WORDS)
    assert texts == WORDS[: len(texts)]
    receipt = await receipt_later(node, key, http, stream.response)
    assert receipt.usage.completion_tokens >= len(texts)
    assert (receipt.metered, receipt.outcome) == ("counted", "interrupted")


def told_in_chat(usage: Any) -> None:
    """The usage of a chat completion whose server speaks Anthropic's."""
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 6, 26)
    details = usage.prompt_tokens_details
    assert (details.cached_tokens, details.model_dump()["cache_write_tokens"]) == (5, 3)
    assert usage.model_extra["cost"]["total_msats"] == cost(MESSAGES_USED, PRICE)


@ANTHROPIC
async def test_openais_chat_is_served_by_an_anthropic_server(
    chat: openai.AsyncOpenAI, node: Running, key: str, http: httpx.AsyncClient, shop: tuple[Toolful, str]
) -> None:
    reply = await chat.chat.completions.with_raw_response.create(model=MODEL, messages=ASK)
    answer = reply.parse()
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (SAID, "stop")
    told_in_chat(answer.usage)
    charged(receipt_of(reply.http_response), MESSAGES_USED)
    options: Any = {"include_usage": True}
    stream = await chat.chat.completions.create(model=MODEL, messages=ASK, stream=True, stream_options=options)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    told_in_chat(chunks[-1].usage)
    charged(await receipt_later(node, key, http, stream.response), MESSAGES_USED)
    assert [path for path, _ in shop[0].asked] == ["/messages", "/messages"]
    bare = [chunk async for chunk in await chat.chat.completions.create(model=MODEL, messages=ASK, stream=True)]
    assert [chunk.usage for chunk in bare] == [None] * len(bare)


@ANTHROPIC
async def test_openais_tools_and_schemas_are_served_by_an_anthropic_server(
    chat: openai.AsyncOpenAI, shop: tuple[Toolful, str]
) -> None:
    whole = await chat.chat.completions.create(model=MODEL, messages=ASK, tools=FUNCTIONS, tool_choice="required")
    async with chat.chat.completions.stream(model=MODEL, messages=ASK, tools=FUNCTIONS) as stream:
        streamed = await stream.get_final_completion()
    for answer in (whole, streamed):
        choice = answer.choices[0]
        assert (choice.message.content, choice.finish_reason) == (BEFORE_CALLS, "tool_calls")
        called = [call for call in choice.message.tool_calls or [] if call.type == "function"]
        assert [(c.id, c.function.name, json.loads(c.function.arguments)) for c in called] == [*CALLS]
    turns: list[Any] = [*ASK, whole.choices[0].message.model_dump(exclude_none=True)]
    turns += [
        {"role": "tool", "tool_call_id": call_id, "content": result}
        for (call_id, _, _), result in zip(CALLS, RESULTS, strict=True)
    ]
    last = await chat.chat.completions.create(model=MODEL, messages=turns, tools=FUNCTIONS)
    assert last.choices[0].message.content == "It is 21° and 18°"
    form: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    kept = await chat.chat.completions.create(model=MODEL, messages=ASK, response_format=form)
    assert json.loads(kept.choices[0].message.content or "") == BY_SCHEMA


@ANTHROPIC
async def test_what_an_anthropic_server_has_not_is_a_bad_request_and_free(
    chat: openai.AsyncOpenAI, node: Running, key: str, http: httpx.AsyncClient, shop: tuple[Toolful, str]
) -> None:
    with pytest.raises(openai.BadRequestError, match="not served at this endpoint"):
        await chat.embeddings.create(model=MODEL, input="two")
    with pytest.raises(openai.BadRequestError, match="'n'"):
        await chat.chat.completions.create(model=MODEL, messages=ASK, n=2)
    assert shop[0].asked == []
    balance = (await http.get(f"{node.url}/v1/balance/info", headers=bearer(key))).json()
    assert balance["balance"] == 10_000_000
