"""A node's answer to whoever asks for money back."""

from __future__ import annotations

from typing import Annotated, Any, Final

import httpx
import msgspec

from relays.errors import InvalidJson
from relays.jsontext import shaped
from relays.money import MAX_MSAT
from router_client.errors import NodeRefused, NodeUnavailable
from router_client.net.nodeapi import as_bearer, call, with_money

MAX_EARLIER = 64
"""More refunds of before are not read."""
NO_SUCH_BALANCE: Final = (401, 404)


class _Earlier(msgspec.Struct):
    token: str


class Refund(msgspec.Struct):
    """What a node gives back; without a token, nothing that we can use."""

    token: str = ""
    fee_msats: Annotated[int, msgspec.Meta(ge=0, le=MAX_MSAT)] = 0
    reserved: Annotated[int, msgspec.Meta(ge=0)] = 0
    balance: Annotated[int, msgspec.Meta(ge=0)] = 0
    """What is left, too little for a refund or freed since."""
    earlier: Annotated[list[_Earlier], msgspec.Meta(max_length=MAX_EARLIER)] = []

    def tokens(self) -> list[str]:
        """The refund and those of before whose answer may have been lost."""
        return [token for token in (self.token, *(one.token for one in self.earlier)) if token]


def refund_of(answer: dict[str, Any], node_url: str) -> Refund:
    """The answer, read. Raises NodeUnavailable for one that is none: where it has no token, not even an empty one, somebody
    else may have answered, and a payment that is closed is asked after no more."""
    if answer.keys().isdisjoint(("token", "earlier")):
        raise NodeUnavailable(f"{node_url} answers what is no refund")
    try:
        return shaped(answer, Refund)
    except InvalidJson as error:
        raise NodeUnavailable(f"{node_url} answers a refund that cannot be read") from error


async def asked_back(http: httpx.AsyncClient, node_url: str, token: str) -> Refund:
    """What is left of what the token paid for. Raises NodeUnavailable or NodeRefused."""
    url = f"{node_url}/v1/balance/refund"
    try:
        answer = await call(http, "POST", url, as_bearer(token), {})
    except NodeRefused as refusal:
        if refusal.status not in NO_SUCH_BALANCE:
            raise
        try:  # Routstr's nodes keep the change of a request apart from balances, by the header that paid for it
            answer = await call(http, "POST", url, with_money(token), {})
        except NodeRefused:
            raise refusal from None
    return refund_of(answer, node_url)
