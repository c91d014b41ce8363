"""A 402 that says how to pay is paid once and no more than allowed; one of our nodes is in tests/node/test_paid.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from aiohttp import web

from relays.payment import CASHU_HEADER
from router_client.ecash.request import Lock, PaymentRequest, encode_a, encode_b, locked_to
from router_client.ecash.token import decode, token_hash
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    FeeTooHigh,
    InsufficientFunds,
    NodeUnavailable,
    RequestUnreadable,
    WalletError,
    WrongUnit,
)
from router_client.paying.http402 import pay_per_request
from router_client.paying.payments import Payments
from tests.client.purses import funded
from tests.conftest import DEAD_MINT
from tests.strangers import served

LIMIT_MSAT = 50_000
PRICE_MSAT = 700


class Stranger:
    """A server that asks with a 402 and takes what it asked for; it knows nothing of nodes."""

    def __init__(self, wallet: Wallet, request: PaymentRequest) -> None:
        self.wallet = wallet
        self.request = request
        self.write: Callable[[PaymentRequest], str] = encode_b
        self.status = 200
        self.takes = True
        self.tokens: list[str] = []

    async def on_post(self, request: web.Request) -> web.Response:
        token = request.headers.get(CASHU_HEADER)
        if token is None:
            return web.Response(status=402, headers={CASHU_HEADER: self.write(self.request)})
        self.tokens.append(token)
        coins = decode(token)
        assert (coins.mint, coins.unit) == (self.request.mints[0], self.request.unit)
        if self.takes:
            name = token_hash(token)
            received = await self.wallet.receive(coins, name)
            assert received.amount_msat >= PRICE_MSAT
        return web.json_response({"got": await request.json()}, status=self.status)


@asynccontextmanager
async def serving(stranger: Stranger) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/resource", stranger.on_post)
    async with served(app) as where:
        yield f"http://{where}/resource"


@pytest.fixture
async def payments(folder: Path, http: httpx.AsyncClient, mint_url: str) -> AsyncIterator[Payments]:
    wallet = await funded(folder / "payer.db", http, mint_url, 100_000)
    opened = await Payments.open(folder / "payments.db", wallet, http)
    yield opened
    opened.close()
    wallet.close()


@pytest.fixture
async def stranger(folder: Path, http: httpx.AsyncClient, mint_url: str) -> AsyncIterator[Stranger]:
    wallet = await Wallet.open(folder / "stranger.db", http)
    yield Stranger(wallet, PaymentRequest(amount=PRICE_MSAT, unit="msat", mints=(mint_url,)))
    wallet.close()


@pytest.mark.parametrize("form", ["creqA", "creqB"])
@pytest.mark.parametrize("lock", [False, True], ids=["plain", "locked"])
async def test_a_stranger_is_paid_and_keeps_its_price(
    http: httpx.AsyncClient, payments: Payments, stranger: Stranger, form: str, lock: bool
) -> None:
    stranger.write = encode_a if form == "creqA" else encode_b
    key = stranger.wallet.lock_key
    stranger.request = msgspec.structs.replace(stranger.request, lock=locked_to(key) if lock else None)
    async with serving(stranger) as url:
        reply = await pay_per_request(http, payments, url, {"a": 1}, max_msat=PRICE_MSAT)
    assert (reply.status, msgspec.json.decode(reply.body)) == (200, {"got": {"a": 1}})
    assert stranger.wallet.is_locked_here(decode(stranger.tokens[0])) is lock
    assert PRICE_MSAT <= decode(stranger.tokens[0]).amount <= PRICE_MSAT + 2, "the price and the mint's fee, no more"
    assert payments.open_count() == 0
    assert payments.wallet.balance_msat() >= 100_000 - PRICE_MSAT - 10


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"amount": PRICE_MSAT + 1}, FeeTooHigh),
        ({"amount": None}, RequestUnreadable),
        ({"amount": 0}, RequestUnreadable),
        ({"unit": None}, RequestUnreadable),
        ({"unit": "usd"}, WrongUnit),
        ({"unit": "sat"}, FeeTooHigh),
        ({"mints": (DEAD_MINT,)}, InsufficientFunds),
        ({"lock": Lock("HTLC", "00" * 32)}, RequestUnreadable),
        ({"lock": Lock("P2PK", "02" + "ab" * 32, (("locktime", "1"),))}, RequestUnreadable),
        ({"lock": Lock("P2PK", "no key")}, WalletError),
    ],
)
async def test_a_request_that_is_not_to_be_paid_costs_nothing(
    http: httpx.AsyncClient, payments: Payments, stranger: Stranger, change: dict[str, object], error: type[WalletError]
) -> None:
    stranger.request = msgspec.structs.replace(stranger.request, **change)
    async with serving(stranger) as url:
        with pytest.raises(error):
            await pay_per_request(http, payments, url, {}, max_msat=PRICE_MSAT)
    assert stranger.tokens == []
    assert payments.out() == []
    assert payments.wallet.balance_msat() == 100_000


@pytest.mark.parametrize("status", [200, 400, 402, 500])
async def test_a_server_that_fails_without_taking_the_token_leaves_it_ours(
    http: httpx.AsyncClient, payments: Payments, stranger: Stranger, status: int
) -> None:
    stranger.takes, stranger.status = False, status
    async with serving(stranger) as url:
        reply = await pay_per_request(http, payments, url, {}, max_msat=PRICE_MSAT)
        assert len(stranger.tokens) == 1, "it is paid once"
    assert reply.status == status
    if status != 200:  # who has served may take its money later
        assert reply.settled is not None
        assert payments.wallet.balance_msat() >= 100_000 - 10
    assert payments.out() == []


async def test_a_server_that_takes_the_token_and_fails_is_told_of(
    http: httpx.AsyncClient, payments: Payments, stranger: Stranger
) -> None:
    stranger.status = 500
    async with serving(stranger) as url:
        reply = await pay_per_request(http, payments, url, {}, max_msat=PRICE_MSAT)
    assert (reply.status, reply.settled) == (500, None)
    assert [one.locked for one in payments.out()] == [False]
    await payments.recover()
    assert len(payments.out()) == 1, "nobody gives it back, and it is not forgotten"


async def test_other_answers_are_answers_and_silence_is_said(
    http: httpx.AsyncClient, payments: Payments, stranger: Stranger
) -> None:
    async with serving(stranger) as url:
        reply = await pay_per_request(http, payments, f"{url}/nothing", {}, max_msat=PRICE_MSAT)
        assert (reply.status, reply.paid_msat) == (404, 0)
        stranger.write = lambda _: "creqAgarbage"
        with pytest.raises(RequestUnreadable):
            await pay_per_request(http, payments, url, {}, max_msat=PRICE_MSAT)
    with pytest.raises(NodeUnavailable):
        await pay_per_request(http, payments, DEAD_MINT, {}, max_msat=PRICE_MSAT)
    assert payments.open_count() == 0
