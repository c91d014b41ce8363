"""Embeddings at the local endpoint: what a node may not do, and what is refused before anything is paid."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import openai
import pytest

from relays.endpoints import IMAGES
from relays.payment import RECEIPT_HEADER
from relays.pricing import Usage
from relays.receipt import to_header
from router_client.client import RouterClient
from router_client.errors import BadRequest
from router_client.spending.account import Spending
from tests.client.cheat import PRICE, Cheat, announce, signed

USED = Usage(4, 0)
COST_MSAT = 8


def vectors(*numbers: list[float]) -> bytes:
    data = [{"object": "embedding", "index": place, "embedding": each} for place, each in enumerate(numbers)]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return msgspec.json.encode({"object": "list", "model": "m", "data": data, "usage": usage})


@pytest.fixture
def embeds(cheat: Cheat, sdk: openai.AsyncOpenAI) -> Cheat:
    """It answers, and signs what that cost."""
    cheat.chat = [vectors([0.25, -0.5])[:20], vectors([0.25, -0.5])[20:]]
    cheat.chat_headers = {RECEIPT_HEADER: to_header(signed(COST_MSAT, usage=USED, metered="upstream", hold_msat=150))}
    return cheat


async def test_vectors_are_given_as_they_are_with_the_usage_that_was_verified(
    sdk: openai.AsyncOpenAI, embeds: Cheat, spending: Spending
) -> None:
    raw = await sdk.embeddings.with_raw_response.create(model="m", input="hi", encoding_format="float")
    answer = raw.parse()
    assert [each.embedding for each in answer.data] == [[0.25, -0.5]]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (4, 4)
    told = {name: raw.headers[f"x-satroute-{name}"] for name in ("cost-msat", "saved-msat", "budget-left-msat")}
    assert told == {"cost-msat": str(COST_MSAT), "saved-msat": "0", "budget-left-msat": str(5000 - COST_MSAT)}
    assert "x-pura-confidence" not in raw.headers, "there is nothing to be right"
    assert embeds.asked[0] == "/v1/embeddings"


@pytest.mark.parametrize(
    "answer",
    [
        vectors(),
        vectors([0.25], [0.5]),
        b'{"data":{}}',
        b"[]",
        b"",
        b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n',
    ],
    ids=["none", "two", "object", "list", "nothing", "chat"],
)
async def test_what_are_not_the_vectors_is_no_answer(sdk: openai.AsyncOpenAI, embeds: Cheat, answer: bytes) -> None:
    embeds.chat = [answer]
    with pytest.raises(openai.APIStatusError) as refused:
        await sdk.embeddings.create(model="m", input="hi")
    assert (refused.value.status_code, refused.value.code) == (503, "no_provider")


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ({"usage": Usage(4, 1), "cost_msat": 16}, "more than this request can use"),
        ({"usage": Usage(3, 0), "cost_msat": 6}, "the answer said"),
        ({"model": "other"}, "another model"),
        ({"price": msgspec.structs.replace(PRICE, prompt_msat_per_mtok=3_000_000), "cost_msat": 12}, "higher price"),
    ],
    ids=["written", "usage", "model", "price"],
)
async def test_a_receipt_that_does_not_hold_is_told(
    embeds: Cheat, buyer: RouterClient, lie: dict[str, Any], why: str
) -> None:
    fields = {"cost_msat": COST_MSAT, "usage": USED, "metered": "upstream", "hold_msat": 150, **lie}
    embeds.chat_headers = {RECEIPT_HEADER: to_header(signed(**fields))}
    answer = await buyer.embeddings({"model": "m", "input": "hi"})
    assert not answer.verified
    assert why in str(answer.problem)


async def test_a_model_is_named(sdk: openai.AsyncOpenAI, cheat: Cheat) -> None:
    for model in ("auto", "auto:cheap", ""):
        with pytest.raises(openai.BadRequestError, match="name the model"):
            await sdk.embeddings.create(model=model, input="hi")
    with pytest.raises(openai.BadRequestError, match="stream"):
        await sdk.embeddings.create(model="m", input="hi", extra_body={"stream": True})
    assert cheat.asked == []


async def test_only_who_sells_embeddings_is_asked(
    sdk: openai.AsyncOpenAI, caller: httpx.AsyncClient, embeds: Cheat, buyer: RouterClient, mint_url: str
) -> None:
    announce(buyer, embeds, mint_url, endpoints=("chat", "responses"))
    with pytest.raises(openai.APIStatusError, match="not sold at /v1/embeddings") as refused:
        await sdk.embeddings.create(model="m", input="hi")
    assert (refused.value.status_code, refused.value.response.headers["x-should-retry"]) == (400, "false")
    announce(buyer, embeds, mint_url, endpoints=("embeddings",))
    with pytest.raises(openai.APIStatusError, match="not sold at /v1/chat/completions"):
        await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert embeds.asked == []
    listed = (await caller.get("/v1/models/m")).json()
    assert (listed["endpoints"], listed["tier"]) == (["embeddings"], None)
    assert (await sdk.embeddings.create(model="m", input="hi")).data


async def test_many_texts_are_read_apart(sdk: openai.AsyncOpenAI, embeds: Cheat) -> None:
    """Together they are longer than the context of 2048 tokens, each by itself is not."""
    texts = ["word " * 1000] * 2
    embeds.chat = [vectors([0.5], [0.5])]
    assert len((await sdk.embeddings.create(model="m", input=texts)).data) == 2
    with pytest.raises(openai.APIStatusError, match="too short"):
        await sdk.embeddings.create(model="m", input=[*texts, "word " * 3000])


async def test_how_long_they_take_is_no_wait_for_a_first_word(embeds: Cheat, buyer: RouterClient) -> None:
    (known,) = buyer.directory.known()
    await buyer.embeddings({"model": "m", "input": "hi"})
    health = buyer._serving._given.healths.of(known.announcement.pubkey)
    assert (health.wait_s, health.speed, health.in_flight) == (None, None, 0)


async def test_a_pair_of_nodes_may_be_asked(embeds: Cheat, buyer: RouterClient) -> None:
    """Whoever has answered first serves: there is no first word."""
    answer = await buyer.embeddings({"model": "m", "input": "hi", "routing": {"hedge": True}})
    assert (answer.verified, answer.cost_msat) == (True, COST_MSAT)


async def test_no_other_endpoint_is_bought(buyer: RouterClient, cheat: Cheat) -> None:
    with pytest.raises(BadRequest, match="not bought here"):
        await buyer.ask(IMAGES, {"model": "m", "prompt": "a cat"})
    assert cheat.asked == []
