"""What is told before payment is what is held: quotes, price lists, and prices that change while requests run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from relays.bounds import ModelLimits, most_usage
from relays.pricing import ModelPrice, cost
from relays.quote import QuoteAnswer
from tests.conftest import DEAD_MINT
from tests.node.harness import Running, bearer, granted_key, hold_of, receipt_of, running_node
from tests.node.hostile import Hostile

USD_MODEL: dict[str, Any] = {
    "id": "m",
    "context_length": 4000,
    "pricing": {"prompt": "0.000001", "completion": "0.000004", "input_cache_read": "0.0000001"},
}
ASK: dict[str, Any] = {"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "Say hello."}]}
ANSWER = b'{"choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":31,"completion_tokens":5}}'
IN_USD = {"fixed_per_1k_input_tokens": None, "fixed_per_1k_output_tokens": None, "markup": "1"}


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [ANSWER])
    settings = IN_USD | {"fixed_btc_usd": "100000", "max_requests_per_key": 200}
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], **settings) as running:
        running.node.catalogue.update({"upstream": [USD_MODEL]})
        yield running


async def quote(node: Running, http: httpx.AsyncClient, body: Any = ASK, endpoint: str = "chat") -> httpx.Response:
    return await http.post(f"{node.url}/v1/quote", params={"endpoint": endpoint}, json=body)


async def test_a_quote_tells_the_hold_that_follows(node: Running, http: httpx.AsyncClient) -> None:
    reply = await quote(node, http)
    assert reply.status_code == 200
    told = QuoteAnswer(**reply.json() | {"price": ModelPrice(**reply.json()["price"])})
    assert told.hold_msat == hold_of(node.node, ASK)
    assert 0 < told.expected_msat <= told.hold_msat
    assert (told.model, told.endpoint) == ("m", "/v1/chat/completions")
    assert told.price == ModelPrice(1_000_000, 4_000_000, cached_msat_per_mtok=100_000)
    assert told.valid_s == 60
    _, text = await granted_key(node.node, told.hold_msat)
    served = await http.post(f"{node.url}/v1/chat/completions", json=ASK, headers=bearer(text))
    assert served.status_code == 200, "what was quoted is enough"
    receipt = receipt_of(served)
    assert receipt.hold_msat == told.hold_msat
    assert receipt.price == told.price
    _, poorer = await granted_key(node.node, told.hold_msat - 1)
    refused = await http.post(f"{node.url}/v1/chat/completions", json=ASK, headers=bearer(poorer))
    assert refused.status_code == 402, "and no less is"


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"model": "m", "input": "x", "max_output_tokens": 5}),
        ("/messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
        ("embeddings", {"model": "m", "input": ["a", "b"]}),
        ("completions", {"model": "m", "prompt": "x", "n": 3}),
        ("count_tokens", {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
    ],
)
async def test_every_endpoint_is_quoted(
    node: Running, http: httpx.AsyncClient, endpoint: str, body: dict[str, Any]
) -> None:
    reply = await quote(node, http, body, endpoint)
    assert reply.status_code == 200, reply.text
    assert reply.json()["hold_msat"] >= reply.json()["expected_msat"] >= 0


@pytest.mark.parametrize(
    ("endpoint", "body", "status", "code"),
    [
        ("chat", {"model": "nobody", "messages": [{"role": "user", "content": "x"}]}, 404, "model_not_found"),
        ("chat", {"model": "m"}, 400, "invalid_request"),
        ("chat", ASK | {"n": 0}, 400, "invalid_request"),
        ("chat", ASK | {"models": ["dearer"]}, 400, "invalid_request"),
        ("nowhere", ASK, 400, "invalid_request"),
    ],
)
async def test_what_would_be_refused_is_refused_here(
    node: Running, http: httpx.AsyncClient, endpoint: str, body: Any, status: int, code: str
) -> None:
    reply = await quote(node, http, body, endpoint)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


async def test_a_price_that_changes_while_a_hundred_requests_run_charges_each_at_its_own(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """Each is held and charged at the price that it was quoted, which is on its receipt."""
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [b" ", *[ANSWER]])
    key, text = await granted_key(node.node, 10_000_000)
    tariffs = node.node.catalogue.tariffs
    seen: set[int] = set()

    at_once = asyncio.Semaphore(30)

    async def one(number: int) -> int:
        async with at_once:
            if number % 20 == 10:
                tariffs.put_btc(Decimal(100_000 + 1000 * number))
            reply = await http.post(f"{node.url}/v1/chat/completions", json=ASK, headers=bearer(text))
        assert reply.status_code == 200, reply.text
        receipt = receipt_of(reply)
        assert receipt.cost_msat == cost(receipt.usage, receipt.price) <= receipt.hold_msat
        assert receipt.hold_msat == cost(most_usage(ASK, ModelLimits(4000, 4000), receipt.price), receipt.price)
        seen.add(receipt.price.prompt_msat_per_mtok)
        return receipt.cost_msat

    costs = await asyncio.gather(*(one(number) for number in range(100)))
    account = await node.node.ledger.account(key.account)
    assert account.available_msat == 10_000_000 - sum(costs)
    assert account.held_msat == 0
    assert len(seen) > 1, "the price did change meanwhile"
    await node.node.ledger.audit()


async def test_a_rise_after_the_quote_does_not_raise_the_hold(node: Running, http: httpx.AsyncClient) -> None:
    told = (await quote(node, http)).json()
    node.node.catalogue.tariffs.put_btc(Decimal(10_000))
    _, text = await granted_key(node.node, told["hold_msat"])
    served = await http.post(f"{node.url}/v1/chat/completions", json=ASK, headers=bearer(text))
    assert served.status_code == 200, served.text
    listed = (await http.get(f"{node.url}/v1/models/m")).json()["msat_pricing"]
    assert listed["prompt_msat_per_mtok"] == 10_000_000, "but it is told"


async def test_the_shop_is_closed_while_bitcoin_has_no_price(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    settings = IN_USD | {"btc_price_sources": f"{hostile[1]}/nowhere#/usd", "btc_price_timeout_s": 1}
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], **settings) as node:
        in_msat = {"id": "fixed", "context_length": 100}
        node.node.catalogue.update({"upstream": [USD_MODEL, in_msat]})
        _, text = await granted_key(node.node, 10_000)
        for path, body in (("chat/completions", ASK), ("quote", ASK)):
            reply = await http.post(f"{node.url}/v1/{path}", json=body, headers=bearer(text))
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_price")
            assert int(reply.headers["retry-after"]) > 0
        assert (await http.get(f"{node.url}/v1/models")).json()["data"] == []
        node.node.catalogue.tariffs.put_btc(Decimal(100_000))
        listed = (await http.get(f"{node.url}/v1/models")).json()["data"]
        assert [(model["id"], model["enabled"]) for model in listed] == [("m", False)]


async def test_the_price_list_has_usd_and_sats_side_by_side(node: Running, http: httpx.AsyncClient) -> None:
    listed = (await http.get(f"{node.url}/v1/pricing")).json()
    assert (listed["btc_usd"], listed["price_factor"]) == ("100000", "1")
    (model,) = listed["models"]
    assert model["model"] == "m"
    assert Decimal(model["usd"]["prompt"]) == Decimal("0.000001")
    assert Decimal(model["usd"]["input_cache_read"]) == Decimal("0.0000001")
    assert model["sats"]["completion"] == 0.004
    assert model["msat"]["completion_msat_per_mtok"] == 4_000_000
    shown = (await http.get(f"{node.url}/v1/models")).json()["data"][0]
    assert shown["pricing"] == model["usd"]
    assert shown["sats_pricing"]["max_cost"] == 16.0


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/pricing"])
async def test_an_unchanged_list_is_not_sent_again(node: Running, http: httpx.AsyncClient, path: str) -> None:
    first = await http.get(node.url + path)
    tag = first.headers["etag"]
    for asked in (tag, f'W/{tag}, "x"', f'"y", {tag}', "*"):
        again = await http.get(node.url + path, headers={"If-None-Match": asked})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    node.node.catalogue.tariffs.put_btc(Decimal(50_000))
    changed = await http.get(node.url + path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert changed.content != first.content


async def test_five_thousand_models_are_listed_whole(node: Running, http: httpx.AsyncClient) -> None:
    many = [USD_MODEL | {"id": f"maker/model-{number}"} for number in range(5000)]
    node.node.catalogue.update({"upstream": many})
    listed = json.loads((await http.get(f"{node.url}/v1/models")).content)
    assert len(listed["data"]) == 5000
    found = await asyncio.gather(*(http.get(f"{node.url}/v1/models") for _ in range(5)))
    assert {reply.headers["etag"] for reply in found} == {found[0].headers["etag"]}
    one = (await http.get(f"{node.url}/v1/models/maker/model-4711")).json()
    assert one == listed["data"][4711]
