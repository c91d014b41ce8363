"""`GET /v1/providers`: the nodes that this one knows of, for whoever has no relay at hand."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from node.node import Node
from router_client.discovery.directory import Provider, figures_of

MAX_LISTED: Final = 500
MAX_MODELS: Final = 200
"""Of each node; who wants all asks the node itself."""
MAX_BYTES: Final = 4 * 1024 * 1024
KEPT_S: Final = 30.0


def provider_routes(node: Node) -> list[HTTPRouteHandler]:
    """The handlers for one node."""
    page, made_at = _page(()), float("-inf")

    @get("/v1/providers")
    async def providers() -> Response[bytes]:
        """Nodes as they announce themselves on this node's relays, those first that are trusted, then those that have been
        known for longest: newcomers, however many, push nobody out. This node has not tried them."""
        nonlocal page, made_at
        if time.monotonic() - made_at > KEPT_S:
            made_at = time.monotonic()  # others are given the page of before while this one is made
            page = await asyncio.to_thread(_page, node.directory.known())
        headers = {"cache-control": f"max-age={KEPT_S:.0f}"}
        return Response(page, media_type="application/json", headers=headers)

    return [providers]


def _page(providers: tuple[Provider, ...]) -> bytes:
    first = sorted(providers, key=lambda each: (-each.trust.score, not each.proven))[
        :MAX_LISTED
    ]  # else as first heard of
    entries, size = [], 0
    for entry in (msgspec.json.encode(_entry(each)) for each in first):
        size += len(entry)
        if size <= MAX_BYTES:
            entries.append(entry)
    return b'{"object":"list","data":[' + b",".join(entries) + b"]}"


def _entry(provider: Provider) -> dict[str, Any]:
    announced = provider.announcement
    models = [] if announced.models is None else announced.models[:MAX_MODELS]
    return {
        "npub": provider.npub,
        "id": announced.identifier,
        "name": announced.name[:200],
        "about": announced.about[:1000],
        "version": announced.version[:100],
        "urls": announced.urls,
        "mints": announced.mints[:50],
        "region": announced.region,
        "models": models,
        "capacity": None if provider.capacity is None else figures_of(provider.capacity),
        "announced_at": announced.created_at,
        "expires_at": announced.expires_at,
    }
