"""A node announces itself where it is told to, says what each relay answered, and takes its word back when it stops."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
from aiohttp import web

from relays import kinds
from relays.announcement import decode
from relays.pool import RelayPool
from router_client.discovery.directory import current
from tests.conftest import DEAD_MINT, DEAD_RELAY
from tests.node.harness import MODEL, running_node
from tests.node.hostile import Hostile
from tests.strangers import served


async def test_announced_with_prices_and_withdrawn_on_a_clean_stop(
    folder: Path, model_url: str, relay_url: str, http: httpx.AsyncClient
) -> None:
    relays = f"{relay_url},{DEAD_RELAY}"
    async with RelayPool([relay_url]) as pool:
        async with running_node(
            folder,
            cashu_mints=DEAD_MINT,
            upstream_base_url=model_url,
            relays=relays,
            http_url="https://node.example",
            onion_url="http://abc.onion",
            name="herald",
            region="CH",
        ) as running:
            author = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "authors": [running.node.signer.pubkey]}
            for _ in range(100):
                if (found := await pool.query(author)).events:
                    break
                await asyncio.sleep(0.05)
            announced = decode(found.events[0], now=int(time.time()))
            assert (announced.name, announced.mints, announced.region) == ("herald", (DEAD_MINT,), "CH")
            assert announced.urls == ("https://node.example", "http://abc.onion")
            assert announced.models == tuple(model.offer for model in running.node.catalogue.all())
            assert announced.expires_at is not None
            assert found.events[0].values("m") == (MODEL,)
            by_model = await pool.query({"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "#m": [MODEL]})
            assert found.events[0] in by_model.events

            states = (await http.get(f"{running.url}/v1/info")).json()["relays"]
            assert states[relay_url] == "accepted"
            assert "cannot be reached" in states[DEAD_RELAY]

            await running.node.announcer.publish()
            again = await pool.query(author)
            assert [event.created_at > found.events[0].created_at for event in again.events] == [True]
        left = await pool.query(author)
        deletions = await pool.query({"kinds": [kinds.DELETION], "authors": author["authors"]})
        assert current(left.events, deletions.events, now=int(time.time())) == []


async def test_without_relays_nothing_is_announced(folder: Path, model_url: str, http: httpx.AsyncClient) -> None:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url, relays="") as running:
        await running.node.announcer.publish()
        assert (await http.get(f"{running.url}/v1/info")).json()["relays"] == {}


async def test_a_price_change_is_announced(folder: Path, model_url: str, relay_url: str) -> None:
    async with (
        running_node(
            folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url, relays=relay_url, http_url="https://n.example"
        ) as running,
        RelayPool([relay_url]) as pool,
    ):
        author = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "authors": [running.node.signer.pubkey]}
        running.node.catalogue.update({"upstream": [{"id": "renamed"}]})
        await running.node.announcer.publish()
        assert (await pool.query(author)).events[0].values("m") == ("renamed",)
        await running.node.refresh_models()
        assert (await pool.query(author)).events[0].values("m") == (MODEL,)


async def test_a_busy_node_announces_that_it_is_dearer_and_that_it_no_longer_is(
    folder: Path, model_url: str, relay_url: str
) -> None:
    busy = {"utilisation_gamma": "1", "utilisation_capacity": 2, "price_ceiling": "2.5"}
    async with (
        running_node(
            folder,
            cashu_mints=DEAD_MINT,
            upstream_base_url=model_url,
            relays=relay_url,
            http_url="https://n.example",
            **busy,
        ) as running,
        RelayPool([relay_url]) as pool,
    ):
        node = running.node
        author = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "authors": [node.signer.pubkey]}

        async def announced() -> int:
            event = (await pool.query(author)).events[0]
            models = decode(event, now=int(time.time())).models
            assert models is not None
            return models[0].price.prompt_msat_per_mtok

        await node.announcer.publish()
        usual = await announced()
        with node.limits.running(1, 1), node.limits.running(2, 1):
            seen = []
            for _ in range(12):
                await node.look_how_busy()
                seen.append(await announced())
        assert seen == sorted(seen)
        assert usual < seen[0]
        assert seen[-1] == usual * 5 // 2, "the ceiling"
        for _ in range(20):
            await node.look_how_busy()
        assert await announced() == usual
        assert node.catalogue.get(MODEL).price.prompt_msat_per_mtok == usual


async def test_a_move_of_bitcoins_price_is_announced(
    folder: Path, hostile: tuple[Hostile, str], relay_url: str
) -> None:
    """By the node's own job, from sources that agree."""
    price = {"usd": "100000"}

    async def ticker(_: web.Request) -> web.Response:
        return web.json_response(price)

    app = web.Application()
    app.router.add_get("/ticker", ticker)
    async with served(app) as where:
        source = f"http://{where}/ticker#/usd"
        models = folder / "models.json"
        models.write_text('[{"id": "smollm2-135m", "pricing": {"prompt": "0.000001", "completion": "0.000001"}}]')
        settings = {"fixed_per_1k_input_tokens": None, "fixed_per_1k_output_tokens": None, "markup": "1"}
        async with (
            running_node(
                folder,
                cashu_mints=DEAD_MINT,
                upstream_base_url=hostile[1],
                models_path=models,
                relays=relay_url,
                http_url="https://n.example",
                btc_price_sources=source,
                **settings,
            ) as running,
            RelayPool([relay_url]) as pool,
        ):
            author = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "authors": [running.node.signer.pubkey]}
            assert running.node.catalogue.get(MODEL).price.prompt_msat_per_mtok == 1_000_000, "asked for at the start"
            for usd, msat in (("100100", None), ("50000", 2_000_000), ("200000", 500_000)):
                price["usd"] = usd
                await running.node.refresh_btc()
                if msat is not None:
                    event = (await pool.query(author)).events[0]
                    (model,) = decode(event, now=int(time.time())).models or ()
                    assert model.price.prompt_msat_per_mtok == msat
