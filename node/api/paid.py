"""The endpoints that are paid for: the hot path, on ASGI alone, so that stream chunks pass without being wrapped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from node import betas
from node.api.errors import as_refusal, error_body, new_request_id
from node.api.intake import Intake
from node.api.reply import CallerGone, Reply, method_of, read_body, while_connected
from node.asks import LONG_BYTES, read_ask
from node.completions import Answer, Keep, Used
from node.credentials import authorization_in, credential_in
from node.errors import NotHere, Refusal
from node.ledger.model import Key, Refund
from node.metering.told import cost_of
from node.node import Node
from node.quote import Quote, quote_for
from node.replay import MAX_ATTEMPTS, Kept, NamedRequest, check_name
from relays import payment, receipt
from relays.endpoints import COUNT_TOKENS, ENDPOINTS, MESSAGES, Endpoint
from relays.l402 import is_l402
from relays.money import MSAT_PER_BTC

NO_CHANGE_FOR: Final = (payment.REQUEST_RUNNING, payment.REQUEST_DONE, payment.IDEMPOTENCY_MISMATCH)
"""Answers about an earlier request of the same name, which has the money."""


class _Call(msgspec.Struct, frozen=True):
    """What the caller sent."""

    headers: dict[bytes, bytes]
    body: bytes
    quote: Quote

    def header(self, name: str) -> str:
        return self.headers.get(name.encode(), b"").decode("latin-1").strip()

    def named(self, key: Key, credential: str) -> NamedRequest | None:
        """The request with its caller's name for it. A form is the same whatever its boundary is."""
        name, ask = self.header(payment.IDEMPOTENCY_HEADER), self.quote.ask
        same = self.body if ask.form is None else msgspec.msgpack.encode(ask.form)
        return NamedRequest.of(key, credential, name, ask.endpoint.path.encode() + b"\n" + same) if name else None


def paid_endpoints(node: Node, intake: Intake) -> dict[str, ASGIApp]:
    """By their paths. They raise NotHere at a counter, before anything was done or said."""
    return {path: _paid(node, intake, each) for each in ENDPOINTS for path in (f"/v1{each.path}", each.path)}


def _paid(node: Node, intake: Intake, endpoint: Endpoint) -> ASGIApp:

    async def paid(scope: Scope, receive: Receive, send: Send) -> None:
        reply = Reply(send, new_request_id())
        quote: Quote | None = None
        headers: dict[bytes, bytes] = {}
        try:
            if method_of(scope) != "POST":
                raise Refusal(405, payment.INVALID_REQUEST, "use POST", headers={"allow": "POST"})
            headers = dict(scope["headers"])
            with intake.reading(receive) as incoming:
                body = await read_body(headers, incoming, node.settings.max_body_bytes)
                if len(body) > LONG_BYTES:
                    quote = await asyncio.to_thread(_quote, node, endpoint, body, headers)
                else:
                    quote = _quote(node, endpoint, body, headers)
            await while_connected(receive, _serve(node, reply, _Call(headers, body, quote)))
        except (CallerGone, TimeoutError):  # nobody reads any more; the books are closed already
            return
        except NotHere:
            raise
        except Exception as error:  # noqa: BLE001 - the edge: whatever it was, the caller gets an answer and the log a line
            with suppress(TimeoutError):  # nobody reads any more
                await _refuse(node, endpoint, reply, quote, as_refusal(error), headers)

    return paid


async def _refuse(
    node: Node,
    endpoint: Endpoint,
    reply: Reply,
    quote: Quote | None,
    refusal: Refusal,
    asked: Mapping[bytes, bytes],
) -> None:
    """Say so, where nothing else was said yet. Raises TimeoutError."""
    if reply.started:
        await reply.end()
        return
    extra, challenges = dict(refusal.headers), tuple[str, ...]()
    if refusal.status == 402 and quote is not None:
        extra.setdefault(payment.CASHU_HEADER, node.cash.challenge(quote))
        if refusal.code == payment.PAYMENT_REQUIRED or is_l402(asked.get(b"authorization", b"").decode("latin-1")):
            challenges = await node.l402.challenges(quote.hold_msat)
    body = error_body(refusal, reply.request_id, endpoint)
    await reply.whole(refusal.status, body, extra, challenges=challenges)


def _quote(node: Node, endpoint: Endpoint, body: bytes, headers: Mapping[bytes, bytes]) -> Quote:
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    ask = read_ask(endpoint, body, content_type, node.settings.extra_request_fields)
    if endpoint in (MESSAGES, COUNT_TOKENS) and (asked := headers.get(betas.HEADER.encode())):
        allowed = betas.allowed(asked.decode("latin-1"), node.settings.extra_anthropic_betas)
        ask = msgspec.structs.replace(ask, betas=allowed)
    return quote_for(ask, node.catalogue)


async def _serve(node: Node, reply: Reply, call: _Call) -> None:
    """Find out who pays, hold, serve; a repeated request is answered as at first."""
    token = call.header(payment.CASHU_HEADER)
    authorization = authorization_in(call.header("authorization"), call.header("x-api-key"))
    if not token and not authorization:
        raise _payment_required(call.quote)
    check_name(call.header(payment.IDEMPOTENCY_HEADER))  # before money moves
    if token:
        key = await node.cash.payer(token, call.quote, repeated=bool(call.header(payment.IDEMPOTENCY_HEADER)))
    else:
        key = await node.credentials.key(authorization)
    named = call.named(key, token or credential_in(authorization))
    try:
        with node.limits.running(key.account, call.quote.likely_tokens) as place:
            reply.tell(place.told)
            kept = await _hold(node, reply, key, call.quote, named)
            if kept is not None:
                change = await node.cash.change(key) if token and not kept.is_stream else None
                await reply.replay(kept, _change_headers(change))
            elif call.quote.stream:
                await _serve_stream(node, reply, call.quote, named, key if token else None, place.used)
            else:
                await _serve_whole(node, reply, call.quote, named, key if token else None, place.used)
    except Refusal as refusal:
        if token and not reply.started and refusal.code not in NO_CHANGE_FOR:
            raise await _with_change(node, key, refusal) from refusal
        raise


async def _hold(node: Node, reply: Reply, key: Key, quote: Quote, named: NamedRequest | None) -> Kept | None:
    """Hold under the reply's id, or a named request's own; returns the answer of one that was served before."""
    if named is None:
        await node.holding.hold(key, reply.request_id, quote)
        return None
    for attempt in range(1, MAX_ATTEMPTS + 1):
        reply.request_id = named.id_of_attempt(attempt)
        duplicate = await node.holding.hold(key, reply.request_id, quote, named.fingerprint)
        if duplicate is None:
            return None
        kept = await node.replays.earlier(named, reply.request_id, duplicate)
        if kept is not None:
            return kept
    raise Refusal(409, payment.REQUEST_DONE, "this Idempotency-Key has failed too often: choose a new one")


async def _serve_whole(
    node: Node, reply: Reply, quote: Quote, named: NamedRequest | None, payer: Key | None, used: Used
) -> None:
    answer = await node.completions.answer(reply.request_id, quote, used, _keeper(node, reply, named))
    await _give(node, reply, answer, payer)


def _keeper(node: Node, reply: Reply, named: NamedRequest | None) -> Keep:
    """Keeps an answer for whoever asks again by its name."""

    async def keep(answer: Answer) -> None:
        if named is not None:
            headers = {**_paid_headers(node, answer), "content-type": answer.content_type}
            kept = Kept(list(headers.items()), answer.body, is_stream=False)
            await node.replays.keep(named, reply.request_id, kept)

    return keep


async def _give(node: Node, reply: Reply, answer: Answer, payer: Key | None) -> None:
    headers = _paid_headers(node, answer)
    if payer is not None:
        headers |= _change_headers(await node.cash.change(payer))
    await reply.whole(200, answer.body, headers, answer.content_type)


async def _serve_stream(
    node: Node, reply: Reply, quote: Quote, named: NamedRequest | None, payer: Key | None, used: Used
) -> None:
    async def change() -> bytes:
        """The last comment before `[DONE]`: the change, or where it can be had."""
        if payer is None:
            return b""
        made = await node.cash.change(payer)
        if made is None:
            return f": change at /v1/change/{reply.request_id}\n\n".encode()
        fee = f": {payment.CHANGE_FEE_HEADER} {made.fee_msat}\n\n"
        return f"{fee}{payment.CHANGE_SSE_PREFIX}{made.token}\n\n".encode()

    stream = await node.completions.open_stream(reply.request_id, quote, used, _keeper(node, reply, named))
    if isinstance(stream, Answer):
        await _give(node, reply, stream, payer)
        return
    if named is not None:
        reply.record()
    await stream.run(reply.begin_stream, reply.write, change)
    if named is not None and reply.recorded is not None:
        await node.replays.keep(named, reply.request_id, Kept([], reply.recorded, is_stream=True))
    await reply.end()


async def _with_change(node: Node, key: Key, refusal: Refusal) -> Refusal:
    """The same answer with all of the caller's money on it."""
    change = await node.cash.change(key)
    if change is None:
        return refusal
    return Refusal(
        refusal.status,
        refusal.code,
        f"{refusal.message}{payment.PAID_BACK}",
        details=refusal.details,
        headers={**refusal.headers, **_change_headers(change)},
    )


def _paid_headers(node: Node, answer: Answer) -> dict[str, str]:
    """What was charged, in our names and in those of Routstr and Pura."""
    account = answer.account
    parts = cost_of(account)["cost"]
    headers = {
        payment.COST_HEADER: str(account.cost_msat),
        payment.BALANCE_HEADER: str(account.balance_msat),
        payment.RECEIPT_HEADER: receipt.to_header(answer.receipt),
        payment.ROUTSTR_COST_HEADER: str(account.cost_msat),
        payment.ROUTSTR_INPUT_HEADER: str(parts["input_msats"]),
        payment.ROUTSTR_OUTPUT_HEADER: str(parts["output_msats"]),
        payment.PURA_MODEL_HEADER: account.model.encode("ascii", "replace").decode(),
    }
    if (btc_usd := node.catalogue.tariffs.btc_usd) is not None:
        usd = f"{account.cost_msat * btc_usd / MSAT_PER_BTC:.9f}"
        headers |= {payment.ROUTSTR_USD_HEADER: usd, payment.PURA_COST_HEADER: usd}
    return headers


def _change_headers(change: Refund | None) -> dict[str, str]:
    if change is None:
        return {}
    return {payment.CASHU_HEADER: change.token, payment.CHANGE_FEE_HEADER: str(change.fee_msat)}


def _payment_required(quote: Quote) -> Refusal:
    return Refusal(
        402,
        payment.PAYMENT_REQUIRED,
        f"this request can cost up to {quote.hold_msat} msat: pay with a Cashu token in X-Cashu (this answer's X-Cashu says "
        "which; the change comes back), or send 'Authorization: Bearer' with a key of this node or a token",
        details={"amount_required_msat": quote.hold_msat, "model": quote.model.id},
    )
