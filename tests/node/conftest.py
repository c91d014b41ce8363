"""What the node's tests share beside the real parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from node import jobs
from node.ledger.ledger import Ledger
from node.upstream.kinds.satroute import SatrouteUpstream
from router_client.ecash.wallet import Wallet
from tests.client.cheat import Cheat, serving
from tests.client.mints import running_mint
from tests.client.purses import funded
from tests.client.test_lnurl import LnurlServer
from tests.ledgers import lay_out
from tests.node.books import Books, Clock
from tests.node.harness import funded_wallet
from tests.node.hostile import Hostile
from tests.node.resold import PURSE_MSAT, STREAM, buying
from tests.strangers import served


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_books_url"))
    lay_out(folder / "ledger.db")
    return f"sqlite:///{folder / 'ledger.db'}"


@pytest.fixture
async def books(ledger_url: str, clock: Clock) -> AsyncIterator[Books]:
    opened = await Ledger.open(ledger_url, clock)
    yield Books(opened, ledger_url)
    await opened.close()


@pytest.fixture
def ledger(books: Books) -> Ledger:
    return books.ledger


@pytest.fixture
async def wallet(folder: Path, http: httpx.AsyncClient, mint_url: str) -> AsyncIterator[Wallet]:
    """A caller's, with money in it."""
    opened = await funded_wallet(folder / "caller.db", http, mint_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def payee_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mint whose invoices stand for those of the world outside: paying one is real to the mint that pays it."""
    with running_mint(tmp_path_factory.mktemp("payee")) as url:
        yield url


@pytest.fixture
def address(payee_url: str) -> Iterator[LnurlServer]:
    """A Lightning address."""
    server = LnurlServer(payee_url)
    yield server
    server.close()


@pytest.fixture
async def hostile() -> AsyncIterator[tuple[Hostile, str]]:
    server = Hostile()
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    for path in ("chat/completions", "responses", "images/generations"):
        app.router.add_post(f"/v1/{path}", server.chat)
    async with served(app) as where:
        yield server, f"http://{where}/v1"


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's announcer works when it is told to, and not by the clock."""
    monkeypatch.setattr(jobs, "FIRST_ANNOUNCEMENT", timedelta(days=1))
    for name in ("ANNOUNCE_EVERY_S", "CHANGES_EVERY_S", "RELAYS_EVERY_S"):
        monkeypatch.setattr(jobs, name, 24 * 3600)


@pytest.fixture
async def cheat(
    request: pytest.FixtureRequest, folder: Path, http: httpx.AsyncClient, mint_url: str
) -> AsyncIterator[Cheat]:
    node = Cheat(await Wallet.open(folder / "cheat.db", http))
    node.mints, node.chat_headers = (mint_url,), STREAM
    node.lock = None if getattr(request, "param", "locked") == "plain" else node.wallet.lock_key
    async with serving(node):
        yield node
    node.wallet.close()


@pytest.fixture
async def upstream(
    folder: Path, http: httpx.AsyncClient, mint_url: str, cheat: Cheat
) -> AsyncIterator[SatrouteUpstream]:
    (folder / "purse").mkdir()
    (await funded(folder / "purse" / "wallet.db", http, mint_url, PURSE_MSAT)).close()
    async with buying(folder, cheat) as opened:
        assert [entry["id"] for entry in await opened.models()] == ["m"]
        yield opened


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job credits what a Lightning invoice was paid."""
    monkeypatch.setattr("node.jobs.INVOICES_EVERY_S", 3600)
