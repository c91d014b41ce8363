"""Nodes are asked in time and not too often; only who holds the announced key is alive; plain nodes' lists are read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web

from relays.announcement import Announcement
from relays.event import Signer
from relays.pricing import ModelPrice
from relays.routes import host_of
from relays.routes import is_onion as is_onion_name
from router_client.discovery import probe
from router_client.discovery.plain import listed
from router_client.discovery.probe import Prober, place_of
from tests.conftest import DEAD_MINT
from tests.node.harness import running_node
from tests.strangers import served

NOW = 1_700_000_000
ALICE, BOB = Signer.generate(), Signer.generate()
DEAD = "http://127.0.0.1:9"
Handler = Callable[[web.Request], Any]


def announced(*urls: str, signer: Signer = ALICE, plain: bool = False) -> Announcement:
    return Announcement(
        pubkey=signer.pubkey,
        identifier="x",
        urls=urls,
        mints=(),
        version="1",
        name="",
        about="",
        models=None if plain else (),
        created_at=NOW,
        expires_at=None,
    )


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(**handlers: Handler) -> AsyncIterator[str]:
    """A node that answers each `/v1/<name>`."""
    app = web.Application()
    for name, handler in handlers.items():
        app.router.add_route("*", f"/v1/{name}", handler)
    async with served(app, handler_cancellation=True) as where:
        yield f"http://{where}"


async def info(_: web.Request) -> web.Response:
    return web.json_response({"npub": ALICE.npub})


def proving(signer: Signer = ALICE, **changes: str) -> Handler:
    async def proof(request: web.Request) -> web.Response:
        asked = {**await request.json(), **changes}
        tags = [["u", asked["url"]], ["nonce", asked["nonce"]], ["expiration", asked.get("until", str(NOW + 60))]]
        return web.json_response(msgspec.to_builtins(signer.sign(kind=27236, content="", created_at=NOW, tags=tags)))

    return proof


async def look(prober: Prober, announcement: Announcement, *, again: bool = False) -> probe.Found:
    await prober.look([announcement], again=again)
    return prober.found[place_of(announcement)]


async def test_a_key_is_proven_by_a_signature_over_our_number(http: httpx.AsyncClient) -> None:
    async with serving(info=info, proof=proving()) as url:
        found = await look(Prober(http, Clock()), announced(DEAD, f"{url}/v1"))
        assert (found.url, found.proven) == (url, True)
        assert found.latency_ms is not None


@pytest.mark.parametrize(
    "proof",
    [
        proving(BOB),
        proving(nonce="0" * 64),
        proving(url="https://another.example"),
        proving(until=str(NOW)),
        lambda _: web.json_response({}),
        lambda _: web.Response(body=b"x" * 10_000_000),
        lambda _: web.Response(body=b"x" * 10, headers={"Content-Encoding": "gzip"}),
    ],
    ids=["another key", "another number", "another address", "expired", "nothing", "too much", "packed"],
)
async def test_a_proof_that_does_not_hold_is_no_life(http: httpx.AsyncClient, proof: Handler) -> None:
    async def answer(request: web.Request) -> web.Response:
        made = proof(request)
        return made if isinstance(made, web.Response) else await made

    async with serving(info=info, proof=answer) as url:
        assert (await look(Prober(http, Clock()), announced(url))).url is None


async def test_who_has_no_proof_to_give_is_alive_by_its_word_and_not_proven(http: httpx.AsyncClient) -> None:
    async with serving(info=info) as url:
        found = await look(Prober(http, Clock()), announced(url))
        assert (found.url, found.proven) == (url, False)
        assert (await look(Prober(http, Clock()), announced(url, signer=BOB))).url is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 422, 429, 500, 501, 503])
async def test_who_refuses_a_proof_is_no_liar_unless_it_gave_one_before(http: httpx.AsyncClient, status: int) -> None:
    gives = False
    prove = proving()

    async def answer(request: web.Request) -> web.Response:
        return await prove(request) if gives else web.json_response({"error": {"message": "no"}}, status=status)

    async with serving(info=info, proof=answer) as url:
        prober, node = Prober(http, Clock()), announced(url)
        assert ((found := await look(prober, node)).url, found.proven) == (url, False)
        gives = True
        assert (await look(prober, node, again=True)).proven
        gives = False
        expected = url if status in (429, 503) else None
        for _ in range(2):
            assert ((found := await look(prober, node, again=True)).url, found.proven) == (expected, False)
        gives = True
        assert (await look(prober, node, again=True)).proven


async def test_a_real_node_proves_itself_and_a_copy_of_its_announcement_elsewhere_is_dead(
    folder: Path, http: httpx.AsyncClient
) -> None:
    """The copy's server passes every question on to the node, or answers it under a key of its own."""
    thief = Signer.generate()
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url="http://127.0.0.1:9/v1") as running:
        real = announced(running.url, signer=running.node.signer)
        running.node.proofs._bases.add(running.url)
        assert (await look(Prober(http), real)).proven

        async def passed_on(request: web.Request) -> web.Response:
            answer = await http.request(request.method, f"{running.url}{request.path}", content=await request.read())
            return web.json_response(answer.json(), status=answer.status_code)

        async def own(_: web.Request) -> web.Response:
            return web.json_response({"npub": thief.npub})

        async with serving(info=passed_on, proof=passed_on) as copy:
            assert (await look(Prober(http), announced(copy, signer=thief))).url is None
            known = Prober(http)
            await look(known, real)
            assert (await look(known, announced(copy, signer=running.node.signer))).url is None, "it proved before"
        async with serving(info=own, proof=passed_on) as copy:
            assert not (await look(Prober(http), announced(copy, signer=thief))).proven


async def test_failures_cool_down_and_longer_each_time(http: httpx.AsyncClient) -> None:
    clock, asked = Clock(), 0

    async def fault(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=500)

    async with serving(info=fault) as url:
        prober, node = Prober(http, clock), announced(url)
        for pause_s, total in ((0, 1), (59, 1), (1, 2), (119, 2), (1, 3), (0, 3), (10**6, 4)):
            clock.now += pause_s
            await look(prober, node)
            assert asked == total
        await look(prober, node, again=True)
        await look(prober, announced(url, url + "/v1"))
        assert asked == 7, "asked for, and announced anew"


async def test_who_answered_is_asked_again_after_a_while(http: httpx.AsyncClient) -> None:
    clock, asked = Clock(), 0

    async def count(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return await info(_)

    async with serving(info=count) as url:
        prober, node = Prober(http, clock), announced(url)
        for pause_s, total in ((0, 1), (299, 1), (1, 2)):
            clock.now += pause_s
            await look(prober, node)
            assert asked == total
        prober.failed(ALICE.pubkey)
        assert (await look(prober, node)).url is None
        clock.now += 60
        assert (await look(prober, node)).url == url


async def test_the_silent_cost_no_more_than_a_deadline_and_few_are_asked_at_once(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "MAX_AT_ONCE", 5)
    monkeypatch.setattr(probe, "PROBE_DEADLINE_S", 0.2)
    monkeypatch.setattr(probe, "LOOK_DEADLINE_S", 1.0)
    at_once = most = 0

    async def silent(_: web.Request) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            await asyncio.sleep(60)
        finally:
            at_once -= 1
        return web.Response()

    async with serving(info=silent) as url:
        crowd = [announced(url, signer=Signer(bytes([0, n] * 16))) for n in range(1, 100)]
        asked = await Prober(http).look(crowd)
        assert 5 <= len(asked) < 60
        assert most <= 10, "the last of one turn end as those of the next begin"


@pytest.mark.parametrize(
    ("url", "is_onion"),
    [
        ("http://abc.onion", True),
        ("http://abc.onion:80/v1", True),
        ("http://x.ABC.ONION./", True),
        ("https://onion.example/.onion", False),
        ("http://[", False),
    ],
)
def test_onion_names_are_not_asked_for_without_tor(url: str, is_onion: bool) -> None:
    assert is_onion_name(host_of(url)) is is_onion


async def test_a_node_with_an_onion_address_is_asked_at_its_other_alone() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(200, json={"npub": ALICE.npub})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        await look(Prober(http), announced("http://abc.onion", "https://node.example"))
        assert asked == ["node.example"]


MODEL = {
    "id": "m",
    "context_length": 8192,
    "top_provider": {"max_completion_tokens": 1024},
    "sats_pricing": {"prompt": 0.0000015, "completion": 1e-05, "request": 0.5, "max_cost": 12.25},
}


async def test_a_plain_node_sells_what_its_list_says(http: httpx.AsyncClient) -> None:
    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [MODEL, {"id": "no price"}, 7]})

    async with serving(info=info, models=models) as url:
        found = await look(Prober(http), announced(url, plain=True))
        assert found.listed is not None
        (model,) = found.listed
        assert model.offer.price == ModelPrice(1500, 10_000, 500)
        assert (model.offer.limits.context_length, model.offer.limits.max_output_tokens) == (8192, 1024)
        assert model.least_msat == 12_250


async def test_lists_have_a_bound_together_and_the_least_promising_go_without(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "MAX_LISTED", 25)
    crowd = [Signer(bytes([0, n] * 16)) for n in range(1, 6)]

    async def info_of(request: web.Request) -> web.Response:
        return web.json_response({"npub": crowd[int(request.match_info["n"])].npub})

    async def ten(_: web.Request) -> web.Response:
        return web.json_response({"data": [{**MODEL, "id": f"{n}"} for n in range(10)]})

    app = web.Application()
    app.router.add_get("/{n}/v1/info", info_of)
    app.router.add_get("/{n}/v1/models", ten)
    async with served(app) as where:
        prober = Prober(http)
        url = f"http://{where}"
        nodes = [announced(f"{url}/{n}", signer=signer, plain=True) for n, signer in enumerate(crowd)]
        await prober.look(nodes)
        assert [len(prober.found[place_of(each)].listed or ()) for each in nodes] == [10, 10, 0, 0, 0]
        assert all(prober.found[place_of(each)].url for each in nodes)


async def test_a_silent_crowd_delays_no_request_where_others_are_alive(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "SOON_S", 0.2)
    monkeypatch.setattr(probe, "PROBE_DEADLINE_S", 60)
    monkeypatch.setattr(probe, "LOOK_DEADLINE_S", 60)

    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(600)
        return web.Response()

    async with serving(info=info) as good, serving(info=silent) as bad:
        prober = Prober(http)
        async with asyncio.timeout(20):  # one that answers at this very look is enough
            nodes = [announced(bad, signer=BOB), announced(good)]
            assert await prober.look(nodes, soon=True) == {place_of(nodes[1])}
            assert await prober.look(nodes, soon=True) == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"sats_pricing": None},
        {"sats_pricing": {"prompt": 1}},
        {"sats_pricing": {"prompt": -1, "completion": 0}},
        {"sats_pricing": {"prompt": "x", "completion": 0}},
        {"sats_pricing": {"prompt": True, "completion": 0}},
        {"sats_pricing": {"prompt": 1e30, "completion": 0}},
        {"sats_pricing": {"prompt": "NaN", "completion": 0}},
        {"enabled": False},
        {"context_length": None},
        {"context_length": 10**12},
        {"id": ""},
        {"id": "x" * 1000},
    ],
)
def test_what_has_no_price_is_not_sold(changes: dict[str, Any]) -> None:
    assert listed([{**MODEL, **changes}]) == ()
    assert len(listed([MODEL])) == 1


@pytest.mark.parametrize("price", ["9e999999", "1e-999999999", "NaN", "Infinity", "--1"])
def test_a_price_that_is_none_sinks_its_model_alone(price: str) -> None:
    odd = {**MODEL, "id": "odd", "sats_pricing": {"prompt": price, "completion": price}}
    assert [each.offer.id for each in listed([odd, MODEL]) if each.offer.id != "odd"] == [MODEL["id"]]


def test_prices_are_rounded_up_and_lists_have_an_end() -> None:
    (model,) = listed([json.loads(json.dumps({**MODEL, "sats_pricing": {"prompt": 1e-10, "completion": 0}}))])
    assert model.offer.price.prompt_msat_per_mtok == 1
    assert len(listed({**MODEL, "id": f"{n}"} for n in range(10_000))) == 2000
