"""Money over HTTP beside the balance: change of requests paid with a token, Lightning invoices, and keys with limits."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, Router, delete, get, post
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody

from node.api.errors import authorization_of
from node.deposits import new_key
from node.errors import Refusal, not_found
from node.ledger.model import Key, Limits
from node.node import Node
from relays import payment
from relays.money import MAX_MSAT

MAX_CHILDREN = 1000
MAX_MODELS = 100
MAX_NAME_CHARS = 100
MAX_ID = 2**63 - 1


class InvoiceWish(msgspec.Struct):
    amount_sats: int
    purpose: str = "create"


class KeyWish(msgspec.Struct):
    """A key that spends from the caller's account; a limit that is left out is none."""

    name: str = ""
    spend_limit_msat: int | None = None
    daily_limit_msat: int | None = None
    expires_at: int | None = None
    models: list[str] | None = None


def money_routes(node: Node) -> list[BaseRouteHandler | Router]:
    """The handlers for one node."""
    return [*_change_routes(node), *_invoice_routes(node), Router("/v1/keys", route_handlers=_key_routes(node))]


def _change_routes(node: Node) -> list[BaseRouteHandler]:
    @get("/v1/change/{request_id:str}")
    async def change(request: Request[Any, Any, Any], request_id: FromPath[str]) -> Response[dict[str, Any]]:
        """What is left of the token that paid for a request, for whoever has that token; the same until it is spent."""
        authorization = authorization_of(request)
        token = request.headers.get(payment.CASHU_HEADER) or authorization.partition(" ")[2].strip()
        refund = await node.cash.fetch_change(request_id, token)
        body = {
            "request_id": request_id,
            "token": refund.token,
            "msats": refund.amount_msat - refund.fee_msat,
            "fee_msats": refund.fee_msat,
            "balance": (await node.ledger.account(refund.account)).available_msat,
        }
        return Response(body, headers={payment.CASHU_HEADER: refund.token})

    return [change]


def _invoice_routes(node: Node) -> list[BaseRouteHandler]:
    @post(["/lightning/invoice", "/v1/balance/lightning/invoice"], status_code=200)
    async def invoice(request: Request[Any, Any, Any], data: JSONBody[InvoiceWish]) -> dict[str, Any]:
        """A Lightning invoice: paid, it makes a key (`create`) or adds to the bearer's balance (`topup`)."""
        if data.purpose not in ("create", "topup"):
            raise Refusal(400, payment.INVALID_REQUEST, "'purpose' is 'create' or 'topup'")
        account = None
        if data.purpose == "topup":
            account = (await node.credentials.key(authorization_of(request))).account
        offered = await node.invoices.offer(data.amount_sats, account)
        return {
            "invoice_id": offered.id,
            "bolt11": offered.bolt11,
            "payment_hash": offered.payment_hash,
            "amount_sats": data.amount_sats,
            "expires_at": offered.expires_at,
        }

    @get(["/lightning/invoice/{invoice_id:str}/status", "/v1/balance/lightning/invoice/{invoice_id:str}/status"])
    async def status(invoice_id: FromPath[str]) -> dict[str, Any]:
        """Where it stands; with the key that it paid for, until that is first used."""
        found = await node.invoices.status(invoice_id)
        told = {} if found.api_key is None else {"api_key": found.api_key}
        return {"status": found.status, "msats": found.amount_msat, **told}

    return [invoice, status]


def _key_routes(node: Node) -> list[BaseRouteHandler]:
    async def owner(request: Request[Any, Any, Any]) -> Key:
        return await node.credentials.owner(authorization_of(request))

    @post("/", status_code=200)
    async def create(request: Request[Any, Any, Any], data: JSONBody[KeyWish]) -> dict[str, Any]:
        """A key that spends from the bearer's account within limits of its own. It is shown this once."""
        parent = await owner(request)
        limits = _limits(data)
        if len([key for key in await node.ledger.children(parent.id) if not key.revoked]) >= MAX_CHILDREN:
            raise Refusal(403, payment.NOT_ALLOWED, f"an account has at most {MAX_CHILDREN} such keys: revoke some")
        made = new_key()
        id_ = await node.ledger.create_child(parent, made.hash, made.hint, data.name[:MAX_NAME_CHARS], limits)
        return {"id": id_, "api_key": made.text, "name": data.name[:MAX_NAME_CHARS], **_shown(limits)}

    @get("/")
    async def list_(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """The keys that the bearer made."""
        parent = await owner(request)
        return {"keys": [_described(key) for key in await node.ledger.children(parent.id)]}

    @delete("/{key_id:int}", status_code=200)
    async def revoke(request: Request[Any, Any, Any], key_id: FromPath[int]) -> dict[str, Any]:
        """Close a key for good. What it has on hold is still charged."""
        parent = await owner(request)
        if not 0 < key_id <= MAX_ID or not await node.ledger.revoke_key(key_id, parent=parent.id):
            raise not_found("this key did not make a key of that id")
        return {"id": key_id, "revoked": True}

    @post("/rotate", status_code=200)
    async def rotate(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """A new key in the place of the bearer's own, which is good until the new one is first used."""
        key = await node.credentials.key(authorization_of(request))
        return await _rotated(node, key.id)

    @post("/{key_id:int}/rotate", status_code=200)
    async def rotate_child(request: Request[Any, Any, Any], key_id: FromPath[int]) -> dict[str, Any]:
        """The same for a key that the bearer made."""
        parent = await owner(request)
        if key_id not in {key.id for key in await node.ledger.children(parent.id)}:
            raise not_found("this key did not make a key of that id")
        return await _rotated(node, key_id)

    return [create, list_, revoke, rotate, rotate_child]


async def _rotated(node: Node, key_id: int) -> dict[str, Any]:
    made = new_key()
    if not await node.ledger.rotate_key(key_id, made.hash, made.hint):
        raise Refusal(403, payment.UNKNOWN_CREDENTIAL, "this key was revoked: it has no successor")
    return {"id": key_id, "api_key": made.text}


def _limits(wish: KeyWish) -> Limits:
    for name in ("spend_limit_msat", "daily_limit_msat", "expires_at"):
        value = getattr(wish, name)
        if value is not None and not 0 <= value <= MAX_MSAT:
            raise Refusal(400, payment.INVALID_REQUEST, f"'{name}' is a whole number from 0")
    if "\0" in wish.name + "".join(wish.models or ()):
        raise Refusal(400, payment.INVALID_REQUEST, "a name holds no NUL")
    if wish.models is not None and len(wish.models) > MAX_MODELS:
        raise Refusal(400, payment.INVALID_REQUEST, f"'models' names at most {MAX_MODELS}")
    return Limits(
        spend_limit_msat=wish.spend_limit_msat,
        daily_limit_msat=wish.daily_limit_msat,
        expires_at=wish.expires_at,
        models=None if wish.models is None else tuple(wish.models),
    )


def _shown(limits: Limits) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(limits).items() if value is not None}


def _described(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "hint": key.hint,
        "revoked": key.revoked,
        "spent_msat": key.spent_msat,
        "held_msat": key.held_msat,
        "created_at": key.created_at,
        **_shown(key.limits),
    }
