"""An `Idempotency-Key` makes a repeated request neither pay nor run twice, and answers it as at first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.ledger.model import Key, Refund
from node.replay import MAX_KEPT_BYTES
from relays.payment import CASHU_HEADER
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, Running, bearer, funded_wallet, granted_key, running_node, token_of
from tests.node.hostile import Hostile

GRANT_MSAT = 1_000_000
STREAM = {**HELLO, "stream": True}


def answer(text: str = "hello", tokens: int = 5) -> bytes:
    usage = f'{{"prompt_tokens":31,"completion_tokens":{tokens}}}'
    return f'{{"choices":[{{"message":{{"content":"{text}"}}}}],"usage":{usage}}}'.encode()


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    hostile[0].answer = (200, {}, [answer()])
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as running:
        yield running


async def named(
    node: Running, http: httpx.AsyncClient, key: str, name: str, body: dict[str, Any] | None = None
) -> httpx.Response:
    headers = {**bearer(key), "Idempotency-Key": name}
    return await http.post(f"{node.url}/v1/chat/completions", json=body or HELLO, headers=headers)


async def spent(node: Running, account: int) -> int:
    await node.node.ledger.audit()
    return (await node.node.ledger.account(account)).spent_msat


async def test_a_repeated_request_is_paid_and_run_once(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    key, text = await granted_key(node.node, GRANT_MSAT)
    first = await named(node, http, text, "once")
    again = await named(node, http, text, "once")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    for header in ("x-satroute-request-id", "x-satroute-receipt", "x-satroute-cost-msat"):
        assert again.headers[header] == first.headers[header]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(hostile[0].asked) == 1
    assert await spent(node, key.account) == int(first.headers["x-satroute-cost-msat"])
    await named(node, http, text, "another")
    assert len(hostile[0].asked) == 2


async def test_eight_at_once_run_once(node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]) -> None:
    key, text = await granted_key(node.node, GRANT_MSAT)
    hostile[0].answer = (200, {}, [answer()[:10], *[b" "] * 20, answer()[10:]])
    answers = await asyncio.gather(*(named(node, http, text, "once") for _ in range(8)))
    assert {reply.status_code for reply in answers} <= {200, 409}
    running = [reply for reply in answers if reply.status_code == 409]
    assert {reply.json()["error"]["code"] for reply in running} <= {"request_running"}
    assert all(reply.headers["retry-after"] for reply in running)
    assert len(hostile[0].asked) == 1
    assert await spent(node, key.account) > 0
    assert (await named(node, http, text, "once")).status_code == 200


async def test_a_stream_is_given_again(node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]) -> None:
    key, text = await granted_key(node.node, GRANT_MSAT)
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"abcd"}}]}\n\n'
    hostile[0].answer = (200, {"content-type": "text/event-stream"}, [chunk, chunk, b"data: [DONE]\n\n"])
    first = await named(node, http, text, "stream", STREAM)
    again = await named(node, http, text, "stream", STREAM)
    assert first.text.endswith("data: [DONE]\n\n")
    assert again.text == first.text
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-satroute-request-id"] == first.headers["x-satroute-request-id"]
    assert len(hostile[0].asked) == 1
    await spent(node, key.account)


async def test_another_request_under_the_same_name_is_refused(node: Running, http: httpx.AsyncClient) -> None:
    key, text = await granted_key(node.node, GRANT_MSAT)
    await named(node, http, text, "once")
    other = await named(node, http, text, "once", {**HELLO, "max_tokens": 3})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    await spent(node, key.account)


async def test_names_belong_to_their_account(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    for _ in range(2):
        _, text = await granted_key(node.node, GRANT_MSAT)
        assert "idempotent-replayed" not in (await named(node, http, text, "once")).headers
    assert len(hostile[0].asked) == 2


async def test_what_failed_and_cost_nothing_is_run_again(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    key, text = await granted_key(node.node, GRANT_MSAT)
    good, hostile[0].answer = hostile[0].answer, (500, {}, [])
    for _ in range(2):
        assert (await named(node, http, text, "once")).status_code == 502
    assert await spent(node, key.account) == 0
    hostile[0].answer = good
    served = await named(node, http, text, "once")
    assert served.status_code == 200
    again = await named(node, http, text, "once")
    assert again.content == served.content
    assert await spent(node, key.account) == int(served.headers["x-satroute-cost-msat"])
    assert len(hostile[0].asked) == 3


async def test_an_answer_that_is_paid_and_not_kept_yet_is_worth_asking_for_again(
    node: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the charge and the answer's own commit somebody may ask: what was paid for is not called lost."""
    key, text = await granted_key(node.node, GRANT_MSAT)
    charged, go = asyncio.Event(), asyncio.Event()
    keep = node.node.replays.keep

    async def slowly(*args: Any) -> None:
        charged.set()
        await go.wait()
        await keep(*args)

    monkeypatch.setattr(node.node.replays, "keep", slowly)
    first = asyncio.create_task(named(node, http, text, "once"))
    async with asyncio.timeout(10):
        await charged.wait()
    early = await named(node, http, text, "once")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "request_running")
    assert early.headers["retry-after"]
    go.set()
    served = await first
    assert (await named(node, http, text, "once")).content == served.content
    assert await spent(node, key.account) == int(served.headers["x-satroute-cost-msat"])


async def test_an_answer_too_long_to_keep_is_not_run_again(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    hostile[0].answer = (200, {}, [answer("x" * MAX_KEPT_BYTES)])
    first = await named(node, http, text, "long")
    assert first.status_code == 200
    again = await named(node, http, text, "long")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "request_done")
    assert again.headers["x-should-retry"] == "false"
    assert len(hostile[0].asked) == 1


async def test_kept_answers_cannot_be_read_from_the_database(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], folder: Path
) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    hostile[0].answer = (200, {}, [answer("a-secret-that-is-nobodys-business")])
    await named(node, http, text, "once")
    files = list((folder / "node").glob("ledger.db*"))
    assert files
    assert not any(b"nobodys-business" in file.read_bytes() for file in files)


async def test_a_token_per_request_is_answered_again_with_its_change(
    folder: Path, http: httpx.AsyncClient, mint_url: str, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, {}, [answer()])
    wallet: Wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=hostile[1]) as node:
        token = (await wallet.send(50_000, mint_url, "msat", "pay")).token
        headers = {"X-Cashu": token, "Idempotency-Key": "once"}
        url = f"{node.url}/v1/chat/completions"
        first, again = [await http.post(url, json=HELLO, headers=headers) for _ in range(2)]
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.headers[CASHU_HEADER] == first.headers[CASHU_HEADER]
        assert len(hostile[0].asked) == 1
    wallet.close()


@pytest.mark.parametrize("name", ["", "x" * 256])
async def test_names_that_cannot_be(node: Running, http: httpx.AsyncClient, name: str) -> None:
    _, text = await granted_key(node.node, GRANT_MSAT)
    reply = await named(node, http, text, name)
    assert reply.status_code == (400 if len(name) > 255 else 200), "an empty name is none"


async def test_who_leaves_while_the_change_is_made_is_answered_again(
    folder: Path,
    mint_url: str,
    http: httpx.AsyncClient,
    hostile: tuple[Hostile, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer is kept with its charge, not after the mint has been asked for change."""
    hostile[0].answer = (200, {}, [answer()])
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=hostile[1]) as node:
        wallet = await funded_wallet(folder / "caller.db", http, mint_url)
        token = await token_of(wallet, mint_url, 20_000)
        headers = {CASHU_HEADER: token, "Idempotency-Key": "once"}
        url = f"{node.url}/v1/chat/completions"
        changing, go_on, real = asyncio.Event(), asyncio.Event(), node.node.cash.change

        async def slow(key: Key) -> Refund | None:
            changing.set()
            await go_on.wait()
            return await real(key)

        monkeypatch.setattr(type(node.node.cash), "change", lambda _, key: slow(key))
        leaving = asyncio.create_task(http.post(url, json=HELLO, headers=headers))
        await asyncio.wait_for(changing.wait(), 20)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        go_on.set()
        again = await http.post(url, json=HELLO, headers=headers)
        assert (again.status_code, again.content) == (200, answer())
        assert again.headers["idempotent-replayed"] == "true"
        assert len(hostile[0].asked) == 1
        cost_msat = int(again.headers["x-satroute-cost-msat"])
        change = decode(again.headers[CASHU_HEADER]).amount_msat
        assert change == decode(token).amount_msat - cost_msat - int(again.headers["x-satroute-change-fee-msat"]) - 1
        wallet.close()
