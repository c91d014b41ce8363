"""Where a buyer's commands work: all of them in the same folder, so that money is where it will be looked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NoReturn

import click
import httpx
import msgspec
import pytest
from click.testing import CliRunner

from node.cli import local as local_module
from node.cli import place as place_module
from node.cli.buyer import wallet
from node.cli.console import CommandFailed
from node.cli.local import demo, up
from node.cli.main import satroute
from node.cli.nodes import nodes
from node.cli.place import Place, place
from node.localnet.network import STATE_FILE, NetworkState
from router_client.disk.storage import exclusive
from tests.client.purses import funded

STATE = NetworkState("http://127.0.0.1:3338", "ws://127.0.0.1:7777", ())
RELAY = "wss://relay.example"


@pytest.fixture
def root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which `satroute up` once ran."""
    monkeypatch.setattr(place_module, "ROOT", folder)
    monkeypatch.delenv("SATROUTE_RELAYS", raising=False)
    (folder / "local").mkdir()
    (folder / "local" / STATE_FILE).write_bytes(msgspec.json.encode(STATE))
    return folder


def test_the_network_that_runs_here_is_the_one_that_is_meant(root: Path) -> None:
    with exclusive(root / "local" / "lock"):
        assert place(None) == Place(root / "local" / "client", (STATE.relay_url,), STATE.mint_url)


def test_a_network_that_ran_once_takes_no_money(root: Path) -> None:
    assert place(None) == Place(root / "client", (), None)


@pytest.mark.parametrize("by", ["option", "environment"])
def test_who_names_relays_has_one_wallet_whatever_runs(root: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wallet fund` has no --relay: it filled the play network's wallet, where `ask` did not look."""
    if by == "environment":
        monkeypatch.setenv("SATROUTE_RELAYS", f"{RELAY}, wss://two.example")
    relays = (RELAY,) if by == "option" else ()
    with exclusive(root / "local" / "lock"):
        assert place(None, relays).folder == root / "client"
    assert place(None, relays).folder == root / "client"
    assert place(None, relays).relays[0] == RELAY


def test_a_network_that_is_named_is_meant_though_it_has_stopped(root: Path) -> None:
    local = root / "local"
    assert place(local) == Place(local / "client", (), STATE.mint_url)
    assert place(local, (RELAY,)) == Place(local / "client", (RELAY,), STATE.mint_url)
    assert place(root / "mine", (RELAY,)) == Place(root / "mine", (RELAY,), None)


def test_a_network_starts_where_the_other_commands_will_look_for_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder was named for all of them, and `up` alone did not read it: `ask` said that no network runs."""
    begun: list[Path] = []

    def begin(folder: Path, **_: object) -> NoReturn:
        begun.append(folder)
        raise CommandFailed("that is enough")

    monkeypatch.setattr(local_module, "local_network", begin)
    named = {"SATROUTE_DATA": str(root / "mine")}
    for command, words in ((up, []), (up, ["--data", str(root / "other")]), (demo, [])):
        assert CliRunner().invoke(command, words, env=named).exit_code == 1
    assert begun[:2] == [root / "mine", root / "other"]
    assert root not in begun[2].parents, "a demo leaves nothing where money may lie"


def test_no_network_starts_on_top_of_a_wallet(root: Path) -> None:
    """Its own would hide it from every command."""
    (root / "wallet.db").touch()
    done = CliRunner().invoke(satroute, ["up"], env={"SATROUTE_DATA": str(root)})
    assert (done.exit_code, "holds a wallet" in done.stderr) == (1, True)
    assert "--data" in done.stderr


@pytest.mark.parametrize("command", [up, demo], ids=["up", "demo"])
def test_an_empty_name_is_no_networks_folder(command: click.Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network was started in the folder one was in."""
    monkeypatch.setattr(local_module, "local_network", _begins)
    done = CliRunner().invoke(command, ["--data", ""])
    assert (done.exit_code, "'.' is the one you are in" in done.stderr) == (2, True)


def test_no_real_money_goes_into_a_play_networks_wallet(root: Path) -> None:
    words = ["fund", "--sats", "5", "--mint", "https://mint.example", "--data", str(root / "local")]
    done = CliRunner().invoke(wallet, words)
    assert done.exit_code == 1
    assert "a play network's wallet" in str(done.stderr)


def test_fresh_forgets_no_real_money(root: Path, mint_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions before put it there."""
    (root / "local" / "client").mkdir()

    async def fill() -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            (await funded(root / "local" / "client" / "wallet.db", http, mint_url, 5, "sat")).close()

    asyncio.run(fill())
    monkeypatch.setattr(local_module, "is_local", lambda _: False, raising=False)
    monkeypatch.setattr(local_module, "local_network", _begins)
    done = CliRunner().invoke(up, ["--fresh", "--data", str(root / "local")])
    assert done.exit_code == 1
    assert f"holds money of {mint_url}" in done.stderr


def _begins(*_: object, **__: object) -> NoReturn:
    raise CommandFailed("the network was begun")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--relay", "https://relay.example"], "not a ws or wss URL"),
        (["--relay", "relay.example,wss://two.example"], "'relay.example' is not a ws or wss URL"),
    ],
)
def test_what_is_no_relay_is_said(root: Path, words: list[str], why: str) -> None:
    done = CliRunner().invoke(nodes, [*words, "--data", str(root)])
    assert done.exit_code == 2
    assert why in done.stderr


def test_relays_are_named_with_commas_as_a_nodes_are(root: Path) -> None:
    two, data = "ws://127.0.0.1:9,ws://127.0.0.1:10", ["--data", str(root)]
    for done in (
        CliRunner().invoke(nodes, ["--relay", two, *data]),
        CliRunner().invoke(nodes, data, env={"SATROUTE_RELAYS": f"{two}, "}),
    ):
        assert "ws://127.0.0.1:9 cannot be reached" in done.stderr
        assert "ws://127.0.0.1:10 cannot be reached" in done.stderr


def test_what_is_no_mint_is_said(root: Path) -> None:
    done = CliRunner().invoke(wallet, ["fund", "--sats", "5", "--mint", "mint.example", "--data", str(root)])
    assert done.exit_code == 2
    assert "not a http or https URL" in done.stderr
