"""What a thief tries: each way in was open once, or is open elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from router_client.ecash.token import Token, decode, encode
from router_client.ecash.wallet import Wallet
from tests.node.harness import HELLO, Running, bearer, funded_wallet, granted_key, running_node, token_of
from tests.node.hostile import TEXT, Hostile
from tests.strangers import served

REPLY = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":31,"completion_tokens":5}}'


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str], mint_url: str) -> AsyncIterator[Running]:
    hostile[0].answer = (200, {}, [REPLY])
    async with running_node(
        folder, cashu_mints=mint_url, upstream_base_url=hostile[1], swap_foreign_mints=True
    ) as running:
        yield running


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_child_key_gets_no_change(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, revoked: bool
) -> None:
    """Change is a refund: the account's, not the child's."""
    owner = bearer(await token_of(wallet, mint_url, 100_000))
    child = (await http.post(f"{node.url}/v1/keys", json={"spend_limit_msat": 3000}, headers=owner)).json()
    key = bearer(child["api_key"])
    request_id = (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)).headers[
        "x-satroute-request-id"
    ]
    if revoked:
        await http.delete(f"{node.url}/v1/keys/{child['id']}", headers=owner)
    for headers in (key, {"X-Cashu": child["api_key"]}):
        answer = await http.get(f"{node.url}/v1/change/{request_id}", headers=headers)
        assert answer.status_code in (401, 403)
    assert (await http.get(f"{node.url}/v1/balance", headers=owner)).json()["balance"] > 90_000


async def test_a_repeated_name_frees_nobodys_hold(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """A second request under the name of one that runs, whose caller hangs up at once, must not void its hold."""
    key, text = await granted_key(node.node, 1_000_000)
    hostile[0].answer = (200, {"content-type": "text/event-stream"}, [TEXT] * 60)
    headers = {**bearer(text), "Idempotency-Key": "once"}
    body = {**HELLO, "stream": True}
    url = f"{node.url}/v1/chat/completions"
    first = asyncio.create_task(http.post(url, json=body, headers=headers))
    for _ in range(100):
        if (await node.node.ledger.account(key.account)).held_msat:
            break
        await asyncio.sleep(0.01)
    for n in range(40):
        await hang_up(node, body, headers, after_s=n * 0.0005)
    assert (await first).status_code == 200
    await asyncio.sleep(0.2)
    account = await node.node.ledger.account(key.account)
    assert account.held_msat == 0
    assert account.spent_msat > 0, "what was served is charged"


async def hang_up(node: Running, body: dict[str, Any], headers: dict[str, str], after_s: float) -> None:
    """Send a whole request and close the connection."""
    host, port = node.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body)
    lines = [f"{name}: {value}" for name, value in {**headers, "Host": host, "Content-Length": len(content)}.items()]
    writer.write(("POST /v1/chat/completions HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n" + content).encode())
    await writer.drain()
    await asyncio.sleep(after_s)
    writer.transport.abort()


async def test_an_invoices_id_is_not_in_the_books(node: Running, http: httpx.AsyncClient, folder: Path) -> None:
    """Its id gives its key: a copy of the database must not."""
    made = (await http.post(f"{node.url}/lightning/invoice", json={"amount_sats": 5})).json()
    for _ in range(100):
        if await node.node.invoices.watch():
            break
        await asyncio.sleep(0.1)
    status = (await http.get(f"{node.url}/lightning/invoice/{made['invoice_id']}/status")).json()
    secrets = (made["invoice_id"].encode(), status["api_key"].encode())
    for file in (folder / "node").glob("*.db*"):
        assert not any(secret in file.read_bytes() for secret in secrets), file.name
    conn = sqlite3.connect(folder / "node" / "ledger.db")
    (kept_as,) = conn.execute("SELECT id FROM deposits WHERE id LIKE 'inv_%'").fetchone()
    conn.close()
    assert (await http.get(f"{node.url}/lightning/invoice/{kept_as}/status")).status_code == 404


async def test_whoever_paid_with_a_token_cannot_take_over_the_key_it_made(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    token = await token_of(wallet, mint_url, 50_000)
    key = (await http.post(f"{node.url}/v1/balance/create", json={"initial_balance_token": token})).json()["api_key"]
    stolen = await http.post(f"{node.url}/v1/keys/rotate", headers=bearer(token))
    assert stolen.status_code == 403
    assert (await http.get(f"{node.url}/v1/balance", headers=bearer(key))).status_code == 200
    assert (await http.get(f"{node.url}/v1/balance", headers=bearer(token))).status_code in (401, 409)


@pytest.mark.parametrize(
    "mint",
    [
        "http://127.0.0.1:{port}/admin/delete?x=",
        "http://127.0.0.1:{port}/admin#",
        "http://user:pass@127.0.0.1:{port}",
        "http://127.0.0.1:{port}",
        "http://localhost:{port}",
        "http://[::1]:{port}",
        "https://10.0.0.1:{port}",
    ],
)
async def test_a_foreign_mint_leads_nowhere_inside(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, hostile: tuple[Hostile, str], mint: str
) -> None:
    """A token names its mint, and the node would ask it: not when that is in the operator's own network."""
    port = hostile[1].split(":")[2].split("/")[0]
    coins = decode(await token_of(wallet, mint_url, 1_000))
    token = encode(Token(mint.format(port=port), coins.unit, coins.proofs))
    for headers in (bearer(token), {"X-Cashu": token}):
        answer = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=headers)
        assert answer.status_code in (400, 402), answer.text
    assert hostile[0].asked == []


async def test_what_is_no_address_leaves_nothing_behind(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    key = bearer(await token_of(wallet, mint_url, 50_000))
    await http.get(f"{node.url}/v1/balance", headers=key)
    long = await http.post(f"{node.url}/v1/balance/refund", json={"recipient": "x" * 200_000}, headers=key)
    assert long.status_code == 400
    assert await node.node.ledger.open_refunds() == []
    token = await http.post(f"{node.url}/v1/balance/refund", headers=key)
    assert token.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/keys/9223372036854775808"),
        ("DELETE", "/v1/keys/-1"),
        ("GET", "/v1/receipts/a%00b"),
        ("GET", "/v1/change/a%00b"),
        ("GET", "/lightning/invoice/inv_%00/status"),
        ("POST", "/v1/keys/9223372036854775808/rotate"),
    ],
)
async def test_odd_names_are_not_found(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, method: str, path: str
) -> None:
    key = bearer(await token_of(wallet, mint_url, 1_000))
    assert (await http.request(method, f"{node.url}{path}", headers=key)).status_code in (400, 401, 404)


async def test_a_very_long_request_does_not_stop_the_others(node: Running, http: httpx.AsyncClient) -> None:
    """It is read beside the loop: its sender has paid nothing yet."""
    body = json.dumps({**HELLO, "messages": [{"role": "user", "content": "x"}] * 300_000})
    waits = []
    asked = asyncio.create_task(http.post(f"{node.url}/v1/chat/completions", content=body))
    while not asked.done():
        begun = asyncio.get_running_loop().time()
        assert (await http.get(f"{node.url}/health")).status_code == 200
        waits.append(asyncio.get_running_loop().time() - begun)
    assert asked.result().status_code in (402, 413)
    assert len(waits) > 3


async def test_arbitrary_paths_are_not_forwarded(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """Elsewhere, any path reaches the upstream with the operator's credential."""
    _, text = await granted_key(node.node, 1_000_000)
    for path in (
        "/v1/files",
        "/v1/fine_tuning/jobs",
        "/v1/../admin",
        "/v1/chat/completions/../../files",
        "/v1/models/../x",
    ):
        answer = await http.post(f"{node.url}{path}", json=HELLO, headers=bearer(text))
        assert answer.status_code in (404, 405), path
    assert hostile[0].asked == []
    assert os.environ.get("UPSTREAM_API_KEY") is None


async def test_a_deposit_stays_open_when_its_mint_answers_nonsense(
    folder: Path, mint_url: str, http: httpx.AsyncClient
) -> None:
    """A mint that has swapped and leaves a signature out must not make its token worth nothing."""
    nonsense = True

    async def forward(request: web.Request) -> web.Response:
        headers = {"content-type": "application/json"}
        url, body = f"{mint_url}{request.path}", await request.read()
        reply = await http.request(request.method, url, content=body, headers=headers)
        content = reply.content
        if nonsense and request.path in ("/v1/swap", "/v1/restore"):
            told = json.loads(content)
            content = json.dumps({**told, "signatures": told["signatures"][1:]}).encode()
        return web.Response(status=reply.status_code, body=content, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    async with served(app) as where:
        between = f"http://{where}"
        caller = await funded_wallet(folder / "caller.db", http, mint_url)
        token = decode(await token_of(caller, mint_url, 20_000))
        moved = bearer(encode(Token(between, token.unit, token.proofs)))
        async with running_node(folder, cashu_mints=between, upstream_base_url="http://127.0.0.1:9/v1") as node:
            for _ in range(2):
                refused = await http.get(f"{node.url}/v1/balance", headers=moved)
                assert refused.status_code == 503, refused.text
                assert (await node.node.ledger.open_deposits()) != []
            nonsense = False
            credited = await http.get(f"{node.url}/v1/balance", headers=moved)
            assert credited.status_code == 200, credited.text
            totals = await node.node.ledger.audit()
            assert credited.json()["balance"] == totals.keys_msat == node.node.wallet.balance_msat() > 19_000
        caller.close()
