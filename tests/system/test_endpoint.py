"""OpenAI's SDK at the local endpoint, with real purchases: nodes found on a relay, ecash of a mint, answers of a model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from relays.endpoints import EMBEDDINGS
from relays.pricing import cost
from relays.prompt import inputs
from router_client.client import RouterClient
from router_client.errors import BadRequest
from router_client.proxy.app import Proxy
from router_client.proxy.guard import Guard
from router_client.proxy.replay import Replays
from router_client.spending.budget import Budget
from tests.client.proxies import calling, sdk_by
from tests.client.purses import until_claimed
from tests.node.harness import MODEL, Running, running_node
from tests.system.forked import Served
from tests.system.test_client import announced, settings

TEXTS = ["A cat sat on the mat.", "The kitten sits on a rug.", "Interest rates rose in March."]
GONE = "http://127.0.0.1:9/v1"
CHEAP = {"fixed_per_1k_input_tokens": "0.1", "fixed_per_1k_output_tokens": "0.1"}


@pytest.fixture
async def buyer(folder: Path, relay: str, mint_url: str) -> AsyncIterator[RouterClient]:
    async with RouterClient.open([relay], folder / "buyer") as client:
        await client.wallet.invoice(500_000, mint_url, "msat", "fund")
        await until_claimed(client.wallet, "fund")
        yield client


@pytest.fixture
async def caller(buyer: RouterClient) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(Proxy(buyer, Guard())) as client:
        yield client


@pytest.fixture
async def sdk(caller: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk_by(caller) as client:
        yield client


@pytest.fixture
async def embedder(folder: Path, mint_url: str, embedder_url: str, relay: str) -> AsyncIterator[Running]:
    async with running_node(folder / "embeds", **settings("embeds", mint_url, embedder_url, relay)) as running:
        yield await announced(running)


@pytest.fixture
async def talker(folder: Path, mint_url: str, model_url: str, relay: str) -> AsyncIterator[Running]:
    async with running_node(folder / "talks", **settings("talks", mint_url, model_url, relay)) as running:
        yield await announced(running)


def nearness(one: Sequence[float], other: Sequence[float]) -> float:
    products = sum(a * b for a, b in zip(one, other, strict=True))
    return products / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


async def test_embeddings_are_bought_paid_and_verified(
    sdk: openai.AsyncOpenAI, buyer: RouterClient, embedder: Running
) -> None:
    before_msat = buyer.wallet.balance_msat()
    raw = await sdk.embeddings.with_raw_response.create(model=MODEL, input=TEXTS)
    answer = raw.parse()
    cat, kitten, rates = (each.embedding for each in answer.data)
    assert nearness(cat, kitten) > nearness(cat, rates), "they are of these texts, in this order"
    cost_msat = int(raw.headers["x-satroute-cost-msat"])
    assert raw.headers["x-satroute-verified"] == "true"
    assert (raw.headers["x-pura-model"], raw.headers["x-pura-provider"]) == (MODEL, embedder.node.signer.npub)
    totals = await embedder.node.ledger.audit()
    assert (totals.earned_msat, totals.keys_msat, totals.held_msat) == (cost_msat, 0, 0)
    (provider,) = buyer.directory.known()
    (offer,) = provider.offers
    usage = answer.usage
    assert usage.prompt_tokens == usage.total_tokens > 0
    assert cost_msat == math.ceil(usage.prompt_tokens * offer.price.prompt_msat_per_mtok / 10**6)
    assert usage.model_dump()["cost"] == {"total_msats": cost_msat}
    assert buyer.payments.open_count() == 0
    assert 0 <= before_msat - buyer.wallet.balance_msat() - cost_msat <= 12, "beyond it only the mint's fees are gone"
    report = buyer.report()
    assert (report.requests, report.spent_msat, report.saved_msat) == (1, cost_msat, 0)


async def test_embeddings_fail_over_and_keep_to_the_budget(
    folder: Path, sdk: openai.AsyncOpenAI, buyer: RouterClient, embedder: Running, mint_url: str, relay: str
) -> None:
    async with running_node(folder / "down", **settings("down", mint_url, GONE, relay, **CHEAP)) as down:
        down.node.catalogue.update({"upstream": [{"id": MODEL, "context_length": 2048}]})
        await announced(down)
        before_msat = buyer.wallet.balance_msat()
        raw = await sdk.embeddings.with_raw_response.create(model=MODEL, input=TEXTS[0])
        assert raw.headers["x-pura-provider"] == embedder.node.signer.npub, "the cheaper one is down"
        cost_msat = int(raw.headers["x-satroute-cost-msat"])
        assert before_msat - buyer.wallet.balance_msat() - cost_msat <= 30, "its money is back"
        assert (await down.node.ledger.audit()).earned_msat == 0
    buyer._serving.allowance.budget = Budget(day_msat=cost_msat + 1)
    with pytest.raises(openai.APIStatusError) as refused:
        await sdk.embeddings.create(model=MODEL, input=TEXTS[0])
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exceeded")
    assert (await embedder.node.ledger.audit()).earned_msat == cost_msat


async def test_the_library_buys_embeddings(buyer: RouterClient, embedder: Running) -> None:
    answer = await buyer.embeddings({"model": MODEL, "input": TEXTS}, explain=True)
    assert (answer.verified, answer.problem, answer.text, answer.choices) == (True, None, "", ())
    assert answer.receipt is not None
    assert answer.cost_msat == cost(answer.usage, answer.receipt.price)
    assert answer.body is not None
    assert len(answer.body) > 1
    assert answer.explanation is not None
    assert inputs({"input": TEXTS}, EMBEDDINGS) == 3
    with pytest.raises(BadRequest, match="name the model"):
        await buyer.embeddings({"input": TEXTS})


async def test_responses_are_bought_whole_and_verified(
    sdk: openai.AsyncOpenAI, buyer: RouterClient, talker: Running
) -> None:
    before_msat = buyer.wallet.balance_msat()
    raw = await sdk.responses.with_raw_response.create(model="auto", input="Name a sea.", max_output_tokens=12)
    answer = raw.parse()
    assert (answer.object, answer.output_text != "") == ("response", True)
    cost_msat = int(raw.headers["x-satroute-cost-msat"])
    assert raw.headers["x-satroute-verified"] == "true"
    assert raw.headers["x-pura-provider"] == talker.node.signer.npub
    usage: Any = answer.usage
    assert (usage.total_tokens, usage.cost) == (usage.input_tokens + usage.output_tokens, {"total_msats": cost_msat})
    assert 0 < usage.output_tokens <= 12
    totals = await talker.node.ledger.audit()
    assert (totals.earned_msat, totals.keys_msat, totals.held_msat) == (cost_msat, 0, 0)
    assert 0 <= before_msat - buyer.wallet.balance_msat() - cost_msat <= 12
    assert await buyer.tell(raw.headers["x-request-id"], 1.0), "it was the router's choice, and can be praised"


async def test_responses_are_streamed_as_they_come(
    sdk: openai.AsyncOpenAI, caller: httpx.AsyncClient, buyer: RouterClient, talker: Running
) -> None:
    stream = await sdk.responses.create(model=MODEL, input="Name a sea.", max_output_tokens=12, stream=True)
    events: list[Any] = [event async for event in stream]
    final = events[-1].response
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == final.output_text != ""
    earned_msat = (await talker.node.ledger.audit()).earned_msat
    assert final.usage.cost == {"total_msats": earned_msat}
    asked = {"model": MODEL, "input": "Name a sea.", "max_output_tokens": 12, "stream": True}
    plain = await caller.post("/responses", json=asked)
    lines = [line for line in plain.text.splitlines() if line]
    assert lines[0] == "event: response.created"
    cost_msat = (await talker.node.ledger.audit()).earned_msat - earned_msat
    assert f": x-satroute-cost-msat {cost_msat}" in lines
    assert ": x-satroute-verified true" in lines
    assert lines[-1].startswith("data: "), "the last event comes last: SDKs read no further"
    assert "x-pura-model" in plain.headers


async def test_responses_fail_over_and_keep_to_the_budget(
    folder: Path, sdk: openai.AsyncOpenAI, buyer: RouterClient, talker: Running, mint_url: str, relay: str
) -> None:
    async with running_node(folder / "down", **settings("down", mint_url, GONE, relay, **CHEAP)) as down:
        down.node.catalogue.update({"upstream": [{"id": MODEL, "context_length": 2048}]})
        await announced(down)
        stream = await sdk.responses.create(model=MODEL, input="Name a sea.", max_output_tokens=8, stream=True)
        assert stream.response.headers["x-pura-provider"] == talker.node.signer.npub
        kinds = [event.type async for event in stream]
        assert (kinds[0], len(kinds) > 3) == ("response.created", True)
        assert (await down.node.ledger.audit()).earned_msat == 0
    assert buyer.payments.open_count() == 0
    earned_msat = (await talker.node.ledger.audit()).earned_msat
    buyer._serving.allowance.budget = Budget(day_msat=earned_msat + 1)
    with pytest.raises(openai.APIStatusError) as refused:
        await sdk.responses.create(model=MODEL, input="Name a sea.", max_output_tokens=8)
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exceeded")
    assert (await talker.node.ledger.audit()).earned_msat == earned_msat


async def test_the_library_buys_responses(buyer: RouterClient, talker: Running) -> None:
    pieces: list[str] = []
    body = {"model": MODEL, "input": "Name a sea.", "instructions": "Be short.", "max_output_tokens": 12}
    answer = await buyer.responses(body, on_text=pieces.append)
    assert (answer.verified, answer.problem) == (True, None)
    assert "".join(pieces) == answer.text != ""
    assert answer.body is not None
    assert bytes(answer.body["object"]) == b'"response"'
    assert answer.finish_reason in ("stop", "length")


@pytest.mark.parametrize("streams", [False, True])
async def test_a_repeated_request_is_paid_once_at_the_node(
    folder: Path, buyer: RouterClient, talker: Running, streams: bool
) -> None:
    asked = {"model": MODEL, "input": "Name a sea.", "max_output_tokens": 8, "stream": streams}
    async with (
        Replays.open(folder / "answers.db") as replays,
        calling(Proxy(buyer, Guard(), replays=replays)) as caller,
    ):
        answers = await asyncio.gather(
            *(caller.post("/v1/responses", json=asked, headers={"Idempotency-Key": "once"}) for _ in range(4))
        )
        first, *others = sorted(answers, key=lambda answer: answer.status_code)
        again = await caller.post("/v1/responses", json=asked, headers={"Idempotency-Key": "once"})
    assert (first.status_code, {other.status_code for other in others}) == (200, {409})
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert (await talker.node.ledger.audit()).earned_msat == buyer.report().spent_msat > 0
    assert buyer.report().requests == 1


class Endpoint(Served):
    """`satroute proxy` in a process of its own, on a wallet and a relay."""

    def __init__(self, folder: Path, data: Path, relay: str) -> None:
        self._options = ("--data", str(data), "--relay", relay)
        super().__init__(folder)

    def start(self) -> None:
        self.words = ("proxy", "--port", str(self.port), *self._options)
        super().start()


async def test_what_was_bought_when_it_was_killed_is_not_bought_again(
    folder: Path, buyer: RouterClient, talker: Running, relay: str, http: httpx.AsyncClient
) -> None:
    endpoint = await asyncio.to_thread(Endpoint, folder / "endpoint", folder / "buyer", relay)
    whole = {"model": MODEL, "input": "Name a sea.", "max_output_tokens": 8}
    stream = {**whole, "input": "Write a long story about the sea.", "max_output_tokens": 400, "stream": True}

    async def ask(name: str, body: dict[str, Any]) -> httpx.Response:
        return await http.post(f"{endpoint.url}/v1/responses", json=body, headers={"Idempotency-Key": name})

    try:
        first = await ask("whole", whole)
        assert first.status_code == 200
        with pytest.raises(httpx.HTTPError):
            async with http.stream(
                "POST", f"{endpoint.url}/v1/responses", json=stream, headers={"Idempotency-Key": "stream"}
            ) as reply:
                async for _ in reply.aiter_raw():
                    await asyncio.to_thread(endpoint.kill)
        await asyncio.to_thread(endpoint.start)
        again, cut = await ask("whole", whole), await ask("stream", stream)
        assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
        assert (cut.status_code, cut.json()["error"]["code"]) == (409, "request_done")
        assert (await ask("another", whole)).status_code == 200
        assert buyer.report().requests == 3, "each is in the account once"
    finally:
        await asyncio.to_thread(endpoint.stop)


async def test_a_model_that_makes_no_vectors_is_no_fault_of_its_node(
    sdk: openai.AsyncOpenAI, buyer: RouterClient, talker: Running
) -> None:
    """Its server says that it has no such endpoint. Nothing announced it: only the request could tell."""
    before_msat = buyer.wallet.balance_msat()
    with pytest.raises(openai.BadRequestError, match="not served at this endpoint"):
        await sdk.embeddings.create(model=MODEL, input=TEXTS[0])
    assert before_msat - buyer.wallet.balance_msat() <= 12, "all came back but for the mint's fees"
    health = buyer._serving._given.healths.of(talker.node.signer.pubkey)
    assert (health.failed_in_a_row, health.in_flight) == (0, 0)
    assert (await talker.node.ledger.audit()).earned_msat == 0
