"""What is for sale and what a request would cost, for anyone, before any payment."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from node.asks import LONG_BYTES, read_ask
from node.errors import Refusal
from node.node import Node
from node.quote import quote_for, told
from node.shop.listing import Page
from relays import payment
from relays.endpoints import CHAT, ENDPOINTS, Endpoint
from relays.quote import QuoteAnswer


def price_routes(node: Node) -> list[HTTPRouteHandler]:
    """The handlers for one node."""

    @get(["/v1/models", "/models"])
    async def models(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Models for sale, with their prices."""
        return _page(request, await node.listing.models())

    @get("/v1/models/{model_id:path}")
    async def model(model_id: FromPath[str]) -> dict[str, Any]:
        """One model; its name may hold slashes."""
        return node.listing.one(model_id.removeprefix("/"))

    @get("/v1/pricing")
    async def pricing(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Every model's price in USD, sats and msat."""
        return _page(request, await node.listing.pricing())

    @post(["/v1/quote", "/quote"], status_code=200, request_max_body_size=node.settings.max_body_bytes)
    async def quote(request: Request[Any, Any, Any], endpoint: FromQuery[str] = CHAT.name) -> QuoteAnswer:
        """What a request would hold and is expected to cost: its very body, and as `endpoint` where it will be sent, such as
        `chat` or `/v1/responses`."""
        body, kind = await request.body(), request.headers.get("content-type", "")
        if len(body) > LONG_BYTES:
            return await asyncio.to_thread(_quoted, node, _endpoint(endpoint), body, kind)
        return _quoted(node, _endpoint(endpoint), body, kind)

    return [models, model, pricing, quote]


def _quoted(node: Node, endpoint: Endpoint, body: bytes, content_type: str) -> QuoteAnswer:
    ask = read_ask(endpoint, body, content_type, node.settings.extra_request_fields)
    holds_s = node.catalogue.holds_s(ask.model)
    return told(quote_for(ask, node.catalogue), holds_s)


def _endpoint(name: str) -> Endpoint:
    for endpoint in ENDPOINTS:
        if name.removeprefix("/v1").removeprefix("/") in (endpoint.name, endpoint.path[1:]):
            return endpoint
    names = ", ".join(endpoint.name for endpoint in ENDPOINTS)
    raise Refusal(400, payment.INVALID_REQUEST, f"'endpoint' is one of {names}")


def _page(request: Request[Any, Any, Any], page: Page) -> Response[bytes]:
    headers = {"etag": page.etag, "cache-control": "no-cache"}
    asked = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if page.etag in asked or "*" in asked:
        return Response(b"", status_code=304, headers=headers)
    return Response(page.body, media_type="application/json", headers=headers)
