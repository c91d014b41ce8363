"""Whoever only looks makes nothing: no wallet with a seed that nobody wrote down, no folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relays.event import Signer, npub
from tests.conftest import DEAD_RELAY
from tests.system.test_cli import run

KEY = npub(Signer.generate().pubkey)


def test_where_there_is_no_wallet_that_is_said_and_none_is_made(folder: Path) -> None:
    data = ("--data", str(folder / "none here"))
    done = run("wallet", "balance", *data)
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"no wallet in {folder / 'none here'} yet; `satroute wallet fund --data ")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("wallet", "balance", "--json", *data)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"coins": [], "out": [], "unread": []})
    (line,) = done.stderr.splitlines()
    assert line.startswith("no wallet in ")
    assert not (folder / "none here").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["report"], 0, "nothing was spent"),
        (["report", "--json"], 0, '"request_count": 0'),
        (["budget"], 0, "nothing is limited"),
        (["trust"], 0, "nobody is trusted"),
        (["follow", "--json"], 0, '"followed": []'),
        (["wallet", "send", "--sats", "5"], 1, "no wallet in "),
        (["wallet", "recover"], 0, "no wallet in "),
        (["wallet", "receive"], 1, "not a Cashu token"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_who_looks_makes_nothing(folder: Path, words: list[str], code: int, told: str) -> None:
    done = run(*words, "--data", str(folder / "none"))
    assert done.returncode == code
    assert told in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).splitlines()) == 1
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    "words", [["nodes"], ["route", "Hi."], ["price", "m"], ["recommend", KEY]], ids=lambda words: words[0]
)
def test_who_asks_who_is_there_makes_no_wallet(folder: Path, words: list[str]) -> None:
    """What was heard of nodes is kept, and nothing that holds money."""
    run(*words, "--relay", DEAD_RELAY, "--data", str(folder))
    assert not list(folder.glob("wallet.db*"))
    assert not list(folder.glob("payments.db*"))


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["revoke", "1"], ["rotate", "1"]], ids=" ".join)
def test_who_looks_for_keys_makes_no_books(folder: Path, words: list[str]) -> None:
    done = run("keys", *words, env={"DATA_DIR": str(folder / "none")})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"error: there are no books at {folder / 'none' / 'ledger.db'} yet; `satroute keys create"
    )
    assert not (folder / "none").exists()
