"""With TOR_ONLY a node's calls go through its SOCKS port, by names that nobody resolves here, each purpose apart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from relays.errors import NoTor
from relays.money import Msat
from relays.routes import DIRECT, Purpose, Routes, is_onion
from router_client.client import RouterClient
from router_client.ecash.wallet import Wallet
from router_client.errors import AddressUnavailable, MintUnavailable
from router_client.net.outside import client_for
from router_client.paying.lnurl import address_invoice, check_reachable
from tests.client.purses import until_claimed
from tests.client.test_lnurl import LnurlServer, answer
from tests.node.harness import HELLO, MODEL, PRICES, Running, bearer, running_node, token_of
from tests.node.shopful import handled_by
from tests.socks import SocksPort, forbid_dns, socks_port

ONION = "http://25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion"
UNPRICED = dict.fromkeys(PRICES)


@pytest.fixture
async def prices_url() -> AsyncIterator[str]:
    async def price(_: web.Request) -> web.StreamResponse:
        return web.json_response({"usd": "100000"})

    async with handled_by(price) as url:
        yield url


async def test_every_call_goes_through_the_port_and_no_name_is_resolved(
    folder: Path, mint_url: str, relay_url: str, model_url: str, prices_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pricing = {"prompt": "0.000002", "completion": "0.000008"}
    (folder / "models.json").write_text(
        json.dumps({"data": [{"id": MODEL, "context_length": 2048, "pricing": pricing}]})
    )
    names = {"mint__test": mint_url, "relay__test": relay_url, "model__test": model_url, "prices__test": prices_url}
    async with socks_port(**names) as port:
        asked = forbid_dns(monkeypatch)
        settings = {
            "cashu_mints": "http://mint.test",
            "relays": "ws://relay.test",
            "upstream_base_url": "http://model.test/v1",
            "upstream_tor": True,
            "btc_price_sources": "http://prices.test/ticker#/usd",
            "models_path": folder / "models.json",
            "onion_url": ONION,
            "tor_only": True,
            "tor_socks": port.where,
        }
        async with (
            running_node(folder, **{**UNPRICED, **settings}) as running,
            client_for(Purpose.MINTS, Routes(port.where, tor_only=True), timeout=30) as mints,
            httpx.AsyncClient(trust_env=False, timeout=30) as http,
        ):
            wallet = await Wallet.open(folder / "caller.db", mints)
            await wallet.invoice(100_000, "http://mint.test", "msat", "fund")
            await until_claimed(wallet, "fund")
            token = await token_of(wallet, "http://mint.test", 50_000)
            wallet.close()
            reply = await http.post(f"{running.url}/v1/chat/completions", json=HELLO, headers=bearer(token))
            assert reply.status_code == 200, reply.text
            await running.node.announcer.publish()
            assert running.node.announcer.relay_states() == {"ws://relay.test": "accepted"}
        purposes = {"mints": "mint", "relays": "relay", "upstreams": "model", "prices": "prices"}
        assert set(port.asked) == {(purpose, f"{name}.test") for purpose, name in purposes.items()}
        assert asked == []


async def test_where_the_port_is_silent_nothing_leaves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = forbid_dns(monkeypatch)
    settings = {"cashu_mints": "http://mint.test", "upstream_base_url": "http://model.test/v1", "upstream_tor": True}
    async with running_node(folder, **settings, tor_only=True, tor_socks="127.0.0.1:9") as running:
        with pytest.raises(MintUnavailable):
            await running.node.wallet.invoice(1000, "http://mint.test", "msat", "fund")
    assert asked == []


@pytest.mark.parametrize("upstream", [{"upstream_tor": True}, {"upstream_base_url": f"{ONION}/v1"}])
async def test_an_upstream_that_only_tor_reaches_needs_tor(folder: Path, upstream: dict[str, object]) -> None:
    settings = {"cashu_mints": "http://127.0.0.1:9", "upstream_base_url": "http://127.0.0.1:9/v1", **upstream}
    with pytest.raises(NoTor, match="TOR_SOCKS"):
        async with running_node(folder, **settings):
            pass


@pytest.fixture
async def hidden(
    folder: Path, mint_url: str, relay_url: str, model_url: str
) -> AsyncIterator[tuple[Running, SocksPort]]:
    """A node behind an onion, announced at a relay that is one."""
    async with socks_port(relay__onion=relay_url) as port:
        settings = {"cashu_mints": mint_url, "relays": "ws://relay.onion", "upstream_base_url": model_url}
        async with running_node(folder, **settings, onion_url=ONION, tor_socks=port.where) as running:
            port.add(ONION.removeprefix("http://"), running.url)
            await running.node.announcer.publish()
            yield running, port


async def test_a_client_buys_from_an_onion_that_it_found_at_an_onion(
    hidden: tuple[Running, SocksPort], folder: Path, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, port = hidden
    asked = forbid_dns(monkeypatch)
    async with RouterClient.open(["ws://relay.onion"], folder / "buyer", Routes(port.where)) as client:
        await client.wallet.invoice(100_000, mint_url, "msat", "fund")
        await until_claimed(client.wallet, "fund")
        bought = await client.chat({**HELLO, "model": MODEL})
        assert bought.verified, bought.problem
    assert {("relays", "relay.onion"), ("nodes", ONION.removeprefix("http://"))} <= set(port.asked)
    assert len(port.passwords) == 1
    assert not any(map(is_onion, asked)), "of the relay's others a name may be looked for"


async def test_without_tor_an_onion_is_said_to_need_it(
    hidden: tuple[Running, SocksPort], folder: Path, relay_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = forbid_dns(monkeypatch)
    async with RouterClient.open([relay_url, "ws://relay.onion"], folder / "buyer") as client:
        providers = await client.directory.providers()
        assert [p.url for p in providers if ONION in p.announcement.urls] == [None]
        assert "through Tor alone" in client.directory.failures["ws://relay.onion"]
    assert not any(map(is_onion, asked)), "of the relay's others a name may be looked for"


async def test_a_lightning_address_is_reached_through_tor_and_not_looked_up(
    mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = LnurlServer(mint_url)
    try:
        asked = forbid_dns(monkeypatch)
        offer = {"tag": "payRequest", "callback": "http://bobs.onion/pay?x=1", "minSendable": 1, "maxSendable": 10**7}
        service.offer = lambda path, query: answer(offer)
        async with socks_port(bobs__onion=f"http://{service.address.partition('@')[2]}") as port:
            routes = Routes(port.where, tor_only=True)
            async with client_for(Purpose.ADDRESSES, routes) as http:
                invoice = await address_invoice("bob@bobs.onion", Msat(21_000), http, routes=routes)
                assert invoice.amount_msat == 21_000
                with pytest.raises(AddressUnavailable, match="does not answer"):
                    await address_invoice("bob@bobs.example", Msat(21_000), http, routes=routes)
            assert set(port.asked) == {("addresses", "bobs.onion"), ("addresses", "bobs.example")}
            with pytest.raises(AddressUnavailable, match="private network"):
                await check_reachable("https://10.0.0.1/pay", allow_local=False, routes=routes)
        assert asked == []
        with pytest.raises(AddressUnavailable, match="cannot be found"):
            await check_reachable("https://bobs.example/pay", allow_local=False, routes=DIRECT)
        assert asked == ["bobs.example"]
    finally:
        await asyncio.to_thread(service.close)
