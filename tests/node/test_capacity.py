"""A node tells how busy and how well it is, from the requests that it serves, and says that it goes before it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from node.announcer import CAPACITY_EVERY_S
from node.gauge import is_news
from node.pulse import Pulse
from relays import kinds
from relays.capacity import Capacity, decode
from relays.event import Event
from relays.pool import RelayPool
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, MODEL, PRICES, bearer, granted_key, running_node
from tests.node.hostile import Hostile
from tests.relays.scripted import ScriptedRelay, scripted_relay
from tests.relays.test_capacity import OURS
from tests.system.forked import Served


def figures(pulse: Pulse) -> tuple[int | None, int | None, int | None]:
    return pulse.latency_ms, pulse.tokens_per_s, pulse.error_rate_bps


def test_the_latest_requests_count_most() -> None:
    pulse = Pulse()
    assert figures(pulse) == (None, None, None)
    pulse.began(1.0)
    assert figures(pulse) == (1000, None, None)
    for _ in range(50):
        pulse.began(0.1)
    assert 100 <= (pulse.latency_ms or 0) < 110
    pulse.streamed(100, 0.001)
    assert figures(pulse)[1:] == (None, None), "what comes in one piece tells no speed"
    pulse.streamed(100, 2.0)
    pulse.served("m")
    pulse.failed()
    assert figures(pulse)[1:] == (50, 1000)
    assert pulse.asked == {"m": 1}


def test_what_others_measured_counts_as_if_it_had_been_here() -> None:
    here, there, alone = Pulse(), Pulse(), Pulse()
    for pulse in (there, alone):
        for _ in range(7):
            pulse.began(0.2)
            pulse.streamed(30, 1.0)
            pulse.served("m")
    for pulse in (here, alone):
        pulse.began(0.2)
    here.hear(there.take())
    here.hear(there.take())  # nothing more
    assert figures(here) == figures(alone) == (200, 30, 0)
    assert here.asked == alone.asked == {"m": 7}
    there.failed()
    here.hear(there.take())
    alone.failed()
    assert figures(here) == figures(alone) == (200, 30, 1000)


@pytest.mark.parametrize(
    ("change", "news"),
    [
        ({}, False),
        ({"latency_ms": 420 + 83}, False),
        ({"latency_ms": 420 + 84}, True),
        ({"latency_ms": 420 - 84}, True),
        ({"latency_ms": None}, True),
        ({"tokens_per_s": 70}, True),
        ({"error_rate_bps": 20}, False),  # of next to nothing
        ({"error_rate_bps": 62}, True),
        ({"price_msats": 12_006}, True),
        ({"in_flight": 4, "capacity": 28}, False),
        ({"in_flight": 6, "capacity": 26}, True),
        ({"capacity": 0}, True),
        ({"state": "draining"}, True),
        ({"model": "another"}, True),
        ({"created_at": OURS.created_at + 200}, False),
    ],
)
def test_a_change_of_a_fifth_is_news(change: dict[str, object], news: bool) -> None:
    assert is_news(OURS, msgspec.structs.replace(OURS, **change)) is news


@pytest.fixture
async def relay(no_clock: None) -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as running:
        yield running


def told(relay: ScriptedRelay) -> list[Capacity]:
    events = [msgspec.convert(raw, Event) for raw in relay.heard]
    relay.heard.clear()
    return [decode(event, now=int(time.time())) for event in events if event.kind == kinds.CAPACITY]


WORDS = [b'data: {"choices":[{"index":0,"delta":{"content":"some more words"}}]}\n\n'] * 12
REPORT = b'data: {"choices":[],"usage":{"prompt_tokens":31,"completion_tokens":40}}\n\n'
STREAM = [*WORDS, b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n', REPORT, b"data: [DONE]\n\n"]


async def test_it_is_measured_from_real_requests(
    folder: Path, hostile: tuple[Hostile, str], relay: ScriptedRelay, http: httpx.AsyncClient
) -> None:
    server = hostile[0]
    settings = {"relays": relay.url, "http_url": "https://n.example", "utilisation_capacity": 4}
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], **settings) as running:
        announcer = running.node.announcer
        _, text = await granted_key(running.node, 10_000_000)

        async def ask(**more: object) -> int:
            body = {**HELLO, "stream": True, "max_tokens": 60, **more}
            reply = await http.post(f"{running.url}/v1/chat/completions", json=body, headers=bearer(text))
            return reply.status_code

        await announcer.publish_capacity()
        assert told(relay) == [], "who is not announced tells nothing"
        await announcer.publish()
        (first,) = told(relay)
        assert (first.capacity, first.max_concurrent, first.in_flight, first.state) == (4, 4, 0, "serving")
        assert (first.latency_ms, first.tokens_per_s, first.error_rate_bps) == (None, None, None)
        assert (first.model, first.price_msats) == (MODEL, 10_000)

        server.answer, server.head_after_s = (200, {"content-type": "text/event-stream"}, STREAM), 0.3
        asking = asyncio.create_task(ask())
        while running.node.limits.in_flight == 0:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(ask()) for _ in range(2)]
        await asyncio.sleep(0.1)
        await announcer.publish_capacity()
        (busy,) = told(relay)
        assert (busy.capacity, busy.in_flight) == (1, 3)
        assert [await task for task in (asking, *others)] == [200] * 3
        await announcer.publish_capacity()
        (well,) = told(relay)
        assert 300 <= (well.latency_ms or 0) < 2000
        assert 20 < (well.tokens_per_s or 0) < 2000
        assert (well.error_rate_bps, well.in_flight) == (0, 0)
        assert running.node.completions._pulse.asked == {MODEL: 3}

        server.answer, server.head_after_s = (400, {}, [b'{"error":{"message":"no"}}']), 0
        assert await ask() == 400
        await announcer.publish_capacity()
        assert told(relay) == [], "the caller's fault is none of ours"
        server.answer = (500, {}, [b""])
        assert await ask() == 502
        server.answer = (200, {"content-type": "text/event-stream"}, [*WORDS, b"CUT"])
        assert await ask() == 200
        await announcer.publish_capacity()
        (ill,) = told(relay)
        assert ill.error_rate_bps == 1900


async def test_it_is_told_again_before_it_is_stale(
    folder: Path, hostile: tuple[Hostile, str], relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"relays": relay.url, "http_url": "https://n.example"}
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], **settings) as running:
        announcer = running.node.announcer
        await announcer.publish()
        assert len(told(relay)) == 1
        await announcer.publish_capacity()
        assert told(relay) == []
        monkeypatch.setattr(announcer, "_clock", lambda: time.time() + CAPACITY_EVERY_S + 5)
        await announcer.publish_capacity()
        assert len(told(relay)) == 1


async def test_a_node_that_is_told_to_stop_says_so_and_then_takes_everything_back(
    folder: Path, hostile: tuple[Hostile, str], relay_url: str, http: httpx.AsyncClient
) -> None:
    """`satroute serve` in a process of its own, stopped by SIGTERM."""
    async with scripted_relay() as relay:
        env = {"CASHU_MINTS": DEAD_MINT, "UPSTREAM_BASE_URL": hostile[1], "HTTP_URL": "https://n.example"}
        prices = {name.upper(): price for name, price in PRICES.items()}
        relays = {"RELAYS": f"{relay.url},{relay_url}"}
        node = await asyncio.to_thread(lambda: Served(folder / "node", **env, **prices, **relays))
        try:
            while not any(raw["kind"] == kinds.CAPACITY for raw in relay.heard):
                await asyncio.sleep(0.1)
        finally:
            relay_heard_before = len(relay.heard)
            await asyncio.to_thread(node.stop)
        kept = [(raw["kind"], dict(tag[:2] for tag in raw["tags"]).get("state")) for raw in relay.heard]
        assert kept[relay_heard_before:] == [(kinds.CAPACITY, "draining"), (kinds.DELETION, None)]
        author = relay.heard[0]["pubkey"]
    async with RelayPool([relay_url]) as pool:
        left = await pool.query({"authors": [author]})
    assert sorted(event.kind for event in left.events if event.kind != kinds.DELETION) == [
        kinds.PROFILE,
        kinds.RELAY_LIST,
    ]
