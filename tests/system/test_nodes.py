"""`satroute nodes`, its filters and lists, and a node's own page of others, over a real relay."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from relays.announcement import Announcement, ModelOffer, encode
from relays.bounds import ModelLimits
from relays.event import Event, Signer, npub
from relays.pool import RelayPool
from relays.pricing import ModelPrice
from tests.conftest import DEAD_MINT
from tests.node.harness import running_node
from tests.system.test_cli import run

MINT = "https://mint.example"


def made(signer: Signer, name: str, model: str, msat_per_1k: int, *urls: str) -> Event:
    price = ModelPrice(msat_per_1k * 1000, msat_per_1k * 1000)
    announcement = Announcement(
        pubkey=signer.pubkey,
        identifier="x",
        urls=urls or ("http://127.0.0.1:9",),
        mints=(MINT,) if name == "cheap" else (),
        version="1",
        name=name,
        about="",
        models=(ModelOffer(model, ModelLimits(8192, 4096), price),),
        created_at=int(time.time()),
        expires_at=None,
    )
    return encode(announcement, signer)


CHEAP, DEAR = Signer.generate(), Signer.generate()


@pytest.fixture
def market(relay_url: str) -> str:
    async def publish() -> None:
        async with RelayPool([relay_url]) as pool:
            await pool.publish(made(CHEAP, "cheap", "llama-test", 10))
            await pool.publish(made(DEAR, "dear", "gpt-test", 1000, "http://abc.onion"))

    asyncio.run(publish())
    return relay_url


def listed(relay: str, folder: Path, *words: str) -> dict[str, Any]:
    done = run("nodes", "--json", "--relay", relay, "--data", str(folder), *words)
    assert done.returncode == 0, done.stderr
    ours = {npub(CHEAP.pubkey), npub(DEAR.pubkey)}
    return {node["name"]: node for node in json.loads(done.stdout)["nodes"] if node["npub"] in ours}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], {"cheap", "dear"}),
        (["--model", "GPT"], {"dear"}),
        (["--max-price", "10"], {"cheap"}),
        (["--mint", f"{MINT}/"], {"cheap"}),
        (["--onion"], {"dear"}),
        (["--alive"], set()),
    ],
)
def test_the_list_is_filtered(market: str, folder: Path, words: list[str], names: set[str]) -> None:
    assert set(listed(market, folder, *words)) == names


def test_the_users_lists_are_kept_and_seen(market: str, folder: Path) -> None:
    data = ["--data", str(folder)]
    assert "blocked" in run("block", npub(DEAR.pubkey), *data).stderr
    assert run("trust", CHEAP.pubkey, *data).returncode == 0
    assert json.loads(run("trust", "--json", *data).stdout) == {"trusted": [npub(CHEAP.pubkey)]}
    found = listed(market, folder)
    assert found["dear"]["trust"]["blocked"]
    assert found["cheap"]["trust"] == {"score": 1.0, "reasons": ["trusted by you"], "blocked": False}
    assert run("block", npub(DEAR.pubkey), "--remove", *data).returncode == 0
    assert "nobody is blocked" in run("block", *data).stdout
    wrong = run("follow", "npub1nonsense", *data)
    assert (wrong.returncode, len(wrong.stderr.strip().splitlines())) == (1, 1)
    assert run("follow", "--remove", *data).returncode == 2
    (folder / "people.json").write_text("{")
    assert run("trust", *data).returncode == 1


def test_the_table_names_them(market: str, folder: Path) -> None:
    shown = run("nodes", "--relay", market, "--data", str(folder), "--model", "gpt-test").stdout
    assert "dear" in shown
    assert "1,000" in shown
    assert "cheap" not in shown


async def test_a_node_serves_what_it_knows_and_knocks_at_nobodys_door(
    relay_url: str, folder: Path, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.api.providers.KEPT_S", 0.1)
    seller, knocked = Signer.generate(), 0

    async def knock(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocked
        knocked += 1
        writer.close()

    door = await asyncio.start_server(knock, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{door.sockets[0].getsockname()[1]}"
    settings = {"cashu_mints": DEAD_MINT, "upstream_base_url": "http://127.0.0.1:9", "relays": relay_url}
    settings["http_url"] = "http://127.0.0.1:9"
    async with door, running_node(folder, **settings) as running, RelayPool([relay_url]) as pool:
        await pool.publish(made(seller, "other", "m", 5, url))

        async def is_there() -> list[dict[str, Any]]:
            page = (await http.get(f"{running.url}/v1/providers")).json()
            assert page["object"] == "list"
            return [each for each in page["data"] if each["npub"] == seller.npub]

        async with asyncio.timeout(15):
            while not (found := await is_there()):
                await asyncio.sleep(0.1)
        assert found[0]["urls"] == [url]
        assert [model["id"] for model in found[0]["models"]] == ["m"]
    assert knocked == 0


async def test_a_nodes_page_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.api import providers
    from relays.announcement import decode
    from router_client.discovery import Provider

    now = int(time.time())
    crowd = tuple(Provider(decode(made(Signer.generate(), "x" * 500, "m", 1), now=now), None) for _ in range(60))
    monkeypatch.setattr(providers, "MAX_LISTED", 50)
    assert len(json.loads(providers._page(crowd))["data"]) == 50
    monkeypatch.setattr(providers, "MAX_BYTES", 5000)
    assert len(providers._page(crowd)) < 5100
