"""Pay whoever asks with a 402 (NUT-24): read what is wanted, make exactly such a token, and send the request once more.

    paid = await pay_per_request(http, payments, "https://x.example/v1/chat/completions", body, max_msat=50_000)

Any server that speaks NUT-24 will do; one of ours gives change, which is taken in. The payment is in the journal of
`Payments`, so what a crash or a lost answer leaves out is asked back by its `recover`.
"""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec

from relays.money import Msat
from relays.payment import CASHU_HEADER, CHANGE_SSE_PREFIX, REQUEST_ID_HEADER
from router_client.ecash.locks import TAGS, check_key
from router_client.ecash.request import Lock, PaymentRequest, decode
from router_client.ecash.token import looks_like_token, normal_mint_url, to_msat
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    FeeTooHigh,
    InsufficientFunds,
    NodeError,
    NodeUnavailable,
    RequestUnreadable,
    WalletError,
)
from router_client.net.fetch import FetchFailed, Reply, fetch
from router_client.net.nodeapi import with_money
from router_client.paying.change import Paid, Settled
from router_client.paying.payments import Payments

log = logging.getLogger(__name__)

DEADLINE_S: Final = 600.0
JSON: Final = {"Content-Type": "application/json"}


class Wanted(msgspec.Struct, frozen=True):
    """What a 402 asks for, of a purse that can pay it. `amount` is in `unit`."""

    mint: str
    unit: str
    amount: int
    lock: str | None

    @property
    def amount_msat(self) -> Msat:
        return to_msat(self.amount, self.unit)


class PaidReply(msgspec.Struct, frozen=True):
    """The server's last answer, and what of the money was used; nothing was, if it never asked for any."""

    status: int
    headers: dict[str, str]
    body: bytes
    paid_msat: Msat
    """What the server gets out of the token at the mint."""
    settled: Settled | None
    """What came back; None when nothing was paid, or it is still out: `Payments.recover` asks for it."""


async def pay_per_request(
    http: httpx.AsyncClient, payments: Payments, url: str, body: object, *, max_msat: int
) -> PaidReply:
    """POST `body` as JSON, and pay at most `max_msat`, beside the mint's fees, if the answer is a 402 that says how.

    Raises RequestUnreadable for a 402 that cannot be met, WrongUnit, FeeTooHigh for one that asks for more,
    InsufficientFunds when the wallet cannot pay it, what `Wallet.send` does, and NodeUnavailable when there is no answer.
    A 402 without a payment request is an answer like any other.
    """
    content = msgspec.json.encode(body)
    first = await _post(http, url, content, JSON)
    asked = first.headers.get(CASHU_HEADER, "")
    if first.status != 402 or not asked:
        return PaidReply(first.status, first.headers, first.body, Msat(0), None)
    wanted = await payable(payments.wallet, decode(asked), max_msat)
    paid = await payments.pay(
        _base(url), wanted.mint, wanted.unit, wanted.amount_msat, lock=wanted.lock, most_msat=wanted.amount_msat
    )
    try:
        reply = await _post(http, url, content, with_money(paid.token))
    except NodeUnavailable:
        await _settled(payments, paid, None)
        raise
    return PaidReply(reply.status, reply.headers, reply.body, paid.credit_msat, await _settled(payments, paid, reply))


async def payable(wallet: Wallet, request: PaymentRequest, max_msat: int) -> Wanted:
    """How the wallet meets a request. Raises RequestUnreadable, WrongUnit, FeeTooHigh or InsufficientFunds."""
    if not request.amount or request.unit is None:
        raise RequestUnreadable("the payment request does not say how much it wants")
    amount_msat = to_msat(request.amount, request.unit)
    if amount_msat > max_msat:
        raise FeeTooHigh(f"the server asks for {amount_msat} msat, more than the {max_msat} msat allowed")
    lock = None if request.lock is None else _lock(request.lock)
    accepted = {normal_mint_url(mint) for mint in request.mints}
    for (mint, unit), held in wallet.balances().items():
        fits = unit == request.unit and held >= request.amount and (not accepted or mint in accepted)
        if fits and (lock is None or await wallet.knows_locks(mint)):
            return Wanted(mint, unit, request.amount, lock)
    raise InsufficientFunds(
        f"the wallet holds less than {request.amount} {request.unit} of a mint that the server takes"
    )


def _lock(lock: Lock) -> str:
    """The key to lock to, if the lock is of the one form that we make (NUT-11). Raises RequestUnreadable."""
    if lock.kind != "P2PK" or any(list(tag) not in TAGS for tag in lock.tags):
        raise RequestUnreadable("the payment request wants a lock that this wallet does not make")
    return check_key(lock.data)


async def _post(http: httpx.AsyncClient, url: str, content: bytes, headers: dict[str, str]) -> Reply:
    try:
        return await fetch(http, "POST", url, content=content, headers=headers, deadline_s=DEADLINE_S)
    except FetchFailed as error:
        raise NodeUnavailable(f"{url[:200]}: {error}") from error


async def _settled(payments: Payments, paid: Paid, reply: Reply | None) -> Settled | None:
    """Take in what came back with the answer, or fetch it. A server that names no request to ask about has its price."""
    changes = [] if reply is None else _changes(reply)
    try:
        if reply is None or not reply.is_success:
            return await payments.take_back(paid, changes)
        request_id = reply.headers.get(REQUEST_ID_HEADER, "")
        if changes or request_id:
            return await payments.settle(paid, changes, request_id)
        return await payments.spend(paid)
    except (NodeError, WalletError) as error:
        log.warning("the money of %s is still out: %s", paid.id, error)
        return None


def _changes(reply: Reply) -> list[str]:
    """Tokens in the answer's header, or in a stream's comment."""
    lines = reply.body.decode(errors="replace").splitlines()
    comments = [line.removeprefix(CHANGE_SSE_PREFIX) for line in lines if line.startswith(CHANGE_SSE_PREFIX)]
    given = [reply.headers.get(CASHU_HEADER, ""), *comments]
    return [text.strip() for text in given if looks_like_token(text.strip())]


def _base(url: str) -> str:
    """Where a node's other routes are, below which ours lie in `/v1/`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path.partition('/v1/')[0]}".rstrip("/")
