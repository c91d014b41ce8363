"""Requests paid by the Lightning invoice of their own refusal, through a real mint whose invoices pay themselves."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.ledger.ledger import Ledger
from relays.l402 import encode_token, read_claim
from relays.money import MSAT_PER_SAT, to_sat_ceil
from router_client.ecash.mint import MintClient, MintQuote
from router_client.ecash.outcomes import Received
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from router_client.errors import MintMisbehaved, StorageError
from tests.node.harness import HELLO, Running, adds_up, bearer, hold_of, receipt_of, running_node, streamed_receipt
from tests.node.payers import CHAT, Asked, asked_by, pay, settled
from tests.node.test_late_invoices import Patience


@pytest.fixture
async def node(folder: Path, mint_url: str, model_url: str, unwatched: None) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url, l402="true") as running:
        yield running


async def test_an_invoice_that_comes_with_a_402_pays_this_request_and_later_ones(
    node: Running, http: httpx.AsyncClient
) -> None:
    asked = await asked_by(node.url, http)
    assert asked.amount_msat == to_sat_ceil(hold_of(node.node, HELLO)) * MSAT_PER_SAT
    first = await pay(node.url, http, asked)
    assert first.status_code == 200, first.text
    left = asked.amount_msat - receipt_of(first).cost_msat
    assert first.headers["x-satroute-balance-msat"] == str(left)
    older = {"Authorization": asked.paid["Authorization"].replace("L402", "LSAT")}
    again = await http.post(node.url + CHAT, json={**HELLO, "max_tokens": 1}, headers=older)
    assert again.status_code == 200, again.text
    balance = (await http.get(f"{node.url}/v1/balance", headers=asked.paid)).json()
    assert balance["balance"] == left - receipt_of(again).cost_msat
    await adds_up(node)


async def test_a_stream_and_a_repeated_request_are_paid_so_too(node: Running, http: httpx.AsyncClient) -> None:
    body = {**HELLO, "stream": True}
    asked = await asked_by(node.url, http, {**body, "max_tokens": 64})
    first = await pay(node.url, http, asked, body, **{"Idempotency-Key": "once"})
    assert first.status_code == 200, first.text
    assert streamed_receipt(first.text) is not None
    spelt = asked.paid["Authorization"].replace("L402", "lsat").replace("=", "")
    again = await http.post(node.url + CHAT, json=body, headers={"Authorization": spelt, "Idempotency-Key": "once"})
    assert (again.text, again.headers["idempotent-replayed"]) == (first.text, "true")
    balance = (await http.get(f"{node.url}/v1/balance", headers=asked.paid)).json()
    assert balance["balance"] == asked.amount_msat - receipt_of(first).cost_msat
    await adds_up(node)


async def test_the_rest_is_refunded_to_the_same_credential(
    node: Running, wallet: Wallet, http: httpx.AsyncClient
) -> None:
    asked = await asked_by(node.url, http, {**HELLO, "max_tokens": 1024})
    served = await pay(node.url, http, asked)
    back = (await http.post(f"{node.url}/v1/balance/refund", headers=asked.paid)).json()
    assert back["msats"] + back["fee_msats"] + back["balance"] == asked.amount_msat - receipt_of(served).cost_msat
    assert decode(back["token"]).amount_msat == back["msats"] > 0
    assert (await wallet.receive(back["token"], "back")).amount_msat > 0
    await adds_up(node)


async def test_who_has_used_it_up_is_asked_for_more(node: Running, http: httpx.AsyncClient) -> None:
    asked = await asked_by(node.url, http)
    assert (await pay(node.url, http, asked)).status_code == 200
    dearer = {**HELLO, "max_tokens": 1024}
    more = await asked_by(node.url, http, dearer, **asked.paid)
    assert more.token != asked.token
    assert (await pay(node.url, http, more, dearer)).status_code == 200
    await adds_up(node)


async def test_who_has_a_key_is_asked_for_no_invoice(node: Running, http: httpx.AsyncClient) -> None:
    asked = await asked_by(node.url, http)
    await pay(node.url, http, asked)
    key = (await http.post(f"{node.url}/v1/keys/rotate", headers=asked.paid)).json()["api_key"]
    poor = await http.post(node.url + CHAT, json={**HELLO, "max_tokens": 1024}, headers=bearer(key))
    assert (poor.status_code, "www-authenticate" in poor.headers) == (402, False)
    replaced = await http.get(f"{node.url}/v1/balance", headers=asked.paid)
    assert replaced.status_code == 401
    assert "took the place" in replaced.json()["error"]["message"]


def forged(asked: Asked) -> str:
    claim = read_claim(asked.paid["Authorization"])
    assert claim is not None
    return encode_token(claim.identifier, b"a key that is not the node's")


def of_another_invoice(asked: Asked) -> str:
    """The node's own signature, under the hash of a payment that somebody else made."""
    raw = base64.b64decode(asked.token)
    return base64.b64encode(raw[:5] + bytes(32) + raw[37:]).decode()


@pytest.mark.parametrize(
    ("credential", "words"),
    [
        (lambda asked: f"{asked.token}:{bytes(32).hex()}", "preimage"),
        (lambda asked: f"{forged(asked)}:{asked.preimage.hex()}", "not of this node"),
        (lambda asked: f"{of_another_invoice(asked)}:{asked.preimage.hex()}", "not of this node"),
        (lambda asked: f"{asked.token}:", "TOKEN:PREIMAGE"),
        (lambda asked: asked.token, "TOKEN:PREIMAGE"),
    ],
)
async def test_what_does_not_prove_a_payment_is_401(
    node: Running, http: httpx.AsyncClient, credential: Any, words: str
) -> None:
    asked = await asked_by(node.url, http)
    await settled(node)
    for method, path in (("POST", CHAT), ("GET", "/v1/balance"), ("POST", "/v1/balance/refund")):
        headers = {"Authorization": f"L402 {credential(asked)}"}
        refused = await http.request(method, node.url + path, headers=headers, json=HELLO if path == CHAT else None)
        error = refused.json()["error"]
        assert (refused.status_code, error["type"]) == (401, "authentication_error")
        assert (error["code"], words in error["message"]) == ("unknown_credential", True)
    assert (await node.node.ledger.audit()).keys_msat == asked.amount_msat, "it is still whose preimage is right"


async def test_an_invoices_status_cannot_be_asked_for_by_its_token(node: Running, http: httpx.AsyncClient) -> None:
    """It tells the key of what was paid, and whoever sees a challenge has its token."""
    asked = await asked_by(node.url, http)
    await settled(node)
    claim = read_claim(asked.paid["Authorization"])
    assert claim is not None
    for told in (claim.token_id.hex(), f"inv_{claim.token_id.hex()}", f"l402 {claim.token_id.hex()}"):
        assert (await http.get(f"{node.url}/lightning/invoice/{told}/status")).status_code == 404


async def test_unpaid_it_is_401_and_good_once_it_is_paid(
    node: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = Patience(monkeypatch)
    asked = await asked_by(node.url, http)
    unpaid = await http.post(node.url + CHAT, json=HELLO, headers=asked.paid)
    assert unpaid.status_code == 401
    assert "does not know" in unpaid.json()["error"]["message"]
    assert (await node.node.ledger.audit()).keys_msat == 0
    patience.is_paid = True
    assert (await pay(node.url, http, asked)).status_code == 200
    await adds_up(node)


async def test_presented_eight_times_at_once_it_is_credited_once(node: Running, http: httpx.AsyncClient) -> None:
    asked = await asked_by(node.url, http)
    for _ in range(100):
        watching = asyncio.create_task(node.node.invoices.watch())
        answers = await asyncio.gather(*(http.get(f"{node.url}/v1/balance", headers=asked.paid) for _ in range(8)))
        await watching
        if answers[0].status_code == 200:
            break
        await asyncio.sleep(0.1)
    after = (await http.get(f"{node.url}/v1/balance", headers=asked.paid)).json()
    assert after["balance"] == asked.amount_msat
    assert {answer.status_code for answer in answers} <= {200, 401}
    assert (await node.node.ledger.audit()).ecash_in_msat == asked.amount_msat
    await adds_up(node)


async def test_paid_and_never_presented_it_is_credited_and_waits(node: Running, http: httpx.AsyncClient) -> None:
    asked = await asked_by(node.url, http)
    await settled(node)
    assert (await node.node.ledger.audit()).keys_msat == asked.amount_msat
    await adds_up(node)
    later = await http.get(f"{node.url}/v1/balance", headers=asked.paid)
    assert later.json()["balance"] == asked.amount_msat


async def test_who_leaves_while_it_is_claimed_finds_it_credited(
    node: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, going, claim = asyncio.Event(), asyncio.Event(), Wallet.claim

    async def slowly(wallet: Wallet, name: str) -> Received | None:
        began.set()
        await going.wait()
        while (received := await claim(wallet, name)) is None:
            await asyncio.sleep(0.05)
        return received

    asked = await asked_by(node.url, http)
    monkeypatch.setattr(Wallet, "claim", slowly)
    leaving = asyncio.create_task(http.post(node.url + CHAT, json=HELLO, headers=asked.paid))
    await began.wait()
    leaving.cancel()
    await asyncio.wait({leaving})
    await asyncio.sleep(0.3)  # until the node has seen that
    going.set()
    async with asyncio.timeout(30):
        while await node.node.ledger.open_deposits():
            await asyncio.sleep(0.05)
    balance = (await http.get(f"{node.url}/v1/balance", headers=asked.paid)).json()
    assert (balance["balance"], balance["spent"]) == (asked.amount_msat, 0)
    await adds_up(node)


async def test_a_mint_that_answers_nonsense_cannot_tell(
    node: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nonsense(*_: object) -> MintQuote:
        raise MintMisbehaved("what it says cannot be")

    asked = await asked_by(node.url, http)
    made = (await http.post(f"{node.url}/lightning/invoice", json={"amount_sats": 1})).json()
    with monkeypatch.context() as answering:
        answering.setattr(MintClient, "mint_quote_state", nonsense)
        for untold in (
            await http.post(node.url + CHAT, json=HELLO, headers=asked.paid),
            await http.get(f"{node.url}/lightning/invoice/{made['invoice_id']}/status"),
        ):
            assert (untold.status_code, untold.json()["error"]["code"]) == (503, "mint_unavailable")
    assert (await pay(node.url, http, asked)).status_code == 200


async def test_what_another_process_of_the_node_has_made_it_credits_itself(
    node: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coins will be in that one's wallet."""
    asked = await asked_by(node.url, http)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(Ledger, "is_mine", lambda ledger, instance: False)
        untold = await http.post(node.url + CHAT, json=HELLO, headers=asked.paid)
        assert (untold.status_code, untold.json()["error"]["code"]) == (503, "mint_unavailable")
        assert (await node.node.ledger.audit()).keys_msat == 0
    await settled(node)
    assert (await http.post(node.url + CHAT, json=HELLO, headers=asked.paid)).status_code == 200
    await adds_up(node)


@pytest.mark.parametrize("who", ["its owner", "the job"])
async def test_a_crash_between_coins_and_credit_is_gone_on_with(
    folder: Path,
    mint_url: str,
    model_url: str,
    unwatched: None,
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
) -> None:
    """The coins are in the wallet, and its books do not know of them."""
    settings = {"cashu_mints": mint_url, "upstream_base_url": model_url, "l402": "true"}
    async with running_node(folder, **settings) as node:
        asked = await asked_by(node.url, http, {**HELLO, "max_tokens": 1024})
        with monkeypatch.context() as crashing:

            async def gone(*_: object, **__: object) -> int:
                raise StorageError("the books are away")

            crashing.setattr(Ledger, "credit_deposit", gone)
            answer = await pay(node.url, http, asked)
            assert answer.status_code == 503, answer.text
            assert node.node.wallet.balances()[mint_url, "sat"] * MSAT_PER_SAT == asked.amount_msat
    async with running_node(folder, **{**settings, "l402": "false"}) as node:
        if who == "the job":
            await settled(node)
        else:
            assert (await pay(node.url, http, asked, {**HELLO, "max_tokens": 1})).status_code == 200
        balance = (await http.get(f"{node.url}/v1/balance", headers=asked.paid)).json()
        assert balance["balance"] + balance["spent"] == asked.amount_msat
        assert bool(balance["spent"]) == (who == "its owner")
        assert await node.node.invoices.watch() == 0
        back = (await http.post(f"{node.url}/v1/balance/refund", headers=asked.paid)).json()
        assert decode(back["token"]).amount_msat == back["msats"], "also where it is offered no longer"
        await adds_up(node)


async def test_no_402_waits_for_a_mint_that_does_not_answer_and_few_ask_it(
    node: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.l402.WAIT_S", 0.1)
    monkeypatch.setattr("node.l402.AT_ONCE", 3)
    asked, answering, invoice = 0, asyncio.Event(), Wallet.invoice

    async def silent(wallet: Wallet, *how: Any) -> Any:
        nonlocal asked
        asked += 1
        await answering.wait()
        return await invoice(wallet, *how)

    monkeypatch.setattr(Wallet, "invoice", silent)
    answers = await asyncio.gather(*(http.post(node.url + CHAT, json=HELLO) for _ in range(8)))
    assert [(each.status_code, "www-authenticate" in each.headers) for each in answers] == [(402, False)] * 8
    assert asked == 3
    answering.set()
    async with asyncio.timeout(30):
        while len(await node.node.ledger.open_deposits()) < 3:
            await asyncio.sleep(0.01)
    await asked_by(node.url, http)


async def test_neither_token_nor_preimage_is_stored_or_logged(
    node: Running, folder: Path, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    asked = await asked_by(node.url, http)
    await pay(node.url, http, asked)
    await http.post(node.url + CHAT, json=HELLO, headers={"Authorization": f"L402 {asked.token}:{bytes(32).hex()}"})
    claim = read_claim(asked.paid["Authorization"])
    assert claim is not None
    # The test's own client tells of the headers that it gets.
    logged = "\n".join(each.getMessage() for each in caplog.records if not each.name.startswith("httpcore"))
    assert "POST /v1/chat/completions" in logged
    kept = b"".join(path.read_bytes() for path in (folder / "node").glob("*.db*"))
    for secret in (asked.token, asked.preimage.hex(), claim.token_id.hex()):
        assert secret not in logged
        assert secret.encode() not in kept
