"""What a newcomer runs into: an old terminal, another server's URL, a folder that cannot be. One line says what to do."""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from node.cli import local
from node.cli.console import print_json
from node.localnet.network import LocalNetwork, RunningNode
from tests.node.shopful import handled_by
from tests.system.children import satroute
from tests.system.test_cli import run


@pytest.mark.parametrize("words", [["wallet", "balance"], ["wallet", "balance", "--json"]], ids=["text", "json"])
def test_a_terminal_without_a_letter_ends_no_command(folder: Path, words: list[str]) -> None:
    """It was an error about what had been typed, after an answer that was paid, too."""
    done = subprocess.run(
        [*satroute(), *words, "--data", str(folder / "Köln ⚡")],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert "K?ln ?" in done.stdout + done.stderr


def test_json_for_such_a_terminal_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, told in (("ascii", '{"a": "\\u26a1\\ud83d\\udc18"}\n'), ("utf-8", '{"a": "⚡🐘"}\n')):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        print_json({"a": "⚡🐘"})
        assert raw.getvalue().decode() == told


async def test_what_is_no_mint_and_no_relay_is_called_so(folder: Path) -> None:
    """As is a node's own URL, which a newcomer has at hand: 'the mint says: None', 'WSServerHandshakeError'."""

    async def not_found(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "there is nothing at this path"}}, status=404)

    data = ("--data", str(folder))
    async with handled_by(not_found) as url:
        words = ("wallet", "fund", "--sats", "5", "--mint", url, *data)
        done = await asyncio.to_thread(run, *words)
        assert done.stderr == f"error: the mint {url} answers what is no mint's answer (HTTP 404): check its URL\n"
        relay = url.replace("http", "ws")
        done = await asyncio.to_thread(run, "nodes", "--relay", relay, *data)
        assert (
            done.stderr
            == f"error: no relay answered: {relay} cannot be reached (it answers HTTP 404, as no relay does)\n"
        )
        assert done.returncode == 1


def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(folder: Path) -> None:
    (folder / "file").touch()
    data = ("--data", str(folder / "file" / "wallet"))
    done = run("wallet", "fund", "--sats", "5", "--mint", "http://127.0.0.1:9", *data)
    assert done.returncode == 1
    assert done.stderr.endswith("(Not a directory): name another folder\n")


@pytest.mark.parametrize(
    ("folder_name", "env", "words"),
    [
        ("local", {}, []),
        ("my net", {}, ["--data", "{}/my net"]),
        ("local", {"SATROUTE_DATA": "/elsewhere"}, ["--data", "{}/local"]),
        ("local", {"SATROUTE_RELAYS": "wss://relay.example"}, ["--data", "{}/local", "--relay", "ws://127.0.0.1:7777"]),
    ],
    ids=["usual", "blank", "data", "relays"],
)
def test_what_up_prints_finds_its_network_when_it_is_pasted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, folder_name: str, env: dict[str, str], words: list[str]
) -> None:
    """A folder with a blank was two words; and with a wallet or relays named, the commands looked there."""
    monkeypatch.setattr(local, "ROOT", folder)
    for name in ("SATROUTE_DATA", "SATROUTE_RELAYS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    network = LocalNetwork(folder / folder_name)
    network.relay_url = "ws://127.0.0.1:7777"
    network.nodes.append(RunningNode("sprint", "http://127.0.0.1:8001"))
    (line,) = [each for each in local._recipes(network, "sk-x").splitlines() if "satroute nodes" in each]
    assert shlex.split(line)[4:] == [word.format(folder) for word in words]
