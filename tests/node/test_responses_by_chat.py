"""`/v1/responses` at upstreams that lack it: the `openai` SDK works unchanged, and what was used is charged."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pydantic
import pytest

from relays.pricing import Usage, cost
from tests.conftest import DEAD_MINT
from tests.node.harness import Running, bearer, granted_key, receipt_of, running_node
from tests.node.shopful import WORDS
from tests.node.test_endpoints import MODEL as SHOP
from tests.node.test_endpoints import PRICE, models_file
from tests.node.test_openai_sdk import client
from tests.node.toolful import (
    BEFORE_CALLS,
    BY_SCHEMA,
    CALLS,
    CHAT_USED,
    MESSAGES_USED,
    THOUGHT,
    Toolful,
    running_toolful,
)

SAID: Final = "".join(WORDS)
ASK: Final = "What is two and two?"
GRANT_MSAT: Final = 10_000_000
PARAMETERS: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}
TOOLS: Final[list[Any]] = [{"type": "function", "name": "weather", "strict": True, "parameters": PARAMETERS}]


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.fixture(params=["openai", "anthropic"])
async def served(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[tuple[Running, Toolful, Usage]]:
    """A node, its server, and what each answer uses there."""
    async with running_toolful(SHOP) as (server, url):
        server.responses = None  # type: ignore[assignment, method-assign]
        models = models_file(folder, shop_1=PRICE)
        models.write_text(models.read_text().replace("1024", "3000"))  # room to think
        settings = {"upstream_base_url": url, "upstream_kind": request.param, "models_path": models}
        async with running_node(folder, cashu_mints=DEAD_MINT, **settings) as node:
            yield node, server, CHAT_USED if request.param == "openai" else MESSAGES_USED


@pytest.fixture
async def sdk(served: tuple[Running, Toolful, Usage]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with await client(served[0]) as opened:
        yield opened


async def asked(node: Running, body: dict[str, Any]) -> Any:
    key, text = await granted_key(node.node, GRANT_MSAT)
    async with httpx.AsyncClient() as http:
        reply = await http.post(
            f"{node.url}/v1/responses", json={"model": SHOP, "input": ASK, **body}, headers=bearer(text)
        )
    return reply, await node.node.ledger.account(key.account)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_used_is_charged(served: tuple[Running, Toolful, Usage], stream: bool) -> None:
    node, _, used = served
    reply, account = await asked(node, {"stream": stream})
    assert reply.status_code == 200, reply.text
    receipt = receipt_of(reply)
    assert (receipt.usage, receipt.metered, receipt.outcome) == (used, "upstream", "complete")
    assert receipt.cost_msat == cost(used, PRICE) == GRANT_MSAT - account.available_msat
    assert "[DONE]" not in reply.text


async def test_an_answer(sdk: openai.AsyncOpenAI, served: tuple[Running, Toolful, Usage]) -> None:
    used = served[2]
    whole = await sdk.responses.create(model=SHOP, input=ASK, instructions="Be short.", max_output_tokens=50)
    events = [event async for event in await sdk.responses.create(model=SHOP, input=ASK, stream=True)]
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == WORDS
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    for answer in (whole, events[-1].response):
        assert (answer.output_text, answer.status, answer.model) == (SAID, "completed", SHOP)
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (20, 6)
        assert answer.usage.input_tokens_details.cached_tokens == used.cached_tokens
        assert (answer.usage.model_extra or {})["cost"]["total_msats"] == cost(used, PRICE)
    assert whole.instructions == "Be short."


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_and_their_results_read(sdk: openai.AsyncOpenAI, stream: bool) -> None:
    async def answer(conversation: list[Any]) -> Any:
        request: dict[str, Any] = {"model": SHOP, "input": conversation, "tools": TOOLS, "max_output_tokens": 50}
        if not stream:
            return await sdk.responses.create(**request)
        async with sdk.responses.stream(**request) as events:
            async for _ in events:
                pass
            return await events.get_final_response()

    conversation: list[Any] = [{"role": "user", "content": "How is the weather?"}]
    first = await answer(conversation)
    assert first.output_text == BEFORE_CALLS
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(call.call_id, call.name, json.loads(call.arguments)) for call in calls] == list(CALLS)
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "21"} for call in calls]
    said = [item.model_dump(exclude={"parsed_arguments"}, exclude_none=True) for item in first.output]
    assert (await answer([*conversation, *said, *results])).output_text == "It is 21 and 21"


async def test_a_schema_is_kept_to_and_parsed(sdk: openai.AsyncOpenAI) -> None:
    parsed = await sdk.responses.parse(model=SHOP, input=ASK, text_format=Weather, max_output_tokens=50)
    assert parsed.output_parsed == Weather(**BY_SCHEMA)  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_are_a_summary(sdk: openai.AsyncOpenAI, stream: bool) -> None:
    request: dict[str, Any] = {"model": SHOP, "input": ASK, "reasoning": {"effort": "low"}, "max_output_tokens": 4096}
    if stream:
        async with sdk.responses.stream(**request) as events:
            deltas = [event.delta async for event in events if event.type == "response.reasoning_summary_text.delta"]
            whole: Any = await events.get_final_response()
        assert deltas == THOUGHT
    else:
        whole = await sdk.responses.create(**request)
    thought, said = whole.output
    assert [part.text for part in thought.summary] == ["".join(THOUGHT)]
    assert said.content[0].text == SAID


async def test_a_stream_that_breaks_off_is_charged_for_what_came(
    sdk: openai.AsyncOpenAI, served: tuple[Running, Toolful, Usage]
) -> None:
    node, server, _ = served
    server.breaks = True
    events = [event async for event in await sdk.responses.create(model=SHOP, input=ASK, stream=True)]
    assert events[-1].type == "error"
    assert "did not deliver" in events[-1].message
    reply, _ = await asked(node, {"stream": True})
    receipt = receipt_of(reply)
    assert receipt.outcome == "interrupted"
    assert 0 < receipt.usage.completion_tokens < 6


@pytest.mark.parametrize(
    "body",
    [
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"store": True},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "custom", "name": "x"}]},
        {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        {"include": ["message.output_text.logprobs"]},
    ],
)
async def test_what_chat_cannot_say_is_refused_and_free(
    served: tuple[Running, Toolful, Usage], body: dict[str, Any]
) -> None:
    node, server, _ = served
    reply, account = await asked(node, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")
    assert account.available_msat == GRANT_MSAT
    assert [path for path, _ in server.asked if path != "/responses"] == []


@pytest.mark.parametrize("served", ["openai"], indirect=True)
async def test_a_server_is_asked_once_whether_it_has_responses(
    served: tuple[Running, Toolful, Usage], sdk: openai.AsyncOpenAI
) -> None:
    _, server, _ = served
    for _ in range(3):
        await sdk.responses.create(model=SHOP, input=ASK)
    assert [path for path, _ in server.asked] == ["/responses", *["/chat/completions"] * 3]


@pytest.mark.parametrize("served", ["openai"], indirect=True)
async def test_a_model_that_is_not_there_at_the_moment_is_not_taken_for_one_of_chat(
    served: tuple[Running, Toolful, Usage], sdk: openai.AsyncOpenAI
) -> None:
    """Both say 404: nothing is known of it."""
    _, server, _ = served
    del server.responses
    server.fails = [404, 404]
    with pytest.raises(openai.APIError):
        await sdk.responses.create(model=SHOP, input=ASK)
    await sdk.responses.create(model=SHOP, input=ASK)
    assert [path for path, _ in server.asked] == ["/responses", "/chat/completions", "/responses"]
