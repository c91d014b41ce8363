"""Responses at the local endpoint: streams as SDKs read them, what a node may not do, and that nothing is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from relays.endpoints import RESPONSES
from relays.pricing import Usage
from router_client.buying.stream import MAX_LINE_BYTES
from router_client.client import RouterClient
from router_client.complexity import assess
from router_client.errors import BadRequest, NodeBrokeOff, NoProvider
from router_client.routing.asked import as_chat
from router_client.spending.account import Spending
from tests.client.cheat import DONE, NOTHING_LEFT, Cheat, receipt

ASK: dict[str, Any] = {"model": "m", "input": "hi", "max_output_tokens": 20}
USAGE = {"input_tokens": 31, "output_tokens": 5, "total_tokens": 36}
PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
TEXT = {"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [TEXT]}
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "c1",
    "name": "look",
    "arguments": "{}",
}


def response(status: str = "completed", output: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": status}
    rest = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return head | rest | {"output": output or []} | more


def events(*told: Mapping[str, Any]) -> list[bytes]:
    numbered = [{**each, "sequence_number": number} for number, each in enumerate(told)]
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in numbered]


BEGUN = {"type": "response.created", "response": response("in_progress")}
ITEM = {"type": "response.output_item.added", "output_index": 0, "item": {**MESSAGE, "content": []}}
PART = {"type": "response.content_part.added", **PLACE, "part": {**TEXT, "text": ""}}
WORDS = [{"type": "response.output_text.delta", **PLACE, "delta": word, "logprobs": []} for word in ("hel", "lo")]
SAID = {"type": "response.output_text.done", **PLACE, "text": "hello", "logprobs": []}
LAST = {"type": "response.completed", "response": response(output=[MESSAGE], usage=USAGE)}
HELLO: tuple[dict[str, Any], ...] = (BEGUN, ITEM, PART, *WORDS, SAID)


@pytest.fixture
def talks(cheat: Cheat, sdk: openai.AsyncOpenAI) -> Cheat:
    """It streams an answer, and signs what that cost before the last event, as nodes do."""
    *begun, last = events(*HELLO, LAST)
    cheat.chat = [*begun, receipt(metered="upstream"), last]
    return cheat


async def test_a_whole_answer_is_the_nodes_with_the_usage_that_was_verified(
    sdk: openai.AsyncOpenAI, talks: Cheat, spending: Spending
) -> None:
    raw = await sdk.responses.with_raw_response.create(**ASK)
    answer: Any = raw.parse()
    assert (answer.id, answer.output_text, answer.status) == ("resp_1", "hello", "completed")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (31, 5, 36)
    assert answer.usage.cost == {"total_msats": 102}
    told = {name: raw.headers[f"x-satroute-{name}"] for name in ("cost-msat", "verified", "budget-left-msat")}
    assert told == {"cost-msat": "102", "verified": "true", "budget-left-msat": str(5000 - 102)}
    assert talks.asked[0] == "/v1/responses"


async def test_a_stream_is_what_sdks_put_together(sdk: openai.AsyncOpenAI, talks: Cheat) -> None:
    async with sdk.responses.stream(**ASK) as stream:
        kinds = [event.type async for event in stream]
        final: Any = await stream.get_final_response()
    assert kinds == [each["type"] for each in (*HELLO, LAST)]
    assert (final.output_text, final.usage.cost) == ("hello", {"total_msats": 102})


async def test_what_it_cost_is_told_before_the_last_event(caller: httpx.AsyncClient, talks: Cheat) -> None:
    """No SDK reads beyond that."""
    plain = await caller.post("/v1/responses", json=ASK | {"stream": True, "stream_options": {"x": 1}})
    *before, last = [part for part in plain.text.split("\n\n") if part]
    name, data = last.split("\n")
    assert name == "event: response.completed"
    assert json.loads(data.removeprefix("data: "))["sequence_number"] == len(HELLO)
    assert ": x-satroute-cost-msat 102" in before[-1].splitlines()
    assert before[:-1] == [each.decode().strip() for each in events(*HELLO)], "all else is as the node wrote it"
    assert int(plain.headers["x-satroute-hold-msat"]) >= 102


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ({"type": "response.completed", "response": response(output=[CALL])}, "tool_calls"),
        ({"type": "response.incomplete", "response": response("incomplete", [MESSAGE])}, "length"),
        (
            {
                "type": "response.incomplete",
                "response": response("incomplete", [], incomplete_details={"reason": "content_filter"}),
            },
            "content_filter",
        ),
    ],
    ids=["calls", "cut off", "filtered"],
)
async def test_why_it_ended(talks: Cheat, buyer: RouterClient, last: dict[str, Any], reason: str) -> None:
    talks.chat = [*events(*HELLO, last), receipt()]
    answer = await buyer.responses(ASK)
    assert (answer.finish_reason, answer.verified) == (reason, True)


FAILED = {"type": "response.failed", "response": response("failed", error={"code": "x", "message": "out of memory"})}
ERROR = {"type": "error", "code": "x", "message": "out of memory", "param": None}


@pytest.mark.parametrize("failure", [FAILED, ERROR, {"type": "", "error": {"message": "out of memory"}}], ids=str)
async def test_a_stream_that_fails_ends_with_an_error_event(
    sdk: openai.AsyncOpenAI, talks: Cheat, failure: dict[str, Any]
) -> None:
    talks.chat = events(*HELLO, failure)
    told: list[Any] = [event async for event in await sdk.responses.create(**ASK, stream=True)]
    assert [each.type for each in told[:-1]] == [each["type"] for each in HELLO]
    assert (told[-1].type, told[-1].code) == ("error", "upstream_unavailable")
    assert "out of memory" in told[-1].message
    talks.chat = events(BEGUN, failure)
    with pytest.raises(openai.APIStatusError, match="out of memory") as refused:
        await sdk.responses.create(**ASK, stream=True)
    assert refused.value.status_code == 503, "nothing was said yet: another could have served"


@pytest.mark.parametrize(
    "chat",
    [
        events(*HELLO),
        [*events(*HELLO), DONE],
        events(*HELLO, {"type": "response.completed"}),
        events(*HELLO, {"type": "response.completed", "response": {"output": [1]}}),
        [*events(*HELLO), b"data: " + b"x" * (MAX_LINE_BYTES + 1)],
    ],
    ids=["cut", "done", "empty", "odd", "endless"],
)
async def test_without_its_last_event_it_is_no_answer(talks: Cheat, buyer: RouterClient, chat: list[bytes]) -> None:
    """Whole answers are given by the next node, of which there is none here."""
    talks.chat = chat
    with pytest.raises(NodeBrokeOff):
        await buyer.responses(ASK)


async def test_a_receipt_that_does_not_hold_is_told(talks: Cheat, buyer: RouterClient) -> None:
    """More was written than was asked for."""
    *begun, last = events(*HELLO, LAST)
    talks.chat = [*begun, receipt(31 * 2 + 21 * 8, usage=Usage(31, 21)), last]
    answer = await buyer.responses(ASK)
    assert not answer.verified
    assert "more than this request can use" in str(answer.problem)


KEPT = [
    ("previous_response_id", "resp_1"),
    ("conversation", {"id": "conv_1"}),
    ("prompt", {"id": "pmpt_1"}),
    ("background", True),
    ("store", True),
]


@pytest.mark.parametrize(("field", "value"), KEPT, ids=[field for field, _ in KEPT])
async def test_nothing_is_kept_between_requests(
    sdk: openai.AsyncOpenAI, talks: Cheat, field: str, value: object
) -> None:
    with pytest.raises(openai.BadRequestError, match="nothing is kept here between requests") as refused:
        await sdk.responses.create(**ASK, extra_body={field: value})
    body: Any = refused.value.body
    assert (body["type"], body["param"], body["code"]) == ("invalid_request_error", field, "invalid_request")
    assert talks.asked == []
    empty = False if value is True else None
    assert (await sdk.responses.create(**ASK, extra_body={field: empty})).output_text == "hello"


async def test_what_is_kept_nowhere_is_not_there(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="POST /v1/responses"):
        await sdk.responses.retrieve("resp_1")


CASCADE: dict[str, Any] = {"model": "auto", "extra_body": {"routing": {"cascade": True}}}


async def test_a_cascade_is_given_whole(sdk: openai.AsyncOpenAI, talks: Cheat) -> None:
    answer: Any = await sdk.responses.create(**ASK | CASCADE)
    assert (answer.output_text, answer.usage.cost) == ("hello", {"total_msats": 102})


async def test_a_cascade_is_streamed_at_its_end_as_sdks_put_it_together(sdk: openai.AsyncOpenAI, talks: Cheat) -> None:
    *begun, _ = events(*HELLO, LAST)
    refusal = {"type": "refusal", "refusal": "no"}
    output = [{**MESSAGE, "content": [TEXT, refusal, {"type": "new"}, 7]}, CALL, {"type": "reasoning", "summary": []}]
    last = {"type": "response.completed", "response": response(output=output, usage=USAGE)}
    talks.chat = [*begun, receipt(metered="upstream"), *events(last)]
    told: list[Any] = [event async for event in await sdk.responses.create(**ASK | CASCADE, stream=True)]
    assert [each.sequence_number for each in told] == list(range(len(told)))
    kinds = [each.type.removeprefix("response.") for each in told]
    assert kinds[:3] == ["created", "in_progress", "output_item.added"]
    assert (told[2].item.content, told[2].item.status) == ([], "in_progress")
    said = {each.type.removeprefix("response."): each.delta for each in told if each.type.endswith(".delta")}
    assert said == {"output_text.delta": "hello", "refusal.delta": "no", "function_call_arguments.delta": "{}"}
    assert kinds.count("content_part.added") == kinds.count("content_part.done") == 3
    assert kinds.count("output_item.added") == kinds.count("output_item.done") == 3
    assert (told[-1].type, told[-1].response.usage.cost) == ("response.completed", {"total_msats": 102})
    *begun, _ = events(*HELLO, LAST)
    talks.chat = [*begun, receipt(metered="upstream"), *events(LAST)]
    async with sdk.responses.stream(**ASK | CASCADE) as stream:
        assert [event.delta async for event in stream if event.type == "response.output_text.delta"] == ["hello"]
        assert (await stream.get_final_response()).output_text == "hello"


async def test_how_much_is_written_is_bounded_by_its_own_field(
    sdk: openai.AsyncOpenAI, talks: Cheat, buyer: RouterClient
) -> None:
    with pytest.raises(openai.BadRequestError, match="max_output_tokens"):
        await sdk.responses.create(**ASK | {"max_output_tokens": -1})
    talks.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    with pytest.raises(NoProvider, match="more than the 200 msat allowed"):
        await buyer.responses(ASK | {"max_output_tokens": 1000}, max_cost_msat=200)
    with pytest.raises(BadRequest):
        await buyer.responses(ASK | {"max_output_tokens": "x"})


def test_they_are_judged_as_chat_is() -> None:
    asked = {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Prove that 2+2=4."}]}],
        "instructions": "Be brief.",
        "max_output_tokens": 7,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
        "tools": [{"type": "function", "name": "look", "parameters": {}}],
    }
    chat = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Prove that 2+2=4."}]},
        ],
        "max_tokens": 7,
        "response_format": {"type": "json_schema"},
        "tools": asked["tools"],
    }
    one, other = assess(as_chat(RESPONSES, asked)), assess(chat)
    assert (one.difficulty, one.needs, one.completion_tokens) == (other.difficulty, other.needs, 7)
    assert one.needs == {"tools", "json"}
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    seen = assess(as_chat(RESPONSES, {"input": [{"role": "user", "content": [picture]}]}))
    assert seen.needs == {"image"}
    assert assess(as_chat(RESPONSES, {"input": "hi"})).needs == frozenset()


async def test_a_pair_of_nodes_may_be_asked(sdk: openai.AsyncOpenAI, talks: Cheat) -> None:
    stream = await sdk.responses.create(**ASK, stream=True, extra_body={"routing": {"hedge": True}})
    assert [event.type async for event in stream] == [each["type"] for each in (*HELLO, LAST)]
