"""`satroute nodes`, its filters and lists, and a node's own page of others, over a real relay."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from rich.console import Console

from node.cli.nodes import Wanted, nodes_table
from relays import capacity
from relays.announcement import Announcement, ModelOffer, decode, encode, withdrawal
from relays.bounds import ModelLimits
from relays.capacity import Capacity
from relays.deletion import deletion
from relays.event import Event, Signer, npub
from relays.pool import RelayPool
from relays.pricing import ModelPrice
from router_client.discovery.directory import Provider, figures_of
from router_client.discovery.trust import Trust
from tests.client.test_selection import provider as made_provider
from tests.conftest import DEAD_MINT, DEAD_RELAY
from tests.node.harness import running_node
from tests.socks import socks_port
from tests.system.children import satroute
from tests.system.test_cli import run
from tests.system.test_unread import UNREAD, unread

NOW = int(time.time())
MINT = "https://mint.example"


def made(signer: Signer, name: str, model: str, msat_per_1k: int, *urls: str, at: int = 0) -> Event:
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
        created_at=at or int(time.time()),
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


def test_keys_can_be_copied(market: str, folder: Path) -> None:
    """The table has their first letters alone, and `block` wants them whole."""
    data = ("--data", str(folder))
    listed = run("nodes", "--relay", market, "--npub", *data).stdout.splitlines()
    assert f"{npub(DEAR.pubkey)} dear" in listed
    part = run("block", f"{npub(DEAR.pubkey)[:12]}…", *data)
    assert part.returncode == 1
    assert "satroute nodes --npub" in part.stderr


def test_a_node_is_recommended_and_that_is_taken_back(market: str, folder: Path) -> None:
    words = ["--relay", market, "--data", str(folder)]
    done = run("recommend", npub(CHEAP.pubkey), "good", "--json", *words)
    (event,) = json.loads(done.stdout)["events"]
    assert ["k", "38421"] in event["tags"]
    assert "no longer" in run("recommend", npub(CHEAP.pubkey), "--remove", *words).stderr
    for wrong in (["--remove"], ["x" * 3000]):
        again = run("recommend", npub(CHEAP.pubkey), *wrong, *words)
        assert again.returncode == (1 if wrong == ["--remove"] else 2), again.stderr
        assert "Traceback" not in again.stderr


@pytest.mark.parametrize("how", [[], ["--json"], ["--npub"], ["--watch"]], ids=" ".join)
def test_a_list_whose_reader_leaves_ends_without_a_word(market: str, folder: Path, how: list[str]) -> None:
    done = unread("nodes", *how, "--relay", market, "--data", str(folder))
    assert (done.returncode, done.stderr) == (UNREAD, "")


def test_the_table_names_them(market: str, folder: Path) -> None:
    shown = run("nodes", "--relay", market, "--data", str(folder), "--model", "gpt-test").stdout
    assert "dear" in shown
    assert "1,000" in shown
    assert "cheap" not in shown


@pytest.mark.parametrize("width", [80, 100, 125, 160])
def test_prices_are_whole_on_every_terminal(width: int) -> None:
    """On one of 80 columns, 2,000 msat was `2,0…`."""
    prices = ModelPrice(12_345_678_000, 87_654_321_000, 1_234_567)
    sellers = [made_provider("a node with a name", ("a-model-with-a-long-name-of-today", prices), url=None)]
    console = Console(width=width, file=io.StringIO())
    console.print(nodes_table(sellers, Wanted(), width))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert all(price in shown for price in ("12,345,678", "87,654,321", "1,234,567"))
    assert max(map(len, shown.splitlines())) <= width


async def test_how_busy_a_node_is_stands_in_the_table_and_in_json(market: str, folder: Path) -> None:
    said = Capacity(
        pubkey=DEAR.pubkey,
        identifier="x",
        capacity=0,
        max_concurrent=8,
        in_flight=8,
        tokens_per_s=58,
        model="gpt-test",
        price_msats=2500,
        created_at=NOW,
        expires_at=NOW + 600,
    )
    event = capacity.encode(said, DEAR)
    async with RelayPool([market]) as pool:
        await pool.publish(event)
        words = ["--relay", market, "--data", str(folder), "--model", "gpt-test"]
        shown = (await asyncio.to_thread(lambda: run("nodes", *words))).stdout
        assert "8/8 full 58 t/s" in shown
        assert "2,500" in shown
        found = await asyncio.to_thread(lambda: listed(market, folder, "--model", "gpt-test"))
        assert found["dear"]["capacity"] == figures_of(said)
        await pool.publish(deletion((event,), DEAR, NOW + 1))


async def lines_of(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    """The nodes of each line of JSON, by name."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        yield {node["name"]: node for node in json.loads(line)["nodes"]}


async def test_a_watch_shows_who_comes_changes_and_goes_until_it_is_interrupted(relay_url: str, folder: Path) -> None:
    signer, model = Signer.generate(), f"watched-{time.time_ns()}"
    words = ["nodes", "--watch", "--json", "--model", model, "--relay", relay_url, "--data", str(folder)]
    process = await asyncio.create_subprocess_exec(*satroute(), *words, stdout=PIPE, stderr=PIPE, limit=2**20)
    async with asyncio.timeout(50), RelayPool([relay_url]) as pool:
        lines = lines_of(process)
        assert await anext(lines) == {}
        first = made(signer, "first", model, 10)
        await pool.publish(first)
        assert (await anext(lines))["first"]["models"][0]["price"]["prompt_msat_per_mtok"] == 10_000
        dearer = made(signer, "dearer", model, 20, at=first.created_at + 1)
        await pool.publish(dearer)
        assert (await anext(lines))["dearer"]["models"][0]["price"]["prompt_msat_per_mtok"] == 20_000
        await pool.publish(withdrawal(dearer, signer, dearer.created_at + 1))
        assert await anext(lines) == {}
        process.send_signal(signal.SIGINT)
        assert [line async for line in lines] == []
        assert process.stderr is not None
        errors = (await process.stderr.read()).decode()
        assert (await process.wait(), "Traceback" in errors) == (130, False), errors


async def test_without_a_terminal_the_table_is_printed_for_each_change(market: str, folder: Path) -> None:
    words = ["nodes", "--watch", "--model", "gpt-test", "--relay", market, "--data", str(folder)]
    process = await asyncio.create_subprocess_exec(*satroute(), *words, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while b"dear" not in await process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        await process.communicate()
        assert process.returncode == 130


async def test_a_node_that_can_hear_nobody_any_more_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("router_client.discovery.directory.Directory._follow", broken)
    settings = {"cashu_mints": DEAD_MINT, "upstream_base_url": "http://127.0.0.1:9", "relays": DEAD_RELAY}
    settings["http_url"] = "http://127.0.0.1:9"
    async with running_node(folder, **settings), asyncio.timeout(10):
        while "listen to relays failed" not in caplog.text:
            await asyncio.sleep(0.05)
    assert "ZeroDivisionError" in caplog.text


async def test_relays_are_asked_through_tor_where_nothing_else_may_be(market: str, folder: Path) -> None:
    async with socks_port(relay__test=market) as port:
        words = ["--json", "--data", str(folder), "--relay", "ws://relay.test", "--tor-only", "--tor", port.where]
        done = await asyncio.to_thread(run, "nodes", *words)
        assert npub(CHEAP.pubkey) in done.stdout, done.stderr
        assert ("relays", "relay.test") in port.asked
        assert ("nodes", "abc.onion") in port.asked


def test_tor_that_is_not_there_is_one_line(folder: Path) -> None:
    data = ["--data", str(folder), "--relay", "ws://relay.test"]
    assert run("nodes", *data, "--tor", "9050").returncode == 2
    done = run("nodes", *data, "--tor-only", "--tor", "127.0.0.1:9")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert "Tor made no connection" in done.stderr


async def test_a_node_serves_what_it_knows_and_knocks_at_nobodys_door(
    relay_url: str, folder: Path, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.api.providers.KEPT_S", 0.1)
    monkeypatch.setattr("router_client.discovery.directory.QUIET_S", 0.2)
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
        assert found[0]["capacity"] is None
        said = Capacity(
            pubkey=seller.pubkey, identifier="x", capacity=2, max_concurrent=5, created_at=NOW, expires_at=NOW + 600
        )
        await pool.publish(capacity.encode(said, seller))
        async with asyncio.timeout(30):
            while (figures := (await is_there())[0]["capacity"]) is None:
                await asyncio.sleep(0.1)
        assert figures == figures_of(said)
    assert knocked == 0


async def test_a_nodes_page_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.api import providers

    now = int(time.time())
    crowd = tuple(Provider(decode(made(Signer.generate(), "x" * 500, "m", 1), now=now), None) for _ in range(60))
    monkeypatch.setattr(providers, "MAX_LISTED", 50)
    assert len(json.loads(providers._page(crowd))["data"]) == 50
    monkeypatch.setattr(providers, "MAX_BYTES", 5000)
    assert len(providers._page(crowd)) < 5100


def test_a_crowd_of_newcomers_pushes_nobody_off_a_nodes_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.api import providers

    monkeypatch.setattr(providers, "MAX_LISTED", 50)
    now = int(time.time())
    old = [Provider(decode(made(Signer.generate(), f"old{n}", "m", 1, at=now - 60), now=now), None) for n in range(40)]
    crowd = [Provider(decode(made(Signer.generate(), "fake", "m", 1, at=now), now=now), None) for _ in range(60)]
    trusted = msgspec.structs.replace(crowd[-1], trust=Trust(1.0))
    page = json.loads(providers._page((*old, *crowd[:-1], trusted)))["data"]
    assert [each["npub"] for each in page[:41]] == [each.npub for each in (trusted, *old)]
