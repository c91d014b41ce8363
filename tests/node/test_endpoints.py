"""Every endpoint is paid for, passes what it was asked untouched, and is charged for exactly what it used."""

from __future__ import annotations

import io
import json
import math
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from relays import receipt as receipts
from relays.pricing import ModelPrice, Usage, cost
from tests.conftest import DEAD_MINT
from tests.node.harness import Running, bearer, granted_key, receipt_of, running_node
from tests.node.shopful import Shopful, running_shopful

PRICE = ModelPrice(
    2_000_000,
    8_000_000,
    7,
    cached_msat_per_mtok=500_000,
    cache_write_msat_per_mtok=2_500_000,
    reasoning_msat_per_mtok=9_000_000,
    image_msat=40_000,
    audio_msat_per_hour=3_600_000,
    characters_msat_per_mchar=15_000_000,
)
GRANT_MSAT = 10_000_000
MODEL = "shop-1"
ASK = [{"role": "user", "content": "What is two and two?"}]


def sound(seconds: float) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"\0\0" * int(8000 * seconds))
    return file.getvalue()


def models_file(folder: Path, **prices: ModelPrice) -> Path:
    path = folder / "models.json"
    entries = [
        {
            "id": name.replace("_", "-"),
            "context_length": 4096,
            "max_output_tokens": 1024,
            "msat_pricing": msgspec.to_builtins(price),
            "architecture": {"input_modalities": ["text", "image"]},
        }
        for name, price in prices.items()
    ]
    path.write_text(json.dumps({"data": entries}))
    return path


@pytest.fixture
async def shop() -> AsyncIterator[tuple[Shopful, str]]:
    async with running_shopful(MODEL) as running:
        yield running


@pytest.fixture
async def node(folder: Path, shop: tuple[Shopful, str]) -> AsyncIterator[Running]:
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=shop[1], models_path=models_file(folder, shop_1=PRICE)
    ) as running:
        yield running


JSON_CALLS: dict[str, tuple[str, dict[str, Any], Usage]] = {
    "chat": (
        "/chat/completions",
        {
            "messages": ASK,
            "seed": 3,
            "n": 1,
            "max_tokens": 50,
            "logprobs": True,
            "response_format": {"type": "json_object"},
        },
        Usage(20, 6, cached_tokens=8, reasoning_tokens=2),
    ),
    "completions": (
        "/completions",
        {"prompt": ["Two and two", "is"], "max_tokens": 9},
        Usage(20, 6, cached_tokens=8, reasoning_tokens=2),
    ),
    "responses": (
        "/responses",
        {"input": "What is two and two?", "max_output_tokens": 50},
        Usage(20, 6, cached_tokens=8, reasoning_tokens=2),
    ),
    "messages": ("/messages", {"messages": ASK, "max_tokens": 50}, Usage(20, 6, cached_tokens=8, reasoning_tokens=2)),
    "embeddings": ("/embeddings", {"input": ["two", "four"]}, Usage(7, 0)),
    "rerank": ("/rerank", {"query": "two", "documents": ["one", "two"]}, Usage(30, 0)),
    "images": ("/images/generations", {"prompt": "two", "n": 2}, Usage(10, 1000, images=2)),
    "speech": ("/audio/speech", {"input": "Two and two", "voice": "alloy"}, Usage(3, 0, characters=11)),
}


@pytest.mark.parametrize("call", JSON_CALLS)
async def test_a_call_is_charged_for_exactly_what_it_used(
    node: Running, http: httpx.AsyncClient, shop: tuple[Shopful, str], call: str
) -> None:
    path, body, usage = JSON_CALLS[call]
    key, text = await granted_key(node.node, GRANT_MSAT)
    asked = {"model": MODEL, **body}
    reply = await http.post(f"{node.url}/v1{path}", json=asked, headers=bearer(text))
    assert reply.status_code == 200, reply.text
    receipt = receipt_of(reply)
    assert receipt.usage == usage
    assert receipt.cost_msat == cost(usage, PRICE)
    account = await node.node.ledger.account(key.account)
    assert (account.available_msat, account.held_msat) == (GRANT_MSAT - receipt.cost_msat, 0)
    told = {name: int(reply.headers[name]) for name in ("x-satroute-cost-msat", "x-routstr-cost-msats")}
    assert set(told.values()) == {receipt.cost_msat}
    if call not in ("speech", "messages"):
        assert shop[0].asked[-1] == (path, asked | ({"store": False} if call == "responses" else {}))
    if call != "speech":
        charged = reply.json()["usage"]
        assert charged["cost"]["total_msats"] == receipt.cost_msat
        assert sum(charged["cost"].values()) == 2 * receipt.cost_msat
        assert charged["remaining_balance_msats"] == account.available_msat


@pytest.mark.parametrize("call", ["chat", "completions", "responses", "messages", "images"])
async def test_a_stream_is_charged_for_exactly_what_it_used(node: Running, http: httpx.AsyncClient, call: str) -> None:
    path, body, usage = JSON_CALLS[call]
    usage = msgspec.structs.replace(usage, images=min(usage.images, 1))
    key, text = await granted_key(node.node, GRANT_MSAT)
    asked = (
        {"model": MODEL, **body, "stream": True, "n": 1} if "n" in body else {"model": MODEL, **body, "stream": True}
    )
    reply = await http.post(f"{node.url}/v1{path}", json=asked, headers=bearer(text))
    assert reply.status_code == 200, reply.text
    assert receipts.SSE_PREFIX in reply.text
    receipt = receipt_of(reply)
    assert (receipt.usage, receipt.outcome) == (usage, "complete")
    account = await node.node.ledger.account(key.account)
    assert account.available_msat == GRANT_MSAT - cost(usage, PRICE)
    if call in ("responses", "messages"):  # elsewhere the usage is shown to who asks for it, or comes before the end
        assert f'"total_msats":{receipt.cost_msat}' in reply.text


async def test_who_asks_for_the_usage_of_a_stream_is_told_what_it_cost(node: Running, http: httpx.AsyncClient) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    body = {"model": MODEL, "messages": ASK, "stream": True, "stream_options": {"include_usage": True}}
    reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(text))
    last = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")][-1]
    assert last["usage"]["cost"]["total_msats"] == cost(JSON_CALLS["chat"][2], PRICE)


@pytest.mark.parametrize(("path", "fields"), [("transcriptions", {"language": "en"}), ("translations", {})])
async def test_sound_is_charged_by_its_length(
    node: Running, http: httpx.AsyncClient, shop: tuple[Shopful, str], path: str, fields: dict[str, str]
) -> None:
    """As the server reports it; else as the file says; the form arrives as it was sent."""
    key, text = await granted_key(node.node, GRANT_MSAT)
    file = sound(2.5)
    for reports, heard_ms in ((True, 3000), (False, 2500)):
        shop[0].usage = reports
        before = (await node.node.ledger.account(key.account)).available_msat
        reply = await http.post(
            f"{node.url}/v1/audio/{path}",
            data={"model": MODEL, **fields},
            files={"file": ("a.wav", file, "audio/wav")},
            headers=bearer(text),
        )
        assert reply.status_code == 200, reply.text
        receipt = receipt_of(reply)
        assert receipt.usage.audio_ms == heard_ms
        assert receipt.cost_msat == heard_ms + math.ceil(8 * receipt.usage.completion_tokens) + 7
        assert (await node.node.ledger.account(key.account)).available_msat == before - receipt.cost_msat
        assert shop[0].asked[-1] == (f"/audio/{path}", {"model": MODEL, **fields, "file": file})


async def test_a_transcription_can_be_plain_text(node: Running, http: httpx.AsyncClient) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(
        f"{node.url}/v1/audio/transcriptions",
        data={"model": MODEL, "response_format": "text"},
        files={"file": ("a.wav", sound(1), "audio/wav")},
        headers=bearer(text),
    )
    assert (reply.status_code, reply.headers["content-type"], reply.text) == (200, "text/plain", "Two and two is four.")


async def test_an_image_is_edited(node: Running, http: httpx.AsyncClient, shop: tuple[Shopful, str]) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(
        f"{node.url}/v1/images/edits",
        data={"model": MODEL, "prompt": "brighter", "n": "2"},
        files={"image": ("a.png", b"picture", "image/png")},
        headers=bearer(text),
    )
    assert reply.status_code == 200, reply.text
    assert int(reply.headers["x-satroute-cost-msat"]) == cost(Usage(10, 1000, images=2), PRICE)
    assert shop[0].asked[-1][1] == {"model": MODEL, "prompt": "brighter", "n": "2", "image": b"picture"}


@pytest.mark.parametrize(
    ("path", "more", "pictures"),
    [
        ("generations", {"partial_images": 3, "stream": True}, 0),
        ("edits", {"partial_images": "3", "stream": "true"}, 1),
        ("edits", {"input_fidelity": "high"}, 1),
        ("edits", {}, 16),
    ],
)
async def test_pictures_that_are_paid_by_the_piece_come_without_what_is_paid_by_tokens(
    folder: Path, shop: tuple[Shopful, str], http: httpx.AsyncClient, path: str, more: dict[str, Any], pictures: int
) -> None:
    """OpenAI reads a picture with high fidelity as thousands of tokens, and draws one that is not finished as a hundred."""
    by_piece = ModelPrice(0, 0, image_msat=40_000)
    file = models_file(folder, shop_1=PRICE, shop_2=by_piece)
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=shop[1], models_path=file) as node:
        node.node.catalogue.update({"upstream": [{"id": MODEL}, {"id": "shop-2"}]})
        _, text = await granted_key(node.node, GRANT_MSAT)

        async def ask(model: str, asked: dict[str, Any], many: int) -> httpx.Response:
            url, fields = f"{node.url}/v1/images/{path}", {"model": model, "prompt": "two", **asked}
            files = [("image[]", (f"{place}.png", b"picture", "image/png")) for place in range(many)]
            sent: dict[str, Any] = {"data": fields, "files": files} if many else {"json": fields}
            return await http.post(url, headers=bearer(text), **sent)

        refused = await ask("shop-2", more, pictures)
        assert (refused.status_code, "no price" in refused.json()["error"]["message"]) == (400, True), refused.text
        assert shop[0].asked == []
        assert (await ask("shop-2", {}, min(pictures, 1))).status_code == 200
        assert (await ask(MODEL, more, pictures)).status_code == 200


async def test_speech_is_sound(node: Running, http: httpx.AsyncClient) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    body = {"model": MODEL, "input": "Two", "voice": "alloy"}
    reply = await http.post(f"{node.url}/v1/audio/speech", json=body, headers=bearer(text))
    assert (reply.headers["content-type"], reply.content) == ("audio/mpeg", b"ID3 sound")


async def test_counting_tokens_costs_the_requests_fee(node: Running, http: httpx.AsyncClient) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    body = {"model": MODEL, "messages": ASK}
    reply = await http.post(f"{node.url}/v1/messages/count_tokens", json=body, headers=bearer(text))
    assert 5 < reply.json()["input_tokens"] < 20
    assert list(reply.json()) == ["input_tokens"]
    assert reply.headers["x-satroute-cost-msat"] == "7"


async def test_where_requests_have_no_fee_counting_tokens_is_free_for_who_has_a_key(
    folder: Path, shop: tuple[Shopful, str], http: httpx.AsyncClient
) -> None:
    free = msgspec.structs.replace(PRICE, request_msat=0)
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=shop[1], models_path=models_file(folder, shop_1=free)
    ) as node:
        key, text = await granted_key(node.node, 0)
        body = {"model": MODEL, "messages": ASK}
        reply = await http.post(f"{node.url}/v1/messages/count_tokens", json=body, headers={"x-api-key": text})
        assert (reply.status_code, reply.headers["x-satroute-cost-msat"]) == (200, "0")
        assert (await node.node.ledger.account(key.account)).spent_msat == 0


async def test_a_moderation_without_a_model_asks_for_openais(node: Running, http: httpx.AsyncClient) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    named = await http.post(f"{node.url}/v1/moderations", json={"model": MODEL, "input": "hello"}, headers=bearer(text))
    assert (named.status_code, named.json()["results"][0]["flagged"]) == (200, False)
    unnamed = await http.post(f"{node.url}/v1/moderations", json={"input": "hello"}, headers=bearer(text))
    assert (unnamed.status_code, "omni-moderation-latest" in unnamed.text) == (404, True)


@pytest.mark.parametrize("call", [*JSON_CALLS])
async def test_an_answer_without_usage_is_neither_free_nor_the_whole_hold(
    node: Running, http: httpx.AsyncClient, shop: tuple[Shopful, str], call: str
) -> None:
    shop[0].usage = False
    path, body, _ = JSON_CALLS[call]
    _, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1{path}", json={"model": MODEL, **body}, headers=bearer(text))
    receipt = receipt_of(reply)
    assert receipt.metered == "counted"
    assert PRICE.request_msat < receipt.cost_msat
    assert receipt.cost_msat < receipt.hold_msat or call in ("speech", "images")
    if call in ("chat", "messages", "responses"):  # told in the language of the endpoint
        told, used = reply.json()["usage"], receipt.usage
        names = ("prompt_tokens", "completion_tokens") if call == "chat" else ("input_tokens", "output_tokens")
        assert [told[name] for name in names] == [used.prompt_tokens, used.completion_tokens]
        assert len({"prompt_tokens", "input_tokens"} & told.keys()) == 1


@pytest.mark.parametrize("call", [*JSON_CALLS])
async def test_no_endpoint_is_served_without_money(node: Running, http: httpx.AsyncClient, call: str) -> None:
    path, body, _ = JSON_CALLS[call]
    reply = await http.post(f"{node.url}/v1{path}", json={"model": MODEL, **body})
    assert reply.status_code == 402
    assert reply.headers["x-cashu"].startswith("creqA")
    _, text = await granted_key(node.node, 0)
    assert (
        await http.post(f"{node.url}/v1{path}", json={"model": MODEL, **body}, headers=bearer(text))
    ).status_code == 402


@pytest.mark.parametrize(
    "path", ["/v1/files", "/v1/fine_tuning/jobs", "/v1/assistants", "/v1/chat", "/v1/audio/voices", "/anything"]
)
async def test_unknown_paths_are_404_and_go_nowhere(
    node: Running, http: httpx.AsyncClient, shop: tuple[Shopful, str], path: str
) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    for method in ("GET", "POST"):
        reply = await http.request(method, node.url + path, headers=bearer(text))
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert shop[0].asked == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/responses", {"input": "hi", "previous_response_id": "resp_1"}),
        ("/responses", {"input": "hi", "store": True}),
        ("/responses", {"input": "hi", "tools": [{"type": "web_search"}]}),
        ("/responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        ("/responses", {"input": [{"id": "msg_1"}]}),
        ("/chat/completions", {"messages": ASK, "store": True}),
        ("/chat/completions", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
        ("/chat/completions", {"messages": ASK, "modalities": ["text", "image"]}),
        ("/images/generations", {"prompt": "a", "size": ["1024x1024"]}),
        ("/chat/completions", {"messages": ASK, "tools": [{"type": "openrouter:web_search"}]}),
        ("/chat/completions", {"messages": ASK, "web_search_options": {}}),
        (
            "/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
        ),
        ("/messages", {"messages": ASK, "max_tokens": 9, "tools": [{"type": "web_search_20250305", "name": "w"}]}),
        ("/messages", {"messages": ASK, "max_tokens": 9, "mcp_servers": []}),
        ("/messages", {"messages": ASK}),
        ("/completions", {"prompt": "a", "best_of": 20}),
        ("/completions", {"prompt": []}),
        ("/embeddings", {"input": []}),
        ("/rerank", {"query": "a", "documents": []}),
        ("/images/generations", {"prompt": "a", "n": 11}),
        ("/images/generations", {"prompt": ""}),
        ("/audio/speech", {"input": ""}),
        ("/audio/transcriptions", {"file": "not a form"}),
    ],
)
async def test_what_would_cost_more_or_reach_into_others_things_is_refused(
    node: Running, http: httpx.AsyncClient, shop: tuple[Shopful, str], path: str, body: dict[str, Any]
) -> None:
    key, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1{path}", json={"model": MODEL, **body}, headers=bearer(text))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request"), reply.text
    assert shop[0].asked == []
    assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT


async def test_a_model_without_a_price_for_images_makes_none(
    folder: Path, shop: tuple[Shopful, str], http: httpx.AsyncClient
) -> None:
    """It is not given away: neither its tokens nor its images cost anything here, but reading does."""
    cheap = ModelPrice(1_000_000, 0)
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=shop[1], models_path=models_file(folder, shop_1=cheap)
    ) as node:
        _, text = await granted_key(node.node, GRANT_MSAT)
        for path, body in (("images/generations", {"prompt": "a"}), ("audio/speech", {"input": "a"})):
            reply = await http.post(f"{node.url}/v1/{path}", json={"model": MODEL, **body}, headers=bearer(text))
            assert (reply.status_code, "no price" in reply.text) == (400, True)
        assert shop[0].asked == []


async def test_every_answer_has_a_request_id(node: Running, http: httpx.AsyncClient) -> None:
    for method, path in (("GET", "/v1/info"), ("GET", "/v1/models"), ("GET", "/nothing"), ("POST", "/v1/embeddings")):
        reply = await http.request(method, node.url + path)
        ids = {reply.headers[name] for name in ("x-request-id", "x-satroute-request-id", "x-routstr-request-id")}
        assert len(ids) == 1
        assert ids.pop().startswith("req_")
