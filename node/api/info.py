"""What anyone may know: the node, a receipt of one's own, that it is alive, and whose key it has."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from node.api.errors import authorization_of
from node.errors import Refusal, not_found
from node.node import Node
from node.version import VERSION
from relays import payment, proof, receipt
from relays.event import Event


class ProofWish(msgspec.Struct):
    """`nonce`: 32 to 64 hex digits that nobody could foresee. `url`: the base URL as it was called."""

    nonce: str
    url: str


def info_routes(node: Node) -> list[HTTPRouteHandler]:
    """The handlers for one node."""

    @get("/v1/info")
    async def info() -> dict[str, Any]:
        """The node (RIP-01)."""
        settings = node.settings
        return {
            "name": settings.name,
            "description": settings.description,
            "version": VERSION,
            "npub": node.signer.npub,
            "mints": settings.cashu_mints,
            "lock": node.cash.lock,
            "http_url": settings.http_url,
            "onion_url": settings.onion_url,
            "relays": node.announcer.relay_states(),
        }

    @get("/v1/receipts/{request_id:str}")
    async def request_receipt(request: Request[Any, Any, Any], request_id: FromPath[str]) -> dict[str, Any]:
        """The signed receipt of a request, for whoever paid it."""
        key = await node.credentials.key(authorization_of(request))
        posted = await node.ledger.receipt(request_id, key.account)
        if posted is None:
            raise not_found("there is no receipt of that id for this key; a request that was not charged has none")
        event = receipt.encode(posted.receipt, node.signer, posted.created_at)
        return {"receipt": posted.receipt, "event": event}

    @get("/health")
    async def health() -> dict[str, str]:
        """Liveness."""
        return {"status": "ok"}

    @get("/ready")
    async def ready() -> dict[str, str]:
        """Readiness: 200 when a paid request can be served now, else 503, with each part that is not ready in the error."""
        if problems := await node.readiness.problems():
            words = "; ".join(problems.values())
            raise Refusal(503, payment.NOT_READY, f"the node cannot sell at the moment: {words}", details=problems)
        return {"status": "ready"}

    @post(proof.PATH, status_code=200)
    async def prove(data: JSONBody[ProofWish]) -> Event:
        """That this node's key is behind the URL at which it was called: a signed Nostr event of kind 27236."""
        return node.proofs.answer(data.nonce, data.url)

    return [info, request_receipt, health, ready, prove]
