"""`satroute up`: all starts, is told of, and stops: at Ctrl-C, after a crash of a part, and when it is killed itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai

from tests.system import forked
from tests.system.children import leashed, running, satroute, until


@contextlib.contextmanager
def up(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running network and what it printed once it was ready."""
    log = folder / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*satroute(), "up", "--data", str(folder / "net"), *options], stdout=out, stderr=out)
    try:
        ready = until(lambda: "Ctrl-C stops everything" in log.read_text() or process.poll() is not None, 90)
        assert ready, log.read_text()
        assert process.poll() is None, log.read_text()
        yield process, log.read_text()
    finally:
        process.kill()
        process.wait()


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match.group(1)


def buys_within_a_budget(data: list[str]) -> None:
    """`route` says where a request would go, `ask` buys it, `report` says what it cost, and `budget` stops the next."""
    routed = json.loads(run("route", "What is 2+2?", "--max-tokens", "10", "--explain", "--json", *data))
    assert {each["name"] for each in routed["candidates"]} == {"marathon", "sprint"}
    assert routed["candidates"][0]["factors"].keys() >= {"trust", "failures", "time", "load"}
    assert "x1" in run("route", "What is 2+2?", "--explain", *data)
    limits = ("--day", "1000", "--request-usd", "1")
    assert "1 USD a request" in forked.satroute("budget", *limits, *data, env=os.environ).stderr
    assert "at most 1,000 sat a day" in run("budget", *data), "what is asked for is a result"
    assert "price of bitcoin" in forked.satroute("ask", "What is 2+2?", *data, env=os.environ).stderr
    in_usd = ("--btc-usd", "100000", "--max-usd", "0.9")
    answer = json.loads(run("ask", "What is 2+2?", "--max-tokens", "10", "--json", *in_usd, *data))
    assert answer["verified"]
    assert answer["text"]
    assert answer["budget_left_msat"] == 1_000_000 - answer["cost_msat"]
    spent = json.loads(run("report", "--json", *data))
    assert spent["spend_msat"] == answer["cost_msat"] == spent["per_node"][answer["node"]]["spend_msat"]
    assert "1 requests" in run("report", *data)
    run("budget", "--none", "--day", "0", *data)
    refused = forked.satroute("ask", "What is 2+2?", *data, env=os.environ)
    assert (refused.returncode, "budget" in refused.stderr) == (1, True)
    run("budget", "--none", *data)


def test_it_serves_what_it_prints_survives_a_crash_and_stops_at_ctrl_c(folder: Path) -> None:
    with up(folder) as (process, text):
        assert "play money" in text
        url, key = found(r"curl (http://\S+)/v1/chat", text), found(r"KEY=(sk-\S+)", text)
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key) as sdk:
            message = {"role": "user", "content": "Hello"}
            chat = sdk.chat.completions.create(model="smollm2-135m", messages=[message], max_tokens=5)  # type: ignore[list-item]
            assert chat.choices[0].message.content

        data = ["--data", str(folder / "net")]
        listed = run("nodes", "--json", *data)
        assert sorted(node["name"] for node in json.loads(listed)["nodes"]) == ["marathon", "sprint"]
        priced = json.loads(run("price", "smollm2-135m", "What is 2+2?", "--max-tokens", "10", "--json", *data))[
            "quotes"
        ]
        assert len({each["quote"]["expected_msat"] for each in priced}) == 2
        buys_within_a_budget(data)

        second = forked.satroute("up", *data, env=os.environ)
        assert second.returncode == 1
        assert "already" in second.stderr

        parts = leashed(folder)
        assert len(parts) == 5
        kill_part(folder, "node.localnet.relay")
        assert until(lambda: "the relay ended" in (folder / "up.log").read_text())
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert leashed(folder) == []

    # Runs that are interrupted half-way leave the folder good.
    for delay in (1.0, 2.5):
        half = subprocess.Popen([*satroute(), "up", *data], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        half.send_signal(signal.SIGINT)
        half.wait(30)
    assert leashed(folder) == []
    down = json.loads(run("wallet", "balance", "--json", *data))
    assert down["coins"], "the wallet is found when the network is down, too"

    # A second run on other ports: the mint's port is taken, and yet the money of the first run is good.
    mint_port = int(found(r"mint\S*\s+http://127.0.0.1:(\d+)", text))
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", mint_port))
        squatter.listen()
        with up(folder) as (process, again):
            assert f":{mint_port}\n" not in again.replace("│", "\n")
            url = found(r"curl (http://\S+)/v1/chat", again)
            old = httpx.get(f"{url}/v1/balance", headers={"Authorization": f"Bearer {key}"}, timeout=30)
            assert old.status_code == 200, "the ledger of the first run is still there"
            refund = httpx.post(f"{url}/v1/balance/refund", headers={"Authorization": f"Bearer {key}"}, timeout=30)
            assert refund.status_code == 200, refund.text
            answer = json.loads(run("ask", "Hi", "--max-tokens", "5", "--json", *data))
            assert answer["verified"]
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert until(lambda: leashed(folder) == []), "parts end with their parent, however it dies"


def kill_part(folder: Path, module: str) -> None:
    """SIGKILL to the running part of that module."""
    pids = [pid for pid, command in running(folder) if module in command]
    assert len(pids) == 1
    os.kill(pids[0], signal.SIGKILL)


def run(*words: str) -> str:
    done = forked.satroute(*words, env=os.environ, within_s=100)
    assert done.returncode == 0, done.stderr
    return done.stdout
