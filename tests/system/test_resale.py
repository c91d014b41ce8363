"""A node that sells on what it buys from another: three parties, two prices, and every msat accounted for at each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from node.upstream.kinds.satroute import SatrouteUpstream
from relays import receipt as receipts
from relays.money import MSAT_PER_SAT
from router_client.ecash.wallet import Wallet
from tests.client.purses import until_claimed
from tests.node.harness import HELLO, MODEL, Running, adds_up, bearer, granted_key, receipt_event, running_node
from tests.node.shopful import handled_by, running_shopful
from tests.node.test_endpoints import JSON_CALLS, models_file, sound
from tests.node.test_endpoints import MODEL as SHOP_MODEL
from tests.node.test_endpoints import PRICE as SHOP_PRICE

GRANT_MSAT = 1_000_000
PURSE_SATS = 2000
STREAMED = ("/chat/completions", "/completions", "/responses", "/messages")


@pytest.fixture
async def seller(folder: Path, mint_url: str, model_url: str) -> AsyncIterator[Running]:
    async with running_node(folder / "seller", cashu_mints=mint_url, upstream_base_url=model_url) as running:
        yield running


@pytest.fixture
async def reseller(folder: Path, mint_url: str, seller: Running, http: httpx.AsyncClient) -> AsyncIterator[Running]:
    async with reselling(folder, mint_url, seller, http) as running:
        yield running


@asynccontextmanager
async def reselling(folder: Path, mint_url: str, seller: Running, http: httpx.AsyncClient) -> AsyncIterator[Running]:
    purse = folder / "purse"
    purse.mkdir()
    wallet = await Wallet.open(purse / "wallet.db", http)
    await wallet.invoice(PURSE_SATS * MSAT_PER_SAT, mint_url, "msat", "fund")
    await until_claimed(wallet, "fund")
    wallet.close()
    spec = folder / "upstreams.toml"
    spec.write_text(
        f'[[upstream]]\nname = "other"\nkind = "satroute"\nbase_url = "{seller.url}"\nmarkup = 2\nwallet = "{purse}"\n'
    )
    async with running_node(
        folder / "reseller",
        cashu_mints=mint_url,
        upstreams_path=spec,
        fixed_per_1k_input_tokens=None,
        fixed_per_1k_output_tokens=None,
        fixed_btc_usd="100000",
    ) as running:
        yield running


def buyer_of(reseller: Running) -> SatrouteUpstream:
    upstream = reseller.node.fleet._upstreams["other"]
    assert isinstance(upstream, SatrouteUpstream)
    return upstream


async def settled(seller: Running, reseller: Running) -> int:
    """What the reseller's purse has spent, once all its change is in."""
    upstream = buyer_of(reseller)
    async with asyncio.timeout(60):
        while upstream._payments.open_count():
            await asyncio.sleep(0.2)
            await upstream._payments.recover()
    assert await upstream._tasks.drain(30) == 0
    await adds_up(seller)
    await adds_up(reseller)
    return PURSE_SATS * MSAT_PER_SAT - upstream._payments.wallet.balance_msat()


async def test_an_answer_is_bought_and_sold_on(seller: Running, reseller: Running, http: httpx.AsyncClient) -> None:
    cheap = seller.node.catalogue.get(MODEL).price
    dear = reseller.node.catalogue.get(MODEL).price
    assert dear.prompt_msat_per_mtok == 2 * cheap.prompt_msat_per_mtok
    key, text = await granted_key(reseller.node, GRANT_MSAT)
    spent_msat = earned_msat = 0
    for stream in (False, True):
        reply = await http.post(
            f"{reseller.url}/v1/chat/completions", json={**HELLO, "stream": stream}, headers=bearer(text), timeout=60
        )
        assert reply.status_code == 200, reply.text
        event = receipt_event(reply)
        told = reply.text.count(receipts.SSE_PREFIX)
        assert told == int(stream), "the seller's receipt is the reseller's alone"
        assert "x-cashu" not in reply.text
        assert "x-cashu" not in reply.headers
        receipt = receipts.decode(event)
        assert (event.pubkey, receipt.price) == (reseller.node.signer.pubkey, dear)
        earned_msat += receipt.cost_msat
        spent_msat += receipt.cost_msat // 2
    account = await reseller.node.ledger.account(key.account)
    assert (GRANT_MSAT - account.available_msat, account.held_msat) == (earned_msat, 0)
    spent = await settled(seller, reseller)
    earned_by_seller = (await seller.node.ledger.audit()).earned_msat
    assert earned_by_seller == spent_msat, "twice the price, the same usage"
    fees_msat = spent - earned_by_seller
    assert 0 <= fees_msat < 60, "the mint takes a msat or so for each swap and handing over"


async def test_a_caller_who_leaves_costs_the_reseller_no_more_than_was_served(
    seller: Running, reseller: Running, http: httpx.AsyncClient
) -> None:
    key, text = await granted_key(reseller.node, GRANT_MSAT)
    body = {**HELLO, "stream": True, "max_tokens": 500}
    async with http.stream(
        "POST", f"{reseller.url}/v1/chat/completions", json=body, headers=bearer(text), timeout=60
    ) as reply:
        async for _ in reply.aiter_raw():
            break
    account = await reseller.node.ledger.account(key.account)
    while account.held_msat:
        await asyncio.sleep(0.05)
        account = await reseller.node.ledger.account(key.account)
    assert 0 < account.spent_msat < GRANT_MSAT // 2
    spent = await settled(seller, reseller)
    assert spent < 100_000


@pytest.mark.parametrize("place", ["before the first word", "in the midst", "before the report"])
async def test_a_caller_who_leaves_thoughts_pays_the_reseller_what_they_cost_it(
    folder: Path, mint_url: str, http: httpx.AsyncClient, place: str
) -> None:
    """The seller reads on to the report and charges it: so does the reseller."""
    word = b'data: {"choices":[{"delta":{"content":"so"}}]}\n\n'
    end = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    told = b'data: {"choices":[],"usage":{"prompt_tokens":31,"completion_tokens":900}}\n\ndata: [DONE]\n\n'
    before = {"before the first word": b"", "in the midst": word, "before the report": word + end}[place]

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": [{"id": MODEL, "context_length": 4096, "thinks": True}]})
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(before)
        await asyncio.sleep(1.5)
        await reply.write((word + end + told).removeprefix(before))
        return reply

    async with (
        handled_by(answer) as url,
        running_node(folder / "seller", cashu_mints=mint_url, upstream_base_url=f"{url}/v1") as seller,
        reselling(folder, mint_url, seller, http) as reseller,
    ):
        key, text = await granted_key(reseller.node, 100 * GRANT_MSAT)
        body = {**HELLO, "stream": True, "max_tokens": 1000}
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(0.8),
                http.stream("POST", f"{reseller.url}/v1/chat/completions", json=body, headers=bearer(text)) as reply,
            ):
                async for _ in reply.aiter_raw():
                    pass
        async with asyncio.timeout(20):
            while (account := await reseller.node.ledger.account(key.account)).held_msat:
                await asyncio.sleep(0.05)
        spent_msat = await settled(seller, reseller)
        earned_msat = (await seller.node.ledger.audit()).earned_msat
        assert earned_msat == 31 * 2 + 900 * 8
        assert account.spent_msat == 2 * earned_msat, "at twice the price"
        assert spent_msat >= earned_msat


async def test_what_an_honest_node_sells_at_any_endpoint_is_never_taken_for_a_cheat(
    folder: Path, mint_url: str, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Each receipt holds and each change is whole, by what the reseller itself computed."""
    async with running_shopful(SHOP_MODEL) as (_, url):
        models = models_file(folder, shop_1=SHOP_PRICE)
        async with (
            running_node(folder / "seller", cashu_mints=mint_url, upstream_base_url=url, models_path=models) as seller,
            reselling(folder, mint_url, seller, http) as reseller,
        ):
            _, text = await granted_key(reseller.node, 100 * GRANT_MSAT)
            for path, body, _ in JSON_CALLS.values():
                for stream in ({}, {"stream": True}) if path in STREAMED else ({},):
                    asked = {"model": SHOP_MODEL, **body, **stream}
                    reply = await http.post(f"{reseller.url}/v1{path}", json=asked, headers=bearer(text))
                    assert reply.status_code == 200, reply.text
            body = {"model": SHOP_MODEL, "messages": HELLO["messages"]}
            reply = await http.post(f"{reseller.url}/v1/messages/count_tokens", json=body, headers=bearer(text))
            assert reply.status_code == 200, reply.text
            for path, name in (("/audio/transcriptions", "file"), ("/images/edits", "image")):
                reply = await http.post(
                    f"{reseller.url}/v1{path}",
                    data={"model": SHOP_MODEL, **({"prompt": "brighter"} if name == "image" else {})},
                    files={name: ("a.wav", sound(2.5), "audio/wav")},
                    headers=bearer(text),
                )
                assert reply.status_code == 200, reply.text
            await settled(seller, reseller)
            assert await buyer_of(reseller).models(), "it is trusted"
            assert "changed its terms" not in caplog.text


async def test_an_empty_purse_is_a_502_and_free(
    seller: Running, folder: Path, mint_url: str, http: httpx.AsyncClient
) -> None:
    spec = folder / "upstreams.toml"
    spec.write_text(f'[[upstream]]\nname = "other"\nkind = "satroute"\nbase_url = "{seller.url}"\n')
    async with running_node(folder / "poor", cashu_mints=mint_url, upstreams_path=spec) as poor:
        key, text = await granted_key(poor.node, GRANT_MSAT)
        reply = await http.post(f"{poor.url}/v1/chat/completions", json=HELLO, headers=bearer(text), timeout=60)
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_unavailable")
        assert (await poor.node.ledger.account(key.account)).available_msat == GRANT_MSAT


async def test_the_sellers_word_on_a_request_reaches_the_caller(
    seller: Running, reseller: Running, http: httpx.AsyncClient
) -> None:
    """Its refusal is the caller's to hear; its troubles with the reseller are not."""
    _, text = await granted_key(reseller.node, GRANT_MSAT)
    long = [{"role": "user", "content": "word " * 5000}]
    reply = await http.post(
        f"{reseller.url}/v1/chat/completions", json={**HELLO, "messages": long}, headers=bearer(text), timeout=60
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "context" in reply.json()["error"]["message"]
    assert await settled(seller, reseller) < 60, "the money came back, but for the mint's fees"
