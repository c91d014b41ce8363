"""An operator sees what a node would publish before it does, and takes back what a node that crashed has left."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from pathlib import Path

from node.announcer import identifier_of
from node.config import load_settings
from node.tor.key import OnionKey
from node.tor.service import with_onion
from node.tor.settings import TorSettings
from relays import announcement, capacity, kinds
from relays.event import Signer, parse_event
from relays.pool import RelayPool
from tests.conftest import DEAD_MINT, DEAD_RELAY
from tests.node.harness import MODEL, PRICES, running_node
from tests.node.hostile import Hostile
from tests.system.test_cli import run


def settings(folder: Path, upstream_url: str, relays: str) -> dict[str, str]:
    place = {"DATA_DIR": str(folder / "node"), "RELAYS": relays, "HTTP_URL": "https://n.example"}
    return (
        place
        | {"UPSTREAM_BASE_URL": upstream_url, "CASHU_MINTS": DEAD_MINT}
        | {k.upper(): v for k, v in PRICES.items()}
    )


async def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(
    folder: Path, hostile: tuple[Hostile, str], relay_url: str
) -> None:
    env = settings(folder, hostile[1], relay_url)
    done = await asyncio.to_thread(lambda: run("announce", "--dry-run", "--json", env=env))
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["relays"] == [relay_url]
    events, now = [parse_event(raw) for raw in printed["events"]], int(time.time())
    assert [event.kind for event in events] == [38421, 0, 10002, 31900]
    (model,) = announcement.decode(events[0], now=now).models or ()
    assert model.id == MODEL
    assert capacity.decode(events[-1], now=now).state == "serving"
    async with RelayPool([relay_url]) as pool:
        assert (await pool.query({"authors": [events[0].pubkey]})).events == ()

    shown = await asyncio.to_thread(lambda: run("announce", "--dry-run", env=env))
    assert shown.returncode == 0, shown.stderr
    for words in (events[0].pubkey, "announcement", "relay list", "60 min", "10 min"):
        assert words in shown.stdout


async def test_a_dry_run_has_the_onion_that_the_running_node_has(
    folder: Path, hostile: tuple[Hostile, str], relay_url: str
) -> None:
    (folder / "hostname").write_text(f"{OnionKey(bytes(32)).name}\n")
    env = settings(folder, hostile[1], relay_url) | {"HTTP_URL": "", "TOR_ONLY": "1"}
    for name, value in (("ONION_HOSTNAME_FILE", str(folder / "hostname")), ("TOR_CONTROL", "127.0.0.1:9")):
        given = env | {name: value}
        done = await asyncio.to_thread(partial(run, "announce", "--dry-run", "--json", env=given))
        assert done.returncode == 0, done.stderr
        filled, _ = with_onion(load_settings(TorSettings, None, data_dir=folder / "node", **{name.lower(): value}))
        first = parse_event(json.loads(done.stdout)["events"][0])
        assert first.values("u") == (filled.onion_url,)
        assert first.value("d") == identifier_of([filled.onion_url])


async def test_what_a_crashed_node_left_is_taken_back(
    folder: Path, hostile: tuple[Hostile, str], relay_url: str
) -> None:
    env = settings(folder, hostile[1], f"{relay_url},{DEAD_RELAY}")
    (folder / "node").mkdir()
    left = folder / "left"
    async with running_node(
        left, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], relays=relay_url, http_url="https://n.example"
    ) as running:
        running.node.catalogue.update({"upstream": [{"id": f"m{n}"} for n in range(600)]})
        await running.node.announcer.publish()
        events = [*running.node.announcer.events(), running.node.announcer.capacity("m0")]
        env["NSEC"], author = running.node.signer.nsec(), running.node.signer.pubkey
    # It withdrew everything, so it is put there again as a crash would leave it.
    async with RelayPool([relay_url]) as pool:
        signer = Signer.parse(env["NSEC"])
        again = [
            signer.sign(kind=event.kind, content=event.content, created_at=int(time.time()) + 60, tags=event.tags)
            for event in events
        ]
        assert all([(await pool.publish(event))[relay_url].accepted for event in again])
        theirs = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT, kinds.CAPACITY], "authors": [author]}
        found = (await pool.query(theirs)).events
        assert sum(event.kind == kinds.PROVIDER_ANNOUNCEMENT for event in found) > 2
        done = await asyncio.to_thread(lambda: run("announce", "--withdraw", "--json", env=env))
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)["relays"]
        assert answers[relay_url] == "deleted"
        assert "cannot be reached" in answers[DEAD_RELAY]
        assert (await pool.query(theirs)).events == ()
    nothing = await asyncio.to_thread(lambda: run("announce", "--withdraw", env=env | {"RELAYS": relay_url}))
    assert (nothing.returncode, "is on these relays" in nothing.stderr) == (1, True)


def test_what_to_do_is_to_be_said() -> None:
    for words in ([], ["--dry-run", "--withdraw"]):
        done = run("announce", *words)
        assert done.returncode == 2
        assert "--dry-run or --withdraw" in done.stderr


async def test_an_upstream_that_is_down_is_one_line(folder: Path) -> None:
    env = settings(folder, "http://127.0.0.1:9/v1", DEAD_RELAY)
    done = await asyncio.to_thread(lambda: run("announce", "--dry-run", env=env))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error:")
    assert "Traceback" not in done.stderr
