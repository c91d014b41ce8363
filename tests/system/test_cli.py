"""The command line: one clear line for what is wrong, help with an example, and keys that add up."""

from __future__ import annotations

import json
import logging
import os
import pty
import signal
import socket
import subprocess
import time
from pathlib import Path

import click
import httpx
import pytest

from node.cli import logs
from node.cli.console import escaped, printable
from node.cli.main import satroute as command
from relays.event import Signer, npub
from tests.conftest import DEAD_MINT, DEAD_RELAY
from tests.node.harness import HELLO, bearer, running_node
from tests.system import forked
from tests.system.children import cpu_s, leashed, satroute, until


def run(*words: str, env: dict[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "SATROUTE_TOR") if name in os.environ}
    return forked.satroute(*words, env=keep | (env or {}), stdin=stdin)


def commands(group: click.Group, *path: str) -> list[list[str]]:
    found = []
    for name, sub in group.commands.items():
        found.append([*path, name])
        if isinstance(sub, click.Group):
            found += commands(sub, *path, name)
    return found


@pytest.mark.parametrize("path", commands(command), ids=" ".join)
def test_every_command_helps_with_an_example(path: list[str]) -> None:
    done = run(*path, "--help")
    assert done.returncode == 0
    leaf: click.Command = command
    for name in path:
        assert isinstance(leaf, click.Group)
        leaf = leaf.commands[name]
    if not isinstance(leaf, click.Group):
        assert "Example: satroute" in done.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--host", "0.0.0.0"], "could spend the wallet: set SATROUTE_PROXY_KEY"),
        (["--host", "0.0.0.0", "--key", "short"], "at least 16 characters"),
        (["--host", "elsewhere.invalid", "--key", "a key of some length"], "cannot listen"),
        (["--explore", "0.9"], "0<=x<=0.5"),
        (["--relay", DEAD_RELAY, "--btc-source", "nobody"], "'nobody' is none of kraken"),
    ],
    ids=["open", "short key", "no address", "share", "source"],
)
def test_the_local_endpoint_is_open_to_nobody_by_mistake(words: list[str], why: str, folder: Path) -> None:
    done = run("proxy", "--port", "0", "--data", str(folder), *words)
    assert done.returncode != 0
    assert why in done.stderr


def test_serve_without_settings_is_a_line_for_each() -> None:
    done = run("serve")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert [line.split()[1] for line in lines] == ["UPSTREAM_BASE_URL:", "CASHU_MINTS:"]
    assert done.stdout == ""


def test_serve_with_wrong_settings_is_a_line_for_each() -> None:
    good = {"FIXED_PER_1K_INPUT_TOKENS": "1", "FIXED_PER_1K_OUTPUT_TOKENS": "1"}
    wrong = {"UPSTREAM_BASE_URL": "x", "CASHU_MINTS": "y", "PORT": "z", "NSEC": "nsec1secret", "RELAYS": "http://r"}
    done = run("serve", env=good | wrong)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert sorted(line.split()[1].rstrip(":") for line in lines) == sorted(wrong)
    assert "nsec1secret" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "remedy"),
    [
        (["serve", "--env-file", "/nowhere.env"], 1, "no settings file"),
        (["nodes", "--data", "/nonexistent"], 1, "--relay"),
        (["ask", "hi", "--data", "/nonexistent"], 1, "satroute up"),
        (["wallet", "fund", "--sats", "5", "--data", "/nonexistent"], 2, "--mint"),
        (["keys", "create"], 2, "--sats"),
        (["keys", "create", "--sats", "-1"], 2, "--sats"),
        (["nothing"], 2, "No such command"),
        (["ask"], 2, "Missing argument 'QUESTION'"),
        (["ask", "hi", "--model", ""], 2, "satroute nodes lists them"),
        (["price", " "], 2, "satroute nodes lists them"),
        (["price", "auto"], 2, "satroute route says"),
        (["keys", "revoke", "9" * 30], 2, "is not in the range"),
        (["keys", "rotate", "0"], 2, "is not in the range"),
        (["nodes", "--max-price", "nan"], 2, "--max-price"),
        (["nodes", "--max-price", "1e400"], 2, "--max-price"),
        (["report", "--hours", "nan"], 2, "--hours"),
        (["budget", "--day-usd", "nan"], 2, "--day-usd"),
        (["wallet", "balance", "--data", ""], 2, "'.' is the one you are in"),
    ],
)
def test_what_is_wrong_comes_with_its_remedy(words: list[str], code: int, remedy: str) -> None:
    done = run(*words)
    assert done.returncode == code
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["ask"], ["route"], ["price", "a-model"]], ids=" ".join)
@pytest.mark.parametrize(("question", "given"), [("", ""), (" \t\n", ""), ("-", ""), ("-", " \n")])
def test_nothing_is_bought_for_an_empty_question(folder: Path, command: list[str], question: str, given: str) -> None:
    """An answer to nothing was bought."""
    words = ["--relay", DEAD_RELAY, "--data", str(folder)]
    done = run(*command, question, *words, stdin=given)
    assert done.returncode == 2
    assert 'is empty: ask something, such as "What is 2+2?"' in done.stderr
    assert list(folder.iterdir()) == []


def test_a_question_may_come_by_standard_input(folder: Path) -> None:
    done = run("ask", "-", "--relay", DEAD_RELAY, "--data", str(folder), stdin="What is 2+2?\n")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr


def test_a_dead_relay_is_said_and_nothing_is_found(folder: Path) -> None:
    done = run("nodes", "--json", "--relay", "ws://127.0.0.1:9", "--data", str(folder))
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    to_whom = npub(Signer.generate().pubkey)
    for words in (
        ["ask", "hi"],
        ["route", "hi"],
        ["route", "hi", "--explain"],
        ["price", "m"],
        ["recommend", to_whom],
        ["recommend", to_whom, "--remove"],
    ):
        asked = run(*words, "--relay", "ws://127.0.0.1:9", "--data", str(folder))
        assert asked.returncode == 1
        assert "cannot be reached" in asked.stderr, "not that nobody sells it, or that --explain says why"


async def test_the_operator_hands_out_keys_beside_a_running_node(
    folder: Path, model_url: str, http: httpx.AsyncClient
) -> None:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url) as running:
        env = {"DATA_DIR": str(folder / "node")}
        made = run("keys", "create", "--sats", "50", "--name", "alice [bold]", env=env)
        assert made.returncode == 0, made.stderr
        key = made.stdout.strip()
        assert key.startswith("sk-")
        reply = await http.post(f"{running.url}/v1/chat/completions", json=HELLO, headers=bearer(key))
        assert reply.status_code == 200
        cost_msat = int(reply.headers["x-satroute-cost-msat"])
        refund = await http.post(f"{running.url}/v1/balance/refund", headers=bearer(key))
        assert (refund.status_code, refund.json()["error"]["code"]) == (403, "not_refundable")

        second = json.loads(run("keys", "create", "--sats", "7", "--json", env=env).stdout)
        listed = json.loads(run("keys", "list", "--json", env=env).stdout)["keys"]
        assert [entry["name"] for entry in listed] == ["alice [bold]", ""]
        assert listed[0]["available_msat"] == 50_000 - cost_msat
        assert listed[0]["spent_msat"] == cost_msat
        assert key not in json.dumps(listed)
        assert "alice [bold]" in run("keys", "list", env=env).stdout

        assert run("keys", "revoke", str(second["id"]), env=env).returncode == 0
        revoked = await http.get(f"{running.url}/v1/balance", headers=bearer(second["api_key"]))
        assert revoked.status_code == 403
        assert run("keys", "revoke", "999", env=env).returncode == 1

        totals = await running.node.ledger.audit()
        assert totals.granted_msat == 57_000
        assert totals.keys_msat + totals.earned_msat == 57_000


def test_keys_are_of_a_node_that_was_named_or_is_there(folder: Path) -> None:
    """Who forgets --env-file was given a key of books that were made for it, which opens nothing."""
    lost = run("keys", "create", "--sats", "5", env={"HOME": str(folder)})
    assert lost.returncode == 1
    assert "name its settings with --env-file" in lost.stderr
    assert list(folder.iterdir()) == []
    assert run("keys", "create", "--sats", "5", env={"DATA_DIR": str(folder / "new")}).returncode == 0
    (folder / ".satroute" / "node").mkdir(parents=True)
    assert run("keys", "create", "--sats", "5", env={"HOME": str(folder)}).returncode == 0


def test_the_wallet_is_filled_emptied_and_filled_again(folder: Path, mint_url: str) -> None:
    data = ["--data", str(folder)]
    assert f"no wallet in {folder} yet" in run("wallet", "balance", *data).stdout, "there may be several"
    funded = run("wallet", "fund", "--sats", "100", "--mint", f"{mint_url}/", *data)
    assert funded.returncode == 0, funded.stderr
    assert funded.stdout.startswith("lnbc")
    assert "100 sat" in funded.stderr
    token = run("wallet", "send", "--sats", "40", *data).stdout
    assert token.startswith("cashuB")
    assert run("wallet", "send", "--sats", "4000", *data).returncode == 1
    back = run("wallet", "receive", *data, stdin=token)
    assert back.returncode == 0, back.stderr
    coins = json.loads(run("wallet", "balance", "--json", *data).stdout)["coins"]
    assert [(coin["mint"], coin["unit"]) for coin in coins] == [(mint_url, "sat")]
    assert 95 <= coins[0]["amount"] < 100, "the mint took its fee for two swaps"
    spent = run("wallet", "receive", *data, stdin=token)
    assert spent.returncode == 1
    assert "spent" in spent.stderr
    assert run("wallet", "receive", *data, stdin="garbage").returncode == 1
    assert run("wallet", "recover", *data).returncode == 0


def test_who_types_a_token_is_told_how(folder: Path) -> None:
    """At a terminal it waited without a word."""
    ours, theirs = pty.openpty()
    words = [*satroute(), "wallet", "receive", "--data", str(folder)]
    with subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as receiving:
        os.close(theirs)
        os.write(ours, b"cashuBnonsense\n\x04")
        _, told = receiving.communicate(timeout=30)
        os.close(ours)
    assert told.splitlines()[0] == "paste the token, then press Enter and Ctrl-D"
    assert receiving.returncode == 1


async def test_a_second_node_on_the_same_books_is_refused(folder: Path, model_url: str) -> None:
    """It would free the first one's holds as those of a dead process."""
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url):
        env = {
            "DATA_DIR": str(folder / "node"),
            "UPSTREAM_BASE_URL": model_url,
            "CASHU_MINTS": DEAD_MINT,
            "FIXED_PER_1K_INPUT_TOKENS": "1",
            "FIXED_PER_1K_OUTPUT_TOKENS": "1",
            "PORT": "0",
        }
        second = run("serve", env=env)
        assert second.returncode == 1
        assert "another process" in second.stderr
        assert "Traceback" not in second.stderr


def test_a_taken_port_is_one_line_before_anything_is_touched(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("serve", env={**SELLS, "DATA_DIR": str(folder / "new"), "PORT": port})
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "set another PORT" in done.stderr
    assert not (folder / "new").exists()


SELLS: dict[str, str] = {
    "UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1",
    "CASHU_MINTS": DEAD_MINT,
    "FIXED_PER_1K_INPUT_TOKENS": "1",
    "FIXED_PER_1K_OUTPUT_TOKENS": "1",
    "PORT": "0",
}


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("HOST", "no.such.host.invalid", "set another HOST"),
        ("HOST", "192.0.2.7", "set another HOST"),
        ("DATABASE_URL", "postgresql://u:p@127.0.0.1:9/x", "check DATABASE_URL"),
    ],
)
def test_what_a_node_cannot_have_is_one_line_with_its_remedy(folder: Path, name: str, value: str, remedy: str) -> None:
    done = run("serve", env={**SELLS, "DATA_DIR": str(folder / "node"), name: value})
    assert done.returncode == 1
    assert remedy in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("words", [["up"], ["demo"], ["demo", "--json"], ["nodes", "--relay", "ws://127.0.0.1:9"]])
def test_a_folder_that_cannot_be_written_is_one_line(folder: Path, words: list[str]) -> None:
    (folder / "file").write_text("")
    done = run(*words, "--data", str(folder / "file" / "x"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_fresh_removes_nothing_that_is_not_ours(folder: Path) -> None:
    (folder / "project" / "client").mkdir(parents=True)
    (folder / "project" / "client" / "mine.txt").write_text("mine")
    done = run("up", "--fresh", "--data", str(folder / "project"))
    assert done.returncode == 1
    assert "name another folder" in done.stderr
    assert (folder / "project" / "client" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(("worked_s", "delay_s"), [(0, 0.05), (0.2, 0), (0.4, 0.5), (0.4, 2.0)])
def test_an_interrupted_demo_says_so_and_leaves_nothing(folder: Path, worked_s: float, delay_s: float) -> None:
    """So long after it has used so much of a processor, which may be busy with others."""
    data = folder / "net"
    process = subprocess.Popen(
        [*satroute(), "demo", "--json", "--data", str(data)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert until(lambda: cpu_s(process.pid) >= worked_s)
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (stdout, leashed(folder)) == ("", [])
    if worked_s:  # before that, Python itself is not up yet
        assert process.returncode in (130, -signal.SIGINT), "a shell calls both 130"
        assert "Traceback" not in stderr


@pytest.mark.parametrize("words", [["budget"], ["budget", "--json"]])
def test_a_result_that_cannot_be_written_is_one_line(folder: Path, words: list[str]) -> None:
    """Into a file on a disk that is full."""
    with Path("/dev/full").open("w") as full:
        command = [*satroute(), *words, "--data", str(folder)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: the result cannot be written (No space left on device)\n"


def test_strangers_do_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\u202ec\n\td") == "a[2Jbc\n\td"
    assert escaped("[red]x\x1b") == "\\[red]x"


def test_strangers_words_make_no_lines_of_the_log() -> None:
    forged = "no list of models: x\n2026-11-21 INFO node.ledger: paid out 5 BTC\x1b[2J\r\u2028"
    record = logging.LogRecord("node.upstream", logging.WARNING, "f.py", 1, "%s", (forged,), None)
    line = logs.OneLine(logs.FORMAT).format(record)
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert "paid out 5 BTC" in line


def test_the_journal_hears_levels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `journalctl -p warning` finds what needs its reader, with each line of a trace."""
    warned = logging.LogRecord("node", logging.WARNING, "f.py", 1, "away", (), None)
    failed = logging.LogRecord("node", logging.ERROR, "f.py", 1, "broken", (), (OSError, OSError("disk"), None))
    assert logs.ForJournal(logs.FORMAT).format(warned).startswith("<4>2")
    lines = logs.ForJournal(logs.FORMAT).format(failed).splitlines()
    assert len(lines) > 1
    assert all(line.startswith("<3>") for line in lines)
    with (folder / "stderr").open("w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        there = os.fstat(stderr.fileno())
        for stream, is_one in ((f"{there.st_dev}:{there.st_ino}", True), ("1:2", False)):
            monkeypatch.setenv("JOURNAL_STREAM", stream)
            assert logs.is_journal() is is_one
