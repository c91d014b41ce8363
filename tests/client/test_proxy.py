"""The local endpoint: OpenAI's SDK buys through it, whole and streamed; pages in a browser and strangers do not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from router_client.client import RouterClient
from router_client.proxy import app as proxy_app
from router_client.proxy.app import Proxy
from router_client.proxy.exchange import Exchange
from router_client.proxy.guard import LOOPBACK, Guard
from router_client.spending.account import Spending
from router_client.spending.budget import Budget
from tests.client.cheat import BODY, DONE, TEXT, Cheat, receipt
from tests.client.proxies import URL, calling, chunk

KEY = "a key of some length"
MESSAGES: Any = BODY["messages"]
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a"'}}
MORE = {"index": 0, "function": {"arguments": ": 1}"}}
CALLING = [chunk({"role": "assistant", "tool_calls": [CALL]}), chunk({"tool_calls": [MORE]}), chunk({}, "tool_calls")]


async def test_a_whole_answer_says_in_its_headers_what_happened(
    sdk: openai.AsyncOpenAI, buyer: RouterClient, spending: Spending
) -> None:
    raw = await sdk.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, max_tokens=20)
    chat = raw.parse()
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("hello", "stop")
    assert chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens, chat.usage.total_tokens) == (31, 5, 36)
    (provider,) = buyer.directory.known()
    told = {name: raw.headers[f"x-{name}"] for name in ("pura-model", "pura-provider", "pura-request-id")}
    assert told == {"pura-model": "m", "pura-provider": provider.npub, "pura-request-id": "r"}
    assert raw.headers["x-pura-tier"] in ("cheap", "mid", "premium")
    assert raw.headers["x-satroute-cost-msat"] == "102"
    assert raw.headers["x-satroute-budget-left-msat"] == str(5000 - 102)
    assert raw.headers["x-satroute-saved-msat"] == "0"
    assert "x-pura-cost" not in raw.headers, "no price of bitcoin is known"
    report = (await sdk._client.get("/api/report")).json()
    assert report == buyer.report(24).told()
    assert (report["spend_msat"], report["per_model"]["m"]["requests"]) == (102, 1)


async def test_a_stream_comes_as_it_is_with_its_cost_at_the_end(
    sdk: openai.AsyncOpenAI, caller: httpx.AsyncClient, spending: Spending
) -> None:
    stream = await sdk.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, max_tokens=20, stream_options={"include_usage": True}
    )
    chunks = [each async for each in stream]
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == "hello"
    assert [each.usage.completion_tokens for each in chunks if each.usage] == [5]
    assert {each.id for each in chunks} == {"x"}
    assert stream.response.headers["x-pura-model"] == "m"
    assert int(stream.response.headers["x-satroute-hold-msat"]) >= 102
    plain = await caller.post("/v1/chat/completions", json={**BODY, "stream": True})
    lines = plain.text.splitlines()
    assert ": x-satroute-cost-msat 102" in lines
    assert [line for line in lines if line][-1] == "data: [DONE]"
    assert all(json.loads(line[6:])["choices"] for line in lines if line.startswith("data: {")), "no usage unless asked"


@pytest.mark.parametrize("streams", [False, True])
async def test_calls_of_tools_pass(sdk: openai.AsyncOpenAI, cheat: Cheat, streams: bool) -> None:
    """A model that calls a tool may write no text at all."""
    cheat.chat = [*CALLING, receipt(), DONE]
    if streams:
        async with sdk.chat.completions.stream(model="m", messages=MESSAGES, max_tokens=20) as stream:
            chat: Any = await stream.get_final_completion()
    else:
        chat = await sdk.chat.completions.create(model="m", messages=MESSAGES, max_tokens=20)
    (call,) = chat.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("c1", "look", '{"a": 1}')
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == (None, "tool_calls")


async def test_a_budget_is_refused_before_anything_is_paid(
    sdk: openai.AsyncOpenAI, cheat: Cheat, buyer: RouterClient, spending: Spending
) -> None:
    buyer._serving.allowance.budget = Budget(day_msat=1)
    with pytest.raises(openai.APIStatusError) as refused:
        await sdk.chat.completions.create(model="m", messages=MESSAGES, max_tokens=20)
    body: Any = refused.value.body
    assert (refused.value.status_code, body["code"], body["left_msat"]) == (402, "budget_exceeded", 1)
    assert body["would_cost_msat"] > 102
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert cheat.asked == []


async def test_errors_have_openais_shape_and_say_what_to_do(sdk: openai.AsyncOpenAI, cheat: Cheat) -> None:
    async def refused(**more: Any) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as error:
            await sdk.chat.completions.create(**{"model": "m", "messages": MESSAGES, **more})
        return error.value

    unknown = await refused(model="gpt-9")
    assert (unknown.status_code, unknown.code) == (404, "model_not_found")
    assert "GET /v1/models" in unknown.message
    assert (await refused(extra_body={"provider": {"zdr": True}})).status_code == 400
    cheat.chat_status = 422
    cheat.chat = [b'{"error": {"code": "bad_role", "message": "no such role"}}']
    cheat.refund = lambda _: web.json_response({"error": {"code": "not_refundable", "message": "x"}}, status=403)
    said = await refused()
    assert (said.status_code, said.code) == (422, "bad_role")


async def test_a_stream_that_breaks_off_ends_with_an_error(sdk: openai.AsyncOpenAI, cheat: Cheat) -> None:
    cheat.chat = [TEXT, b'data: {"error": {"message": "out of memory"}}\n\n']
    stream = await sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="out of memory"):
        [each async for each in stream]


async def test_what_is_sold_is_listed(sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == ["auto", "m"]
    assert (await sdk.models.retrieve("m")).model_dump()["context_length"] == 2048
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": URL},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example:8402"},
        {"host": "127.0.0.1.evil.example"},
        {"host": ""},
    ],
    ids=str,
)
async def test_pages_in_a_browser_spend_nothing(stranger: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await stranger.post("/v1/chat/completions", json=BODY, headers=headers)).status_code == 403
    assert (await stranger.get("/api/report", headers=headers)).status_code == 403


async def test_a_form_of_a_page_is_no_request(stranger: httpx.AsyncClient) -> None:
    text = json.dumps(BODY)
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = await stranger.post("/v1/chat/completions", content=text, headers={"content-type": kind})
        assert answer.status_code == 415


@pytest.mark.parametrize("host", ["localhost:1", "[::1]:8402", "127.0.0.1", "LOCALHOST"])
async def test_programs_of_this_machine_may_call(stranger: httpx.AsyncClient, host: str) -> None:
    assert (await stranger.get("/v1/models", headers={"host": host})).status_code == 200


async def test_with_a_key_none_but_its_bearers_may_call(idle: RouterClient) -> None:
    for names in (LOOPBACK, frozenset[str]()):
        async with calling(Proxy(idle, Guard(names, KEY))) as caller:
            for wrong in ({}, {"authorization": "Bearer x"}, {"authorization": f"Basic {KEY}"}):
                assert (await caller.get("/api/report", headers=wrong)).status_code == 401
            bearer = {"authorization": f"Bearer {KEY}"}
            assert (await caller.get("/v1/models", headers=bearer)).status_code == 200
            assert (await caller.get("/health")).status_code == 200
            elsewhere = await caller.get("/v1/models", headers={**bearer, "host": "router.lan"})
            assert elsewhere.status_code == (403 if names else 200)


async def test_the_users_word_is_heard(sdk: openai.AsyncOpenAI, caller: httpx.AsyncClient, spending: Spending) -> None:
    chat = await sdk.chat.completions.create(model="auto", messages=MESSAGES, max_tokens=20)
    told = {"request_id": chat.id, "good": 0}
    assert (await caller.post("/api/feedback", json=told)).json() == {"heard": True}
    assert (await caller.get("/api/report")).json()["quality"] == 0
    assert (await caller.post("/api/feedback", json={"request_id": "x", "good": 1})).status_code == 404
    for wrong in (
        {},
        {"request_id": chat.id, "good": 2},
        {"request_id": 1, "good": 1},
        {"request_id": "r", "good": "1"},
    ):
        assert (await caller.post("/api/feedback", json=wrong)).status_code == 400


async def test_an_empty_wallet_is_told_how_to_fill_it(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.post("/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "insufficient_balance")
    assert "satroute wallet fund" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 300 + b"1" + b"}" * 300, 400),
        (b" " * 34_000_000, 413),
    ],
    ids=["cut", "list", "deep", "nested", "long"],
)
async def test_what_cannot_be_read_is_refused(stranger: httpx.AsyncClient, content: bytes, status: int) -> None:
    answer = await stranger.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


async def test_more_at_once_than_it_takes_are_told_to_wait(
    caller: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_app, "MAX_AT_ONCE", 0)
    answer = await caller.post("/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


async def left_after(proxy: Proxy, words: int, hung_up: asyncio.Event) -> list[bytes]:
    """Call as one who hangs up after so many pieces, or when told to; what came until then."""
    sent = [{"type": "http.request", "body": json.dumps({**BODY, "stream": True}).encode()}]
    pieces: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pieces.append(message.get("body", b""))
        if len(pieces) > words:
            hung_up.set()

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    await proxy({"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}, receive, send)
    return pieces


async def test_a_caller_who_leaves_in_silence_is_not_waited_for(
    proxy: Proxy, cheat: Cheat, buyer: RouterClient, spending: Spending
) -> None:
    """A node may think for minutes before its first word."""
    paid, thought = asyncio.Event(), asyncio.Event()

    async def thinks(_: str) -> None:
        paid.set()
        await thought.wait()

    cheat.on_payment = thinks
    cheat.refund = lambda _: web.json_response({"error": {"code": "not_refundable", "message": "x"}}, status=403)
    async with proxy.running(), asyncio.timeout(20):
        assert await left_after(proxy, 0, paid) == []
        while proxy._buying:
            await asyncio.sleep(0.01)
    assert buyer.payments.open_count() == 0
    assert buyer.report().lines == ()
    thought.set()


async def test_a_caller_who_leaves_ends_the_purchase_and_what_is_left_is_not_spent(
    proxy: Proxy, cheat: Cheat, buyer: RouterClient, spending: Spending
) -> None:
    """The node redeems nothing and denies the refund: the whole payment is swapped back."""
    cheat.chat, cheat.pause_s = [chunk({"content": "word "})] * 200, 0.01
    cheat.refund = lambda _: web.json_response({"error": {"code": "not_refundable", "message": "x"}}, status=403)
    before_msat = buyer.wallet.balance_msat()
    async with proxy.running():
        assert len(await left_after(proxy, 3, asyncio.Event())) < 20
    assert proxy._buying == {}
    assert buyer.payments.open_count() == 0
    assert before_msat - buyer.wallet.balance_msat() <= 5, "but for the mint's fee"
    assert [line.open for line in buyer.report().lines] in ([], [0])


async def test_who_does_not_read_is_not_waited_for_longer_than_a_while(
    proxy: Proxy, cheat: Cheat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router_client.proxy.exchange.WRITE_S", 0.01)
    sent: list[Any] = [{"type": "http.request", "body": json.dumps({**BODY, "stream": True}).encode()}]

    async def receive() -> Any:
        if not sent:
            await asyncio.Event().wait()
        return sent.pop()

    async def send(_: Any) -> None:
        await asyncio.Event().wait()

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    async with asyncio.timeout(20):
        await proxy(scope, receive, send)
    assert proxy._buying == {}


def test_a_strangers_words_do_not_leave_their_header() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    exchange = Exchange({"method": "GET", "path": "/", "headers": []}, receive, send)
    asyncio.run(exchange.begin(200, {"x-pura-model": "a\r\nset-cookie: é"}))
    assert sent[0]["headers"] == [(b"x-pura-model", b"a??set-cookie: ?")]
