"""Money into and out of a node over HTTP, against a real mint: credited once, refunded once, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import free_port
from router_client.ecash.token import Token, decode, encode, token_hash
from router_client.ecash.wallet import Wallet
from tests.conftest import DEAD_MINT
from tests.node.books import deposit
from tests.node.harness import HELLO, Running, adds_up, bearer, funded_wallet, hold_of, running_node, token_of

LONG_STREAM = {**HELLO, "stream": True, "max_tokens": 300, "messages": [{"role": "user", "content": "Tell a story."}]}


@pytest.fixture
async def node(folder: Path, mint_url: str, model_url: str) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/balance", "/v1/wallet"])
async def test_a_token_becomes_a_key_and_a_key_a_token(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, path: str
) -> None:
    token = await token_of(wallet, mint_url, 50_000)
    made = (await http.post(f"{node.url}{path}/create", json={"initial_balance_token": token})).json()
    assert made["api_key"].startswith("sk-")
    assert made["balance"] >= 50_000
    assert made["balance"] + made["fee_msats"] == decode(token).amount_msat
    key = bearer(made["api_key"])
    assert (await http.get(f"{node.url}{path}/info", headers=key)).json()["balance"] == made["balance"]
    assert (await http.get(f"{node.url}{path}", headers=key)).json()["refundable"] == made["balance"]

    more = await token_of(wallet, mint_url, 10_000)
    topped = (await http.post(f"{node.url}{path}/topup", json={"cashu_token": more}, headers=key)).json()
    assert topped["balance"] == made["balance"] + topped["msats"]

    back = (await http.post(f"{node.url}{path}/refund", headers=key)).json()
    assert back["msats"] + back["fee_msats"] == topped["balance"]
    assert decode(back["token"]).amount_msat == back["msats"]
    assert back["balance"] == 0
    received = await wallet.receive(back["token"], "back")
    assert received.amount_msat + received.fee_msat == back["msats"]
    await adds_up(node)


async def test_an_intent_whose_mint_was_never_asked_is_taken_for_another_purpose(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    """A crash between the ledger's note and the wallet's: who topped a balance up with it opens one now."""
    token = await token_of(wallet, mint_url, 5_000)
    made = decode(await token_of(wallet, mint_url, 4_000))
    ledger = node.node.ledger
    other = (await node.node.deposits.open_account(encode(made))).account
    note = msgspec.structs.replace(deposit(token_hash(token), other), instance=ledger.instance)
    assert (await ledger.begin_deposit(note)).purpose == "topup"
    before = await ledger.account(other)
    answer = await http.get(f"{node.url}/v1/balance", headers=bearer(token))
    assert answer.status_code == 200, answer.text
    assert answer.json()["balance"] >= 5_000
    assert await ledger.account(other) == before
    await adds_up(node)


async def test_create_by_get_as_others_do(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    token = await token_of(wallet, mint_url, 5_000)
    made = await http.get(f"{node.url}/v1/balance/create", params={"initial_balance_token": token})
    assert made.status_code == 200
    assert made.json()["balance"] >= 5_000


async def test_a_token_redeemed_twice_is_409_and_credited_once(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    token = await token_of(wallet, mint_url, 20_000)
    create = f"{node.url}/v1/balance/create"
    answers = await asyncio.gather(*(http.post(create, json={"initial_balance_token": token}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    again = await http.post(create, json={"initial_balance_token": token})
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "token_already_spent"
    key = next(answer.json()["api_key"] for answer in answers if answer.status_code == 200)
    topup = await http.post(f"{node.url}/v1/balance/topup", json={"cashu_token": token}, headers=bearer(key))
    assert topup.status_code == 409
    totals = await node.node.ledger.audit()
    assert totals.keys_msat < decode(token).amount_msat + 1
    await adds_up(node)


async def test_the_same_coins_in_another_string_are_spent(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    token = await token_of(wallet, mint_url, 20_001)
    assert (await http.get(f"{node.url}/v1/balance", headers=bearer(token))).status_code == 200
    coins = decode(token)
    shuffled = encode(Token(coins.mint, coins.unit, tuple(reversed(coins.proofs))))
    assert shuffled != token
    answer = await http.get(f"{node.url}/v1/balance", headers=bearer(shuffled))
    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    await adds_up(node)


async def test_a_token_as_bearer_names_its_balance_for_good(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    token = await token_of(wallet, mint_url, 30_000)
    answers = await asyncio.gather(*(http.get(f"{node.url}/v1/balance", headers=bearer(token)) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["balance"] for answer in answers}) == 1
    reply = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(token))
    assert reply.status_code == 200
    left = (await http.get(f"{node.url}/v1/balance", headers=bearer(token))).json()
    assert left["balance"] == answers[0].json()["balance"] - int(reply.headers["x-satroute-cost-msat"])
    await adds_up(node)


async def test_a_refund_asked_for_eight_times_is_one_refund(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    key = bearer(await token_of(wallet, mint_url, 40_000))
    await http.get(f"{node.url}/v1/balance", headers=key)
    answers = await asyncio.gather(*(http.post(f"{node.url}/v1/balance/refund", headers=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["token"] for answer in answers}) == 1
    later = await http.post(f"{node.url}/v1/balance/refund", json={}, headers=key)
    assert later.json()["token"] == answers[0].json()["token"], "a lost answer can be had again"
    await wallet.receive(later.json()["token"], "back")
    await adds_up(node)


async def test_a_refund_and_a_top_up_at_once_lose_nothing(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    first, second = await token_of(wallet, mint_url, 30_000), await token_of(wallet, mint_url, 20_000)
    key = (await http.post(f"{node.url}/v1/balance/create", json={"initial_balance_token": first})).json()
    headers = bearer(key["api_key"])
    refund, topup = await asyncio.gather(
        http.post(f"{node.url}/v1/balance/refund", headers=headers),
        http.post(f"{node.url}/v1/balance/topup", json={"cashu_token": second}, headers=headers),
    )
    assert (refund.status_code, topup.status_code) == (200, 200)
    left = (await http.get(f"{node.url}/v1/balance", headers=headers)).json()["balance"]
    out = refund.json()["msats"] + refund.json()["fee_msats"]
    assert left + out == key["balance"] + topup.json()["msats"]
    await adds_up(node)


async def test_what_running_requests_hold_is_refunded_when_they_are_done(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    """A refund asked for in mid-stream says that money is held, so that nobody takes the balance for spent."""
    hold_msat = hold_of(node.node, LONG_STREAM)
    key = bearer(await token_of(wallet, mint_url, hold_msat))
    first = (await http.get(f"{node.url}/v1/balance", headers=key)).json()
    async with http.stream("POST", f"{node.url}/v1/chat/completions", json=LONG_STREAM, headers=key) as reply:
        assert reply.status_code == 200
        busy = await http.post(f"{node.url}/v1/balance/refund", headers=key)
        if first["balance"] == hold_msat:
            assert (busy.status_code, busy.json()["error"]["code"]) == (409, "balance_held")
            assert busy.headers["retry-after"]
        else:
            assert busy.json()["reserved"] == hold_msat
    for _ in range(100):
        rest = await http.post(f"{node.url}/v1/balance/refund", headers=key)
        if rest.status_code == 200 and rest.json()["reserved"] == 0:
            break
        await asyncio.sleep(0.1)
    assert rest.json()["msats"] > 0
    await adds_up(node)


async def test_nothing_to_refund_says_so(node: Running, http: httpx.AsyncClient) -> None:
    key = await http.post(f"{node.url}/v1/balance/refund", headers=bearer("sk-unknown"))
    assert key.status_code == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/balance/create", {}),
        ("/v1/balance/create", {"initial_balance_token": 7}),
        ("/v1/balance/create", {"initial_balance_token": "cashuBgarbage"}),
        ("/v1/balance/create", [1]),
    ],
)
async def test_bad_bodies_are_400(node: Running, http: httpx.AsyncClient, path: str, body: object) -> None:
    answer = await http.post(f"{node.url}{path}", json=body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) >= {"message", "type", "code"}
    assert answer.json()["request_id"]


async def test_foreign_mints_and_units_are_400_and_keep_their_token(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    token = await token_of(wallet, mint_url, 10_000)
    coins = decode(token)
    for changed, code in (
        (Token("https://foreign.example", coins.unit, coins.proofs), "foreign_mint"),
        (Token(coins.mint, "sat", coins.proofs), "wrong_unit"),
    ):
        answer = await http.get(f"{node.url}/v1/balance", headers=bearer(encode(changed)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    good = await http.get(f"{node.url}/v1/balance", headers=bearer(token))
    assert good.status_code == 200
    await adds_up(node)


async def test_a_usd_token_is_a_wrong_unit(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    coins = decode(await token_of(wallet, mint_url, 10_000))
    answer = await http.get(f"{node.url}/v1/balance", headers=bearer(encode(Token(coins.mint, "usd", coins.proofs))))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_unit")


async def test_forged_coins_are_refused(node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str) -> None:
    coins = decode(await token_of(wallet, mint_url, 10_000))
    forged = tuple(type(p)(p.id, p.amount, f"{i:064x}", p.C) for i, p in enumerate(coins.proofs))
    answer = await http.get(f"{node.url}/v1/balance", headers=bearer(encode(Token(coins.mint, coins.unit, forged))))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "refused_token")
    await adds_up(node)


async def test_a_token_sent_before_an_unservable_request_is_not_redeemed(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    token = await token_of(wallet, mint_url, 10_000)
    for body, status in (({**HELLO, "model": "gpt-9"}, 404), ({"model": HELLO["model"]}, 400)):
        answer = await http.post(f"{node.url}/v1/chat/completions", json=body, headers=bearer(token))
        assert answer.status_code == status
    assert (await wallet.receive(token, "still mine")).amount_msat > 0


async def test_a_dead_mint_is_503_and_the_token_stays_good(
    folder: Path, model_url: str, http: httpx.AsyncClient
) -> None:
    """A mint that dies before a deposit and comes back: the same token is credited once, and a refund waits likewise."""
    port = free_port()
    mint, url = start_mint(folder / "mint", port=port)
    try:
        wait_mint(mint, url)
        wallet = await funded_wallet(folder / "caller.db", http, url)
        first, second = await token_of(wallet, url, 10_000), await token_of(wallet, url, 20_000)
        async with running_node(folder, cashu_mints=url, upstream_base_url=model_url) as node:
            assert (await http.get(f"{node.url}/v1/balance", headers=bearer(first))).status_code == 200
            mint.kill()
            dead = await http.get(f"{node.url}/v1/balance", headers=bearer(second))
            assert (dead.status_code, dead.json()["error"]["code"]) == (503, "mint_unavailable")
            assert dead.headers["retry-after"]
            served = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(first))
            assert served.status_code == 200, "a balance needs no mint"
            mint, _ = start_mint(folder / "mint", port=port)
            wait_mint(mint, url)
            alive = await http.get(f"{node.url}/v1/balance", headers=bearer(second))
            assert alive.json()["balance"] == 20_000
            refund = await http.post(f"{node.url}/v1/balance/refund", headers=bearer(second))
            assert refund.json()["msats"] == 20_000
            await adds_up(node)
        wallet.close()
    finally:
        mint.stop()


async def test_a_mint_that_never_was_is_503(
    folder: Path, model_url: str, mint_url: str, http: httpx.AsyncClient
) -> None:
    wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    coins = decode(await token_of(wallet, mint_url, 10_000))
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url) as node:
        lost = encode(Token(DEAD_MINT, coins.unit, coins.proofs))
        assert (await http.get(f"{node.url}/v1/balance", headers=bearer(lost))).status_code == 503
    wallet.close()
