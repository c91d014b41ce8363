"""Bitcoin's price: what more than half of the sources agree on. One that lies, hangs or is dead moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from router_client.spending.btc import AGREEMENT, KNOWN_SOURCES, BtcPrice, agreed, price_in, source_from
from tests.node.books import Clock
from tests.strangers import served

HONEST = "100000"
MINUTE_S = 60.0
MAX_AGE_S = 900.0

ANSWERS: dict[str, bytes] = {
    "kraken": b'{"error":[],"result":{"XXBTZUSD":{"a":["100010.1","1","1"],"b":["99990","1","1"],"c":["100000.0","0.1"]}}}',
    "coinbase": b'{"data":{"amount":"100000.00","base":"BTC","currency":"USD"}}',
    "coingecko": b'{"bitcoin":{"usd":100000}}',
}


def test_the_known_sources_are_read_where_they_say_it() -> None:
    for name, body in ANSWERS.items():
        assert price_in(body, source_from(name).pointer) == Decimal(100_000)
        assert source_from(name).url.startswith("https://")
        assert "#" not in source_from(name).url
    assert ANSWERS.keys() == KNOWN_SOURCES.keys()


@pytest.mark.parametrize(
    "text", ["", "bitfinex", "https://x.example/price", "ftp://x#/a", "https://#/a", "https://x#a"]
)
def test_what_is_no_source_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="JSON pointer"):
        source_from(text)


def test_a_pointer_may_hold_slashes_and_numbers() -> None:
    source = source_from("https://x.example/t#/BTC~1USD/rows/1/%70rice~0")
    assert source.pointer == ("BTC/USD", "rows", "1", "price~")
    assert price_in(b'{"BTC/USD":{"rows":[0,{"price~":"7"}]}}', source.pointer) == 7


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>busy</html>", b"{}", b"[]", b"null", b'{"data":{}}', b'{"data":{"amount":null}}'),
        *(b'{"data":{"amount":true}}', b'{"data":{"amount":{}}}', b'{"data":{"amount":"soon"}}', b'{"data":7}'),
        *(b'{"data":{"amount":"NaN"}}', b'{"data":{"amount":"-5"}}', b'{"data":{"amount":0}}', b'{"data":"x"}'),
        *(
            b'{"data":{"amount":"1e30"}}',
            b'{"data":{"amount":"Infinity"}}',
            b"[" * 100_000,
            b'{"data":{"amount":"\xff"}}',
        ),
    ],
)
def test_what_is_no_price_is_none(body: bytes) -> None:
    with pytest.raises(ValueError, match="price"):
        price_in(body, ("data", "amount"))


@pytest.mark.parametrize(
    ("prices", "asked", "found"),
    [
        (["100", "101", "102"], 3, "101"),
        (["100", "101", "999999"], 3, "101"),
        (["100", "101", "0.01"], 3, "100"),
        (["100", "101"], 3, "100.5"),
        (["100", "200"], 3, None),
        (["100", "200", "300"], 3, None),
        (["100"], 3, None),
        (["100"], 1, "100"),
        (["100", "101"], 4, None),
        ([], 3, None),
        ([], 0, None),
    ],
)
def test_the_middle_of_those_that_agree(prices: Sequence[str], asked: int, found: str | None) -> None:
    assert agreed([Decimal(price) for price in prices], asked) == (None if found is None else Decimal(found))


@given(
    st.decimals("0.01", "1e9", allow_nan=False),
    st.lists(st.decimals("99000", "101000", allow_nan=False), min_size=2, max_size=2),
)
def test_one_wild_source_of_three_moves_nothing(wild: Decimal, honest: list[Decimal]) -> None:
    found = agreed([wild, *honest], 3)
    assert found is not None
    assert min(honest) * (1 - AGREEMENT) <= found <= max(honest) * (1 + AGREEMENT)
    assert min(honest) <= found <= max(honest)


class Source:
    """Answers with what it was told to, or hangs."""

    def __init__(self) -> None:
        self.answer: Any = f'{{"usd":"{HONEST}"}}'
        self.asked = 0

    async def handle(self, _: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.answer == "HANG":
            await asyncio.sleep(30)
        if self.answer == "HUGE":
            return web.Response(body=b"[" + b"1," * 3_000_000)
        if self.answer == "LOST":
            raise web.HTTPFound("https://elsewhere.example/")
        if isinstance(self.answer, int):
            return web.Response(status=self.answer, text=f'{{"usd":"{HONEST}"}}')
        return web.Response(text=self.answer)


@asynccontextmanager
async def sources(number: int = 3) -> AsyncIterator[tuple[list[Source], list[str]]]:
    made = [Source() for _ in range(number)]
    app = web.Application()
    for index, source in enumerate(made):
        app.router.add_get(f"/{index}", source.handle)
    async with served(app) as where:
        yield made, [f"http://{where}/{index}#/usd" for index in range(number)]


def price_of(http: httpx.AsyncClient, urls: Sequence[str], clock: Clock) -> BtcPrice:
    return BtcPrice(http, [source_from(url) for url in urls], timeout_s=2, max_age_s=MAX_AGE_S, clock=clock)


@pytest.mark.parametrize(
    "odd", ['{"usd":"1"}', '{"usd":"99999999"}', "HANG", "HUGE", "LOST", "<html>", "", 500, 429, '{"usd":null}']
)
async def test_one_that_lies_hangs_or_talks_nonsense_moves_nothing(http: httpx.AsyncClient, odd: Any) -> None:
    async with sources() as (made, urls):
        for index in range(3):
            for source in made:
                source.answer = f'{{"usd":"{HONEST}"}}'
            made[index].answer = odd
            price = price_of(http, urls, Clock())
            assert await price.refresh()
            assert price.usd == Decimal(HONEST)


async def test_a_small_move_is_not_taken_over_and_a_large_one_is(http: httpx.AsyncClient) -> None:
    async with sources() as (made, urls):
        price = price_of(http, urls, Clock())
        assert await price.refresh()
        for answer, changed, usd in (("100400", False, HONEST), ("100600", True, "100600"), ("90000", True, "90000")):
            for source in made:
                source.answer = f'{{"usd":{answer}}}'
            assert await price.refresh() == changed
            assert price.usd == Decimal(usd)


async def test_when_all_are_dead_the_price_ages_and_is_gone(http: httpx.AsyncClient) -> None:
    clock = Clock()
    async with sources() as (made, urls):
        price = price_of(http, urls, clock)
        assert price.usd is None, "nothing is known before anybody was asked"
        await price.refresh()
        for source in made:
            source.answer = 503
        clock.now += MAX_AGE_S
        assert not await price.refresh()
        assert price.usd == Decimal(HONEST)
        clock.now += 1
        assert price.usd is None
        assert price.latest == Decimal(HONEST), "amounts can still be shown"
        made[0].answer = made[1].answer = '{"usd":"100010"}'
        assert not await price.refresh(), "the same price, confirmed"
        assert price.usd == Decimal(HONEST)


async def test_sources_are_asked_at_once_and_no_longer_than_the_timeout(http: httpx.AsyncClient) -> None:
    async with sources() as (made, urls):
        for source in made:
            source.answer = "HANG"
        price = price_of(http, urls, Clock())
        async with asyncio.timeout(5):
            assert not await price.refresh()
        assert [source.asked for source in made] == [1, 1, 1]
        assert price.usd is None
