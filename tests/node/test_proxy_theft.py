"""Ways to get more than was paid for, or to make others pay, each closed by its name."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.asks import read_ask
from node.config import Settings, load_settings
from node.errors import Refusal
from node.metering.measure import Known
from node.metering.stream import MAX_HELD_BYTES, StreamMeter
from node.metering.tokens import MEDIA_TOKENS, count, count_prompt
from node.metering.whole import measured
from node.quote import Quote, quote_for, upstream_request
from node.shop.catalogue import Catalogue
from node.shop.tariffs import Tariffs
from node.sse import BOUNDARY, Cutter
from node.upstream.fleet import Fleet
from node.upstream.http import HttpPool
from node.upstream.kinds.openai import OpenAIUpstream
from node.upstream.spec import Timeouts, UpstreamSpec
from relays.endpoints import CHAT, COUNT_TOKENS, EMBEDDINGS, IMAGES, MESSAGES, RERANK, Endpoint
from relays.pricing import ModelPrice, Usage
from router_client.buying import bought
from router_client.buying.shop import look
from router_client.errors import NodeError
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO as REAL_HELLO
from tests.node.harness import bearer, granted_key, running_node
from tests.node.hostile import Hostile
from tests.node.shopful import running_shopful
from tests.node.test_config import GOOD
from tests.node.test_endpoints import sound

SETTINGS = load_settings(Settings, None, **GOOD)
SHOP = Catalogue(SETTINGS, SETTINGS.upstreams(), Tariffs(SETTINGS.fixed_btc_usd))
MODELS: list[dict[str, Any]] = [
    {"id": "m", "context_length": 1000, "max_output_tokens": 100},
    {"id": "sees", "context_length": 1000, "architecture": {"input_modalities": ["text", "image"]}},
    {"id": "unknown-window"},
]
SHOP.update({"upstream": MODELS})
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TIMEOUTS = Timeouts(1, 1, 1)


def quoted(body: dict[str, Any], endpoint: Endpoint = CHAT) -> Quote:
    return quote_for(read_ask(endpoint, json.dumps(body).encode(), "application/json"), SHOP)


def refused(body: dict[str, Any], endpoint: Endpoint = CHAT, code: str = "invalid_request") -> str:
    with pytest.raises(Refusal) as caught:
        quoted(body, endpoint)
    assert (caught.value.status, caught.value.code) == (400, code)
    return caught.value.message


@pytest.mark.parametrize("depth", [250, 970, 980])
def test_a_request_that_nests_too_deeply_to_be_measured_is_refused(depth: int) -> None:
    nest = '{"a":' * depth + '"x"' + "}" * depth
    tool = '{"type":"function","function":{"name":"f","parameters":' + nest + "}}"
    body = json.dumps({**HELLO, "tools": ["HERE"]}).replace('"HERE"', tool)
    with pytest.raises(Refusal, match="nest"):
        read_ask(CHAT, body.encode(), "application/json")


def test_two_output_limits_that_differ_are_refused() -> None:
    assert "send one of them" in refused({**HELLO, "max_completion_tokens": 1, "max_tokens": 8000})


@pytest.mark.parametrize("given_field", ["max_tokens", "max_completion_tokens"])
async def test_the_held_limit_reaches_the_server_in_the_field_that_it_knows(given_field: str) -> None:
    quote = quoted({**HELLO, given_field: 7})
    async with running_shopful("m") as (server, url):
        upstream = OpenAIUpstream(UpstreamSpec(name="a", base_url=url), TIMEOUTS)
        reply = await upstream.send(upstream_request(quote, quote.sources[0]))
        reply.close()
        await upstream.close()
    sent = server.asked[0][1]
    assert sent["max_tokens"] == 7
    assert "max_completion_tokens" not in sent


def test_who_names_no_limit_is_given_the_one_that_is_held() -> None:
    quote = quoted(HELLO)
    assert upstream_request(quote, quote.sources[0]).fields["max_tokens"] == 100


def test_a_prompt_beyond_a_window_that_nobody_told_of_is_refused() -> None:
    """Elsewhere, the held window would be paid and the whole prompt read."""
    long = [{"role": "user", "content": "word " * 20_000}]
    beyond = refused({"model": "unknown-window", "messages": long}, code="context_length_exceeded")
    assert "longer than the context" in beyond
    assert quoted({"model": "m", "messages": long}).hold_msat > 0, "who knows the window refuses it, or reads no more"


def test_usage_told_piece_by_piece_is_not_asked_for_and_not_believed_alone() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    quote = quoted({**HELLO, "stream": True, "stream_options": options, "n": 4})
    assert upstream_request(quote, quote.sources[0]).fields["stream_options"] == {"include_usage": True}
    meter = StreamMeter(CHAT, Known(lambda: 11), hide_usage=True)
    for index in range(4):
        for said in range(1, 51):
            choice = {"index": index, "delta": {"content": " wave"}}
            report = {"prompt_tokens": 9, "completion_tokens": said}
            meter.feed(b"data: " + json.dumps({"choices": [choice], "usage": report}).encode() + b"\n\n")
    assert meter.measured().usage == Usage(9, count(" wave" * 200))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"image_url": {"url": "https://x.example/a.png"}}]},
        {"role": "user", "content": [{"role": "x", "image_url": "https://x.example/a.png"}]},
        {"role": "user", "content": [{"type": "text", "text": "", "uuid": "u", "image_url": "https://x.example"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]},
    ],
)
def test_a_picture_is_a_picture_whatever_it_is_called(message: dict[str, Any]) -> None:
    assert "does not read parts" in refused({**HELLO, "messages": [message]})


def test_a_picture_among_documents_or_inputs_is_one() -> None:
    assert "does not read" in refused(
        {"model": "m", "query": "a", "documents": [{"image": "https://x.example"}]}, RERANK
    )
    assert "does not read" in refused({"model": "m", "input": [{"role": "x", "image": "https://x"}]}, EMBEDDINGS)
    assert quoted({"model": "m", "query": "a", "documents": [{"text": "b", "title": "c"}, "d"]}, RERANK).hold_msat > 0


def test_a_picture_is_held_at_the_whole_window() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    body = {"model": "sees", "max_tokens": 10, "messages": [{"role": "user", "content": [image]}]}
    assert quoted(body).hold_msat >= 990 * 500_000 // 10**6


def test_counting_tokens_is_not_counted_again_to_be_charged() -> None:
    def never() -> int:
        raise AssertionError("counted")

    assert measured(b'{"input_tokens": 5}', COUNT_TOKENS, Known(never, writes=False)).usage == Usage(0, 0)


def test_what_is_kept_back_is_let_go_when_it_was_not_the_last() -> None:
    meter = StreamMeter(CHAT, Known(lambda: 1), hide_usage=False)
    early = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    text = b'data: {"choices":[{"delta":{"content":"abcd"}}]}\n\n'
    assert meter.feed(early) == b""
    assert meter.feed(text) == early + text
    assert meter.feed(early) == b""
    noise = b'data: {"x":"' + b"y" * 1_000_000 + b'"}\n\n'
    passed = sum(len(meter.feed(noise)) for _ in range(12))
    assert sum(map(len, meter.kept_back)) <= MAX_HELD_BYTES + len(noise)
    assert passed > 0


@given(
    st.binary(max_size=60).map(lambda raw: raw.replace(b"a", b"\n").replace(b"b", b"\r")), st.lists(st.integers(0, 60))
)
def test_events_are_cut_the_same_however_they_come(raw: bytes, cuts: list[int]) -> None:
    places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    cutter = Cutter()
    whole = b"".join(cutter.feed(raw[a:b]) for a, b in itertools.pairwise(places))
    assert whole + cutter.rest() == raw
    last = [boundary.end() for boundary in BOUNDARY.finditer(raw)]
    assert bool(whole) == bool(last)


async def test_a_stream_that_is_cut_off_without_a_word_is_not_made_to_look_whole(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    text = b'data: {"choices":[{"index":0,"delta":{"content":"abcd"}}]}\n\n'
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as node:
        _, key = await granted_key(node.node, 10**6)
        for chunks, whole in (([text], False), ([text.replace(b"}}]", b'},"finish_reason":"stop"}]')], True)):
            hostile[0].answer = (200, {"Content-Type": "text/event-stream"}, chunks)
            body = {**REAL_HELLO, "stream": True}
            reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(key))
            assert reply.text.endswith("data: [DONE]\n\n") is whole
            assert ('"outcome\\":\\"complete' in reply.text) is whole


@pytest.mark.parametrize(
    "words",
    [
        "Your credit balance is too low to access the Anthropic API",
        "API key not valid. Please pass a valid API key.",
        "Incorrect API key provided: na***ys",
        "You exceeded your current quota, please check your plan and billing details",
        "You have reached your specified API usage limits.",
        "User location is not supported for the API use.",
        "no model for the bearer sk-operators-own",
    ],
)
async def test_a_400_about_the_operators_account_is_no_business_of_the_callers(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str], words: str
) -> None:
    settings = {"upstream_base_url": hostile[1], "upstream_api_key": "sk-operators-own"}
    async with running_node(folder, cashu_mints=DEAD_MINT, **settings) as node:
        _, key = await granted_key(node.node, 10**6)
        hostile[0].answer = (400, {}, [json.dumps({"error": {"message": words}}).encode()])
        reply = await http.post(f"{node.url}/v1/chat/completions", json=REAL_HELLO, headers=bearer(key))
        assert (reply.status_code, words[:12] in reply.text) == (502, False)


def test_rate_limits_count_every_choice_and_no_more_than_can_be() -> None:
    assert quoted({**HELLO, "n": 8, "max_tokens": 100}).likely_tokens >= 800
    assert quoted({**HELLO, "max_tokens": 10**9}).likely_tokens < 200
    assert "max_tokens" in refused({**HELLO, "max_tokens": 10**15})


def test_a_price_is_taken_from_the_operator_and_not_from_a_servers_list() -> None:
    shop = Catalogue(SETTINGS, SETTINGS.upstreams(), Tariffs(SETTINGS.fixed_btc_usd))
    free = {"prompt_msat_per_mtok": 0, "completion_msat_per_mtok": 0}
    shop.update({"upstream": [{"id": "m", "context_length": 1000, "msat_pricing": free}]})
    assert shop.get("m").price != ModelPrice(0, 0)


class _Odd:
    name = "odd"

    async def models(self) -> list[Any]:
        raise TypeError("unhashable")

    async def close(self) -> None:
        """Nothing."""


class _Even(_Odd):
    name = "even"

    async def models(self) -> list[Any]:
        return [{"id": "m"}]


async def test_one_servers_odd_list_does_not_stop_the_others() -> None:
    assert await Fleet([_Odd(), _Even()]).models() == {"even": [{"id": "m"}]}  # type: ignore[list-item]


async def streamed(value: Any) -> AsyncIterator[bytes]:
    yield json.dumps(value).encode()


async def test_a_nodes_odd_list_is_read_without_what_is_odd() -> None:
    price = {"prompt_msat_per_mtok": 1, "completion_msat_per_mtok": 1}
    listed = [
        {"id": [1]},
        7,
        {"id": "m", "context_length": 9, "msat_pricing": price},
        {"id": "n", "context_length": -1},
    ]

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/info":
            npub = "npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9"
            return httpx.Response(200, content=streamed({"npub": npub, "mints": []}))
        return httpx.Response(200, content=streamed({"data": listed}))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        shop = await look(http, "http://node.example")
    assert list(shop.offers) == ["m"]
    assert [entry["id"] for entry in shop.listed] == ["m"]


async def test_a_line_without_end_is_not_kept() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    answer = object.__new__(bought.Bought)
    answer.content_type = "text/event-stream"
    answer._response = httpx.Response(200, content=endless())
    with pytest.raises(NodeError, match="without end"):
        async with asyncio.timeout(10):
            async for _ in answer.chunks():
                pass


async def test_a_servers_strange_content_type_is_no_header_of_ours() -> None:
    async with running_shopful("m") as (_, url):
        pool = HttpPool(url, {}, TIMEOUTS)
        try:
            assert (await pool.get_json(f"{url}/models"))["data"]
        finally:
            await pool.close()


def test_a_picture_that_nobody_reports_is_not_free() -> None:
    images = [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}] * 3
    body = {"model": "sees", "messages": [{"role": "user", "content": images}]}
    assert 3 * MEDIA_TOKENS <= count_prompt(body, CHAT) < 3 * MEDIA_TOKENS + 50


def test_a_partial_picture_is_a_picture_begun() -> None:
    meter = StreamMeter(IMAGES, Known(lambda: 1), hide_usage=False)
    meter.feed(b'data: {"type": "image_generation.partial_image", "b64_json": "eA=="}\n\n')
    assert meter.measured().usage.images == 1


def test_a_cache_that_is_kept_for_longer_than_it_is_paid_for_is_refused() -> None:
    block = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    for endpoint in (CHAT, MESSAGES):
        body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}
        assert "5 minutes" in refused(body, endpoint)
    tool = {"name": "t", "input_schema": {}, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert "5 minutes" in refused({**HELLO, "max_tokens": 5, "tools": [tool]}, MESSAGES)
    fine = {**block, "cache_control": {"type": "ephemeral"}}
    assert quoted({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [fine]}]}, MESSAGES)


def test_tools_are_held_at_more_than_their_bytes() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    alone = quoted({"model": "sees", "max_tokens": 1, "messages": HELLO["messages"]}).hold_msat
    with_tool = quoted({"model": "sees", "max_tokens": 1, "messages": HELLO["messages"], "tools": [tool]}).hold_msat
    assert with_tool > alone + 2 * len(json.dumps(tool, separators=(",", ":"))) * 500_000 // 10**6


@pytest.mark.parametrize(
    ("price", "endpoint", "body"),
    [
        (ModelPrice(0, 0, image_msat=5), CHAT, HELLO),
        (ModelPrice(0, 7), EMBEDDINGS, {"model": "m", "input": "a"}),
        (ModelPrice(0, 0, characters_msat_per_mchar=5), IMAGES, {"model": "m", "prompt": "a"}),
    ],
)
def test_nothing_is_given_away_where_nothing_that_is_used_has_a_price(
    folder: Path, price: ModelPrice, endpoint: Endpoint, body: dict[str, Any]
) -> None:
    entry = {"id": "m", "context_length": 100, "msat_pricing": msgspec.to_builtins(price)}
    (folder / "models.json").write_text(json.dumps([entry]))
    settings = load_settings(Settings, None, **{**GOOD, "models_path": folder / "models.json"})
    shop = Catalogue(settings, settings.upstreams(), Tariffs(settings.fixed_btc_usd))
    shop.update({})
    with pytest.raises(Refusal, match="no price"):
        quote_for(read_ask(endpoint, json.dumps(body).encode(), ""), shop)


async def test_a_sound_that_lies_about_its_length_is_charged_by_its_size(folder: Path, http: httpx.AsyncClient) -> None:
    """And a server that passes over the wish for a stream is paid all the same, also for silence."""
    price = ModelPrice(0, 0, audio_msat_per_hour=3_600_000)
    liar = bytearray(sound(100))
    liar[40:44] = (44).to_bytes(4, "little")  # the length of its data
    async with running_shopful("m") as (server, url):
        server.usage = False
        entry = {"id": "m", "context_length": 100, "msat_pricing": msgspec.to_builtins(price)}
        (folder / "models.json").write_text(json.dumps([entry]))
        async with running_node(
            folder, cashu_mints=DEAD_MINT, upstream_base_url=url, models_path=folder / "models.json"
        ) as node:
            key, text = await granted_key(node.node, 10**9)
            for fields in ({}, {"response_format": "text"}):
                reply = await http.post(
                    f"{node.url}/v1/audio/transcriptions",
                    data={"model": "m", **fields},
                    files={"file": ("a.wav", bytes(liar), "audio/wav")},
                    headers=bearer(text),
                )
                assert reply.status_code == 200
                assert int(reply.headers["x-satroute-cost-msat"]) >= len(liar) * 1000 // 400_000
            server.streamless = True
            reply = await http.post(
                f"{node.url}/v1/audio/transcriptions",
                data={"model": "m", "stream": "true"},
                files={"file": ("a.wav", sound(2), "audio/wav")},
                headers=bearer(text),
            )
            assert (reply.status_code, reply.json()["text"]) == (200, "Two and two is four.")
            assert int(reply.headers["x-satroute-cost-msat"]) == 2000
            assert (await node.node.ledger.account(key.account)).held_msat == 0
