"""A mint that does one thing after another: it is not asked for too much at once, and what it puts off is not refused."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import pytest

from router_client.ecash.crypto import y_of
from router_client.ecash.mint import MOST_AT_ONCE
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable
from tests.client.mints import running_mint
from tests.client.purses import funded


async def test_a_mint_whose_database_is_busy_has_refused_nothing(folder: Path, http: httpx.AsyncClient) -> None:
    """nutshell says 400, as of a token that is no good; but the same token is good a moment later."""
    with running_mint(folder / "mint") as mint_url:
        alice = await funded(folder / "a.db", http, mint_url, 1000)
        token = (await alice.send(100, mint_url, "msat", "x")).token
        bob = await Wallet.open(folder / "b.db", http)
        await bob.pin(mint_url)
        database = sqlite3.connect(next((folder / "mint").rglob("mint.sqlite3")), isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(MintUnavailable, match="busy"):
            await bob.receive(token, "busy")
        database.execute("ROLLBACK")
        database.close()
        assert (await bob.receive(token, "busy")).amount_msat == 100


async def test_no_more_swaps_are_asked_of_a_mint_at_once_than_it_can_bear(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Also where its keys are looked up anew meanwhile, as after every token that it refuses."""
    alice = await funded(folder / "a.db", http, mint_url, 4000)
    tokens = [(await alice.send(64, mint_url, "msat", f"s{n}")).token for n in range(5 * MOST_AT_ONCE)]
    running, most = 0, 0

    async def begins(request: httpx.Request) -> None:
        nonlocal running, most
        running += request.url.path == "/v1/swap"
        most = max(most, running)

    async def ends(response: httpx.Response) -> None:
        nonlocal running
        running -= response.request.url.path == "/v1/swap"

    async with httpx.AsyncClient(event_hooks={"request": [begins], "response": [ends]}, timeout=60) as counted:
        bob = await Wallet.open(folder / "b.db", counted)
        await bob.pin(mint_url)

        async def receive(number: int, token: str) -> int:
            await asyncio.sleep(number // MOST_AT_ONCE * 0.01)
            bob._keyring.forget(mint_url)
            return (await bob.receive(token, f"r{number}")).amount_msat

        taken_msat = await asyncio.gather(*(receive(number, token) for number, token in enumerate(tokens)))
        assert most == MOST_AT_ONCE
        assert bob.balance_msat() == sum(taken_msat) == 64 * len(tokens)


async def test_a_swap_that_is_under_way_was_not_refused(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    """Its first request is with the mint still: to take the refusal of the second for its end would lose what it makes."""
    alice = await funded(folder / "a.db", http, mint_url, 1000)
    swaps = 0

    class AtIt(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal swaps
            if request.url.path != "/v1/swap":
                return await super().handle_async_request(request)
            swaps += 1
            if swaps == 1:
                raise httpx.ReadTimeout("no answer", request=request)
            if swaps == 2:
                refusal = b'{"detail": "Outputs are pending", "code": 11004}'
                return httpx.Response(400, stream=httpx.ByteStream(refusal))
            return await super().handle_async_request(request)

    token = (await alice.send(100, mint_url, "msat", "x")).token
    async with httpx.AsyncClient(transport=AtIt()) as slow:
        bob = await Wallet.open(folder / "b.db", slow)
        for _ in range(2):
            with pytest.raises(MintUnavailable):
                await bob.receive(token, "in")
            opened = bob.outcome("in")
            assert opened is not None
            assert opened.state == "open"
        assert (await bob.receive(token, "in")).amount_msat == bob.balance_msat() == 100
        bob.close()
    alice.close()


async def test_who_answers_in_the_mints_stead_has_not_spoken_for_it(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """A gateway that refuses everything, after a swap whose answer was lost: the mint has done it."""
    alice = await funded(folder / "a.db", http, mint_url, 1000)
    token = (await alice.send(100, mint_url, "msat", "x")).token
    alice.close()
    swaps, is_blocked = 0, True

    class Gateway(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal swaps
            swaps += request.url.path == "/v1/swap"
            if is_blocked and swaps > 1:
                return httpx.Response(403, stream=httpx.ByteStream(b'{"error": "forbidden"}'))
            response = await super().handle_async_request(request)
            if is_blocked and swaps == 1:
                await response.aread()
                raise httpx.ReadError("lost on the way back", request=request)
            return response

    async with httpx.AsyncClient(transport=Gateway()) as guarded:
        bob = await Wallet.open(folder / "b.db", guarded)
        for _ in range(2):
            with pytest.raises(MintUnavailable):
                await bob.receive(token, "in")
        is_blocked = False
        assert (await bob.receive(token, "in")).amount_msat == bob.balance_msat() == 100
        bob.close()


async def test_who_refuses_in_the_mints_stead_what_that_is_at_has_refused_nothing(
    folder: Path, http: httpx.AsyncClient
) -> None:
    """A gateway that lets no swap through any more, while the mint still works at the first, which nobody has heard of: our
    coins would be taken for free, and what they become for nobody's."""
    with running_mint(folder / "mint") as mint_url:
        alice = await funded(folder / "a.db", http, mint_url, 1024)
        alice.close()
        swaps, is_blocked = 0, True

        def work_at(request: httpx.Request) -> None:
            with closing(sqlite3.connect(folder / "mint" / "db" / "mint.sqlite3")) as books, books:
                for coin in msgspec.json.decode(request.content)["inputs"]:
                    names = "amount, c, secret, y, id"
                    values = (coin["amount"], coin["C"], coin["secret"], y_of(coin["secret"]), coin["id"])
                    books.execute(f"INSERT INTO proofs_pending ({names}) VALUES (?, ?, ?, ?, ?)", values)

        class Gateway(httpx.AsyncHTTPTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                nonlocal swaps
                if not is_blocked or request.url.path != "/v1/swap":
                    return await super().handle_async_request(request)
                swaps += 1
                if swaps == 1:
                    work_at(request)
                    raise httpx.ReadTimeout("no answer", request=request)
                return httpx.Response(403, stream=httpx.ByteStream(b'{"error": "forbidden"}'))

        async with httpx.AsyncClient(transport=Gateway(), timeout=30) as guarded:
            alice = await Wallet.open(folder / "a.db", guarded)
            for _ in range(2):
                with pytest.raises(MintUnavailable):
                    await alice.send(100, mint_url, "msat", "x")
                assert alice.balance_msat() == 0
            is_blocked = False
            with pytest.raises(MintUnavailable):
                await alice.send(100, mint_url, "msat", "x")
            with closing(sqlite3.connect(folder / "mint" / "db" / "mint.sqlite3")) as books, books:
                books.execute("DELETE FROM proofs_pending")
            assert (await alice.send(100, mint_url, "msat", "x")).amount_msat >= 100
            alice.close()


async def test_who_hides_a_mints_keysets_has_nothing_against_its_coins(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """A gateway that refuses them in JSON: they are as last known, and a new mint is away."""
    alice = await funded(folder / "a.db", http, mint_url, 1000)
    token = (await alice.send(100, mint_url, "msat", "x")).token
    bob = await Wallet.open(folder / "b.db", http)
    await bob.pin(mint_url)
    bob.close()

    class Gateway(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "GET":
                return httpx.Response(404, stream=httpx.ByteStream(b'{"message": "no route matched"}'))
            return await super().handle_async_request(request)

    async with httpx.AsyncClient(transport=Gateway(), timeout=30) as guarded:
        carol = await Wallet.open(folder / "c.db", guarded)
        with pytest.raises(MintUnavailable, match="no mint's answer"):
            await carol.receive(token, "in")
        bob = await Wallet.open(folder / "b.db", guarded)
        assert (await bob.receive(token, "in")).amount_msat == 100
        for wallet in (alice, bob, carol):
            wallet.close()
