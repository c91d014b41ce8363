"""Lightning in, through a mint that is at it still when it is asked again: what was paid becomes coins once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from router_client.ecash.coins import split
from router_client.ecash.invoices import read_invoice
from router_client.ecash.mint import MintClient, MintQuote
from router_client.ecash.minting import GRACE_S
from router_client.ecash.wallet import Wallet
from router_client.errors import MintSilent, MintUnavailable, TokenRefused
from tests.client.mints import running_mint
from tests.client.purses import funded, until_claimed

MINT_PATH = "/v1/mint/bolt11"


class AtIt(httpx.AsyncHTTPTransport):
    """Real HTTP, except that the first request for an invoice's coins has no answer, and comes to the mint when that
    is asked about the invoice after the second."""

    def __init__(self) -> None:
        super().__init__()
        self._late: bytes | None = None
        self._seconds = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == MINT_PATH:
            self._seconds += 1
            if self._seconds == 1:
                self._late = request.content
                raise httpx.ReadTimeout("no answer", request=request)
            if self._seconds == 2:
                refusal = b'{"detail": "Mint quote already pending.", "code": 11000}'
                return httpx.Response(400, stream=httpx.ByteStream(refusal))
        if self._seconds == 2 and self._late is not None and "/mint/quote/" in request.url.path:
            url = request.url.copy_with(path=MINT_PATH)
            headers = {"content-type": "application/json"}
            late, self._late = httpx.Request("POST", url, content=self._late, headers=headers), None
            made = await super().handle_async_request(late)
            assert made.status_code == 200
            await made.aread()
        return await super().handle_async_request(request)


class Loses(httpx.AsyncHTTPTransport):
    """Real HTTP, except that the first answer from a path is lost."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        reply = await super().handle_async_request(request)
        if request.url.path == self._path:
            self._path = ""
            await reply.aread()
            raise httpx.ReadError("lost on the way back", request=request)
        return reply


async def paid(wallet: Wallet, http: httpx.AsyncClient, mint_url: str) -> str:
    """The mint's name of an invoice that it has seen the payment of, called `in` here."""
    await wallet.invoice(500, mint_url, "msat", "in")
    opened = wallet.outcome("in")
    assert opened is not None
    async with asyncio.timeout(30):
        while (await http.get(f"{mint_url}/v1/mint/quote/bolt11/{opened.journal.quote}")).json()["state"] != "PAID":
            await asyncio.sleep(0.05)
    return opened.journal.quote


async def test_a_mint_that_is_at_it_still_has_not_said_no(folder: Path, http: httpx.AsyncClient) -> None:
    """A node that was killed as it claimed an invoice, or that waited too long, asks again while the mint works."""
    with running_mint(folder / "mint") as mint_url:
        wallet = await Wallet.open(folder / "w.db", http)
        quote = await paid(wallet, http, mint_url)

        def say(state: str) -> None:
            with closing(sqlite3.connect(folder / "mint" / "db" / "mint.sqlite3")) as books, books:
                assert books.execute("UPDATE mint_quotes SET state = ? WHERE quote = ?", (state, quote)).rowcount == 1

        looked = MintClient.mint_quote_state

        async def before(client: MintClient, name: str) -> MintQuote:
            told = await looked(client, name)
            say("PENDING")
            return told

        with pytest.MonkeyPatch.context() as working:
            working.setattr(MintClient, "mint_quote_state", before)
            with pytest.raises(MintUnavailable):
                await wallet.claim("in")
        with pytest.raises(MintUnavailable, match="at it"):
            await wallet.claim("in")
        say("PAID")
        assert (await until_claimed(wallet, "in")).amount_msat == wallet.balance_msat() == 500
        wallet.close()


async def test_coins_that_are_made_between_two_questions_are_found(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    async with httpx.AsyncClient(transport=AtIt()) as slow:
        wallet = await Wallet.open(folder / "w.db", slow)
        await paid(wallet, http, mint_url)
        with pytest.raises(MintUnavailable):
            await wallet.claim("in")
        received = await wallet.claim("in")
        assert received is not None
        assert received.amount_msat == wallet.balance_msat() == 500
        await wallet.send(400, mint_url, "msat", "real")
        wallet.close()


async def test_unpaid_invoices_keep_no_money_waiting(
    folder: Path, http: httpx.AsyncClient, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anyone may ask a node for hundreds, and each is a question to its mint: whose coins are on their way comes first."""
    payer = await funded(folder / "payer.db", http, mint_url, 1000)
    token = (await payer.send(100, mint_url, "msat", "x")).token
    payer.close()
    wallet = await Wallet.open(folder / "w.db", http)
    await wallet.invoice(500, mint_url, "msat", "in")

    async def silent(*_: object) -> None:
        raise MintSilent("no answer")

    with monkeypatch.context() as away:
        away.setattr(MintClient, "swap", silent)
        with pytest.raises(MintUnavailable):
            await wallet.receive(token, "open")
    monkeypatch.setattr(MintClient, "mint_quote_state", silent)
    assert [(done.id, done.state) for done in await wallet.recover()] == [("open", "done")]
    assert wallet.balance_msat() == 100
    wallet.close()


async def test_an_invoice_that_is_claimed_as_it_is_given_up_is_not(
    folder: Path, http: httpx.AsyncClient, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that nobody has paid took its time, and somebody has since."""
    looked, minted, planned, answering = MintClient.mint_quote_state, MintClient.mint, asyncio.Event(), asyncio.Event()
    wallet = await Wallet.open(folder / "w.db", http)
    await paid(wallet, http, mint_url)

    async def late(client: MintClient, name: str) -> MintQuote:
        monkeypatch.setattr(MintClient, "mint_quote_state", looked)
        told = await looked(client, name)
        await planned.wait()
        return MintQuote(told.quote, told.request, "UNPAID", told.expiry)

    async def at_leisure(client: MintClient, *how: Any) -> object:
        planned.set()
        await answering.wait()
        return await minted(client, *how)

    monkeypatch.setattr(MintClient, "mint_quote_state", late)
    monkeypatch.setattr(MintClient, "mint", at_leisure)
    monkeypatch.setattr("router_client.ecash.minting.GRACE_S", -(10**9))
    sweeping = asyncio.create_task(wallet.recover())
    await asyncio.sleep(0)
    while MintClient.mint_quote_state is late:
        await asyncio.sleep(0.01)
    claiming = asyncio.create_task(wallet.claim("in"))
    await sweeping
    answering.set()
    received = await claiming
    assert received is not None
    assert received.amount_msat == wallet.balance_msat() == 500
    wallet.close()


async def test_an_invoice_that_its_mint_knows_no_more_is_given_up_when_its_time_is_over_and_not_before(
    folder: Path, http: httpx.AsyncClient
) -> None:
    """It would be asked after for ever; but before its end a mint that forgets may remember."""
    now = time.time()
    with running_mint(folder / "mint") as mint_url:
        wallet = await Wallet.open(folder / "w.db", http, lambda: now)
        invoice = await wallet.invoice(500, mint_url, "msat", "in")
        with closing(sqlite3.connect(folder / "mint" / "db" / "mint.sqlite3")) as books, books:
            assert books.execute("DELETE FROM mint_quotes").rowcount == 1
        for end in (read_invoice(invoice.bolt11).expires_at, invoice.expires_at or 0):
            now = max(now, end + GRACE_S - 1)
            assert await wallet.recover() == []
        now += 2
        (given_up,) = await wallet.recover()
        assert (given_up.id, given_up.state, given_up.result) == ("in", "failed", "invoice expired")
        with pytest.raises(TokenRefused):
            await wallet.claim("in")
        wallet.close()


async def test_a_payment_that_the_mint_gives_nothing_for_takes_no_counters(
    folder: Path, http: httpx.AsyncClient
) -> None:
    """Whatever its reason is, it may be said for ever: counters that nobody used would hide coins one day."""
    with running_mint(folder / "mint") as mint_url:
        wallet = await Wallet.open(folder / "w.db", http)
        quote = await paid(wallet, http, mint_url)

        def say(amount: int) -> None:
            with closing(sqlite3.connect(folder / "mint" / "db" / "mint.sqlite3")) as books, books:
                changed = books.execute("UPDATE mint_quotes SET amount = ? WHERE quote = ?", (amount, quote))
                assert changed.rowcount == 1

        say(400)
        for _ in range(3):
            with pytest.raises(MintUnavailable, match="does not match"):
                await wallet.claim("in")
            with closing(sqlite3.connect(folder / "w.db")) as conn:
                assert conn.execute("SELECT next FROM counters").fetchall() == [(len(split(500)),)]
        say(500)
        assert (await until_claimed(wallet, "in")).amount_msat == wallet.balance_msat() == 500
        wallet.close()


async def test_what_a_mint_has_refused_once_is_asked_of_it_again(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """It said paid, refused, and said unpaid: of several that share one name one lagged behind, say."""
    lies: list[bytes] = []

    class Lagging(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            reply = await super().handle_async_request(request) if request.method == "GET" else None
            if lies and request.url.path == MINT_PATH:
                return httpx.Response(400, stream=httpx.ByteStream(lies.pop(0)))
            if reply is not None and len(lies) == 1 and "/mint/quote/" in request.url.path:
                told = (await reply.aread()).replace(b'"PAID"', lies.pop(0))
                return httpx.Response(200, stream=httpx.ByteStream(told))
            return reply or await super().handle_async_request(request)

    async with httpx.AsyncClient(transport=Lagging(), timeout=30) as lagging:
        wallet = await Wallet.open(folder / "w.db", lagging)
        await paid(wallet, http, mint_url)
        lies += [b'{"detail": "no", "code": 11000}', b'"UNPAID"']
        with pytest.raises(TokenRefused):
            await wallet.claim("in")
        assert (await until_claimed(wallet, "in")).amount_msat == wallet.balance_msat() == 500
        wallet.close()


@pytest.mark.parametrize(
    "after", ["UPDATE mint_quotes SET state = 'PENDING' WHERE quote = ?", "DELETE FROM mint_quotes WHERE quote = ?"]
)
async def test_a_mint_that_has_signed_has_signed_whatever_it_says_of_the_invoice(
    after: str, folder: Path, http: httpx.AsyncClient
) -> None:
    """One that was killed as it signed calls it pending for ever; another knows it no more."""
    with running_mint(folder / "mint") as mint_url:
        (await Wallet.open(folder / "w.db", http)).close()
        async with httpx.AsyncClient(transport=Loses(MINT_PATH), timeout=30) as faulty:
            wallet = await Wallet.open(folder / "w.db", faulty)
            quote = await paid(wallet, http, mint_url)
            with pytest.raises(MintUnavailable):
                await wallet.claim("in")
            wallet.close()
        with closing(sqlite3.connect(folder / "mint" / "db" / "mint.sqlite3")) as books, books:
            assert books.execute(after, (quote,)).rowcount == 1
        wallet = await Wallet.open(folder / "w.db", http)
        assert (await until_claimed(wallet, "in")).amount_msat == wallet.balance_msat() == 500
        wallet.close()
