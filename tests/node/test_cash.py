"""Requests that bring their own money: a token in `X-Cashu`, change on the answer, and nothing lost however it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.ledger.sql import Steps, rows
from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import free_port
from relays.payment import CASHU_HEADER, CHANGE_SSE_PREFIX
from router_client.ecash import request as requests
from router_client.ecash.mint import MintClient
from router_client.ecash.token import Token, decode, encode, token_hash
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable
from tests.node.harness import HELLO, Running, adds_up, bearer, funded_wallet, hold_of, running_node
from tests.node.hostile import Hostile

STREAM = {**HELLO, "stream": True}
LONG = {**STREAM, "max_tokens": 300, "messages": [{"role": "user", "content": "Tell a story."}]}


@pytest.fixture
async def node(folder: Path, mint_url: str, model_url: str) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url) as running:
        yield running


def hold_msat(node: Running, body: dict[str, Any]) -> int:
    return hold_of(node.node, body)


async def token_for(
    wallet: Wallet, mint_url: str, node: Running, body: dict[str, Any], extra_msat: int = 0, lock: str | None = None
) -> str:
    name = f"pay {asyncio.get_running_loop().time()}"
    return (await wallet.send(hold_msat(node, body) + extra_msat, mint_url, "msat", name, lock=lock)).token


async def ask(node: Running, http: httpx.AsyncClient, token: str, body: dict[str, Any]) -> httpx.Response:
    return await http.post(f"{node.url}/v1/chat/completions", json=body, headers={"X-Cashu": token})


def change_in(text: str) -> str:
    lines = [line for line in text.splitlines() if line]
    change = [line for line in lines if line.startswith(CHANGE_SSE_PREFIX)]
    assert lines[-1] == "data: [DONE]"
    assert len(change) == 1
    assert lines.index(change[0]) == len(lines) - 2, "the last comment before [DONE]"
    return change[0].removeprefix(CHANGE_SSE_PREFIX)


@pytest.mark.parametrize("lock", [False, True], ids=["plain", "locked"])
async def test_a_whole_answer_carries_its_change(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, lock: bool
) -> None:
    token = await token_for(wallet, mint_url, node, HELLO, 5_000, node.node.wallet.lock_key if lock else None)
    reply = await ask(node, http, token, HELLO)
    assert reply.status_code == 200, reply.text
    cost_msat = int(reply.headers["x-satroute-cost-msat"])
    change = decode(reply.headers[CASHU_HEADER])
    fee_msat = (await wallet.fees(decode(token))).this_msat
    received = await wallet.receive(change, "change")
    assert received.amount_msat + received.fee_msat == change.amount_msat
    refund = await http.get(
        f"{node.url}/v1/change/{reply.headers['x-satroute-request-id']}", headers={"X-Cashu": token}
    )
    assert refund.status_code == 404, "spent change has been picked up"
    given_msat = change.amount_msat
    change_fee_msat = int(reply.headers["x-satroute-change-fee-msat"])
    assert decode(token).amount_msat == fee_msat + cost_msat + given_msat + change_fee_msat, "every msat is explained"
    await adds_up(node)


@pytest.mark.parametrize("lock", [False, True], ids=["plain", "locked"])
async def test_a_streams_change_is_its_last_comment(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, lock: bool
) -> None:
    token = await token_for(wallet, mint_url, node, STREAM, 5_000, node.node.wallet.lock_key if lock else None)
    reply = await ask(node, http, token, STREAM)
    assert reply.status_code == 200
    change = change_in(reply.text)
    assert (await wallet.receive(change, "change")).amount_msat > 0
    await adds_up(node)


async def test_a_stream_is_not_held_back_for_its_change(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    """The first chunk is there long before the last."""
    token = await token_for(wallet, mint_url, node, LONG)
    seen: list[bool] = []
    async with http.stream("POST", f"{node.url}/v1/chat/completions", json=LONG, headers={"X-Cashu": token}) as reply:
        assert CASHU_HEADER not in reply.headers
        async for line in reply.aiter_lines():
            if line.startswith("data: {") and not seen:
                account = await node.node.ledger.key_of(token_hash(token))
                assert account is not None
                seen.append((await node.node.ledger.account(account.account)).held_msat > 0)
    assert seen == [True], "the request was running when its first chunk came"


@pytest.mark.parametrize("way", ["X-Cashu", "Authorization"])
async def test_a_caller_who_goes_away_fetches_the_change_later(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, way: str
) -> None:
    token = await token_for(wallet, mint_url, node, LONG)
    async with http.stream("POST", f"{node.url}/v1/chat/completions", json=LONG, headers={"X-Cashu": token}) as reply:
        request_id = reply.headers["x-satroute-request-id"]
        async for line in reply.aiter_lines():
            if line.startswith("data: "):
                break
    proof = {way: token if way == "X-Cashu" else f"Bearer {token}"}
    url = f"{node.url}/v1/change/{request_id}"
    for _ in range(100):
        answer = await http.get(url, headers=proof)
        if answer.status_code == 200:
            break
        assert answer.status_code == 409, "the request still runs"
        await asyncio.sleep(0.1)
    again = await http.get(url, headers=proof)
    assert again.json()["token"] == answer.json()["token"], "the same until it is picked up"
    assert answer.headers[CASHU_HEADER] == answer.json()["token"]
    stranger = await http.get(url, headers=bearer("cashuBstranger"))
    assert stranger.status_code == 401
    assert (await http.get(f"{node.url}/v1/change/req_other", headers=proof)).status_code == 404
    received = await wallet.receive(answer.json()["token"], "change")
    assert received.amount_msat > 0
    assert (await http.get(url, headers=proof)).status_code == 404
    await adds_up(node)


async def test_the_change_of_a_request_that_runs_is_not_given_in_part(
    folder: Path, mint_url: str, hostile: tuple[Hostile, str], http: httpx.AsyncClient
) -> None:
    """Whoever got some of it would think that it was all."""
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [b"WAIT"])
    wallet = await funded_wallet(folder / "buyer.db", http, mint_url)
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=hostile[1]) as node:
        token = await token_for(wallet, mint_url, node, HELLO, extra_msat=500)
        asking = asyncio.create_task(ask(node, http, token, HELLO))
        key = None
        while key is None or not (await node.node.ledger.account(key.account)).held_msat:
            await asyncio.sleep(0.01)
            key = await node.node.ledger.key_of(token_hash(token))
        request_id = await running_request(node)
        url, proof = f"{node.url}/v1/change/{request_id}", {"X-Cashu": token}
        early = await http.get(url, headers=proof)
        assert (early.status_code, early.json()["error"]["code"]) == (409, "balance_held")
        assert early.headers["retry-after"]
        refused = await asking
        assert refused.status_code == 502
        assert wallet.balances()
        back_msat = decode(refused.headers[CASHU_HEADER]).amount_msat
        assert back_msat >= hold_msat(node, HELLO) + 500 - 20
        await adds_up(node)
    wallet.close()


async def running_request(node: Running) -> str:
    """The id of the only request that is on hold."""

    def held() -> Steps[str]:
        found = yield from rows("SELECT id FROM holds WHERE state = 'pending' AND purpose = 'request'")
        ((id_,),) = found
        return str(id_)

    return await node.node.ledger._db.read(held)


async def test_an_unreachable_upstream_gives_the_whole_token_back(
    folder: Path, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, hostile: tuple[Hostile, str]
) -> None:
    """Elsewhere, an upstream that cannot be reached keeps the caller's token."""
    hostile[0].answer = (500, {}, [])
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=hostile[1]) as node:
        for body in (HELLO, STREAM):
            token = await token_for(wallet, mint_url, node, body)
            reply = await ask(node, http, token, body)
            assert reply.status_code == 502
            change = decode(reply.headers[CASHU_HEADER])
            fee_msat = (await wallet.fees(decode(token))).this_msat
            change_fee_msat = int(reply.headers["x-satroute-change-fee-msat"])
            assert decode(token).amount_msat == fee_msat + change.amount_msat + change_fee_msat, (
                "all but the mint's fees"
            )
            await wallet.receive(change, f"back {body.get('stream')}")
        await adds_up(node)


async def test_a_token_that_is_worth_too_little_is_not_touched(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    token = (await wallet.send(100, mint_url, "msat", "little")).token
    reply = await ask(node, http, token, HELLO)
    assert (reply.status_code, reply.json()["error"]["code"]) == (402, "insufficient_balance")
    assert reply.json()["error"]["amount_required_msat"] == hold_msat(node, HELLO)
    assert (await wallet.reclaim("little")).amount_msat > 0
    assert requests.decode(reply.headers[CASHU_HEADER]).amount


async def test_a_request_without_money_is_told_what_to_pay(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    """NUT-24: a 402 with a payment request that a payer's wallet can pay as it is."""
    reply = await http.post(f"{node.url}/v1/chat/completions", json=HELLO)
    assert reply.status_code == 402
    wanted = requests.decode(reply.headers[CASHU_HEADER])
    assert (wanted.unit, wanted.mints, wanted.single_use) == ("sat", (mint_url,), True)
    assert wanted.amount is not None
    assert wanted.amount * 1000 >= hold_msat(node, HELLO)
    assert wanted.lock is not None
    assert (wanted.lock.kind, wanted.lock.data) == ("P2PK", node.node.wallet.lock_key)

    await wallet.invoice(500, mint_url, "sat", "fund-sat")
    for _ in range(50):
        if await wallet.claim("fund-sat"):
            break
        await asyncio.sleep(0.1)
    token = (await wallet.send(wanted.amount, mint_url, "sat", "exactly", fees="inside", lock=wanted.lock.data)).token
    paid = await ask(node, http, token, HELLO)
    assert paid.status_code == 200, paid.text
    await adds_up(node)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"mint": "https://foreign.example"}, 400, "foreign_mint"),
        ({"unit": "usd"}, 400, "wrong_unit"),
        ({"unit": "sat"}, 400, "wrong_unit"),
    ],
)
async def test_wrong_mints_and_units_are_400_and_keep_their_token(
    node: Running,
    wallet: Wallet,
    http: httpx.AsyncClient,
    mint_url: str,
    change: dict[str, str],
    status: int,
    code: str,
) -> None:
    token = decode(await token_for(wallet, mint_url, node, HELLO))
    wrong = Token(change.get("mint", token.mint), change.get("unit", token.unit), token.proofs)
    reply = await ask(node, http, encode(wrong), HELLO)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert (await wallet.receive(token, "still mine")).amount_msat > 0


async def test_the_same_token_eight_times_at_once_pays_for_one_request(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    token = await token_for(wallet, mint_url, node, HELLO)
    replies = await asyncio.gather(*(ask(node, http, token, HELLO) for _ in range(8)))
    served = [reply for reply in replies if reply.status_code == 200]
    assert served
    assert {reply.status_code for reply in replies} <= {200, 402, 409}
    account = await node.node.ledger.key_of(token_hash(token))
    assert account is not None
    books = await node.node.ledger.account(account.account)
    assert books.spent_msat == sum(int(reply.headers["x-satroute-cost-msat"]) for reply in served)
    await adds_up(node)


async def test_a_locked_token_needs_no_mint(folder: Path, http: httpx.AsyncClient, model_url: str) -> None:
    """Its mint is dead when it comes, and it is served all the same; it is redeemed when the mint is back."""
    port = free_port()
    mint, url = start_mint(folder / "mint", port=port, input_fee_ppk=100)
    try:
        wait_mint(mint, url)
        wallet = await funded_wallet(folder / "caller.db", http, url)
        async with running_node(folder, cashu_mints=url, upstream_base_url=model_url) as node:
            assert (await http.get(f"{node.url}/v1/info")).json()["lock"] == node.node.wallet.lock_key
            tokens = [await token_for(wallet, url, node, HELLO, lock=node.node.wallet.lock_key) for _ in range(3)]
            mint.kill()
            for token in tokens:
                reply = await ask(node, http, token, HELLO)
                assert reply.status_code == 200, reply.text
            assert node.node.wallet.locked_msat() > 0
            again = await http.post(
                f"{node.url}/v1/balance/create", json={"initial_balance_token": encode(decode(tokens[0]))}
            )
            assert again.status_code in (400, 409), "the same coins in another string are no money"
            mint, _ = start_mint(folder / "mint", port=port, input_fee_ppk=100)
            wait_mint(mint, url)
            await adds_up(node)
            assert node.node.wallet.locked_msat() == 0
            for token in tokens:
                back = await http.post(f"{node.url}/v1/balance/refund", headers=bearer(token))
                assert back.status_code == 200, back.text
                await wallet.receive(back.json()["token"], f"back {token_hash(token)}")
            await adds_up(node)
        wallet.close()
    finally:
        mint.stop()


async def test_tokens_do_not_reach_the_log(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "node")
    caplog.set_level("DEBUG", "router_client")
    for lock in (None, node.node.wallet.lock_key):
        token = await token_for(wallet, mint_url, node, HELLO, lock=lock)
        reply = await ask(node, http, token, HELLO)
        await ask(node, http, token, HELLO)
        await http.get(f"{node.url}/v1/change/{reply.headers['x-satroute-request-id']}", headers=bearer(token))
        assert decode(token).proofs[0].secret not in caplog.text
        assert token[:40] not in caplog.text
    assert "cashuB" not in caplog.text


async def test_small_coins_are_made_with_the_nodes_own_money(
    folder: Path, mint_url: str, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """A swap costs a fee. All that callers could ask back stays in the wallet, to the last msat."""
    hostile[0].answer = (
        200,
        {},
        [b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":31,"completion_tokens":5}}'],
    )
    wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    async with running_node(
        folder, cashu_mints=mint_url, upstream_base_url=hostile[1], change_stock=20, allow_local_addresses=True
    ) as node:
        ledger, redemptions = node.node.ledger, node.node.redemptions
        key = bearer((await wallet.send(2**18, mint_url, "msat", "deposit")).token)
        balance_msat = (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"]
        assert node.node.wallet.lacks_stock()
        assert await ledger.free_msat() == await redemptions.restock() == 0
        assert node.node.wallet.balance_msat() == balance_msat

        served = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)
        cost_msat = int(served.headers["x-satroute-cost-msat"])
        assert await ledger.free_msat() == cost_msat > 0
        swaps = await redemptions.restock()
        assert swaps > 0
        assert (await ledger.audit()).lost_msat == swaps, "a coin's fee is one msat, rounded up"
        assert await ledger.free_msat() == cost_msat - swaps
        await node.node.audit()
        assert await redemptions.restock() == 0 or not node.node.wallet.lacks_stock()

        refunded = await http.post(f"{node.url}/v1/balance/refund", headers=key)
        assert refunded.status_code == 200, refunded.text
        assert (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"] == 0
        await adds_up(node)
    wallet.close()


async def test_a_swap_that_took_hours_is_booked_all_the_same(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fee is in no book until it is finished, however long its mint was away."""
    redemptions = node.node.redemptions
    key = bearer((await wallet.send(2**19, mint_url, "msat", "deposit")).token)
    assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)).status_code == 200

    async def silent(*_: object) -> None:
        raise MintUnavailable("no answer")

    with monkeypatch.context() as away:
        away.setattr(MintClient, "swap", silent)
        assert await redemptions.restock() == 0
        assert node.node.wallet.holdings().away_msat > 0
        await node.node.audit()
        for _ in range(5):
            await redemptions.run()
    assert node.node.wallet.has_unfinished_redemptions()
    await node.node.wallet.recover()
    assert not node.node.wallet.has_unfinished_redemptions()
    await redemptions.run()
    assert (await node.node.ledger.audit()).lost_msat == 1
    await node.node.audit()


async def test_a_locked_token_and_its_change_ask_nothing_of_a_mint_that_is_known(
    folder: Path,
    wallet: Wallet,
    http: httpx.AsyncClient,
    mint_url: str,
    model_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when its keys were looked up long ago: a mint that is silent would keep each caller for half a minute."""
    for job in ("MINTS", "REDEEM", "RESTOCK", "INVOICES", "RECOVER"):
        monkeypatch.setattr(f"node.jobs.{job}_EVERY_S", 3600)
    async with running_node(
        folder, cashu_mints=mint_url, upstream_base_url=model_url, change_stock=20, fixed_cost_per_request="2"
    ) as node:
        big = bearer((await wallet.send(2**18, mint_url, "msat", "deposit")).token)
        assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=big)).status_code == 200
        assert await node.node.redemptions.restock() > 0
        lock = node.node.wallet.lock_key
        token = await token_for(wallet, mint_url, node, HELLO, extra_msat=200, lock=lock)
        keyring = node.node.wallet._keyring
        clock, asked = keyring._clock, list[str]()
        monkeypatch.setattr(keyring, "_clock", lambda: clock() + 24 * 3600)

        async def silent(client: MintClient, method: str, path: str, *_: object) -> None:
            asked.append(path)
            raise MintUnavailable("no answer")

        monkeypatch.setattr(MintClient, "_call", silent)
        reply = await ask(node, http, token, HELLO)
        assert reply.status_code == 200, reply.text
        assert decode(reply.headers[CASHU_HEADER]).amount_msat > 0
        assert asked == []
