"""A node that is resold, beside its answers: its list, a restart, who hears that it cheats, how long it may think."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import msgspec
import pytest
from aiohttp import web

from node.errors import UpstreamTimeout
from node.upstream.base import UpstreamRequest
from node.upstream.kinds import satroute
from node.upstream.kinds.satroute import SatrouteUpstream
from relays.endpoints import CHAT
from tests.client.cheat import TEXT, Cheat
from tests.client.purses import funded
from tests.client.till import COST_MSAT, Till, honestly
from tests.node.harness import bearer, granted_key, running_node
from tests.node.resold import ASK, PURSE_MSAT, bought, buying, not_bought_again


async def test_a_restart_begins_anew(upstream: SatrouteUpstream, cheat: Cheat, mint_url: str, folder: Path) -> None:
    Till(cheat, mint_url, honestly, cost_msat=COST_MSAT + 100)
    await bought(upstream)
    await not_bought_again(upstream, cheat, "the node kept")
    await upstream.close()
    async with buying(folder, cheat) as reborn:
        assert await reborn.models()
        Till(cheat, mint_url, honestly)
        assert TEXT in await bought(reborn)


async def test_the_list_does_not_wait_for_what_is_out(
    upstream: SatrouteUpstream,
    cheat: Cheat,
    mint_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One look for it at a time, not for ever, and heard of when it fails."""
    await upstream._tasks.drain(30)
    await upstream._payments.pay(cheat.url, mint_url, "msat", 500)
    await upstream._payments._db.run(lambda conn: conn.execute("UPDATE payments SET created_at = 0").close())

    awake = asyncio.Event()

    async def hangs(_: str) -> web.Response:
        await awake.wait()
        return web.Response(status=503)

    cheat.refund = hangs
    monkeypatch.setattr(satroute, "RECOVER_S", 0.2)
    assert await upstream.models()
    assert await upstream._tasks.drain(30) == 0
    assert "what is out at other is not back: not within 0.2 s" in caplog.text
    assert cheat.asked == ["/v1/balance/refund"]
    monkeypatch.setattr(satroute, "RECOVER_S", 100)
    async with asyncio.timeout(50):
        for _ in range(5):
            assert await upstream.models()
        while len(cheat.asked) < 2:
            await asyncio.sleep(0.01)
        assert await upstream.models()
    assert len(cheat.asked) == 2, "it is tried again, once"
    awake.set()
    assert await upstream._tasks.drain(30) == 0


async def test_callers_are_not_told_of_a_cheat_and_the_operator_is(
    folder: Path,
    http: httpx.AsyncClient,
    mint_url: str,
    cheat: Cheat,
    upstream: SatrouteUpstream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await upstream.close()
    spec = folder / "upstreams.toml"
    spec.write_text(
        f'[[upstream]]\nname = "other"\nkind = "satroute"\nbase_url = "{cheat.url}"\nwallet = "{folder / "purse"}"\n'
    )
    none = {"fixed_per_1k_input_tokens": None, "fixed_per_1k_output_tokens": None, "fixed_btc_usd": "100000"}
    async with running_node(folder, cashu_mints=mint_url, upstreams_path=spec, **none) as node:
        _, text = await granted_key(node.node, 1_000_000)
        Till(cheat, mint_url, honestly, cost_msat=COST_MSAT + 100)
        url = f"{node.url}/v1/chat/completions"
        assert (await http.post(url, json=ASK, headers=bearer(text))).status_code == 200
        async with asyncio.timeout(20):
            while "other cheated" not in caplog.text:
                await asyncio.sleep(0.05)
        reply = await http.post(url, json=ASK, headers=bearer(text))
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_unavailable")
        assert not any(word in reply.text for word in ("cheat", "kept", "bought", "restart"))
        assert (
            "other did not serve m: nothing is bought there until this node is restarted: the node kept" in caplog.text
        )
        await node.node.refresh_models()
        assert node.node.catalogue.all() == (), "what cannot be bought is not for sale"


async def test_a_node_may_think_before_its_first_word_and_not_be_silent_after_it(
    folder: Path, http: httpx.AsyncClient, mint_url: str, cheat: Cheat
) -> None:
    """How long a stream takes to begin is limited where all kinds of upstream are waited for."""
    (folder / "purse").mkdir()
    (await funded(folder / "purse" / "wallet.db", http, mint_url, PURSE_MSAT)).close()
    async with buying(folder, cheat, idle_s=0.2) as upstream:
        await upstream.models()
        Till(cheat, mint_url, honestly)
        cheat.pause_s = 0.5
        assert TEXT in await bought(upstream), "nobody said that it has begun"
        body = msgspec.json.encode(ASK)
        reply = await upstream.send(UpstreamRequest(CHAT, ASK, body, "application/json", stream=True))
        chunks = reply.chunks()
        assert await anext(chunks) == TEXT
        reply.begun()
        with pytest.raises(UpstreamTimeout):
            await anext(chunks)
        reply.close()
        await upstream._tasks.drain(30)
