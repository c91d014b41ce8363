"""Two node processes on one PostgreSQL: one set of books, whichever of them is asked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from node.deposits import new_key
from node.ledger.ledger import Ledger
from node.ledger.model import Deposit, Refund
from router_client.ecash.token import token_hash
from tests.node.harness import HELLO, bearer, funded_wallet, running_node, token_of
from tests.system.forked import Served

PRICES = {"FIXED_PER_1K_INPUT_TOKENS": "2", "FIXED_PER_1K_OUTPUT_TOKENS": "8"}


Twins = tuple[Served, Served]
"""Two processes."""


@contextmanager
def both(folder: Path, books: str, mint_url: str, model_url: str, prices: dict[str, str]) -> Iterator[Twins]:
    settings = {"DATABASE_URL": books, "CASHU_MINTS": mint_url, "UPSTREAM_BASE_URL": model_url, **prices}
    one, two = Served(folder / "one", **settings), Served(folder / "two", **settings)
    yield one, two
    one.stop()
    two.stop()


@pytest.fixture
def twins(folder: Path, postgres_books_url: str, mint_url: str, model_url: str) -> Iterator[Twins]:
    with both(folder, postgres_books_url, mint_url, model_url, PRICES) as pair:
        yield pair


@pytest.fixture
def one_price(folder: Path, postgres_books_url: str, mint_url: str, model_url: str) -> Iterator[Twins]:
    """A request costs what it holds, so none gives money back for an eleventh."""
    prices = {"FIXED_PER_1K_INPUT_TOKENS": "0", "FIXED_PER_1K_OUTPUT_TOKENS": "0", "FIXED_COST_PER_REQUEST": "1"}
    with both(folder, postgres_books_url, mint_url, model_url, prices) as pair:
        yield pair


async def test_sixty_four_requests_on_two_processes_with_money_for_ten(
    one_price: Twins, postgres_books_url: str, http: httpx.AsyncClient
) -> None:
    """Holds of both processes come out of one balance: exactly ten are served."""
    each_msat = 1000
    key = new_key()
    books = await Ledger.open(postgres_books_url)
    await books.create_key(key.hash, key.hint, "", 10 * each_msat)
    named = await books.key_of(key.hash)
    assert named is not None
    replies = await asyncio.gather(
        *(
            http.post(f"{one_price[n % 2].url}/v1/chat/completions", json=HELLO, headers=bearer(key.text), timeout=120)
            for n in range(64)
        )
    )
    assert sorted(reply.status_code for reply in replies) == [200] * 10 + [402] * 54
    account = await books.account(named.account)
    assert (account.available_msat, account.held_msat, account.spent_msat) == (0, 0, 10 * each_msat)
    await books.audit()
    await books.close()


async def test_a_token_sent_to_both_at_once_is_credited_once(
    twins: Twins, postgres_books_url: str, folder: Path, mint_url: str, http: httpx.AsyncClient
) -> None:
    wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    for _ in range(5):
        token = await token_of(wallet, mint_url, 20_000)
        answers = await asyncio.gather(
            *(http.get(f"{twins[n % 2].url}/v1/balance", headers=bearer(token)) for n in range(8))
        )
        assert {answer.status_code for answer in answers} <= {200, 409, 503}
        settled = [await http.get(f"{twin.url}/v1/balance", headers=bearer(token)) for twin in twins]
        assert [answer.status_code for answer in settled] == [200, 200], settled[0].text
        assert settled[0].json() == settled[1].json()
    books = await Ledger.open(postgres_books_url)
    totals = await books.audit()
    assert totals.ecash_in_msat <= 5 * 20_100
    await books.close()
    wallet.close()


async def test_an_invoice_of_one_survives_being_asked_of_the_other(
    twins: Twins, postgres_books_url: str, http: httpx.AsyncClient
) -> None:
    """Only the process whose wallet has the quote can tell that it was paid."""
    wish = {"amount_sats": 21, "purpose": "create"}
    made = (await http.post(f"{twins[0].url}/lightning/invoice", json=wish)).json()
    told: list[str] = []
    for _ in range(100):
        told.append((await http.get(f"{twins[1].url}/lightning/invoice/{made['invoice_id']}/status")).json()["status"])
        if told[-1] != "pending":
            break
        await asyncio.sleep(0.2)
    assert told[0] == "pending", "it is the other's, who has not looked yet"
    assert told[-1] == "paid", "by the other's watch"
    books = await Ledger.open(postgres_books_url)
    assert (await books.audit()).keys_msat == 21_000
    await books.close()


async def test_a_crash_of_one_leaves_the_others_requests_alone(
    twins: Twins, postgres_books_url: str, http: httpx.AsyncClient
) -> None:
    """The one that starts again frees its own holds, and only those."""
    one = twins[0]
    key = new_key()
    books = await Ledger.open(postgres_books_url)
    await books.create_key(key.hash, key.hint, "", 10_000_000)
    named = await books.key_of(key.hash)
    assert named is not None
    story = {**HELLO, "stream": True, "max_tokens": 300, "messages": [{"role": "user", "content": "Tell a story."}]}

    async def stream(twin: Served) -> str:
        try:
            reply = await http.post(f"{twin.url}/v1/chat/completions", json=story, headers=bearer(key.text))
        except httpx.HTTPError:
            return "died"
        return reply.text

    running = [asyncio.create_task(stream(twin)) for twin in twins]
    for _ in range(200):
        await asyncio.sleep(0.02)
        held = await books.open_holds()
        if len(held) == 2:
            break
    one.kill()
    one.start()
    left = await books.open_holds()
    died, lived = await asyncio.gather(*running)
    assert died == "died"
    if "[DONE]" not in lived:
        raise AssertionError(lived[-300:])
    assert len(left) <= 1, "its own hold is free"
    for _ in range(100):
        if not await books.open_holds():
            break
        await asyncio.sleep(0.05)
    account = await books.account(named.account)
    assert account.held_msat == 0
    assert account.spent_msat > 0, "the living one's request was charged"
    await books.audit()
    await books.close()


async def test_kill_nine_of_either_loses_nothing(
    twins: Twins, postgres_books_url: str, folder: Path, mint_url: str, http: httpx.AsyncClient
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    wallet = await funded_wallet(folder / "caller.db", http, mint_url, sats=2000)
    tokens = []
    for _ in range(4):
        fresh = [await token_of(wallet, mint_url, 50_000) for _ in range(2)]
        tokens += fresh
        async with httpx.AsyncClient(timeout=20) as caller:
            work = asyncio.gather(
                *(
                    caller.get(f"{twin.url}/v1/balance", headers=bearer(token))
                    for twin, token in zip(twins, fresh, strict=True)
                ),
                return_exceptions=True,
            )
            await asyncio.sleep(chance.uniform(0, 0.15))
            victim = chance.choice(twins)
            victim.kill()
            await work
        victim.start()
    for n, token in enumerate(tokens):
        twin = twins[n % 2]  # the one that it was sent to has its coins
        for _ in range(100):
            answer = await http.get(f"{twin.url}/v1/balance", headers=bearer(token))
            if answer.status_code == 200:
                break
            await asyncio.sleep(0.1)
        assert answer.status_code == 200, answer.text
        back = await http.post(f"{twin.url}/v1/balance/refund", headers=bearer(token))
        assert back.status_code == 200, back.text
        await wallet.receive(back.json()["token"], f"back:{token_hash(token)}")
    books = await Ledger.open(postgres_books_url)
    totals = await books.audit()
    assert totals.keys_msat == totals.ecash_in_msat == 0
    await books.close()
    wallet.close()


async def test_what_one_process_has_begun_is_not_done_by_another(
    postgres_books_url: str, folder: Path, mint_url: str, model_url: str, http: httpx.AsyncClient
) -> None:
    """The coins of a refund or deposit that is under way are in one process's wallet: another must not pay them again."""
    wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    first, second = await token_of(wallet, mint_url, 50_000), await token_of(wallet, mint_url, 60_000)
    common = {"database_url": postgres_books_url, "cashu_mints": mint_url, "upstream_base_url": model_url}
    async with (
        running_node(folder / "one", **common) as one,
        running_node(folder / "two", **common) as two,
    ):
        for node in (one, two):
            token = first if node is one else second
            assert (await http.get(f"{node.url}/v1/balance", headers=bearer(token))).status_code == 200
        key = await two.node.ledger.key_of(token_hash(second))
        assert key is not None
        begun = await two.node.ledger.begin_refund(
            Refund(
                id="refund_begun",
                account=key.account,
                state="open",
                mint=mint_url,
                unit="msat",
                amount_msat=60_000,
                fee_msat=0,
                token="",
                instance=two.node.ledger.instance,
            )
        )
        assert isinstance(begun, Refund)
        elsewhere = await http.post(f"{one.url}/v1/balance/refund", headers=bearer(second))
        assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (503, "mint_unavailable")
        assert await one.node.refunds.recover() == 0
        at_home = await http.post(f"{two.url}/v1/balance/refund", headers=bearer(second))
        assert at_home.status_code == 200
        assert at_home.json()["refund_id"] == "refund_begun"

        third = await token_of(wallet, mint_url, 10_000)
        intent = Deposit(
            id=token_hash(third),
            purpose="open",
            account=None,
            state="open",
            mint=mint_url,
            unit="msat",
            amount_msat=10_000,
            fee_msat=0,
            reason="",
            instance=two.node.ledger.instance,
        )
        await two.node.ledger.begin_deposit(intent)
        elsewhere = await http.get(f"{one.url}/v1/balance", headers=bearer(third))
        assert elsewhere.status_code == 503
        assert (await http.get(f"{two.url}/v1/balance", headers=bearer(third))).status_code == 200
        await one.node.ledger.audit()
    wallet.close()
