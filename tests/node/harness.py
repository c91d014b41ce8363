"""A node inside the test's own event loop, serving on a real port, over real upstream, mint and relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
import uvicorn

from node.api.server import config_of
from node.app import open_node
from node.asks import read_ask
from node.config import Settings, load_settings
from node.deposits import new_key
from node.ledger.model import Key
from node.node import Node
from node.quote import quote_for
from relays import receipt as receipts
from relays.endpoints import CHAT, Endpoint
from relays.event import Event, parse_event
from relays.money import MSAT_PER_SAT
from relays.receipt import Receipt
from router_client.ecash.wallet import Wallet
from tests.application import application_of
from tests.client.purses import until_claimed
from tests.ledgers import lay_out

MODEL = "smollm2-135m"
HELLO: dict[str, Any] = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}
PRICES = {"fixed_per_1k_input_tokens": "2", "fixed_per_1k_output_tokens": "8"}


class Running(msgspec.Struct, frozen=True):
    """A node and the URL it serves at."""

    node: Node
    url: str


@asynccontextmanager
async def running_node(folder: Path, **settings: Any) -> AsyncIterator[Running]:
    """A node with these settings over the usual ones; stopped as SIGTERM stops it."""
    chosen = load_settings(Settings, None, **{"data_dir": folder / "node", "port": 0, **PRICES, **settings})
    if chosen.ledger_url.startswith("sqlite:///"):
        lay_out(Path(chosen.ledger_url.removeprefix("sqlite:///")))
    async with open_node(chosen) as node, _serving(node) as url:
        yield Running(node, url)


def paying_node(folder: Path, mint_url: str, model_url: str) -> AbstractAsyncContextManager[Running]:
    """One that may pay to Lightning addresses on this machine."""
    return running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url, allow_local_addresses=True)


class _Server(uvicorn.Server):
    """Leaves when it is told to; its parent looks for that ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.told_to_leave = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.told_to_leave.wait()


@asynccontextmanager
async def _serving(node: Node) -> AsyncIterator[str]:
    with application_of(node) as app:
        config = config_of(app, grace_s=5)
        config.host, config.port = "127.0.0.1", 0
        server = _Server(config)
        # `serve` would set this process's signals, and set them back late.
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.told_to_leave.set()
            await serving


async def funded_wallet(path: Path, http: httpx.AsyncClient, mint: str, sats: int = 1000) -> Wallet:
    """A caller's wallet with msat and sat coins."""
    wallet = await Wallet.open(path, http)
    await wallet.invoice(sats * MSAT_PER_SAT, mint, "msat", "fund-msat")
    await until_claimed(wallet, "fund-msat")
    return wallet


async def token_of(wallet: Wallet, mint: str, amount_msat: int) -> str:
    """A token that brings at least this much to whoever redeems it."""
    name = f"token-{len(wallet.balances())}-{asyncio.get_running_loop().time()}"
    return (await wallet.send(amount_msat, mint, "msat", name)).token


async def granted_key(node: Node, amount_msat: int) -> tuple[Key, str]:
    """A key that the operator credited, and its text."""
    made = new_key()
    await node.ledger.create_key(made.hash, made.hint, "", amount_msat)
    key = await node.ledger.key_of(made.hash)
    assert key is not None
    return key, made.text


def hold_of(node: Node, body: dict[str, Any], endpoint: Endpoint = CHAT) -> int:
    """What is held for a request."""
    return quote_for(read_ask(endpoint, msgspec.json.encode(body), ""), node.catalogue).hold_msat


def streamed_receipt(text: str) -> Event | None:
    """The receipt among the comments of a stream."""
    line = next((line for line in text.splitlines() if line.startswith(receipts.SSE_PREFIX)), None)
    return None if line is None else parse_event(line.removeprefix(receipts.SSE_PREFIX))


class Reply(Protocol):
    """Of httpx, and of the SDK that has a fork of it."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def text(self) -> str: ...


def receipt_event(reply: Reply) -> Event:
    """The receipt of a reply, signed: a comment if it is a stream, else a header."""
    return streamed_receipt(reply.text) or receipts.from_header(reply.headers["x-satroute-receipt"])


def receipt_of(reply: Reply) -> Receipt:
    return receipts.decode(receipt_event(reply))


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


async def adds_up(running: Running) -> None:
    """Every msat that came in is in the books, and in the wallet."""
    await running.node.redemptions.run()
    totals = await running.node.ledger.audit()
    assert running.node.wallet.holdings().all_msat == totals.ecash_in_msat
