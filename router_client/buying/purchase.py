"""One purchase at one node: money goes with the request, the answer streams, change comes back, the receipt is checked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import httpx
import msgspec

from relays import receipt as receipts
from relays.bounds import largest_usage
from relays.endpoints import CHAT, Endpoint
from relays.errors import InvalidEvent
from relays.event import Event
from relays.money import Msat
from relays.pricing import Usage
from relays.receipt import Receipt
from router_client.buying.forms import incoming
from router_client.buying.incoming import Incoming
from router_client.buying.reading import Head, Reader, ReaderFailed
from router_client.errors import (
    ChangeRejected,
    NodeBrokeOff,
    NodeError,
    NodeOutrun,
    NodeUnavailable,
    NodeUnreached,
    WalletError,
)
from router_client.net.fetch import check_plain, first_bytes, plain
from router_client.net.nodeapi import error_of, said, with_money
from router_client.net.outside import NoWay
from router_client.paying.change import Paid, Settled, kept_msat, rounded_msat, short_change
from router_client.paying.payments import Payments
from router_client.routing.candidates import Candidate

log = logging.getLogger(__name__)

SILENCE_S: Final = 300.0
FIRST_WORD_S: Final = 600.0
"""Comments break the silence, and serve nobody."""
STREAM_DEADLINE_S: Final = 3600.0
LEFT_PAUSES_S: Final = (0.0, 0.5, 4.0)
"""A node that is left may have a moment's work with it before it gives its change."""


class Bought(msgspec.Struct, frozen=True, kw_only=True):
    """What one node served, and what it took for it."""

    text: str
    choices: tuple[dict[str, Any], ...]
    body: dict[str, Any] | None
    finish_reason: str
    request_id: str
    usage: Usage
    cost_msat: Msat
    problem: str | None
    """Why it is not verified."""
    receipt: Receipt | None
    receipt_event: Event | None
    settled: bool
    """False when the change is still at the node; `RouterClient.recover` fetches it."""
    out_msat: int = 0
    """What of the token neither paid for the answer nor came back, or not yet."""
    withheld: bool = False
    """The node gives no change; else it is the mint that does not take it in."""
    wait_s: float
    """From the request, or the look at its price, to its first word."""
    whole_s: float


class Buyer:
    """Buys from one node at a time, with the money of `payments`."""

    def __init__(self, payments: Payments, http: httpx.AsyncClient) -> None:
        self._payments = payments
        self._http = http

    async def buy(
        self,
        request: dict[str, Any],
        candidate: Candidate,
        reader: Reader,
        head: Head,
        most_msat: int | None = None,
        began: float | None = None,
        payment_id: str = "",
        endpoint: Endpoint = CHAT,
    ) -> Bought:
        """Pay what it holds, with a token of at most `most_msat`. Raises NodeUnavailable and NodeRefused, NodeBrokeOff for a
        stream that does, NodeOutrun once the reader has left, WalletError, and ReaderFailed. What did not come back
        then is in `out_msat`. Times are from `began` on, else from now, by the monotonic clock."""
        lock, purse = candidate.provider.announcement.lock, candidate.purse
        began = time.monotonic() if began is None else began
        paid = await self._payments.pay(
            *(candidate.url, purse.mint, purse.unit, candidate.hold_msat),
            lock=lock,
            most_msat=most_msat,
            payment_id=payment_id,
        )
        stream = incoming(endpoint, request)
        try:
            tell = partial(stream.tell, reader, head)
            url = f"{candidate.url}/v1{endpoint.path}"
            await _unless(reader.left, self._run(url, request, paid.token, stream, tell), began)
        except NodeUnreached:
            await self._keep(paid)
            raise
        except NodeOutrun as error:
            back = await self._take_back(paid, stream, LEFT_PAUSES_S)
            error.out_msat = paid.credit_msat if back is None else kept_msat(paid, back, 0)
            raise
        except NodeError as error:
            back = await self._take_back(paid, stream)
            error.out_msat = paid.credit_msat if back is None else kept_msat(paid, back, 0)
            kept = None if back is None or stream.pieces else short_change(paid, back, 0)
            if kept is not None:
                cheat = NodeUnavailable(f"{error}; {kept}")
                cheat.out_msat, cheat.cheated = error.out_msat, True
                raise cheat from error
            raise
        except ReaderFailed as error:
            back = await self._take_back(paid, stream, LEFT_PAUSES_S)
            error.out_msat = paid.credit_msat if back is None else kept_msat(paid, back, 0)
            raise
        most = largest_usage(request, candidate.offer.limits, endpoint)
        return await self._concluded(paid, stream, candidate, most, began)

    async def _concluded(self, paid: Paid, stream: Incoming, candidate: Candidate, most: Usage, began: float) -> Bought:
        """The answer is here: verify it, and take in the change."""
        whole_s = time.monotonic() - began
        receipt, problem = _verify(stream, candidate, most)
        settled, fraud, withheld = await self._settle(paid, stream)
        problem = problem or fraud
        change_msat = settled.change_msat if settled is not None else 0
        cost_msat = receipt.cost_msat if receipt is not None else paid.credit_msat - change_msat
        if settled is not None and receipt is not None:
            problem = problem or short_change(paid, settled, receipt.cost_msat)
            cost_msat = Msat(cost_msat + kept_msat(paid, settled, receipt.cost_msat))
        return Bought(
            text="".join(stream.texts),
            choices=stream.choices,
            body=stream.body,
            finish_reason=stream.finish_reason,
            request_id=stream.request_id,
            usage=receipt.usage if receipt is not None else _possible(stream.usage or Usage(0, 0), most),
            cost_msat=Msat(cost_msat),
            problem=problem,
            receipt=receipt,
            receipt_event=stream.receipt,
            settled=settled is not None,
            out_msat=_out_msat(paid, settled, cost_msat),
            withheld=withheld,
            wait_s=(stream.first_at or time.monotonic()) - began,
            whole_s=whole_s,
        )

    async def _run(
        self, url: str, request: dict[str, Any], token: str, stream: Incoming, tell: Callable[[], Awaitable[None]]
    ) -> None:
        """Send the request and read what comes. Raises NodeUnavailable, NodeRefused, or NodeBrokeOff."""
        now = asyncio.get_running_loop().time()
        begin_by, ends_at = now + FIRST_WORD_S, now + STREAM_DEADLINE_S
        try:
            async with (
                asyncio.timeout_at(begin_by) as deadline,
                self._http.stream(
                    "POST",
                    url,
                    content=msgspec.json.encode(request),
                    headers=plain(with_money(token)),
                    timeout=SILENCE_S,
                ) as reply,
            ):
                check_plain(reply)
                stream.begin(reply.headers)
                if not reply.is_success:
                    raise error_of(reply.status_code, await first_bytes(reply), reply.headers)
                async for chunk in reply.aiter_raw():
                    stream.feed(chunk)
                    deadline.reschedule(ends_at if stream.pieces else begin_by)
                    await tell()
                stream.end()
                await tell()
        except (NodeError, ReaderFailed):
            raise
        except NoWay as error:
            raise NodeUnreached(str(error)) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NodeUnreached(f"{url} does not answer") from error
        except Exception as error:  # a stranger's URL breaks httpx, idna and anyio in many ways, groups included
            if stream.pieces:
                raise NodeBrokeOff(f"{url} broke off after {stream.pieces} pieces of its answer") from error
            raise NodeUnavailable(f"{url} did not answer") from error
        if stream.error is not None:
            raise (NodeBrokeOff if stream.pieces else NodeUnavailable)(f"{url}: {said(stream.error)}")
        if not stream.pieces and stream.receipt is None:
            raise NodeUnavailable(f"{url} answered nothing")

    async def _settle(self, paid: Paid, stream: Incoming) -> tuple[Settled | None, str | None, bool]:
        """Take in the change; none when that must wait for `recover`, with what is wrong with it, and whether it is the node
        that keeps it. The answer stays."""
        try:
            return await self._payments.settle(paid, stream.changes, stream.request_id), None, False
        except ChangeRejected as error:
            return None, str(error), True
        except (NodeError, WalletError) as error:
            log.warning("the change of %s is still out: %s", paid.id, error)
            return None, None, isinstance(error, NodeError)

    async def _take_back(self, paid: Paid, stream: Incoming, pauses_s: Sequence[float] = (0.0,)) -> Settled | None:
        for pause_s in pauses_s:
            await asyncio.sleep(pause_s)
            try:
                return await self._payments.take_back(paid, stream.changes)
            except (NodeError, WalletError) as error:
                log.warning("the money of %s is still out: %s", paid.id, error)
        return None

    async def _keep(self, paid: Paid) -> None:
        try:
            await self._payments.keep(paid)
        except (NodeError, WalletError) as error:
            log.warning("the money of %s is still out: %s", paid.id, error)


async def _unless(left: asyncio.Event | None, running: Coroutine[Any, Any, None], began: float) -> None:
    """Run it until it ends. Raises NodeOutrun as soon as the node is left."""
    if left is None:
        return await running
    run, leave = asyncio.create_task(running), asyncio.create_task(left.wait())
    try:
        await asyncio.wait({run, leave}, return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            return run.result()
        raise NodeOutrun("it was left before it had answered", time.monotonic() - began)
    finally:
        leave.cancel()
        run.cancel()
        await asyncio.wait({run, leave})


def _out_msat(paid: Paid, settled: Settled | None, cost_msat: int) -> int:
    return paid.credit_msat - cost_msat if settled is None else rounded_msat(paid, settled, cost_msat)


def _possible(usage: Usage, most: Usage) -> Usage:
    """What of it can be: nobody has signed it, and it says how quick the node is, and what it saved."""
    if usage.within(most):
        return usage
    return Usage(min(usage.prompt_tokens, most.prompt_tokens), min(usage.completion_tokens, most.completion_tokens))


def _verify(stream: Incoming, candidate: Candidate, most: Usage) -> tuple[Receipt | None, str | None]:
    """The receipt, and what is wrong with it. The usage must also be the one that the stream itself told."""
    if stream.receipt is None:
        plain_node = candidate.provider.is_plain
        return None, "plain nodes give no receipts" if plain_node else "the node gave no receipt"
    try:
        receipt = receipts.verify(
            stream.receipt,
            pubkey=candidate.provider.announcement.pubkey,
            request_id=stream.request_id,
            model=candidate.offer.id,
            price=candidate.offer.price,
            hold_msat=candidate.hold_msat,
            most=most,
        )
    except InvalidEvent as error:
        return None, str(error)
    if not stream.done:
        return receipt, "the stream ended without [DONE]: the answer may lack its end"
    if receipt.metered == "upstream" and stream.usage is not None and receipt.usage != stream.usage:
        return receipt, f"the receipt says {receipt.usage}, the answer said {stream.usage}"
    return receipt, None
