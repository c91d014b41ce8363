"""A paid call to one node whose answer is passed on as it comes: for who resells it.

    shop = await look(http, "https://node.example")
    bought = await buy(payments, http, shop, CHAT, fields, body, "application/json")
    async for chunk in bought.chunks(): ...
    await bought.settle()

What the call can cost at the announced price is paid with it; `settle` takes in the change, checks the receipt, and compares
the two: a node that keeps more than it may is found out.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from relays import receipt as receipts
from relays.endpoints import Endpoint
from relays.errors import InvalidEvent
from relays.event import Event, parse_event
from relays.payment import CASHU_HEADER, CHANGE_SSE_PREFIX, RECEIPT_HEADER, REQUEST_ID_HEADER
from relays.receipt import Receipt
from router_client.buying.shop import Shop, Terms, look
from router_client.ecash.token import MSAT_PER_UNIT, looks_like_token, normal_mint_url
from router_client.errors import (
    ChangeRejected,
    InsufficientFunds,
    NodeCheated,
    NodeError,
    NodeUnavailable,
    NodeUnreached,
    WalletError,
)
from router_client.net.fetch import FetchFailed, check_plain, first_bytes, plain
from router_client.net.nodeapi import as_bearer, call, error_of, with_money
from router_client.paying.change import Paid, Settled, short_change
from router_client.paying.payments import Payments

log = logging.getLogger(__name__)

CONNECT_S: Final = 10.0
MAX_LINE_BYTES: Final = 8 * 1024 * 1024
MAX_CHANGES: Final = 8
STREAM: Final = "text/event-stream"
_COMMENTS: Final = (CHANGE_SSE_PREFIX.encode(), receipts.SSE_PREFIX.encode(), b": x-satroute-", b": change at ")
"""Lines that are for us, not for those whom we pass the answer on to."""


async def buy(
    payments: Payments,
    http: httpx.AsyncClient,
    shop: Shop,
    endpoint: Endpoint,
    fields: Mapping[str, Any],
    body: bytes,
    content_type: str,
    *,
    silence_s: float | None,
    audio_ms: int = 0,
) -> Bought:
    """Pay for a call of `fields["model"]` and make it; `body` is what is sent. No silence of the node may be longer than
    `silence_s`.

    Raises WalletError, NodeError; NodeCheated for a node that refuses and keeps the money.
    """

    def terms_at(shop: Shop) -> Terms:
        return shop.terms(endpoint, fields, audio_ms)

    hold_msat = terms_at(shop).hold_msat
    mint, unit = _purse(payments, shop, hold_msat)
    paid = await payments.pay(shop.url, mint, unit, hold_msat, lock=shop.lock)
    bought = Bought(payments, http, paid, shop, terms_at)
    headers = plain({**with_money(paid.token), "Content-Type": content_type})
    request = http.build_request(
        "POST",
        f"{shop.url}/v1{endpoint.path}",
        content=body,
        headers=headers,
        timeout=httpx.Timeout(silence_s, connect=CONNECT_S),
    )
    try:
        await bought.begin(await http.send(request, stream=True))
    except BaseException as error:
        unreached = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        back = await bought.give_up(reached=not unreached)
        if isinstance(error, NodeError):  # its own word that it does not serve
            kept = None if back is None else short_change(paid, back, 0)
            if kept is not None:
                raise NodeCheated(f"it refused ({error}), and {kept}") from error
        if unreached:
            raise NodeUnreached(f"{shop.url} does not answer") from error
        if isinstance(error, httpx.HTTPError | FetchFailed):
            raise NodeUnavailable(f"{shop.url} did not answer") from error
        raise
    return bought


def _purse(payments: Payments, shop: Shop, hold_msat: int) -> tuple[str, str]:
    """The mint and unit to pay with. Raises InsufficientFunds."""
    accepted = {normal_mint_url(mint) for mint in shop.mints}
    for (mint, unit), held in sorted(payments.wallet.balances().items(), key=lambda purse: -purse[1]):
        if mint in accepted and held * MSAT_PER_UNIT[unit] >= hold_msat:
            return mint, unit
    raise InsufficientFunds(f"the wallet holds less than {hold_msat} msat of a mint that {shop.url} takes")


class Bought:
    """An answer on its way. `settle` it in any case, when it has ended or nobody wants it any more."""

    def __init__(
        self,
        payments: Payments,
        http: httpx.AsyncClient,
        paid: Paid,
        shop: Shop,
        terms_at: Callable[[Shop], Terms],
    ) -> None:
        self._payments = payments
        self._http = http
        self._paid = paid
        self._shop = shop
        self._terms = terms_at(shop)
        self._terms_at = terms_at
        self._response: httpx.Response | None = None
        self._request_id = ""
        self._changes: list[str] = []
        self._receipt: Event | None = None
        self._ended = False
        """Whether the node has ended the request: a stream at its end, any other before its head."""
        self.content_type = ""

    async def begin(self, response: httpx.Response) -> None:
        """Take the head of the answer. Raises NodeError when it is a refusal."""
        self._response = response
        check_plain(response)
        self._request_id = response.headers.get(REQUEST_ID_HEADER, "")[:200]
        self._change(response.headers.get(CASHU_HEADER, ""))
        if response.status_code != 200:
            raise error_of(response.status_code, await first_bytes(response))
        self.content_type = response.headers.get("content-type", "").partition(";")[0].strip()
        self._ended = self.content_type != STREAM
        if header := response.headers.get(RECEIPT_HEADER):
            self._take_receipt(header, in_header=True)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The answer as it comes, without what the node says to us alone. Raises NodeError when it breaks off."""
        assert self._response is not None
        streams = self.content_type == STREAM
        tail: list[bytes] = []
        waiting = 0
        try:
            async for chunk in self._response.aiter_raw():
                if not streams:
                    yield chunk
                elif b"\n" not in chunk:
                    tail.append(chunk)
                    waiting += len(chunk)
                    if waiting > MAX_LINE_BYTES:
                        raise NodeError("the stream has a line without end")
                else:
                    *lines, rest = b"".join((*tail, chunk)).split(b"\n")
                    tail, waiting = ([rest], len(rest)) if rest else ([], 0)
                    if passed := b"".join(line + b"\n" for line in lines if not self._is_ours(line)):
                        yield passed
            if (last := b"".join(tail)) and not self._is_ours(last):
                yield last
            self._ended = True
        except httpx.HTTPError as error:
            raise NodeError(f"{self._shop.url} broke off") from error

    async def settle(self) -> None:
        """Take in the change, and compare it with the receipt. What cannot be had now, is fetched by `Payments.recover`.

        Raises NodeCheated when the node gives no receipt for what it served to the end, one that does not hold, or less
        change than that leaves. Of a call that was cut off, which may have no receipt yet, the hold may be kept, not more.
        """
        if self._response is not None:
            await self._response.aclose()
        settled = await self._settled()
        cost_msat = self._terms.hold_msat
        if self._ended or self._receipt is not None:
            cost_msat = (await self._checked()).cost_msat
        kept = None if settled is None else short_change(self._paid, settled, cost_msat)
        if kept is not None:
            raise NodeCheated(kept)

    async def give_up(self, *, reached: bool) -> Settled | None:
        """The call was not served: the money is taken back, or kept for the next if it never arrived. What came back, if the
        node could be asked."""
        if self._response is not None:
            await self._response.aclose()
        try:
            if reached:
                return await self._payments.take_back(self._paid, self._changes)
            await self._payments.keep(self._paid)
        except (NodeError, WalletError) as error:
            log.warning("the money of %s is still out: %s", self._paid.id, error)
        return None

    async def _settled(self) -> Settled | None:
        """What came back; None when that must wait. Raises NodeCheated for change that is no money."""
        # Where a request runs on, its change is a part alone: the refund tells of that, the request's own does not.
        request_id = self._request_id if self._ended else ""
        try:
            return await self._payments.settle(self._paid, self._changes, request_id)
        except ChangeRejected as error:
            raise NodeCheated(str(error)) from error
        except (NodeError, WalletError) as error:
            log.warning("the change of %s is still out: %s", self._paid.id, error)
            return None

    async def _checked(self) -> Receipt:
        """The receipt, if it holds. Raises NodeCheated."""
        event = self._receipt or await self._asked_for()
        try:
            return self._terms.check(event, self._request_id)
        except InvalidEvent as error:
            if (receipt := await self._at_new_terms(event)) is None:
                raise NodeCheated(f"its receipt does not hold: {error}") from error
            log.warning("%s has changed its terms between its list and a call: %s", self._shop.url, error)
            return receipt

    async def _asked_for(self) -> Event:
        """The receipt from where the node keeps it: one that came late may be lost with the last bytes of a slow stream."""
        url = f"{self._shop.url}/v1/receipts/{quote(self._request_id, safe='')}"
        try:
            answer = await call(self._http, "GET", url, as_bearer(self._paid.token))
            return parse_event(msgspec.json.encode(answer.get("event")))
        except (NodeError, InvalidEvent) as error:
            raise NodeCheated(f"it gave no receipt, nor gives one when asked: {error}") from error

    async def _at_new_terms(self, event: Event) -> Receipt | None:
        """The receipt, if it keeps to what the node lists by now and costs no more than was agreed: prices may change."""
        try:
            receipt = self._terms_at(await look(self._http, self._shop.url)).check(event, self._request_id)
        except (NodeError, InvalidEvent):
            return None
        return receipt if receipt.cost_msat <= self._terms.hold_msat else None

    def _is_ours(self, line: bytes) -> bool:
        if not line.startswith(_COMMENTS):
            return False
        text = line.decode(errors="replace").strip()
        if text.startswith(receipts.SSE_PREFIX):
            self._take_receipt(text.removeprefix(receipts.SSE_PREFIX), in_header=False)
        elif text.startswith(CHANGE_SSE_PREFIX):
            self._change(text.removeprefix(CHANGE_SSE_PREFIX))
        return True

    def _change(self, text: str) -> None:
        if looks_like_token(
            text.strip()
        ):  # the node's own is its last: a model's server may have written others before
            self._changes = [*self._changes, text.strip()][-MAX_CHANGES:]

    def _take_receipt(self, text: str, *, in_header: bool) -> None:
        try:
            self._receipt = receipts.from_header(text) if in_header else parse_event(text)
        except InvalidEvent as error:
            log.warning("the receipt of %s cannot be read: %s", self._shop.url, error)
