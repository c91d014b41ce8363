"""A node that cheats, lies or babbles: the client keeps its money or says what is missing, and goes on to the next.

The hand-written node here misbehaves on purpose; the real one passes `tests/system/test_client.py`.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest
from aiohttp import web

from relays.event import Signer
from relays.pool import RelayPool
from relays.pricing import Usage
from router_client.client import RouterClient
from router_client.discovery.directory import Directory
from router_client.ecash.token import Token, decode, token_hash
from router_client.ecash.token import encode as encode_token
from router_client.errors import ClientError, NodeUnavailable, NoProvider
from router_client.net.fetch import FetchFailed, fetch
from router_client.routing.health import Healths
from tests.client.cheat import BODY, DONE, TEXT, Cheat, announce, receipt
from tests.client.purses import until_claimed
from tests.client.test_discovery import announcement
from tests.strangers import served

DEEP = b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


def refunding(text: str, _: str) -> web.Response:
    """Of a node that gives this token back, whatever was paid."""
    return web.json_response({"token": text})


async def test_change_of_another_mint_is_no_money(
    buyer: RouterClient, cheat: Cheat, mint_url: str, http: httpx.AsyncClient
) -> None:
    cheat.chat = [TEXT, receipt(), DONE]
    await cheat.wallet.invoice(900, mint_url, "sat", "own")
    await until_claimed(cheat.wallet, "own")
    worthless = decode((await cheat.wallet.send(500, mint_url, "sat", "change")).token)
    for token in (worthless, Token("http://127.0.0.1:9", "msat", worthless.proofs)):
        text = encode_token(token)
        cheat.refund = partial(refunding, text)
        announce(buyer, cheat, mint_url)  # who cheats is left alone until looked at again
        answer = await buyer.chat(BODY)
        assert not answer.verified
        assert not answer.settled
        assert "not paid with" in str(answer.problem)
        with pytest.raises(NoProvider):
            await buyer.chat(BODY)
    assert {mint for mint, unit in buyer.wallet.balances() if unit == "msat"} == {mint_url}
    assert (mint_url, "sat") not in buyer.wallet.balances()


async def test_change_that_the_mint_does_not_take_is_no_change(
    buyer: RouterClient, cheat: Cheat, mint_url: str, http: httpx.AsyncClient
) -> None:
    """A spent token as change: the node is blamed, and its unredeemed payment is swapped back."""
    cheat.chat = [TEXT, receipt(), DONE]
    await cheat.wallet.invoice(900, mint_url, "msat", "own")
    await until_claimed(cheat.wallet, "own")
    spent = (await cheat.wallet.send(100, mint_url, "msat", "change")).token
    await cheat.wallet.receive(spent, "spend it")
    cheat.refund = lambda _: web.json_response({"token": spent})
    answer = await buyer.chat(BODY)
    assert not answer.verified
    assert "does not take" in str(answer.problem)
    await buyer.recover()
    assert buyer.payments.open_count() == 0
    assert buyer.wallet.balance_msat() >= 10_000 - 5


async def test_a_packed_answer_is_refused_before_it_is_unpacked(buyer: RouterClient, cheat: Cheat) -> None:
    bomb = gzip.compress(gzip.compress(b"0" * 100_000_000))
    packed = {"Content-Encoding": "gzip, gzip"}
    cheat.refund = lambda _: web.Response(body=bomb, headers=packed)
    cheat.chat = [TEXT, receipt(), DONE]
    answer = await buyer.chat(BODY)
    assert not answer.settled
    with pytest.raises(FetchFailed, match="packed"):
        await fetch(buyer._http, "POST", f"{cheat.url}/v1/balance/refund", headers={"Authorization": "x"}, deadline_s=5)


async def test_a_payment_about_to_be_made_is_left_alone_by_recover(buyer: RouterClient, cheat: Cheat) -> None:
    row = ("pay_young", cheat.url, int(time.time()))
    await buyer.payments._db.run(
        lambda conn: conn.execute("INSERT INTO payments VALUES (?, ?, ?, 'open')", row).close()
    )
    await buyer.recover()
    assert buyer.payments.open_count() == 1


async def test_a_node_that_never_redeems_and_denies_the_refund_keeps_nothing(buyer: RouterClient, cheat: Cheat) -> None:
    denial = {"error": {"code": "not_refundable", "message": "nothing here"}}
    cheat.refund = lambda _: web.json_response(denial, status=403)
    cheat.chat_status = 302
    with pytest.raises(NoProvider):
        await buyer.chat(BODY)
    assert buyer.payments.open_count() == 0
    assert buyer.wallet.balance_msat() >= 10_000 - 5, "the token was swapped back"


async def test_a_locked_payment_comes_back_through_the_node_alone(
    buyer: RouterClient, cheat: Cheat, mint_url: str
) -> None:
    """The mint cannot say whether a locked token was taken: the node's word settles it, and its silence leaves it open."""
    key = cheat.wallet.lock_key
    paid = [await buyer.payments.pay(cheat.url, mint_url, "msat", 500, lock=key) for _ in range(3)]
    assert all(cheat.wallet.is_locked_here(decode(one.token)) for one in paid)

    async def give_back(token: str) -> web.Response:
        taken = await cheat.wallet.accept_locked(token, token_hash(token))
        assert taken.amount_msat == paid[0].credit_msat
        await cheat.wallet.redeem_locked()
        change = await cheat.wallet.send(taken.amount_msat - 100, mint_url, "msat", "change", fees="inside")
        return web.json_response({"token": change.token, "fee_msats": change.fee_msat})

    cheat.refund = give_back
    settled = await buyer.payments.settle(paid[0])
    assert settled.node_fee_msat is not None
    assert settled.change_msat + settled.node_fee_msat + settled.fee_msat == paid[0].credit_msat - 100
    cheat.refund = lambda _: web.json_response({"error": {"code": "not_refundable", "message": "used"}}, status=403)
    assert (await buyer.payments.settle(paid[1])).change_msat == 0
    for silence in (
        lambda _: web.Response(status=500),
        lambda _: web.json_response({"status": "ok"}),  # whoever answers where the node was
    ):
        cheat.refund = silence
        with pytest.raises(NodeUnavailable):
            await buyer.payments.take_back(paid[2])
        await buyer.payments.recover()
        assert buyer.payments.open_count() == 1


@pytest.mark.parametrize(
    "refund",
    [
        lambda _: web.Response(body=DEEP),
        lambda _: web.Response(body=b'{"token": "\xff"}'),
        lambda _: web.json_response({"token": "cashuBgarbage"}),
        lambda _: web.json_response({"token": 7}),
        lambda _: web.json_response({"token": "x", "fee_msats": 10**30}),
        lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:99999"}),
        lambda _: web.Response(status=500, body=DEEP),
        lambda _: web.Response(body=b"x" * 5_000_000),
    ],
)
async def test_no_refund_answer_breaks_the_client_or_later_recoveries(
    buyer: RouterClient, cheat: Cheat, refund: Callable[[str], web.Response]
) -> None:
    cheat.chat = [TEXT, receipt(), DONE]
    cheat.refund = refund
    answer = await buyer.chat(BODY)
    assert (answer.text, answer.settled) == ("hello", False)
    await buyer.recover()
    assert buyer.payments.open_count() == 0, "the token was never redeemed: it is back"
    assert buyer.wallet.balance_msat() >= 10_000 - 5


@pytest.mark.parametrize(
    ("status", "chat"),
    [
        (200, []),
        (200, [b"data: [DONE]\n\n"]),
        (200, [b'data: {"error":{"message":"no"}}\n\n']),
        (302, [b""]),
        (400, [DEEP]),
        (400, [b'{"error":{"message":"\xff"}}']),
        (500, [b"\xff"]),
        (200, [b"data: " + b"x" * 9_000_000]),
    ],
)
async def test_a_node_that_serves_nothing_is_paid_nothing(
    buyer: RouterClient, cheat: Cheat, status: int, chat: list[bytes]
) -> None:
    cheat.chat_status, cheat.chat = status, chat
    with pytest.raises(ClientError):
        await buyer.chat(BODY)
    assert buyer.payments.open_count() == 0
    assert buyer.wallet.balance_msat() >= 10_000 - 5


async def test_comments_without_end_are_no_answer(
    buyer: RouterClient, cheat: Cheat, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router_client.buying.purchase.FIRST_WORD_S", 0.1)
    cheat.chat, cheat.pause_s = [b": wait\n\n"] * 10 + [TEXT, DONE], 0.05
    with pytest.raises(NoProvider):
        await buyer.chat(BODY)
    monkeypatch.setattr("router_client.buying.purchase.FIRST_WORD_S", 0.3)
    cheat.chat, cheat.pause_s = [TEXT] * 10 + [DONE], 0.05
    announce(buyer, cheat, mint_url)
    buyer._serving._given.healths = Healths()
    assert (await buyer.chat(BODY)).text == "hello" * 10, "that is for its first word alone"


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_a_node_that_repeats_the_token_does_not_bring_it_into_errors_and_logs(
    buyer: RouterClient, cheat: Cheat, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level("DEBUG")
    tokens: list[str] = []

    async def repeat(token: str) -> None:
        tokens.append(token)
        error = b'{"error":{"message":"bad token ' + token.encode() + b'"}}'
        cheat.chat = [b"data: " + error + b"\n\n" if status == 200 else error]

    cheat.on_payment, cheat.chat_status = repeat, status
    with pytest.raises(NoProvider, match="bad token") as raised:
        await buyer.chat(BODY)
    assert len(tokens) == 1
    assert "cashuB" not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    "stream",
    [
        [TEXT],
        [TEXT, receipt(103)],
        [TEXT, receipt(hold_msat=10_000)],
        [TEXT, receipt(usage=Usage(10**15, 10**15), cost_msat=300)],
        [TEXT, b": satroute-receipt " + DEEP + b"\n\n"],
        [TEXT, b': satroute-receipt {"id":"\xff"}\n\n'],
        [b"data: " + DEEP + b"\n\n", TEXT],
        [b"data: \xff\xfe\n\n", TEXT],
    ],
)
async def test_a_false_receipt_is_said_not_raised(buyer: RouterClient, cheat: Cheat, stream: list[bytes]) -> None:
    cheat.chat = [*stream, DONE]
    answer = await buyer.chat(BODY)
    assert answer.text == "hello"
    assert not answer.verified
    assert answer.problem


async def test_usage_that_cannot_be_is_worth_nothing_without_a_receipt(buyer: RouterClient, cheat: Cheat) -> None:
    """It would have saved a fortune, at a speed that no other node has."""
    lie = b'data: {"choices":[],"usage":{"prompt_tokens":100000000,"completion_tokens":100000000}}\n\n'
    cheat.chat = [TEXT, lie, DONE]
    answer = await buyer.chat(BODY)
    assert answer.usage.completion_tokens == BODY["max_tokens"]
    assert answer.usage.prompt_tokens < 1000


async def test_hostile_announcements_do_not_disable_the_directory(relay_url: str, http: httpx.AsyncClient) -> None:
    """Whatever one of them holds, the others are found, and in bounded time."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.5)

    app = web.Application()
    app.router.add_get("/v1/info", drip)
    async with served(app) as where:
        now = int(time.time())
        urls = [
            f"http://{where}",
            "http://127.0.0.1:99999",
            "http://xn--/",
            "http://[",
            "http://x y",
        ]
        async with RelayPool([relay_url]) as pool:
            for url in urls:
                await pool.publish(announcement(Signer.generate(), url=url, at=now, name=f"hostile {url}"))
            many = [["u", f"http://127.0.0.1:{9}/{i}"] for i in range(500)]
            for content in (DEEP.decode(), '{"satroute":{"v":1,"models":[{"id":"m","limits":{"context_length":-1}}]}}'):
                signer = Signer.generate()
                await pool.publish(signer.sign(kind=38421, content=content, created_at=now, tags=[["d", "x"], *many]))
            directory = Directory(pool, http)
            async with asyncio.timeout(60):
                found = await directory.providers()
            assert {p.announcement.name for p in found if p.url is not None}.isdisjoint(
                f"hostile {url}" for url in urls
            )
            assert len([p for p in found if p.announcement.name.startswith("hostile")]) == len(urls)


async def test_a_spare_that_is_worth_much_more_is_not_put_into_a_small_request(
    buyer: RouterClient, cheat: Cheat, mint_url: str
) -> None:
    """A node that keeps it all would keep many times what the request was reserved at."""
    lock = cheat.wallet.lock_key
    large = await buyer.payments.pay(cheat.url, mint_url, "msat", 5_000, lock=lock)
    await buyer.payments.keep(large)
    small = await buyer.payments.pay(cheat.url, mint_url, "msat", 500, lock=lock)
    assert 500 <= small.credit_msat <= 625
    exact = await buyer.payments.pay(cheat.url, mint_url, "msat", 495, lock=lock, most_msat=495)
    assert exact.credit_msat == 495, "not in three coins, which would be 512 msat"
    again = await buyer.payments.pay(cheat.url, mint_url, "msat", 4_500, lock=lock)
    assert again.token == large.token
    await buyer.wallet.invoice(10, mint_url, "sat", "sats")
    await until_claimed(buyer.wallet, "sats")
    coarse = await buyer.payments.pay(cheat.url, mint_url, "sat", 300, lock=lock)
    await buyer.payments.keep(coarse)
    assert coarse.credit_msat == 1000, "the least that a sat can be"
    assert (await buyer.payments.pay(cheat.url, mint_url, "sat", 200, lock=lock)).token == coarse.token
