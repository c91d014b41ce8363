"""What is paid by the piece: images by size, searches of the web, tokens heard and spoken; at no price, not sold."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from relays.pricing import ModelPrice, SizePrice, Usage, cost
from relays.receipt import Receipt
from tests.conftest import DEAD_MINT
from tests.node.harness import MODEL, Running, bearer, granted_key, receipt_of, running_node
from tests.node.hostile import Hostile
from tests.node.shopful import running_shopful

GRANT_MSAT = 100_000_000
PRICE = ModelPrice(
    1_000_000,
    2_000_000,
    audio_msat_per_mtok=10_000_000,
    speech_msat_per_mtok=20_000_000,
    image_msat=40_000,
    image_sizes=(SizePrice("1024x1024", 30_000), SizePrice("1024x1024", 60_000, "hd"), SizePrice("1024x1792", 90_000)),
    search_msat=5_000,
)
PLAIN = ModelPrice(1_000_000, 2_000_000)
ASK = [{"role": "user", "content": "What is new?"}]
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}


def models(folder: Path, there: str = "m") -> Path:
    """Two at different prices; `there` is what the server calls them."""
    entries = [
        {"id": "m", "upstream_id": there, "context_length": 4000, "msat_pricing": PRICE},
        {"id": "plain", "upstream_id": there, "context_length": 4000, "msat_pricing": PLAIN},
    ]
    path = folder / "models.json"
    path.write_bytes(msgspec.json.encode({"data": entries}))
    return path


@pytest.fixture
async def painter(folder: Path) -> AsyncIterator[Running]:
    async with (
        running_shopful("m", "plain") as (_, url),
        running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=url, models_path=models(folder)) as running,
    ):
        yield running


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], models_path=models(folder, MODEL)
    ) as running:
        yield running


async def paid(node: Running, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Receipt:
    """The receipt of a request; what was held is free again but for its cost."""
    key, text = await granted_key(node.node, GRANT_MSAT)
    quoted = await http.post(f"{node.url}/v1/quote", params={"endpoint": f"/v1{path}"}, json=body)
    reply = await http.post(f"{node.url}/v1{path}", json=body, headers=bearer(text))
    assert reply.status_code == 200, reply.text
    receipt = receipt_of(reply)
    assert receipt.hold_msat == quoted.json()["hold_msat"]
    assert receipt.cost_msat == cost(receipt.usage, receipt.price) <= receipt.hold_msat
    assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT - receipt.cost_msat
    return receipt


@pytest.mark.parametrize(
    ("asked", "image_msat"),
    [
        ({"size": "1024x1024"}, 30_000),
        ({"size": "1024x1024", "quality": "hd"}, 60_000),
        ({"size": "1024x1024", "quality": "low"}, 30_000),
        ({"size": "1024x1024", "quality": "auto"}, 60_000),
        ({"size": "1024x1792", "quality": "hd"}, 90_000),
        ({"size": "256x256"}, 90_000),
        ({"size": "01024x1024"}, 90_000),
        ({"size": "auto"}, 90_000),
        ({}, 90_000),
    ],
)
async def test_images_cost_what_their_size_does(
    painter: Running, http: httpx.AsyncClient, asked: dict[str, str], image_msat: int
) -> None:
    receipt = await paid(painter, http, "/images/generations", {"model": "m", "prompt": "a", "n": 2, **asked})
    assert receipt.usage.images == 2
    assert (receipt.price.image_msat, receipt.price.image_sizes) == (image_msat, ())


def chat_answer(usage: dict[str, Any]) -> bytes:
    message = {"role": "assistant", "content": "hello"}
    return json.dumps({"choices": [{"message": message}], "usage": usage}).encode()


JSON = {"Content-Type": "application/json"}
REPORT = {"prompt_tokens": 30, "completion_tokens": 5}


async def test_a_chat_that_searches_pays_one_search(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, JSON, [chat_answer(REPORT)])
    body = {"model": "m", "messages": ASK, "max_tokens": 9, "web_search_options": {"search_context_size": "low"}}
    receipt = await paid(node, http, "/chat/completions", body)
    assert receipt.usage == Usage(30, 5, searches=1)
    assert receipt.hold_msat >= 4000 + 5_000, "what is found may fill the window"
    assert hostile[0].asked[-1]["web_search_options"] == {"search_context_size": "low"}
    del body["web_search_options"]
    assert (await paid(node, http, "/chat/completions", body)).usage.searches == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {"messages": ASK, "web_search_options": {}}),
        ("/messages", {"messages": ASK, "max_tokens": 9, "tools": [SEARCH]}),
    ],
)
async def test_searches_at_no_price_are_not_sold(
    node: Running, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1{path}", json=body | {"model": "plain"}, headers=bearer(text))
    assert reply.status_code == 400
    assert "no price for searches" in reply.text


@pytest.mark.parametrize("uses", [None, 0, -1, 101, "3", 1.5, True])
async def test_a_search_that_does_not_say_how_often_is_refused(
    node: Running, http: httpx.AsyncClient, uses: object
) -> None:
    body = {"model": "m", "messages": ASK, "max_tokens": 9, "tools": [SEARCH | {"max_uses": uses}]}
    _, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1/messages", json=body, headers=bearer(text))
    assert reply.status_code == 400
    assert "max_uses" in reply.text


async def test_tokens_that_were_heard_and_spoken_cost_what_sound_does(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    usage = {
        **{"prompt_tokens": 40, "completion_tokens": 10},
        "prompt_tokens_details": {"audio_tokens": 30, "cached_tokens": 20},
        "completion_tokens_details": {"audio_tokens": 8, "reasoning_tokens": 4},
    }
    hostile[0].answer = (200, JSON, [chat_answer(usage)])
    body = {"model": "m", "messages": ASK, "max_tokens": 50, "modalities": ["text", "audio"]}
    receipt = await paid(node, http, "/chat/completions", body)
    # of 40 tokens read 20 came from the cache, at most 20 were heard anew; of 10 written 4 were thought, at most 6 spoken
    assert receipt.usage == Usage(40, 10, 20, reasoning_tokens=4, audio_tokens=20, speech_tokens=6)
    assert receipt.cost_msat == 20 + 20 * 10 + 4 * 2 + 6 * 20
