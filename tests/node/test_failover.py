"""Several upstreams: the cheapest that is well serves; who fails before its first byte costs nothing; the price is that of
who served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from node.errors import Refusal, UpstreamDown, UpstreamError, UpstreamRefused, UpstreamTimeout
from node.upstream.base import Source
from node.upstream.breaker import FIRST_REST_S, MOST_FAILURES
from node.upstream.fleet import Fleet
from relays.bounds import ModelLimits
from relays.pricing import ModelPrice, cost
from relays.receipt import Receipt
from tests.conftest import DEAD_MINT
from tests.node.books import Clock
from tests.node.harness import Running, bearer, granted_key, receipt_of, running_node
from tests.node.shopful import Shopful, handled_by, running_shopful

MODEL = "shared"
ASK = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "What is two and two?"}]}
GRANT_MSAT = 10_000_000
CHEAP, DEAR = ModelPrice(1_000_000, 2_000_000), ModelPrice(3_000_000, 5_000_000, 4)


def upstreams(folder: Path, **urls: str) -> dict[str, Path]:
    """Settings with these upstreams; their markup tells the cheap one from the dear."""
    blocks = [
        f'[[upstream]]\nname = "{name}"\nbase_url = "{url}"\napi_key = "key of {name}"\nmarkup = {markup}\n'
        for (name, url), markup in zip(urls.items(), ("1.0", "3.0", "9.0"), strict=False)
    ]
    (folder / "upstreams.toml").write_text("\n".join(blocks))
    entry = {"id": MODEL, "context_length": 4096, "pricing": {"prompt": "0.000001", "completion": "0.000002"}}
    (folder / "models.json").write_text(json.dumps([entry]))
    return {"upstreams_path": folder / "upstreams.toml", "models_path": folder / "models.json"}


@pytest.fixture
async def two() -> AsyncIterator[tuple[Shopful, Shopful, str, str]]:
    async with running_shopful(MODEL) as (cheap, cheap_url), running_shopful(MODEL) as (dear, dear_url):
        yield cheap, dear, cheap_url, dear_url


@pytest.fixture
async def node(folder: Path, two: tuple[Shopful, Shopful, str, str]) -> AsyncIterator[Running]:
    settings = upstreams(folder, dear=two[3], cheap=two[2])
    text = settings["upstreams_path"].read_text().replace("1.0", "0").replace("3.0", "1.0").replace("= 0\n", "= 3.0\n")
    settings["upstreams_path"].write_text(text)  # the dear one stands first
    async with running_node(
        folder,
        cashu_mints=DEAD_MINT,
        fixed_btc_usd="100000",
        fixed_per_1k_input_tokens=None,
        fixed_per_1k_output_tokens=None,
        **settings,
    ) as running:
        yield running


async def ask(node: Running, http: httpx.AsyncClient, *, stream: bool = False) -> tuple[httpx.Response, Receipt | None]:
    key, text = await granted_key(node.node, GRANT_MSAT)
    reply = await http.post(f"{node.url}/v1/chat/completions", json={**ASK, "stream": stream}, headers=bearer(text))
    account = await node.node.ledger.account(key.account)
    while account.held_msat:
        await asyncio.sleep(0.01)
        account = await node.node.ledger.account(key.account)
    receipt = receipt_of(reply) if reply.status_code == 200 else None
    assert GRANT_MSAT - account.available_msat == (0 if receipt is None else receipt.cost_msat)
    return reply, receipt


def price_of(node: Running, name: str) -> ModelPrice:
    return next(source.price for source in node.node.catalogue.get(MODEL).sources if source.upstream == name)


async def test_the_cheapest_serves_wherever_it_stands(
    node: Running, http: httpx.AsyncClient, two: tuple[Shopful, Shopful, str, str]
) -> None:
    _, receipt = await ask(node, http)
    assert (len(two[0].asked), len(two[1].asked)) == (1, 0)
    assert receipt is not None
    assert receipt.price == price_of(node, "cheap")
    assert two[0].headers[0]["Authorization"] == "Bearer key of cheap"


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503, 529])
@pytest.mark.parametrize("stream", [False, True])
async def test_who_fails_is_followed_by_the_next_which_is_charged_at_its_own_price(
    node: Running, http: httpx.AsyncClient, two: tuple[Shopful, Shopful, str, str], status: int, stream: bool
) -> None:
    two[0].fails = [status]
    reply, receipt = await ask(node, http, stream=stream)
    assert reply.status_code == 200
    assert (len(two[0].asked), len(two[1].asked)) == (1, 1)
    assert receipt is not None
    assert receipt.price == price_of(node, "dear") != price_of(node, "cheap")
    assert receipt.cost_msat == cost(receipt.usage, price_of(node, "dear"))
    assert "key of" not in reply.text
    assert two[1].headers[0]["Authorization"] == "Bearer key of dear", "nobody gets another's credential"


async def test_the_announced_price_and_the_hold_cover_the_dearest(node: Running) -> None:
    model = node.node.catalogue.get(MODEL)
    assert {source.upstream for source in model.sources} == {"cheap", "dear"}
    assert model.price == price_of(node, "dear")


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_what_is_the_callers_fault_is_not_tried_again_elsewhere(
    node: Running, http: httpx.AsyncClient, two: tuple[Shopful, Shopful, str, str], status: int
) -> None:
    two[0].fails = [status]
    reply, _ = await ask(node, http)
    assert (reply.status_code, len(two[1].asked)) == (status, 0)


async def test_when_all_fail_it_is_free_and_said(
    node: Running, http: httpx.AsyncClient, two: tuple[Shopful, Shopful, str, str]
) -> None:
    two[0].fails, two[1].fails = [500], [503]
    reply, receipt = await ask(node, http)
    assert (reply.status_code, receipt) == (502, None)


async def test_who_failed_a_few_times_is_asked_last(
    node: Running, http: httpx.AsyncClient, two: tuple[Shopful, Shopful, str, str]
) -> None:
    two[0].fails = [500] * MOST_FAILURES
    for _ in range(MOST_FAILURES):
        await ask(node, http)
    two[0].asked.clear()
    _, receipt = await ask(node, http)
    assert (two[0].asked, receipt is not None and receipt.price) == ([], price_of(node, "dear"))
    two[1].fails = [500]
    _, receipt = await ask(node, http)
    assert receipt is not None
    assert receipt.price == price_of(node, "cheap"), "better one that failed than none"


async def test_a_server_that_is_not_there_costs_no_time_after_a_while(
    folder: Path, http: httpx.AsyncClient, two: tuple[Shopful, Shopful, str, str]
) -> None:
    settings = upstreams(folder, gone="http://127.0.0.1:9/v1", well=two[2])
    async with running_node(folder, cashu_mints=DEAD_MINT, fixed_btc_usd="100000", **settings) as node:
        for _ in range(MOST_FAILURES + 1):
            reply, _ = await ask(node, http)
            assert reply.status_code == 200
        assert node.node.fleet._down["gone"].state(node.node.fleet._clock()) == "open"


async def test_a_server_that_gives_no_list_for_a_while_keeps_its_models(
    node: Running, two: tuple[Shopful, Shopful, str, str]
) -> None:
    two[0].models = []
    await node.node.refresh_models()
    assert len(node.node.catalogue.get(MODEL).sources) == 1, "what it no longer lists it no longer sells"
    two[0].models = [MODEL]
    await node.node.refresh_models()
    two[0].listless = True
    await node.node.refresh_models()
    assert len(node.node.catalogue.get(MODEL).sources) == 2


LIMITS = ModelLimits(100, 100)


def source(name: str) -> Source:
    return Source(name, "m", LIMITS, CHEAP)


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    async def models(self) -> list[Any]:
        return []

    async def send(self, request: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to close."""


class Attempts:
    """What each upstream does when it is tried; an error is raised, else it serves."""

    def __init__(self, **does: Exception | None) -> None:
        self.does = does
        self.tried: list[str] = []

    async def __call__(self, upstream: Any, _: Source) -> str:
        self.tried.append(upstream.name)
        error = self.does[upstream.name]
        if error is not None:
            raise error
        return str(upstream.name)


def fleet(clock: Clock) -> Fleet:
    return Fleet([Named("a"), Named("b")], clock)


BOTH = [source("a"), source("b")]


async def test_a_half_open_breaker_lets_one_request_through() -> None:
    clock, ran = Clock(), Attempts(a=UpstreamDown("gone"), b=None)
    servers = fleet(clock)
    for _ in range(MOST_FAILURES + 2):
        assert await servers.serve(BOTH, ran) == "b"
    assert ran.tried.count("a") == MOST_FAILURES
    clock.now += FIRST_REST_S
    ran.does["a"] = None
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(upstream: Any, _: Source) -> str:
        if upstream.name == "a":
            entered.set()
            await leave.wait()
        return str(upstream.name)

    probe = asyncio.create_task(servers.serve(BOTH, slow))
    await entered.wait()
    assert await servers.serve(BOTH, slow) == "b", "the probe is on its way"
    leave.set()
    assert await probe == "a"
    assert await servers.serve(BOTH, ran) == "a"


async def test_a_request_that_one_server_cannot_be_told_goes_to_another() -> None:
    ran = Attempts(a=Refusal(400, "invalid_request", "no logprobs there"), b=None)
    assert await fleet(Clock()).serve(BOTH, ran) == "b"
    both = Attempts(a=Refusal(400, "invalid_request", "no"), b=Refusal(400, "invalid_request", "neither"))
    servers = fleet(Clock())
    for _ in range(MOST_FAILURES + 1):
        with pytest.raises(Refusal):
            await servers.serve(BOTH, both)
    assert both.tried == ["a", "b"] * (MOST_FAILURES + 1), "that says nothing of the servers"


async def test_callers_cannot_close_a_model_to_others() -> None:
    """Requests on which a model fails put it last; they do not put it out."""
    servers = fleet(Clock())
    failing = Attempts(a=UpstreamTimeout("slow"), b=UpstreamRefused(500, ""))
    for _ in range(5 * MOST_FAILURES):
        with pytest.raises(UpstreamError):
            await servers.serve(BOTH, failing)
    well = Attempts(a=None, b=None)
    assert await servers.serve(BOTH, well) == "a"


async def test_a_caller_who_leaves_is_no_failure() -> None:
    servers, clock = fleet(Clock()), Clock()

    async def forever(*_: Any) -> str:
        await asyncio.Event().wait()
        return ""

    for _ in range(MOST_FAILURES + 1):
        task = asyncio.create_task(servers.serve(BOTH, forever))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await servers.serve(BOTH, Attempts(a=None, b=None)) == "a"
    assert clock


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "it answered 401: check its API key"), (404, "it answered 404: check its URL, with its /v1")],
)
async def test_the_log_says_why_there_is_nothing_to_sell(
    folder: Path, status: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator's first start, with a key that is wrong or a URL that lacks something."""

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "Incorrect API key provided: sk-hush"}}, status=status)

    async with handled_by(refuse) as url, running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=f"{url}/v1"):
        assert words in caplog.text
        assert "no models yet: " in caplog.text
        assert "sk-hush" not in caplog.text
