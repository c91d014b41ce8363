"""A node announces itself where it is told to, says what each relay answered, and takes its word back when it stops."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx

from relays import kinds
from relays.announcement import decode
from relays.pool import RelayPool
from router_client.discovery import current
from tests.conftest import DEAD_MINT, DEAD_RELAY
from tests.node.harness import MODEL, running_node


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
        ) as running:
            author = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "authors": [running.node.signer.pubkey]}
            for _ in range(100):
                if (found := await pool.query(author)).events:
                    break
                await asyncio.sleep(0.05)
            announced = decode(found.events[0], now=int(time.time()))
            assert (announced.name, announced.mints) == ("herald", (DEAD_MINT,))
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
