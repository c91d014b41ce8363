"""`satroute serve --workers 2`: a till and a counter, one set of books; either may crash, and both drain."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from node.completions import NOTED_FROM_S
from node.deposits import new_key
from node.ledger.ledger import Ledger
from relays.receipt import decode
from tests.conftest import NO_TLS
from tests.node.harness import HELLO, bearer, funded_wallet, streamed_receipt, token_of
from tests.system.children import until
from tests.system.forked import Workers, satroute

PRICES = {"FIXED_PER_1K_INPUT_TOKENS": "2", "FIXED_PER_1K_OUTPUT_TOKENS": "8"}
ONE_PRICE = {"FIXED_PER_1K_INPUT_TOKENS": "0", "FIXED_PER_1K_OUTPUT_TOKENS": "0", "FIXED_COST_PER_REQUEST": "1"}
CHAT = "/v1/chat/completions"
STORY = {**HELLO, "stream": True, "max_tokens": 150, "messages": [{"role": "user", "content": "Tell a story."}]}


@pytest.fixture
def served(folder: Path, postgres_books_url: str, mint_url: str, model_url: str) -> Iterator[Workers]:
    common = {"DATABASE_URL": postgres_books_url, "CASHU_MINTS": mint_url, "UPSTREAM_BASE_URL": model_url}
    workers = Workers(folder / "n", **common, **PRICES)
    yield workers
    workers.stop()


@pytest.fixture
def one_price(folder: Path, postgres_books_url: str, mint_url: str, model_url: str) -> Iterator[Workers]:
    """A request costs what it holds, so none gives money back for an eleventh."""
    common = {"DATABASE_URL": postgres_books_url, "CASHU_MINTS": mint_url, "UPSTREAM_BASE_URL": model_url}
    workers = Workers(folder / "n", **common, **ONE_PRICE)
    yield workers
    workers.stop()


@asynccontextmanager
async def books_of(url: str) -> AsyncIterator[Ledger]:
    """The books, which are proven at the end."""
    books = await Ledger.open(url)
    yield books
    await books.audit()
    await books.close()


async def granted(books: Ledger, amount_msat: int) -> tuple[int, str]:
    """A new account and its key."""
    key = new_key()
    await books.create_key(key.hash, key.hint, "", amount_msat)
    named = await books.key_of(key.hash)
    assert named is not None
    return named.account, key.text


@asynccontextmanager
async def callers() -> AsyncIterator[httpx.AsyncClient]:
    """Each request has a connection of its own, so that they are dealt out to both processes."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=60, limits=limits) as client:
        yield client


async def by_instance(url: str) -> dict[str, int]:
    """How many requests each process has on hold."""
    conn = await asyncpg.connect(url)
    found = await conn.fetch("SELECT instance, count(*) FROM holds WHERE state = 'pending' GROUP BY instance")
    await conn.close()
    return {str(row[0]): int(row[1]) for row in found}


async def stream(http: httpx.AsyncClient, served: Workers, key: str) -> str:
    """What came of a stream, however it ended."""
    text = ""
    try:
        async with http.stream("POST", served.url + CHAT, json=STORY, headers=bearer(key)) as reply:
            async for piece in reply.aiter_text():
                text += piece
    except httpx.HTTPError:
        return text + "died"
    return text


async def streams_on_both(
    http: httpx.AsyncClient, served: Workers, url: str, key: str, tasks: list[asyncio.Task[str]]
) -> None:
    """Start streams until each process has one on hold."""
    for _ in range(40):
        if len(await by_instance(url)) == 2:
            return
        tasks.append(asyncio.create_task(stream(http, served, key)))
        await asyncio.sleep(0.05)
    raise AssertionError("all connections went to one process")


async def nothing_held(books: Ledger) -> None:
    for _ in range(300):
        if not await books.open_holds():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("a hold is left")


async def test_sixty_four_requests_with_money_for_ten(one_price: Workers, postgres_books_url: str) -> None:
    async with books_of(postgres_books_url) as books, callers() as http:
        account, key = await granted(books, 10_000)
        asked = (http.post(one_price.url + CHAT, json=HELLO, headers=bearer(key)) for _ in range(64))
        replies = await asyncio.gather(*asked)
        assert sorted(reply.status_code for reply in replies) == [200] * 10 + [402] * 54, replies[0].text
        assert all(reply.headers["x-cashu"] for reply in replies if reply.status_code == 402)
        left = await books.account(account)
        assert (left.available_msat, left.held_msat, left.spent_msat) == (0, 0, 10_000)


@pytest.mark.parametrize("victim", [0, 1], ids=["till", "counter"])
async def test_kill_nine_of_one_in_the_midst_of_streams(victim: int, served: Workers, postgres_books_url: str) -> None:
    """It is started again and ends what it held; the other's streams go on, and nobody pays for more than was streamed."""
    before = served.pids()
    async with books_of(postgres_books_url) as books, callers() as http:
        account, key = await granted(books, 10_000_000)
        tasks: list[asyncio.Task[str]] = []
        began = time.monotonic()
        await streams_on_both(http, served, postgres_books_url, key, tasks)
        is_quick = time.monotonic() - began < NOTED_FROM_S
        os.kill(before[victim], signal.SIGKILL)
        texts = await asyncio.gather(*tasks)
        assert any(text.endswith("died") for text in texts)
        assert any("[DONE]" in text for text in texts), "the other's streams go on"
        assert until(lambda: (len(served.pids()) == 2 and served.pids()[0] != before[0]) or victim == 1)
        await nothing_held(books)
        receipts = [event for text in texts if (event := streamed_receipt(text)) is not None]
        told_msat = sum(decode(event).cost_msat for event in receipts)
        spent_msat = (await books.account(account)).spent_msat
        assert spent_msat >= told_msat
        assert spent_msat == told_msat or not is_quick, "a stream that broke off before it was noted is free"
        for _ in range(100):
            reply = await http.post(served.url + CHAT, json=HELLO, headers=bearer(key))
            if reply.status_code == 200:
                break
            assert reply.status_code == 503, reply.text
            assert reply.headers["retry-after"]
            await asyncio.sleep(0.1)
        assert reply.status_code == 200
        await nothing_held(books)


async def test_after_kill_nine_of_all_the_sums_agree(served: Workers, postgres_books_url: str) -> None:
    async with books_of(postgres_books_url) as books, callers() as http:
        account, key = await granted(books, 10_000_000)
        tasks: list[asyncio.Task[str]] = []
        await streams_on_both(http, served, postgres_books_url, key, tasks)
        served.kill_all()
        await asyncio.gather(*tasks)
        await books.audit()
        served.start()
        await nothing_held(books)
        left = await books.account(account)
        assert left.available_msat + left.spent_msat == 10_000_000


async def test_a_signal_drains_the_streams_of_both(served: Workers, postgres_books_url: str) -> None:
    async with books_of(postgres_books_url) as books, callers() as http:
        account, key = await granted(books, 10_000_000)
        tasks: list[asyncio.Task[str]] = []
        await streams_on_both(http, served, postgres_books_url, key, tasks)
        await asyncio.sleep(0.5)
        served.tell_to_leave()
        texts = await asyncio.gather(*tasks)
        assert all("[DONE]" in text for text in texts), [text[-200:] for text in texts]
        assert await asyncio.to_thread(served.exit_code, 20) == 0, served.log.read_text()[-2000:]
        told_msat = [decode(event).cost_msat for text in texts if (event := streamed_receipt(text)) is not None]
        assert (await books.account(account)).spent_msat == sum(told_msat)
        assert not await books.open_holds()


async def test_cash_is_taken_and_given_back_at_either(
    served: Workers, postgres_books_url: str, folder: Path, mint_url: str, http: httpx.AsyncClient
) -> None:
    """One wallet: whoever takes the connection, the coins and the change are the till's."""
    wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    async with books_of(postgres_books_url) as books, callers() as each:
        for number in range(8):
            token = await token_of(wallet, mint_url, 50_000)
            paid = await each.post(served.url + CHAT, json=HELLO, headers={"X-Cashu": token})
            assert paid.status_code == 200, paid.text
            await wallet.receive(paid.headers["x-cashu"], f"change {number}")
        token = await token_of(wallet, mint_url, 50_000)
        asked = [each.post(served.url + CHAT, json=HELLO, headers=bearer(token)) for _ in range(4)]
        assert {reply.status_code for reply in await asyncio.gather(*asked)} <= {200, 409, 503}
        back = await each.post(served.url + "/v1/balance/refund", headers=bearer(token))
        assert back.status_code == 200, back.text
        await wallet.receive(back.json()["token"], "back")
        totals = await books.audit()
        assert totals.keys_msat < 1000, "less than a sat each is what change leaves"
    wallet.close()


def test_workers_need_books_to_share(folder: Path, postgres_books_url: str) -> None:
    env = {"HOME": str(folder), "DATA_DIR": str(folder), "CASHU_MINTS": "http://127.0.0.1:9", "PORT": "0", **PRICES}
    env["UPSTREAM_BASE_URL"] = "http://127.0.0.1:9/v1"
    done = satroute("serve", "--workers", "2", env=env)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "error: DATABASE_URL: several workers need books that they can share: "
        "set postgresql://USER:PASSWORD@HOST/NAME, or leave --workers out"
    ]
    long = folder / ("x" * 100)
    done = satroute("serve", "--workers", "2", env={**env, "DATABASE_URL": postgres_books_url, "DATA_DIR": str(long)})
    assert done.returncode == 1
    assert "too long a path" in done.stderr


def test_a_port_that_other_workers_listen_on_is_refused(served: Workers, folder: Path, postgres_books_url: str) -> None:
    env = {"HOME": str(folder), "DATA_DIR": str(folder / "o"), "CASHU_MINTS": "http://127.0.0.1:9", **PRICES}
    env |= {"UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1", "DATABASE_URL": postgres_books_url, "PORT": str(served.port)}
    done = satroute("serve", "--workers", "2", env=env)
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr


def test_a_worker_that_cannot_go_on_ends_all(folder: Path) -> None:
    env = {"HOME": str(folder), "DATA_DIR": str(folder / "o"), "CASHU_MINTS": "http://127.0.0.1:9", **PRICES}
    env |= {"UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1", "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    done = satroute("serve", "--workers", "2", env=env | {"PORT": "0"})
    assert done.returncode == 1
    assert "a worker could not go on" in done.stderr
