"""The mint in memory as a transport of httpx: what a wallet sends it is answered without a socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import msgspec

from tests.simulation.mint import Coin, Mint, Output, Quote, Refused

T = TypeVar("T")

Exchange = Callable[[httpx.Request, Callable[[], httpx.Response]], Awaitable[httpx.Response]]
"""Carries a request there and its answer back, or does not."""

INFO = {"name": "simulated", "nuts": {str(nut): {"supported": True} for nut in (7, 8, 9, 10, 11, 12)}}


class _Swap(msgspec.Struct):
    inputs: list[Coin]
    outputs: list[Output]


class _Issue(msgspec.Struct):
    quote: str
    outputs: list[Output]


class _Melt(msgspec.Struct):
    quote: str
    inputs: list[Coin]
    outputs: list[Output] = []


class _Wish(msgspec.Struct):
    unit: str
    amount: int = 0
    request: str = ""


class _Outputs(msgspec.Struct):
    outputs: list[Output]


class _States(msgspec.Struct):
    Ys: list[str]


class MintTransport(httpx.AsyncBaseTransport):
    """Mints by their hosts. `exchange` may lose what is on its way."""

    def __init__(self, *mints: Mint, exchange: Exchange | None = None) -> None:
        self._mints = {httpx.URL(mint.url).host: mint for mint in mints}
        self._exchange = exchange

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        mint = self._mints.get(request.url.host)
        if mint is None:
            raise httpx.ConnectError("nobody is there", request=request)
        known = mint

        def answered() -> httpx.Response:
            return answer(known, request)

        return answered() if self._exchange is None else await self._exchange(request, answered)


def answer(mint: Mint, request: httpx.Request) -> httpx.Response:
    """The mint's answer; a refusal is a 400 with detail and code."""
    path = request.url.path.removeprefix("/v1/")
    try:
        content = _get(mint, path) if request.method == "GET" else _post(mint, path, request.content)
    except Refused as refusal:
        return reply(400, msgspec.json.encode({"detail": refusal.detail, "code": refusal.code}))
    return reply(200, msgspec.json.encode(content))


def reply(status: int, body: bytes) -> httpx.Response:
    """An answer whose body can be read raw, as one from a socket."""
    return httpx.Response(status, stream=httpx.ByteStream(body), headers={"content-type": "application/json"})


def _get(mint: Mint, path: str) -> Any:
    match path.split("/"):
        case ["info"]:
            return INFO
        case ["keysets"]:
            return {
                "keysets": [
                    {"id": each.id, "unit": each.unit, "active": each.active, "input_fee_ppk": each.fee_ppk}
                    for each in mint.keysets.values()
                ]
            }
        case ["keys", keyset_id]:
            unit = mint.keysets[keyset_id].unit if keyset_id in mint.keysets else ""
            return {"keysets": [{"id": keyset_id, "unit": unit, "keys": mint.public_keys(keyset_id)}]}
        case ["mint", "quote", "bolt11", quote_id]:
            return _mint_quote(mint.mint_quote_state(quote_id))
        case ["melt", "quote", "bolt11", quote_id]:
            return _melt_quote(mint.melt_quote_state(quote_id))
    raise Refused(0, f"no such path: {path}")


def _post(mint: Mint, path: str, body: bytes) -> Any:
    match path:
        case "swap":
            swap = _read(body, _Swap)
            return {"signatures": mint.swap(swap.inputs, swap.outputs)}
        case "mint/quote/bolt11":
            wish = _read(body, _Wish)
            return _mint_quote(mint.mint_quote(wish.amount, wish.unit))
        case "mint/bolt11":
            issue = _read(body, _Issue)
            return {"signatures": mint.mint(issue.quote, issue.outputs)}
        case "melt/quote/bolt11":
            wish = _read(body, _Wish)
            return _melt_quote(mint.melt_quote(wish.request, wish.unit))
        case "melt/bolt11":
            melt = _read(body, _Melt)
            return _melt_quote(mint.melt(melt.quote, melt.inputs, melt.outputs))
        case "checkstate":
            ys = _read(body, _States).Ys
            return {"states": [{"Y": y, "state": state} for y, state in zip(ys, mint.states(ys), strict=True)]}
        case "restore":
            found = mint.restore(_read(body, _Outputs).outputs)
            return {"outputs": [output for output, _ in found], "signatures": [signature for _, signature in found]}
    raise Refused(0, f"no such path: {path}")


def _read(body: bytes, form: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.DecodeError as error:
        raise Refused(0, f"malformed: {error}") from error


def _mint_quote(quote: Quote) -> dict[str, Any]:
    return {
        "quote": quote.id,
        "request": quote.request,
        "state": quote.state,
        "expiry": quote.expiry,
        "amount": quote.amount,
        "unit": quote.unit,
    }


def _melt_quote(quote: Quote) -> dict[str, Any]:
    return {
        "quote": quote.id,
        "amount": quote.amount,
        "fee_reserve": quote.fee_reserve,
        "state": quote.state,
        "payment_preimage": "00" * 32 if quote.state == "PAID" else None,
        "expiry": quote.expiry,
        "change": quote.change or None,
    }
