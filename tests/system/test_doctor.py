"""`satroute doctor`: a good configuration passes, and whatever is wrong is a line that says what to do."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from click.testing import CliRunner

from node.cli.doctor import doctor
from node.config import Settings, load_settings
from node.doctor import reach
from node.doctor.look import examine
from node.localnet.process import free_port
from relays import kinds
from relays.event import Signer
from relays.pool import RelayPool
from tests.client.test_lnurl import LnurlServer
from tests.conftest import DEAD_MINT, DEAD_RELAY, closed_to_us
from tests.node.harness import MODEL, PRICES, running_node
from tests.node.shopful import handled_by
from tests.relays.scripted import scripted_relay
from tests.socks import forbid_dns, socks_port
from tests.system import forked

PART_S = 5.0


async def lists(request: web.Request) -> web.Response:
    if request.headers.get("authorization") != "Bearer right":
        return web.json_response({"error": {"message": "no"}}, status=401)
    return web.json_response({"data": [{"id": MODEL, "context_length": 4096}]})


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    async with handled_by(lists) as url:
        yield f"{url}/v1"


def chosen(folder: Path, **settings: Any) -> Settings:
    return load_settings(Settings, None, **{"data_dir": folder / "node", **PRICES, **settings})


async def states(settings: Settings) -> dict[str, tuple[str, str]]:
    """By part: the worst state, and its line."""
    found = sorted(await examine(settings, PART_S), key=lambda each: ["ok", "note", "wrong"].index(each.state))
    assert all(each.remedy for each in found if each.state == "wrong")
    return {each.part: (each.state, f"{each.words} → {each.remedy}") for each in found}


async def test_a_node_that_runs_well_passes(
    folder: Path, http: httpx.AsyncClient, mint_url: str, relay_url: str, upstream: str
) -> None:
    port = free_port()
    settings = {
        "cashu_mints": mint_url,
        "upstream_base_url": upstream,
        "upstream_api_key": "right",
        "relays": relay_url,
    }
    async with running_node(folder, port=port, http_url=f"http://127.0.0.1:{port}", **settings) as node:
        await node.node.announcer.publish()
        env = {name.upper(): value for name, value in {**settings, **PRICES}.items()}
        env |= {"PATH": os.environ["PATH"], "HOME": str(folder), "DATA_DIR": str(folder / "node"), "HTTP_URL": node.url}
        done = await asyncio.to_thread(forked.satroute, "doctor", "--json", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert told["ok"] is True
        assert {each["part"] for each in told["findings"]} == {
            *("data", "clock", "mint", "upstream", "price", "relay", "url")
        }
        assert {each["state"] for each in told["findings"]} == {"ok"}
        async with RelayPool([relay_url]) as pool:
            left = await pool.query({"kinds": [reach.APP_DATA], "authors": [node.node.signer.pubkey]})
        assert left.events == (), "it leaves nothing behind"
    (folder / "open.env").write_text(f"CASHU_MINTS={DEAD_MINT}\n")
    (folder / "open.env").chmod(0o644)
    del env["CASHU_MINTS"]
    told_of = await asyncio.to_thread(forked.satroute, "doctor", "--env-file", str(folder / "open.env"), env=env)
    assert told_of.returncode == 1
    assert f"wrong mint     {DEAD_MINT}" in told_of.stdout
    assert "chmod o-rwx" in told_of.stdout


async def test_whatever_is_away_is_named_with_its_remedy(folder: Path, upstream: str) -> None:
    found = await states(
        chosen(
            folder,
            cashu_mints=DEAD_MINT,
            upstream_base_url=upstream,
            upstream_api_key="wrong",
            relays=DEAD_RELAY,
            http_url="http://127.0.0.1:9",
        )
    )
    assert {part for part, (state, _) in found.items() if state == "wrong"} == {"mint", "upstream", "relay"}
    assert "CASHU_MINTS" in found["mint"][1]
    assert "API key" in found["upstream"][1]
    assert "RELAYS" in found["relay"][1]
    assert found["url"][0] == "note", "it cannot answer while it does not run"
    assert not (folder / "node" / "nsec").exists(), "a look makes no key"


async def test_onions_without_tor_are_lines_beside_the_others(folder: Path) -> None:
    urls = {"cashu_mints": "http://x.onion", "upstream_base_url": "http://x.onion/v1", "relays": "ws://x.onion"}
    found = await states(chosen(folder, **urls, http_url="http://127.0.0.1:9"))
    for part in ("mint", "upstream", "relay"):
        state, line = found[part]
        assert (state, "TOR_SOCKS" in line) == ("wrong", True)
    assert found["data"][0] == "ok"


@pytest.mark.parametrize("through_tor", [False, True])
async def test_a_node_that_is_resold_is_asked_by_the_way_of_upstreams(
    folder: Path, monkeypatch: pytest.MonkeyPatch, through_tor: bool
) -> None:
    """Which is the operator's choice, whatever the node's other calls do."""
    asked: list[str] = []

    async def there(request: web.Request) -> web.Response:
        asked.append(request.host)
        return web.json_response({})

    async with handled_by(there) as url, socks_port(other__test=url) as port:
        looked_up = forbid_dns(monkeypatch)
        spec = {"name": "other", "kind": "satroute", "base_url": "http://other.test" if through_tor else url}
        lines = [f"{name} = {json.dumps(value)}" for name, value in {**spec, "tor": through_tor}.items()]
        (folder / "upstreams.toml").write_text("\n".join(["[[upstream]]", *lines]))
        more = {"upstreams_path": folder / "upstreams.toml", "tor_socks": port.where, "tor_only": not through_tor}
        await states(chosen(folder, cashu_mints="http://mint.onion", **more))
        assert set(asked) == {"other.test" if through_tor else url.removeprefix("http://")}
        assert {host for purpose, host in port.asked if purpose != "mints"} == (
            {"other.test"} if through_tor else set()
        )
    assert looked_up == []


async def test_a_relay_that_takes_and_forgets_is_found_out() -> None:
    async with scripted_relay() as scripted:
        finding = await reach.relay(scripted.url, Signer.generate(), PART_S)
    assert finding.state == "wrong"
    assert "does not give it back" in finding.words


async def test_a_relay_that_has_not_the_running_nodes_announcement_is_told_of(relay_url: str) -> None:
    signer = Signer.generate()
    assert (await reach.relay(relay_url, signer, PART_S)).state == "ok"
    missing = await reach.relay(relay_url, signer, PART_S, is_announced=True)
    assert (missing.state, "GET /v1/info" in missing.remedy) == ("note", True)
    async with RelayPool([relay_url]) as pool:
        kind, tags = kinds.PROVIDER_ANNOUNCEMENT, [["d", "satroute"], ["u", "https://n.example"]]
        await pool.publish(signer.sign(kind=kind, content="{}", created_at=int(time.time()), tags=tags))
    assert (await reach.relay(relay_url, signer, PART_S, is_announced=True)).state == "ok"


async def test_an_address_for_earnings_that_takes_none_is_told_of(folder: Path, mint_url: str, upstream: str) -> None:
    service = LnurlServer(mint_url)
    try:
        settings = {"cashu_mints": mint_url, "upstream_base_url": upstream, "allow_local_addresses": True}
        found = await states(chosen(folder, **settings, receive_ln_address=service.address))
        assert found["payout"][0] == "ok"
        found = await states(chosen(folder, **settings, receive_ln_address=service.address, minimum_payout=20_000))
        assert found["payout"][0] == "note"
        assert "takes from 1000 to 10000000 msat" in found["payout"][1]
        assert "RECEIVE_LN_ADDRESS" in found["payout"][1]
    finally:
        await asyncio.to_thread(service.close)


async def test_another_node_at_the_url_is_found_out(folder: Path, mint_url: str, upstream: str) -> None:
    async def other(_: web.Request) -> web.Response:
        return web.json_response({"npub": Signer.generate().npub})

    async with handled_by(other) as url, running_node(folder, cashu_mints=mint_url, upstream_base_url=upstream):
        found = await states(chosen(folder, cashu_mints=mint_url, upstream_base_url=upstream, http_url=url))
    assert found["url"][0] == "wrong"
    assert "another answers there" in found["url"][1]


async def test_a_clock_that_is_wrong_and_a_mint_without_its_unit(folder: Path, upstream: str) -> None:
    async def mint(request: web.Request) -> web.Response:
        body: dict[str, Any] = {"keysets": []} if "keysets" in request.path else {"nuts": {}}
        return web.json_response(body, headers={"date": formatdate(1_000_000_000, usegmt=True)})

    async with handled_by(mint) as url:
        found = await states(chosen(folder, cashu_mints=url, upstream_base_url=upstream, upstream_api_key="right"))
    assert found["clock"][0] == "wrong"
    assert "ahead" in found["clock"][1]
    assert "PRIMARY_MINT_UNIT" in found["mint"][1]


async def test_no_price_of_bitcoin(folder: Path, mint_url: str) -> None:
    async def priced(_: web.Request) -> web.Response:
        price = {"prompt": "0.000001", "completion": "0.000002"}
        return web.json_response({"data": [{"id": MODEL, "context_length": 4096, "pricing": price}]})

    nothing_outright = dict.fromkeys(PRICES)
    async with handled_by(priced) as url:
        settings = {"cashu_mints": mint_url, "upstream_base_url": f"{url}/v1", **nothing_outright}
        found = await states(chosen(folder, **settings, btc_price_sources="http://127.0.0.1:9/#/usd"))
        assert found["price"][0] == "wrong"
        found = await states(chosen(folder, **settings, fixed_btc_usd="100000"))
        assert found["price"][0] == "ok"
        (folder / "models.json").write_text('[{"id": "another name"}]')
        found = await states(chosen(folder, **settings, fixed_btc_usd="100000", models_path=folder / "models.json"))
        assert found["price"][0] == "wrong"
        assert "compare the names in MODELS_PATH with the upstreams' lists" in found["price"][1]


async def test_keys_that_others_can_read(folder: Path, mint_url: str, upstream: str) -> None:
    settings = chosen(folder, cashu_mints=mint_url, upstream_base_url=upstream)
    settings.signer()
    assert (await states(settings))["data"][0] == "ok"
    (settings.data_dir / "nsec").chmod(0o644)
    state, line = (await states(settings))["data"]
    assert state == "wrong"
    assert "chmod 600" in line
    settings.unfinished_path.touch()
    state, line = (await states(settings))["data"]
    assert state == "wrong"
    assert "broke off half way → give `satroute restore`" in line


async def test_an_onion_is_asked_through_tor(
    folder: Path, mint_url: str, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"cashu_mints": mint_url, "upstream_base_url": upstream, "onion_url": "http://abc.onion"}
    async with running_node(folder, **given) as node, socks_port(abc__onion=node.url) as port:
        asked = forbid_dns(monkeypatch)
        assert (await states(chosen(folder, **given, tor_socks=port.where)))["onion"][0] == "ok"
        assert ("nodes", "abc.onion") in port.asked
        port.add("abc.onion", upstream)
        other = (await states(chosen(folder, **given, tor_socks=port.where)))["onion"]
        assert (other[0], "another answers" in other[1]) == ("wrong", True)
        for socks in ("", "127.0.0.1:9"):
            state, line = (await states(chosen(folder, **given, tor_socks=socks)))["onion"]
            assert (state, "TOR_SOCKS" in line) == ("wrong", True)
    assert asked == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"run_tor": True}, "tor is not installed → apt-get install tor"),
        (
            {"tor_control": "127.0.0.1:9"},
            "no tor answers at 127.0.0.1:9 (Connection refused) → start it, with ControlPort",
        ),
        ({"tor_control": "COOKIE"}, "/cookie cannot be read (No such file or directory) → let the node's user into"),
        ({"tor_control": "PROGRESS"}, "is at 10 % of joining its network → wait a moment"),
        ({"tor_only": True, "tor_socks": "127.0.0.1:9"}, "no SOCKS port answers at 127.0.0.1:9 → start tor"),
        ({"onion_hostname_file": "/nowhere/hostname"}, "/nowhere/hostname: No such file or directory → start tor"),
    ],
)
async def test_a_tor_that_is_of_no_use_is_named_with_its_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("node.doctor.tor.NAME_S", 0.0)
    ways = {"COOKIE": f'SAFECOOKIE COOKIEFILE="{folder}/cookie"', "PROGRESS": "NULL"}
    async with scripted_tor(ways.get(given.get("tor_control", ""), "")) as where:
        if given.get("tor_control") in ways:
            given = {"tor_control": where}
        found = await states(chosen(folder, cashu_mints=DEAD_MINT, upstream_base_url="http://127.0.0.1:9", **given))
    assert found["tor"][0] == "wrong"
    assert words in found["tor"][1]


@asynccontextmanager
async def scripted_tor(methods: str) -> AsyncIterator[str]:
    """What says that it is to be asked so, and that it begins to join its network."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = {b"PROTOCOLINFO": f"AUTH METHODS={methods}", b"GETINFO": "status/bootstrap-phase=NOTICE PROGRESS=10"}
        while line := await reader.readline():
            writer.write(f"250-{told.get(line.split()[0], '')}\r\n250 OK\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_a_folder_of_another_user_is_one_line(folder: Path) -> None:
    (folder / "node").mkdir()
    env = {"DATA_DIR": str(folder / "node"), "UPSTREAM_BASE_URL": "http://127.0.0.1:9", "CASHU_MINTS": DEAD_MINT}
    env |= {name.upper(): value for name, value in PRICES.items()}
    with closed_to_us(folder):
        done = CliRunner().invoke(doctor, env=env)
    assert done.exit_code == 1
    assert f"{folder}/node is another user's → run this as the node's own user" in done.stdout


async def test_settings_that_are_wrong_are_lines_too() -> None:
    done = await asyncio.to_thread(forked.satroute, "doctor", "--json", env={"PATH": os.environ["PATH"]})
    assert done.returncode == 1
    assert {each["part"] for each in json.loads(done.stdout)["findings"]} == {"settings"}
