"""A stand-in for a plain Routstr node, by its documented interface, with a real wallet at a real mint.

It announces itself by RIP-02 alone, lists prices in sats, takes `X-Cashu` with a request and balances as bearers, tells
errors in FastAPI's shape, and knows nothing of ours: no proofs, quotes, receipts, or locked ecash.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from relays.event import Event, Signer
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from router_client.errors import WalletError
from tests.strangers import served

MODEL: Final = "plain/small"
COST_MSAT: Final = 77
MAX_COST_MSAT: Final = 9_000
TEXT: Final = "Two and two is four."


class Routstr:
    """The node. `gives` says where the change of a request is: with the answer, at the refund endpoint, or not there yet."""

    def __init__(self, wallet: Wallet, mint: str) -> None:
        self.signer = Signer.generate()
        self.url = ""
        self.gives = "with the answer"
        self.fails = 0
        """The status that the upstream answers with instead."""
        self.asked: list[str] = []
        self.balances: dict[str, int] = {}
        """In msat, by the hash of the token that opened it."""
        self.kept: dict[str, str] = {}
        """Change by the token that paid."""
        self._wallet = wallet
        self._mint = mint

    def announcement(self, at: int) -> Event:
        tags = [["d", self.signer.pubkey[:12]], ["u", self.url], ["mint", self._mint], ["version", "0.4.0"]]
        content = json.dumps({"name": "plain", "about": "Privacy-preserving AI proxy via Nostr"})
        return self.signer.sign(kind=38421, content=content, created_at=at, tags=tags)

    async def info(self, _: web.Request) -> web.Response:
        return web.json_response({"name": "plain", "version": "0.4.0", "npub": self.signer.npub, "mints": [self._mint]})

    async def models(self, _: web.Request) -> web.Response:
        prices = {"prompt": 0.002, "completion": 0.008, "request": 0.0, "image": 0.0}
        most = {"max_prompt_cost": 4.0, "max_completion_cost": 5.0, "max_cost": MAX_COST_MSAT / 1000}
        model = {"id": MODEL, "name": "Small", "context_length": 4096, "sats_pricing": {**prices, **most}}
        return web.json_response({"object": "list", "data": [{**model, "top_provider": None, "enabled": True}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append("chat")
        if (token := request.headers.get("X-Cashu")) is None:
            return _refused(401, "Unauthorized")
        try:
            received = await self._wallet.receive(token, _hash(token))
        except WalletError as error:
            return _refused(400, str(error))
        if received.amount_msat < MAX_COST_MSAT - 100:  # less what the mint took
            return _refused(402, {"reason": "Insufficient", "amount_required_msat": MAX_COST_MSAT, "model": MODEL})
        cost_msat = 0 if self.fails else COST_MSAT
        change = await self._token(received.amount_msat - cost_msat, f"change-{_hash(token)}", decode(token).unit)
        headers = {}
        if self.gives == "with the answer":
            headers["X-Cashu"] = change
        else:
            self.kept[token] = change
        if self.fails:
            return web.json_response(
                {"error": {"message": "Error forwarding request to upstream", "type": "upstream_error", "code": 1}},
                status=self.fails,
                headers=headers,
            )
        reply = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
        await reply.prepare(request)
        usage = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15, "cost_sats": 0}
        for chunk in ({"choices": [{"index": 0, "delta": {"content": TEXT}}]}, {"choices": [], "usage": usage}):
            await reply.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await reply.write(b"data: [DONE]\n\n")
        await reply.write_eof()
        return reply

    async def create(self, request: web.Request) -> web.Response:
        token = request.query["initial_balance_token"]
        received = await self._wallet.receive(token, _hash(token))
        self.balances[_hash(token)] = received.amount_msat
        return web.json_response({"api_key": f"sk-{_hash(token)}", "balance": received.amount_msat})

    async def refund(self, request: web.Request) -> web.Response:
        if (paid := request.headers.get("X-Cashu")) is not None:
            self.asked.append("refund of a request")
            if paid not in self.kept:
                return _refused(404, "Refund not found")
            if self.gives == "later":
                return _refused(425, "Refund is pending; retry shortly.")
            change = self.kept[paid]
            return web.json_response({"token": change, "msats": "1"}, headers={"X-Cashu": change})
        self.asked.append("refund of a balance")
        key = request.headers["Authorization"].removeprefix("Bearer ")
        if (amount_msat := self.balances.pop(_hash(key), 0)) <= 0:
            return _refused(401, "Key not found. Deposit first via /v1/wallet/create before requesting a refund.")
        return web.json_response(
            {"token": await self._token(amount_msat, f"refund-{_hash(key)}", "msat"), "msats": "1"}
        )

    async def anything_else(self, _: web.Request) -> web.Response:
        return _refused(401, "Unauthorized")

    async def _token(self, amount_msat: int, name: str, unit: str) -> str:
        """As much as it gets there, less what it cannot pay the mint for."""
        for fee_msat in range(0, 100):
            try:
                amount = (amount_msat - fee_msat) // (1000 if unit == "sat" else 1)
                return (await self._wallet.send(amount, self._mint, unit, f"{name}-{fee_msat}")).token
            except WalletError:
                await asyncio.sleep(0)
        raise AssertionError("the mint takes more than a node can give")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _refused(status: int, detail: Any) -> web.Response:
    return web.json_response({"detail": detail, "request_id": "r"}, status=status)


@asynccontextmanager
async def serving(node: Routstr) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get("/v1/info", node.info)
    app.router.add_get("/v1/models", node.models)
    app.router.add_post("/v1/chat/completions", node.chat)
    for prefix in ("/v1/balance", "/v1/wallet"):
        app.router.add_get(f"{prefix}/create", node.create)
        app.router.add_post(f"{prefix}/refund", node.refund)
    app.router.add_route("*", "/{path:.*}", node.anything_else)
    async with served(app) as where:
        node.url = f"http://{where}"
        yield
