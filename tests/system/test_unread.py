"""Whoever reads a command's result may leave (`satroute nodes | head -1`): it ends without a word, and no money is lost."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest

from relays.event import Signer, npub
from tests.client.mints import running_mint
from tests.system.children import satroute
from tests.system.test_cli import run

UNREAD = 141
KEY = npub(Signer.generate().pubkey)


def unread(*words: str, also_errors: bool = False, buffered: bool = True) -> subprocess.CompletedProcess[str]:
    """What becomes of a command that writes to a pipe without a reader."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            [*satroute(), *words],
            stdout=writing,
            stderr=writing if also_errors else subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)


@pytest.mark.parametrize(
    ("words", "buffered"),
    [
        (["--help"], True),
        (["--version"], False),
        (["budget"], True),
        (["budget", "--json"], True),
        (["report"], False),
        (["block", KEY, "--json"], False),
        (["wallet", "balance"], True),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else "",
)
def test_it_ends_without_a_word(folder: Path, words: list[str], buffered: bool) -> None:
    data = [] if words[0].startswith("--") else ["--data", str(folder)]
    done = unread(*words, *data, buffered=buffered)
    assert (done.returncode, done.stderr) == (UNREAD, "")


def test_errors_that_nobody_reads_end_it_as_well(folder: Path) -> None:
    assert unread("keys", "revoke", "x", also_errors=True).returncode == UNREAD
    assert unread("nodes", "--data", str(folder / "none"), also_errors=True).returncode == UNREAD


@pytest.mark.parametrize(("stream", "code"), [("<&-", 0), (">&-", 1), ("2>&-", 0)])
def test_a_stream_that_is_closed_is_no_fault_of_the_program(folder: Path, stream: str, code: int) -> None:
    words = ["sh", "-c", f'exec "$@" {stream}', "sh", *satroute(), "budget", "--data", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    told = "error: the result cannot be written (Bad file descriptor)\n"
    assert done.stderr == (told if code else "")


@pytest.mark.parametrize("how", [[], ["--json"]], ids=["text", "json"])
def test_a_key_that_nobody_has_seen_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch, how: list[str]) -> None:
    monkeypatch.setenv("DATA_DIR", str(folder))
    done = unread("keys", "create", "--sats", "5", *how)
    assert done.returncode == UNREAD
    assert "Traceback" not in done.stderr
    (listed,) = json.loads(run("keys", "list", "--json", env={"DATA_DIR": str(folder)}).stdout)["keys"]
    assert listed["revoked"]


def test_a_token_that_nobody_has_seen_is_taken_back(folder: Path, mint_url: str) -> None:
    """It is money: the wallet had given it away, and it was nowhere."""
    data = ("--data", str(folder))
    assert run("wallet", "fund", "--sats", "100", "--mint", mint_url, *data).returncode == 0
    done = unread("wallet", "send", "--sats", "40", *data)
    assert (done.returncode, done.stderr) == (UNREAD, "")
    held = run("wallet", "balance", *data).stdout.split()[0]
    assert 95 <= int(held) < 100, "the mint took its fee for two swaps"


@pytest.mark.parametrize(("fee_ppk", "code"), [(0, UNREAD), (100, 1)], ids=["as they are", "swapped"])
def test_a_token_that_nobody_has_seen_while_its_mint_is_away_is_told_of_and_comes_back(
    folder: Path, fee_ppk: int, code: int
) -> None:
    """Coins that fit leave without the mint: the token was nowhere. Where a swap was begun, the next `recover` made a token
    of it, for nobody."""
    data = ("--data", str(folder / "wallet"))
    with running_mint(folder / "mint", input_fee_ppk=fee_ppk) as url:
        assert run("wallet", "fund", "--sats", "100", "--mint", url, *data).returncode == 0
    done = unread("wallet", "send", "--sats", "4", *data)
    assert done.returncode == code
    assert "`satroute wallet recover` takes them back" in done.stderr
    listed = json.loads(run("wallet", "balance", "--json", *data).stdout)
    (waits,) = listed["unread"]
    assert waits["amount"] + sum(coins["amount"] for coins in listed["coins"]) == 100
    assert "`satroute wallet recover` takes them back" in run("wallet", "balance", *data).stdout
    assert "takes them back" in run("wallet", "recover", *data).stderr, "the mint is still away"
    with running_mint(folder / "mint", input_fee_ppk=fee_ppk, port=httpx.URL(url).port):
        assert "came back" in run("wallet", "recover", *data).stderr
    listed = json.loads(run("wallet", "balance", "--json", *data).stdout)
    assert listed["unread"] == []
    (held,) = (coins["amount"] for coins in listed["coins"])
    assert held == 100 if fee_ppk == 0 else 95 <= held < 100
