"""How users of other nodes lose their money or their peace, each as a test that a design like theirs fails.

Those that need more room have it elsewhere: docs/money.md lists all of them.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.config import Settings, load_settings
from node.ledger.ledger import Ledger
from relays.event import Signer
from relays.pool import RelayPool
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from router_client.errors import StorageError
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, Running, bearer, granted_key, running_node, token_of
from tests.node.hostile import TEXT, Hostile
from tests.strangers import served

GRANT_MSAT = 1_000_000
REPLY = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":31,"completion_tokens":5}}'
STREAM = {**HELLO, "stream": True}


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str], mint_url: str) -> AsyncIterator[Running]:
    hostile[0].answer = (200, {}, [REPLY])
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=hostile[1]) as running:
        yield running


async def test_a_refund_whose_answer_was_lost_is_told_of_again(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    """The first answer is lost; then money comes in; the next answer has the new token, and the lost one beside it."""
    key = bearer(await token_of(wallet, mint_url, 30_000))
    url = f"{node.url}/v1/balance/refund"
    lost = (await http.post(url, headers=key)).json()
    more = await token_of(wallet, mint_url, 20_000)
    await http.post(f"{node.url}/v1/balance/topup", json={"cashu_token": more}, headers=key)
    after = (await http.post(url, headers=key)).json()
    assert after["token"] != lost["token"], "not what an old cache says"
    assert [other["token"] for other in after["earlier"]] == [lost["token"]]
    for token in (after["token"], lost["token"]):
        await wallet.receive(token, f"back {token[-8:]}")
    done = await http.post(url, headers=key)
    assert done.status_code == 403, "what is spent has arrived"
    third = await token_of(wallet, mint_url, 10_000)
    await http.post(f"{node.url}/v1/balance/topup", json={"cashu_token": third}, headers=key)
    assert "earlier" not in (await http.post(url, headers=key)).json()


async def test_an_owner_can_say_that_a_refund_has_arrived(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Who keeps the token as cash need not be told of it for ever."""
    key = bearer(await token_of(wallet, mint_url, 30_000))
    url = f"{node.url}/v1/balance/refund"
    first = (await http.post(url, headers=key)).json()
    assert (await http.post(url, headers=key)).json()["token"] == first["token"]
    said = await http.post(url, json={"received": first["refund_id"]}, headers=key)
    assert said.status_code == 403
    assert (await wallet.receive(first["token"], "cash")).amount_msat > 0


async def test_a_timeout_is_not_charged_at_the_most_it_could_cost(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """Nothing served is free; what was streamed before the silence is counted."""
    async with running_node(
        folder,
        cashu_mints=DEAD_MINT,
        upstream_base_url=hostile[1],
        upstream_idle_timeout_s=0.5,
        upstream_answer_timeout_s=0.5,
    ) as node:
        key, text = await granted_key(node.node, GRANT_MSAT)
        hostile[0].answer = (200, {}, [b"WAIT"])
        whole = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(text))
        assert whole.status_code == 504
        assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT
        hostile[0].answer = (200, {"content-type": "text/event-stream"}, [TEXT, TEXT, b"WAIT"])
        streamed = await http.post(f"{node.url}/v1/chat/completions", json=STREAM, headers=bearer(text))
        assert "upstream_timeout" in streamed.text
        account = await node.node.ledger.account(key.account)
        hold_msat = json.loads(streamed.text.split(": satroute-receipt ")[1].splitlines()[0])["content"]
        assert 0 < account.spent_msat < json.loads(hold_msat)["hold_msat"]
        await node.node.ledger.audit()


async def test_a_stream_of_more_than_five_minutes_is_charged(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """Its hold does not end before it does."""
    key, text = await granted_key(node.node, GRANT_MSAT)
    hostile[0].answer = (200, {"content-type": "text/event-stream"}, [TEXT] * 40)
    asked = asyncio.create_task(http.post(f"{node.url}/v1/chat/completions", json=STREAM, headers=bearer(text)))
    while not (await node.node.ledger.account(key.account)).held_msat:
        await asyncio.sleep(0.01)
    node.node.ledger._clock = lambda: time.time() + 55 * 60
    assert await node.node.holding.expire() == 0
    assert (await asked).status_code == 200
    assert (await node.node.ledger.account(key.account)).spent_msat > 0


async def test_a_crash_in_the_midst_of_a_stream_does_not_make_it_free(
    folder: Path, node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """What was streamed is noted every few seconds; the next start charges that much, never the whole hold."""
    key, text = await granted_key(node.node, GRANT_MSAT)
    hostile[0].answer = (200, {"content-type": "text/event-stream"}, [TEXT] * 100)
    long = {**STREAM, "max_tokens": 500}
    asked = asyncio.create_task(http.post(f"{node.url}/v1/chat/completions", json=long, headers=bearer(text)))
    while not await node.node.completions.note_streams(older_s=0):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert await node.node.completions.note_streams(older_s=0) == 1
    crashed = folder / "crashed.db"
    with sqlite3.connect(node.node.settings.ledger_url.removeprefix("sqlite:///")) as files:
        files.execute("VACUUM INTO ?", (str(crashed),))  # what the disk has at this moment
    files.close()
    whole = (await asked).headers["x-satroute-request-id"]
    (served,) = [await node.node.ledger.receipt(whole, key.account)]
    after = await Ledger.open(f"sqlite:///{crashed}", instance=node.node.ledger.instance)
    assert await after.expire_orphans() == 1
    noted = await after.receipt(whole, key.account)
    assert noted is not None
    assert served is not None
    assert (noted.receipt.outcome, noted.receipt.metered) == ("interrupted", "counted")
    assert 0 < noted.receipt.cost_msat < served.receipt.cost_msat
    assert (await after.account(key.account)).held_msat == 0
    await after.audit()
    await after.close()
    assert await node.node.completions.note_streams(older_s=0) == 0


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_books_that_are_away_for_a_moment_make_nothing_free_and_keep_nothing(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """What was served is charged once, though the database failed at its end; what was not is free."""
    monkeypatch.setattr("node.holding.AGAIN_S", (0.01, 0.01, 0.01))
    ledger = node.node.ledger
    left = 0

    def failing(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left >= 0 and lost == "before":
                raise StorageError("away")
            outcome = await real(*args)
            if left >= 0:
                raise StorageError("the answer is lost")
            return outcome

        return call

    monkeypatch.setattr(ledger, "post", failing(ledger.post))
    monkeypatch.setattr(ledger, "void", failing(ledger.void))
    key, text = await granted_key(node.node, GRANT_MSAT)
    left = 2
    served = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(text))
    assert served.status_code == 200
    account = await ledger.account(key.account)
    assert (account.held_msat, account.spent_msat) == (0, int(served.headers["x-satroute-cost-msat"]))
    hostile[0].answer = (500, {}, [])
    left = 2
    assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(text))).status_code == 502
    after = await ledger.account(key.account)
    assert (after.held_msat, after.spent_msat) == (0, account.spent_msat)
    await ledger.audit()


@pytest.mark.parametrize("usage", [b"", b',"usage":null', b',"usage":{"prompt_tokens":0,"completion_tokens":0}'])
async def test_a_reply_without_usage_is_neither_free_nor_the_whole_hold(
    node: Running, http: httpx.AsyncClient, hostile: tuple[Hostile, str], usage: bytes
) -> None:
    key, text = await granted_key(node.node, GRANT_MSAT)
    hostile[0].answer = (200, {}, [b'{"choices":[{"message":{"content":"some words"}}]' + usage + b"}"])
    body = {**HELLO, "max_tokens": 200}
    reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(text))
    assert reply.status_code == 200
    posted = await node.node.ledger.receipt(reply.headers["x-satroute-request-id"], key.account)
    assert posted is not None
    assert 0 < posted.receipt.cost_msat < posted.receipt.hold_msat


async def test_an_image_url_in_a_request_is_never_fetched(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """The node passes it on to a model that reads images, and refuses it for one that does not; it asks nobody."""
    asked: list[str] = []

    async def trap(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=b"x")

    app = web.Application()
    app.router.add_get("/{any:.*}", trap)
    async with served(app) as where:
        url = f"http://{where}/secret.png"
        models = folder / "models.json"
        seeing = {"id": HELLO["model"], "context_length": 2048, "architecture": {"input_modalities": ["text", "image"]}}
        models.write_text(json.dumps({"data": [seeing]}))
        part = {"type": "image_url", "image_url": {"url": url}}
        body = {**HELLO, "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]}
        hostile[0].answer = (200, {}, [REPLY])
        for settings, status in (({"models_path": models}, 200), ({}, 400)):
            async with running_node(
                folder / str(status), cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], **settings
            ) as node:
                _, text = await granted_key(node.node, GRANT_MSAT)
                reply = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(text))
                assert reply.status_code == status, reply.text
        assert hostile[0].asked[0]["messages"] == body["messages"], "passed on untouched"
        assert asked == []


async def test_less_than_a_sat_stays_the_callers(
    node: Running, http: httpx.AsyncClient, folder: Path, mint_url: str
) -> None:
    """A refund in whole sats leaves the rest on the balance, not with the node."""
    wallet = await Wallet.open(folder / "sats.db", http)
    await wallet.invoice(100, mint_url, "sat", "fund")
    while await wallet.claim("fund") is None:
        await asyncio.sleep(0.1)
    key = bearer((await wallet.send(50, mint_url, "sat", "pay")).token)
    assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)).status_code == 200
    before = (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"]
    assert before % 1000, "the request cost a part of a sat"
    back = (await http.post(f"{node.url}/v1/balance/refund", headers=key)).json()
    assert back["msats"] + back["fee_msats"] == before - before % 1000
    assert back["balance"] == before % 1000
    assert decode(back["token"]).amount_msat == back["msats"]
    wallet.close()


async def test_relays_are_asked_over_tls_that_is_verified(folder: Path) -> None:
    """A relay whose certificate nobody vouches for is refused: elsewhere, anyone on the way can answer for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    heard: list[str] = []

    async def relay(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            heard.append(str(message.data))
        return socket

    app = web.Application()
    app.router.add_get("/", relay)
    async with served(app, tls=context) as where:
        url = f"wss://{where}"
        signer = Signer.generate()
        async with RelayPool([url]) as pool:
            answers = await pool.publish(signer.sign(kind=1, content="", created_at=int(time.time())))
        assert not answers[url].accepted
        assert heard == []


def test_the_node_listens_on_this_machine_alone_unless_it_is_told_otherwise() -> None:
    settings = load_settings(
        Settings,
        None,
        cashu_mints=DEAD_MINT,
        upstream_base_url="http://127.0.0.1:1/v1",
        fixed_per_1k_input_tokens="1",
        fixed_per_1k_output_tokens="1",
    )
    assert settings.host == "127.0.0.1"
