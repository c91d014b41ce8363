"""A paid call to one node whose answer is passed on as it comes: for who resells it.

    shop = await look(http, "https://node.example")
    bought = await buy(payments, http, shop, CHAT, fields, body, "application/json")
    async for chunk in bought.chunks(): ...
    await bought.settle()

What the call can cost at the announced price is paid with it; `settle` takes in the change and checks the receipt.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final

import httpx
import msgspec

from relays import receipt as receipts
from relays.announcement import ModelOffer
from relays.bounds import ModelLimits, largest_usage, most_usage
from relays.endpoints import COUNT_TOKENS, Endpoint
from relays.errors import InvalidEvent, InvalidJson, InvalidKey
from relays.event import Event, parse_event, pubkey_of
from relays.jsontext import from_json
from relays.payment import CASHU_HEADER, CHANGE_SSE_PREFIX, RECEIPT_HEADER, REQUEST_ID_HEADER
from relays.pricing import ModelPrice, cost
from router_client.change import Paid
from router_client.ecash.token import MSAT_PER_UNIT, looks_like_token, normal_mint_url
from router_client.errors import InsufficientFunds, NodeError, NodeUnavailable, NodeUnreached, WalletError
from router_client.fetch import FetchFailed, check_plain, fetch, first_bytes, plain
from router_client.nodeapi import error_of, with_money
from router_client.payments import Payments

log = logging.getLogger(__name__)

LOOK_DEADLINE_S: Final = 20.0
CONNECT_S: Final = 10.0
MAX_LINE_BYTES: Final = 8 * 1024 * 1024
MAX_CHANGES: Final = 8
_COMMENTS: Final = (CHANGE_SSE_PREFIX.encode(), receipts.SSE_PREFIX.encode(), b": x-satroute-", b": change at ")
"""Lines that are for us, not for those whom we pass the answer on to."""


class Shop(msgspec.Struct, frozen=True):
    """One node, as it describes itself."""

    url: str
    pubkey: str
    mints: tuple[str, ...]
    lock: str | None
    offers: Mapping[str, ModelOffer]
    listed: tuple[Mapping[str, Any], ...]
    """The list of models as the node gives it."""


class _Info(msgspec.Struct):
    npub: str
    mints: tuple[str, ...]
    lock: Annotated[str, msgspec.Meta(pattern="^0[23][0-9a-f]{64}$")] | None = None


class _Top(msgspec.Struct):
    max_completion_tokens: int | None = None


class _Model(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    context_length: int
    msat_pricing: ModelPrice
    top_provider: _Top | None = None


async def look(http: httpx.AsyncClient, url: str) -> Shop:
    """What a node says of itself and sells. Raises NodeUnavailable; models without a price in msat are left out."""
    base = url.rstrip("/").removesuffix("/v1")
    try:
        info_reply = await fetch(http, "GET", f"{base}/v1/info", deadline_s=LOOK_DEADLINE_S)
        models_reply = await fetch(http, "GET", f"{base}/v1/models", deadline_s=LOOK_DEADLINE_S)
        info = from_json(info_reply.body, _Info)
        listed = from_json(models_reply.body, dict[str, Any]).get("data")
        pubkey = pubkey_of(info.npub)
    except (FetchFailed, InvalidJson, InvalidKey) as error:
        raise NodeUnavailable(f"{base} does not describe itself: {error}") from error
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    offers = {offer.id: offer for offer in map(_offer, entries) if offer is not None}
    return Shop(base, pubkey, info.mints, info.lock, offers, tuple(e for e in entries if _offer(e) is not None))


def _offer(entry: Mapping[str, Any]) -> ModelOffer | None:
    try:
        model = msgspec.convert(entry, type=_Model)
        longest = model.top_provider.max_completion_tokens if model.top_provider else None
        return ModelOffer(
            model.id, ModelLimits(model.context_length, longest or model.context_length), model.msat_pricing
        )
    except (msgspec.ValidationError, ValueError):
        return None


async def buy(
    payments: Payments,
    http: httpx.AsyncClient,
    shop: Shop,
    endpoint: Endpoint,
    fields: Mapping[str, Any],
    body: bytes,
    content_type: str,
    *,
    silence_s: float,
    audio_ms: int = 0,
) -> Bought:
    """Pay for a call of `fields["model"]` and make it; `body` is what is sent. Raises WalletError, NodeError."""
    offer = shop.offers.get(str(fields.get("model")))
    if offer is None:
        raise NodeUnavailable(f"{shop.url} does not sell that model any more")
    price = offer.price if endpoint is not COUNT_TOKENS else ModelPrice(0, 0, offer.price.request_msat)
    hold_msat = cost(most_usage(fields, offer.limits, price, endpoint, audio_ms=audio_ms), price)
    mint, unit = _purse(payments, shop, hold_msat)
    paid = await payments.pay(shop.url, mint, unit, hold_msat, lock=shop.lock)
    bought = Bought(payments, paid, shop, offer, price, hold_msat, (endpoint, fields, audio_ms))
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
        await bought.give_up(reached=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout))
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
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
        paid: Paid,
        shop: Shop,
        offer: ModelOffer,
        price: ModelPrice,
        hold_msat: int,
        asked: tuple[Endpoint, Mapping[str, Any], int],
    ) -> None:
        self._payments = payments
        self._paid = paid
        self._shop = shop
        self._offer = offer
        self._price = price
        self._hold_msat = hold_msat
        self._asked = asked
        self._response: httpx.Response | None = None
        self._request_id = ""
        self._changes: list[str] = []
        self._receipt: Event | None = None
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
        if header := response.headers.get(RECEIPT_HEADER):
            self._take_receipt(header, in_header=True)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The answer as it comes, without what the node says to us alone. Raises NodeError when it breaks off."""
        assert self._response is not None
        streams = self.content_type == "text/event-stream"
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
        except httpx.HTTPError as error:
            raise NodeError(f"{self._shop.url} broke off") from error

    async def settle(self) -> None:
        """Take in the change, and say so in the log if the receipt is not as agreed. What cannot be had now, is fetched by
        `Payments.recover`."""
        if self._response is not None:
            await self._response.aclose()
        try:
            settled = await self._payments.settle(self._paid, self._changes, self._request_id)
            log.debug("payment %s: %d msat came back", self._paid.id, settled.change_msat)
        except (NodeError, WalletError) as error:
            log.warning("the change of %s is still out: %s", self._paid.id, error)
        self._verify()

    async def give_up(self, *, reached: bool) -> None:
        """The call was not served: the money is taken back, or kept for the next if it never arrived."""
        if self._response is not None:
            await self._response.aclose()
        try:
            if reached:
                await self._payments.take_back(self._paid, self._changes)
            else:
                await self._payments.keep(self._paid)
        except (NodeError, WalletError) as error:
            log.warning("the money of %s is still out: %s", self._paid.id, error)

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
        if looks_like_token(text.strip()) and len(self._changes) < MAX_CHANGES:
            self._changes.append(text.strip())

    def _take_receipt(self, text: str, *, in_header: bool) -> None:
        try:
            self._receipt = receipts.from_header(text) if in_header else parse_event(text)
        except InvalidEvent as error:
            log.warning("the receipt of %s cannot be read: %s", self._shop.url, error)

    def _verify(self) -> None:
        endpoint, fields, audio_ms = self._asked
        if self._receipt is None:
            log.warning("%s gave no receipt for %s", self._shop.url, self._request_id)
            return
        try:
            receipts.verify(
                self._receipt,
                pubkey=self._shop.pubkey,
                request_id=self._request_id,
                model=self._offer.id,
                price=self._price,
                hold_msat=self._hold_msat,
                most=largest_usage(fields, self._offer.limits, endpoint, audio_ms=audio_ms),
            )
        except InvalidEvent as error:
            log.warning("the receipt of %s for %s does not hold: %s", self._shop.url, self._request_id, error)
