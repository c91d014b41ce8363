"""`GET /health` says that the process lives, `GET /ready` that it can sell, and if not, which part keeps it from that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from node import readiness
from router_client.errors import StorageError
from tests.client.mints import running_mint
from tests.conftest import DEAD_MINT
from tests.node.harness import MODEL, running_node
from tests.node.shopful import handled_by
from tests.socks import socks_port


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "KEPT_S", 0.0)


async def lists(_: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": MODEL, "context_length": 4096}]})


async def ready(http: httpx.AsyncClient, url: str) -> dict[str, str]:
    """The parts that are not ready."""
    assert (await http.get(f"{url}/health")).json() == {"status": "ok"}
    answer = await http.get(f"{url}/ready")
    if answer.status_code == 200:
        assert answer.json() == {"status": "ready"}
        return {}
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "not_ready"
    return {part: words for part, words in error.items() if part not in ("message", "type", "code", "param")}


async def test_a_node_with_all_its_parts_is_ready(
    folder: Path, http: httpx.AsyncClient, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with handled_by(lists) as up:
        settings = {"cashu_mints": f"{DEAD_MINT},{mint_url}", "upstream_base_url": f"{up}/v1"}
        async with running_node(folder, **settings) as node:
            assert await ready(http, node.url) == {}, "one mint that answers suffices"

            async def broken() -> None:
                raise StorageError("the disk is gone")

            for part, name, wrong in (
                (node.node.ledger, "earnings", broken),
                (node.node.readiness, "_folders", [folder / "a disk that is gone"]),
            ):
                with monkeypatch.context() as patch:
                    patch.setattr(part, name, wrong)
                    assert list(await ready(http, node.url)) == ["database"]
                assert await ready(http, node.url) == {}
            node.node.readiness.leaving = True
            assert list(await ready(http, node.url)) == ["node"]


async def test_a_mint_that_signs_nothing_sells_nothing(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    keysets: list[dict[str, object]] = (await http.get(f"{mint_url}/v1/keysets")).json()["keysets"]

    async def pass_on(request: web.Request) -> web.Response:
        if request.path == "/v1/keysets":
            return web.json_response({"keysets": keysets})
        answer = await http.request(request.method, f"{mint_url}{request.path_qs}", content=await request.read())
        return web.json_response(answer.json(), status=answer.status_code)

    async with (
        handled_by(pass_on) as mint,
        handled_by(lists) as up,
        running_node(folder, cashu_mints=mint, upstream_base_url=f"{up}/v1") as node,
    ):
        assert await ready(http, node.url) == {}
        for each in keysets:
            each["active"] = False
        assert list(await ready(http, node.url)) == ["mint"]
        keysets.clear()
        assert list(await ready(http, node.url)) == ["mint"]


async def test_a_mint_behind_an_onion_may_take_longer(
    folder: Path, http: httpx.AsyncClient, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with socks_port(mint__onion=mint_url) as port, handled_by(lists) as up:
        settings = {"cashu_mints": "http://mint.onion", "upstream_base_url": f"{up}/v1", "tor_socks": port.where}
        async with running_node(folder, **settings) as node:
            monkeypatch.setattr(readiness, "LOOK_S", 0.0)
            assert "mint" not in await ready(http, node.url)
            monkeypatch.setattr(readiness, "TOR_LOOK_S", 0.0)
            assert "mint" in await ready(http, node.url)


async def test_what_is_away_is_named_without_its_address(folder: Path, http: httpx.AsyncClient) -> None:
    settings = {"cashu_mints": DEAD_MINT, "upstream_base_url": "http://127.0.0.1:9/secret/v1"}
    async with running_node(folder, **settings) as node:
        problems = await ready(http, node.url)
        assert set(problems) == {"mint", "upstream", "price"}
        assert "127.0.0.1" not in str(problems)


async def test_an_upstream_that_goes_and_comes_back_is_seen(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    away = False

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=500) if away else await lists(request)

    async with (
        handled_by(answer) as up,
        running_node(folder, cashu_mints=mint_url, upstream_base_url=f"{up}/v1") as node,
    ):
        for goes in (False, True, False):
            away = goes
            await node.node.refresh_models()
            assert list(await ready(http, node.url)) == (["upstream"] if goes else [])


async def test_a_price_that_is_too_old_closes_the_shop(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    async def priced(_: web.Request) -> web.Response:
        price = {"prompt": "0.000001", "completion": "0.000002"}
        return web.json_response({"data": [{"id": MODEL, "context_length": 4096, "pricing": price}]})

    nothing_outright = {"fixed_per_1k_input_tokens": None, "fixed_per_1k_output_tokens": None}
    async with handled_by(priced) as up:
        settings = {"cashu_mints": mint_url, "upstream_base_url": f"{up}/v1", **nothing_outright}
        async with running_node(folder, **settings, btc_price_sources="http://127.0.0.1:9/#/usd") as node:
            assert list(await ready(http, node.url)) == ["price"]


async def test_many_who_ask_cost_one_look(
    folder: Path, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(readiness, "KEPT_S", 60.0)
    with running_mint(tmp_path_factory.mktemp("mint")) as mint:
        async with running_node(folder, cashu_mints=mint, upstream_base_url="http://127.0.0.1:9/v1") as node:
            asked = 0
            reach = node.node.wallet.reach

            async def counted(url: str) -> None:
                nonlocal asked
                asked += 1
                await reach(url)

            monkeypatch.setattr(node.node.wallet, "reach", counted)
            await asyncio.gather(*(http.get(f"{node.url}/ready") for _ in range(20)))
            assert asked == 1
