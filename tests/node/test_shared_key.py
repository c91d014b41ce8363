"""Nodes that share a key: those at different URLs stand beside each other, and instances behind one URL are one node, which
is there as long as one of them is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from node.announcer import identifier_of
from relays.event import Signer
from relays.pool import RelayPool
from router_client.discovery.directory import Directory, Provider
from tests.conftest import DEAD_MINT
from tests.node.harness import Running, running_node

HERE, THERE = "https://here.example", "https://there.example"


@asynccontextmanager
async def instance(folder: Path, model_url: str, relay_url: str, signer: Signer, url: str) -> AsyncIterator[Running]:
    place = {"relays": relay_url, "http_url": url, "nsec": signer.nsec(), "cashu_mints": DEAD_MINT}
    async with running_node(folder, upstream_base_url=model_url, **place) as running:
        await running.node.announcer.publish()
        yield running


async def listed(relay_url: str, signer: Signer) -> dict[str, Provider]:
    """By URL, what somebody finds who has never looked before."""
    async with RelayPool([relay_url]) as pool, httpx.AsyncClient() as http:
        found = await Directory(pool, http, probing=False).providers()
    return {each.announcement.urls[0]: each for each in found if each.announcement.pubkey == signer.pubkey}


async def test_one_key_at_two_urls_is_two_nodes(folder: Path, model_url: str, relay_url: str) -> None:
    signer = Signer.generate()
    async with instance(folder / "a", model_url, relay_url, signer, HERE):
        async with instance(folder / "b", model_url, relay_url, signer, THERE):
            assert set(await listed(relay_url, signer)) == {HERE, THERE}
        found = await listed(relay_url, signer)
        assert set(found) == {HERE}
        assert (said := found[HERE].capacity) is not None
        assert said.state == "serving"


async def test_a_node_of_two_instances_is_there_until_the_last_of_them_goes(
    folder: Path, model_url: str, relay_url: str
) -> None:
    signer = Signer.generate()
    async with instance(folder / "a", model_url, relay_url, signer, HERE) as stays:

        async def seen(state: str) -> None:
            """What the jobs do every ten seconds, until one who looks finds the node."""
            async with asyncio.timeout(20):
                while True:
                    await stays.node.announcer.publish_changes()
                    await stays.node.announcer.publish_capacity()
                    found = await listed(relay_url, signer)
                    if HERE in found and (said := found[HERE].capacity) is not None and said.state == state:
                        return
                    await asyncio.sleep(0.05)

        async with instance(folder / "b", model_url, relay_url, signer, HERE) as goes:
            await seen("serving")
            await goes.node.announcer.drain()
            assert (await listed(relay_url, signer))[HERE].capacity is not None
            await seen("serving")
        await seen("serving")
        before = stays.node.announcer._outbox.events
        await stays.node.announcer.publish_changes()
        assert stays.node.announcer._outbox.events == before, "once is enough"
    assert await listed(relay_url, signer) == {}


async def test_a_start_in_the_second_of_the_stop_before_is_seen(folder: Path, model_url: str, relay_url: str) -> None:
    signer, at = Signer.generate(), time.time()
    async with instance(folder / "a", model_url, relay_url, signer, HERE) as first:
        first.node.announcer._clock = lambda: at + 5
        await first.node.announcer.publish()
    async with instance(folder / "b", model_url, relay_url, signer, HERE) as again:
        async with asyncio.timeout(20):
            while HERE not in await listed(relay_url, signer):
                await again.node.announcer.publish_changes()
                await asyncio.sleep(0.05)


def test_what_a_node_is_called_stays_as_long_as_where_it_is() -> None:
    assert identifier_of([HERE]) == identifier_of([HERE, "http://abc.onion"]) == "satroute-67eb598b"
    assert identifier_of(["HTTPS://Here.example:443/v1/"]) == identifier_of([HERE])
    assert identifier_of([THERE]) != identifier_of([HERE])
