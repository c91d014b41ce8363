"""Balances (RIP-01): make one from a token, look at it, add to it, take it back. `/v1/wallet` is the older name."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from litestar import Request, Router, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery, JSONBody

from node.api.errors import authorization_of
from node.deposits import new_key
from node.errors import Refusal
from node.ledger.model import Key
from node.node import Node
from relays import payment
from router_client.paying.lnurl import looks_like_address

PATHS = ("/v1/balance", "/v1/wallet")


class CreateBalance(msgspec.Struct):
    """A token in the body stays out of logs that keep URLs."""

    initial_balance_token: str = ""


class TopUp(msgspec.Struct):
    cashu_token: str


class RefundWish(msgspec.Struct):
    recipient: str | None = None
    """A Lightning address; without it the refund is a token, or goes to the account's own address if it has one."""
    received: str | None = None
    """Id of an earlier refund that has arrived, so that the next one can be made."""


class AddressWish(msgspec.Struct):
    address: str


def balance_routes(node: Node) -> list[Router]:
    """The handlers for one node, under both names."""

    async def key_of(request: Request[Any, Any, Any]) -> Key:
        return await node.credentials.key(authorization_of(request))

    @get("/create", cache=False)
    async def create_from_query(initial_balance_token: FromQuery[str] = "") -> dict[str, Any]:
        """A new key with the token's worth. Prefer POST: a URL may be logged on its way."""
        return await _create(node, initial_balance_token)

    @post("/create", status_code=200)
    async def create_from_body(
        data: JSONBody[CreateBalance | None] = None, initial_balance_token: FromQuery[str] = ""
    ) -> dict[str, Any]:
        """A new key with the token's worth, in msat after the mint's fee."""
        return await _create(node, data.initial_balance_token if data else initial_balance_token)

    @get(["/", "/info"])
    async def balance(request: Request[Any, Any, Any]) -> dict[str, int]:
        """What the bearer has, in msat; a key with limits sees what they leave it."""
        key = await key_of(request)
        account = await node.ledger.account(key.account)
        left_msat = key.left_msat(int(time.time()))
        if key.parent is not None:
            return {
                "balance": account.available_msat if left_msat is None else min(account.available_msat, left_msat),
                "reserved": key.held_msat,
                "spent": key.spent_msat,
                "refundable": 0,
            }
        return {
            "balance": account.available_msat,
            "reserved": account.held_msat,
            "spent": account.spent_msat,
            "refundable": account.refundable_msat,
        }

    @post("/topup", status_code=200)
    async def top_up(request: Request[Any, Any, Any], data: JSONBody[TopUp]) -> dict[str, int]:
        """Add a token's worth to the bearer's balance."""
        id_ = (await key_of(request)).account
        credited = await node.deposits.top_up(data.cashu_token, id_)
        return {
            "msats": credited.amount_msat,
            "fee_msats": credited.fee_msat,
            "balance": (await node.ledger.account(id_)).available_msat,
        }

    handlers = [create_from_query, create_from_body, balance, top_up, *_refund_handlers(node)]
    return [Router(path, route_handlers=handlers, tags=["balance"]) for path in PATHS]


def _refund_handlers(node: Node) -> list[HTTPRouteHandler]:
    @post("/refund", status_code=200)
    async def refund(request: Request[Any, Any, Any], data: JSONBody[RefundWish | None] = None) -> dict[str, Any]:
        """The bearer's unused money, as a token or to a Lightning address. Asked again, it answers the same; `earlier` has
        tokens of before that were neither spent nor said to be `received`."""
        wish = data or RefundWish()
        key = await node.credentials.owner(authorization_of(request))
        id_ = key.account
        recipient = wish.recipient or (await node.ledger.account(id_)).refund_address
        answer = await node.refunds.refund(key, recipient, wish.received or "")
        refunded = answer.refund
        account = await node.ledger.account(id_)
        earlier = [
            {
                "refund_id": other.id,
                "token": other.token,
                "msats": other.amount_msat - other.fee_msat,
                "fee_msats": other.fee_msat,
            }
            for other in answer.earlier
        ]
        return {
            "refund_id": refunded.id,
            **({"recipient": refunded.recipient} if refunded.recipient else {"token": refunded.token}),
            "msats": refunded.amount_msat - refunded.fee_msat,
            "fee_msats": refunded.fee_msat,
            "balance": account.available_msat,
            "reserved": account.held_msat,
            **({"earlier": earlier} if earlier else {}),
        }

    @put("/refund-address")
    async def refund_address(request: Request[Any, Any, Any], data: JSONBody[AddressWish]) -> dict[str, str]:
        """The Lightning address that refunds go to from now on; an empty one makes them tokens again."""
        if data.address and not looks_like_address(data.address):
            raise Refusal(400, payment.INVALID_REQUEST, "'address' is a Lightning address, name@domain, or empty")
        key = await node.credentials.owner(authorization_of(request))
        await node.ledger.set_refund_address(key.account, data.address.strip().lower())
        return {"refund_address": data.address.strip().lower()}

    return [refund, refund_address]


async def _create(node: Node, token: str) -> dict[str, Any]:
    """A key for a token's worth. Raises Refusal."""
    if not token:
        raise Refusal(400, payment.INVALID_REQUEST, "'initial_balance_token' is missing: a Cashu token")
    key = new_key()
    credited = await node.deposits.open_account(token, key)
    return {
        "api_key": key.text,
        "balance": (await node.ledger.account(credited.account)).available_msat,
        "fee_msats": credited.fee_msat,
    }
