"""A hand-written node that misbehaves as a test tells it to, and a buyer that knows of it alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from relays.announcement import Announcement, ModelOffer
from relays.bounds import ModelLimits
from relays.event import Event, Signer
from relays.payment import CASHU_HEADER, REQUEST_ID_HEADER
from relays.pricing import ModelPrice, Usage
from relays.receipt import Receipt, encode, to_sse
from router_client.client import RouterClient
from router_client.discovery.directory import Provider
from router_client.ecash.wallet import Wallet
from tests.strangers import served

SIGNER = Signer.generate()
PRICE = ModelPrice(2_000_000, 8_000_000, 0)
BODY: dict[str, Any] = {"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}
TEXT = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
NOTHING_LEFT = {"error": {"code": "not_refundable", "message": "nothing left"}}
"""The refund of a node that has redeemed nothing."""


Answering = Callable[[str], web.Response | Awaitable[web.Response]]
"""An answer to whoever shows this token."""


class Cheat:
    """A node whose answers a test sets; it redeems nothing unless told to."""

    def __init__(self, wallet: Wallet) -> None:
        self.wallet = wallet
        self.chat_status = 200
        self.chat: list[bytes] = [TEXT]
        self.chat_headers: dict[str, str] = {}
        self.pause_s = 0.0
        """After each piece of it."""
        self.on_payment: Callable[[str], Awaitable[None]] | None = None
        """What is done with a token before the answer begins."""
        self.refund: Answering = lambda token: web.json_response({"error": {}}, status=500)
        self.change: Answering = lambda token: web.Response(status=404)
        self.kept_receipt: Answering = lambda token: web.Response(status=404)
        self.quote: Callable[[dict[str, Any]], web.Response] = lambda body: web.Response(status=404)
        self.mints: tuple[str, ...] = ()
        self.lock: str | None = None
        self.price = PRICE
        """As it lists itself for who resells it."""
        self.asked: list[str] = []
        """The paths that were asked for."""
        self.url = ""

    async def on_chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.on_payment is not None:
            await self.on_payment(request.headers[CASHU_HEADER])
        response = web.StreamResponse(status=self.chat_status, headers={REQUEST_ID_HEADER: "r", **self.chat_headers})
        await response.prepare(request)
        for chunk in self.chat:
            await response.write(chunk)
            await asyncio.sleep(self.pause_s)
        await response.write_eof()
        return response

    async def on_refund(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return await answered(self.refund, request.headers["Authorization"].removeprefix("Bearer "))

    async def on_change(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return await answered(self.change, request.headers[CASHU_HEADER])

    async def on_receipt(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return await answered(self.kept_receipt, request.headers["Authorization"].removeprefix("Bearer "))

    async def on_quote(self, request: web.Request) -> web.StreamResponse:
        return self.quote(await request.json())

    async def on_info(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"npub": SIGNER.npub, "mints": self.mints, "lock": self.lock})

    async def on_models(self, _: web.Request) -> web.StreamResponse:
        limits = {"context_length": 2048, "top_provider": {"max_completion_tokens": 1024}}
        return web.json_response({"data": [{"id": "m", **limits, "msat_pricing": msgspec.to_builtins(self.price)}]})


async def answered(answering: Answering, token: str) -> web.StreamResponse:
    answer = answering(token)
    return answer if isinstance(answer, web.Response) else await answer


def signed(cost_msat: int = 102, **changes: Any) -> Event:
    """A receipt."""
    fields: dict[str, Any] = {
        "request_id": "r",
        "model": "m",
        "usage": Usage(31, 5),
        "metered": "counted",
        "outcome": "complete",
        "price": PRICE,
        "hold_msat": 300,
        "cost_msat": cost_msat,
        "balance_msat": 0,
    }
    return encode(Receipt(**fields | changes), SIGNER, 1)


def receipt(cost_msat: int = 102, **changes: Any) -> bytes:
    return to_sse(signed(cost_msat, **changes))


@asynccontextmanager
async def serving(node: Cheat) -> AsyncIterator[None]:
    """The node at a port; `node.url` says which."""
    app = web.Application()
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/responses"):
        app.router.add_post(path, node.on_chat)
    app.router.add_post("/v1/balance/refund", node.on_refund)
    app.router.add_get("/v1/change/{id}", node.on_change)
    app.router.add_get("/v1/receipts/{id}", node.on_receipt)
    app.router.add_post("/v1/quote", node.on_quote)
    app.router.add_get("/v1/info", node.on_info)
    app.router.add_get("/v1/models", node.on_models)
    async with served(app) as where:
        node.url = f"http://{where}"
        yield


def announce(
    buyer: RouterClient, node: Cheat, mint_url: str, lock: str | None = None, endpoints: tuple[str, ...] | None = None
) -> None:
    """Let the buyer know of the node, and of no other."""
    made = Announcement(
        pubkey=SIGNER.pubkey,
        identifier="x",
        urls=(node.url,),
        mints=(mint_url,),
        version="1",
        name="cheat",
        about="",
        models=(ModelOffer("m", ModelLimits(2048, 1024), PRICE, endpoints=endpoints),),
        created_at=1,
        expires_at=None,
        lock=lock,
    )
    buyer.directory._providers = (Provider(made, node.url),)
    buyer.directory._read_at = time.time()
