"""The local endpoint, an ASGI application: `/v1/chat/completions`, `/v1/responses`, `/v1/embeddings`, `/v1/models`,
`/api/report`, `/api/feedback`, `/health`.

    async with RouterClient.open(relays, folder) as client, Replays.open(folder / "answers.db") as replays:
        proxy = Proxy(client, Guard(), replays=replays)
        async with proxy.running():
            await uvicorn.Server(uvicorn.Config(proxy, lifespan="off")).serve()

A purchase runs in a task of its own, which writes the answer as it comes: what a caller does not read is not read from the
node either. When the caller leaves, it ends: the node keeps what it may for what it sent, the rest comes back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from relays import payment
from relays.endpoints import RESPONSES, Endpoint
from router_client.beside import beside
from router_client.buying.answer import Answer
from router_client.buying.forms import BOUGHT
from router_client.buying.reading import Head, Nobody, Piece, Reader
from router_client.client import RouterClient
from router_client.errors import ClientError, StorageError
from router_client.proxy import telling
from router_client.proxy.exchange import CallerLeft, Exchange, Reading, Receive, Send, too_busy
from router_client.proxy.guard import Guard, bearer
from router_client.proxy.refusal import FUND, SAME_AGAIN, Refusal, as_refusal, bad
from router_client.proxy.replay import Kept, Named, Once, Replays
from router_client.routing.wishes import AUTO, read_wishes

log = logging.getLogger(__name__)

MAX_AT_ONCE: Final = 64
"""Requests that are read or bought at the same time; each can take coins and memory."""
RECOVER_EVERY_S: Final = 600.0
PRICE_EVERY_S: Final = 240.0
ABANDONED_S: Final = 600.0
"""An open payment this old is no request under way."""
ENDED_S: Final = 30.0
"""Nor is one of this age when the endpoint starts, unless another program pays from the same wallet."""
CLOSE_S: Final = 10.0
MOST_HOURS: Final = 24 * 90
MODELS: Final = "/v1/models"


class _Watching(Nobody):
    """Of an answer that is given whole: ends the purchase when its caller has left."""

    def __init__(self, exchange: Exchange) -> None:
        self.left = exchange.left


class _Passing(Reader):
    """Passes an answer on as it comes. Chunks without a choice tell of usage: the caller gets that from us."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.left = exchange.left
        self.name = ""
        """The answer's, by its chunks."""
        self.last = ""
        """The event that says the whole answer again: it waits for what that cost."""

    async def begin(self, head: Head) -> None:
        await self._exchange.begin(200, STREAMED | telling.head_headers(head))

    async def read(self, piece: Piece) -> None:
        self.name = piece.id
        if piece.is_last:
            self.last = piece.data
        else:
            await self._exchange.write(telling.event(piece.data, piece.event))


STREAMED: Final = {"content-type": "text/event-stream", "cache-control": "no-cache"}


class Proxy:
    """Serves while it is `running`."""

    def __init__(self, client: RouterClient, guard: Guard, fund: str = FUND, *, replays: Replays | None = None) -> None:
        """`fund` is the command that fills the wallet. Without `replays` requests with an `Idempotency-Key` are refused."""
        self._fund = fund
        self._replays = replays
        self._client = client
        self._guard = guard
        self._reading = Reading()
        self._buying: dict[asyncio.Task[Answer], Exchange] = {}
        self._routes: dict[tuple[str, str], Callable[[Exchange], Awaitable[None]]] = {
            **{("POST", f"/v1{each.path}"): partial(self._sell, each) for each in BOUGHT},
            ("GET", MODELS): self._models,
            ("GET", "/api/report"): self._report,
            ("POST", "/api/feedback"): self._feedback,
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """ASGI 3: HTTP alone."""
        if scope["type"] != "http":
            raise ValueError(f"the local endpoint speaks HTTP, not {scope['type']}")
        exchange = Exchange(scope, receive, send)
        request_id = f"req_{secrets.token_hex(12)}"
        try:
            await self._answer(exchange, request_id)
        except CallerLeft:
            exchange.left.set()
        if exchange.once is not None:
            exchange.once.spoil()
            await exchange.once.end()

    async def _answer(self, exchange: Exchange, request_id: str) -> None:
        try:
            await self._routed(exchange)
        except CallerLeft:
            raise
        except Refusal as refusal:
            await _refuse(exchange, refusal, request_id)
        except ClientError as error:
            await _refuse(exchange, as_refusal(error, is_sold=True, has_money=True), request_id)
        except Exception:  # the last line of the program: a caller is told, the log says what it was
            log.exception("unforeseen, request %s", request_id)
            message = f"the local endpoint failed; its log tells more of {request_id}"
            await _refuse(exchange, Refusal(500, payment.INTERNAL, message, headers=SAME_AGAIN), request_id)

    async def _routed(self, exchange: Exchange) -> None:
        if exchange.path == "/health" and exchange.method in ("GET", "HEAD"):
            await exchange.whole(200, b'{"status":"ok"}')
            return
        self._guard.check(exchange.headers)
        path = _path(exchange)
        if exchange.method == "GET" and path.startswith(f"{MODELS}/"):
            await self._model(exchange, path.removeprefix(f"{MODELS}/"))
            return
        route = self._routes.get((exchange.method, path))
        if route is None:
            if allowed := ", ".join(method for method, known in self._routes if known == path):
                raise Refusal(405, payment.INVALID_REQUEST, f"use {allowed}", headers={"allow": allowed})
            there = ", ".join(f"{method} {known}" for method, known in self._routes)
            raise Refusal(404, payment.NOT_FOUND, f"there is nothing at this path: there are {there}")
        await route(exchange)

    async def _models(self, exchange: Exchange) -> None:
        data = telling.models_of(await self._client.directory.providers(soon=True), self._client.msat_per_usd)
        await exchange.whole(200, msgspec.json.encode({"object": "list", "data": data}))

    async def _model(self, exchange: Exchange, name: str) -> None:
        listed = telling.models_of(await self._client.directory.providers(soon=True), self._client.msat_per_usd)
        found = next((model for model in listed if model["id"] == name), None)
        if found is None:
            raise Refusal(404, payment.UNKNOWN_MODEL, "no node sells that model: GET /v1/models lists what is sold")
        await exchange.whole(200, msgspec.json.encode(found))

    async def _report(self, exchange: Exchange) -> None:
        """The last 24 hours, or as many as `?hours=` says."""
        said = parse_qs(exchange.query.decode("latin-1")).get("hours", ["24"])[-1]
        try:
            hours = float(said)
        except ValueError:
            hours = 0
        if not 0 < hours <= MOST_HOURS:
            raise bad(f"'hours' is a number above 0, and at most {MOST_HOURS}")
        report = self._client.report(hours)
        await exchange.whole(200, msgspec.json.encode(report.told(self._client.msat_per_usd)))

    async def _feedback(self, exchange: Exchange) -> None:
        """The user's word on an answer: `request_id` as its headers have it, and how `good` it was, from 0 to 1."""
        body = await exchange.body(self._reading)
        name, good = body.get("request_id"), body.get("good")
        if not isinstance(name, str) or not isinstance(good, int | float) or not 0 <= good <= 1:
            raise bad("'request_id' is that of an answer, and 'good' a number from 0 (useless) to 1")
        if not await self._client.tell(name, float(good)):
            raise Refusal(404, payment.NOT_FOUND, "no such request is known here, or not any more", headers=SAME_AGAIN)
        await exchange.whole(200, b'{"heard":true}')

    async def _sell(self, endpoint: Endpoint, exchange: Exchange) -> None:
        if len(self._buying) + self._reading.requests >= MAX_AT_ONCE:
            raise too_busy(f"{MAX_AT_ONCE} requests are under way here")
        body = await exchange.body(self._reading)
        if (name := exchange.headers.get(payment.IDEMPOTENCY_HEADER, "").strip()) and (
            kept := await self._earlier(exchange, name, body)
        ) is not None:
            await exchange.again(kept)
            return
        await self._serve(endpoint, exchange, body)

    async def _earlier(self, exchange: Exchange, name: str, body: dict[str, Any]) -> Kept | None:
        """The answer that was given by that name before; None: it is taken for this request. Raises Refusal."""
        if self._replays is None:
            raise bad("no answers are kept here: leave 'Idempotency-Key' out")
        named = Named.of(bearer(exchange.headers), name, _path(exchange), body)
        if (kept := await self._replays.begin(named)) is None:
            exchange.once = Once(self._replays, named)
        return kept

    async def _serve(self, endpoint: Endpoint, exchange: Exchange, body: dict[str, Any]) -> None:
        streams = body.get("stream") or False
        if not isinstance(streams, bool):
            raise bad("'stream' is true or false")
        if streams and not endpoint.writes:
            raise bad("there is nothing to stream here: leave 'stream' out")
        options = body.get("stream_options")
        with_usage = isinstance(options, dict) and options.get("include_usage") is True
        request = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        passing = _Passing(exchange) if streams else None
        try:
            answer = await self._bought(endpoint, exchange, request, passing or _Watching(exchange))
        except ClientError as error:
            if exchange.once is not None:
                exchange.once.is_free = not (exchange.begun or error.out_msat or isinstance(error, StorageError))
            raise await self._refusal(error, request) from error
        now, msat_per_usd = int(time.time()), self._client.msat_per_usd
        if passing is None:
            await exchange.whole(200, telling.whole(endpoint, answer, now), telling.headers_of(answer, msat_per_usd))
            return
        if not exchange.begun:  # a cascade's, of which nothing was streamed
            await exchange.begin(200, STREAMED | telling.headers_of(answer, msat_per_usd))
            for chunk in telling.unstreamed(endpoint, answer, now):
                await exchange.write(chunk)
        if endpoint is RESPONSES:
            await exchange.write(telling.concluding(answer, msat_per_usd, passing.last), last=True)
            return
        usage = telling.usage_chunk(answer, now, passing.name) if with_usage else b""
        await exchange.write(usage + telling.ending(answer, msat_per_usd), last=True)

    async def _bought(self, endpoint: Endpoint, exchange: Exchange, request: dict[str, Any], reader: Reader) -> Answer:
        """Raises what `RouterClient.ask` does; CallerLeft as soon as the caller has, but for an answer with a name: that is
        bought to its end where it is wanted whole, and what leaving its stream cost is waited for."""
        if (once := exchange.once) is not None:
            once.is_free = False
        buying = asyncio.create_task(self._client.ask(endpoint, request, reader=reader))
        self._buying[buying] = exchange
        buying.add_done_callback(self._ended)
        gone = asyncio.create_task(exchange.gone())
        try:
            await asyncio.wait((buying, gone), return_when=asyncio.FIRST_COMPLETED)
            if once is not None and not buying.done():
                if reader.hears:
                    exchange.left.set()
                    once.spoil()
                await asyncio.wait((buying,))
            if not buying.done():
                raise CallerLeft
            return buying.result()
        except asyncio.CancelledError:
            if buying.cancelled():  # by `running`, which ends
                raise CallerLeft from None
            await self._cut_off(exchange)
            raise CallerLeft from None
        finally:
            if not buying.done():
                exchange.left.set()
            gone.cancel()

    async def _cut_off(self, exchange: Exchange) -> None:
        """The server ends, and has waited for this answer as long as it does."""
        if exchange.once is not None:
            exchange.once.spoil()
        refusal = Refusal(503, payment.NOT_READY, "the local endpoint was stopped before the answer's end")
        with suppress(CallerLeft):
            await _refuse(exchange, refusal, f"req_{secrets.token_hex(12)}")

    def _ended(self, buying: asyncio.Task[Answer]) -> None:
        exchange = self._buying.pop(buying)
        if exchange.left.is_set() and not buying.cancelled() and (error := buying.exception()) is not None:
            log.log(_level(error), "a purchase whose caller had left: %s", error or type(error).__name__)

    async def _refusal(self, error: ClientError, request: dict[str, Any]) -> Refusal:
        try:
            wanted = read_wishes(request)[0].models
        except ClientError:
            wanted = (AUTO,)
        sold = {offer.id for each in self._client.directory.known() for offer in each.offers}
        is_sold = bool({*wanted} & {AUTO, *sold})
        return as_refusal(
            error,
            is_sold=is_sold,
            has_money=self._client.wallet.balance_msat() > 0,
            asks_prices=self._client.asks_prices,
            fund=self._fund,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Fetch what is out, as long as the block runs; at its end let purchases end, in order and within a bound."""
        try:
            async with beside(self._recover(), self._look_up_usd()):
                yield
        finally:
            await self._close()

    async def _close(self) -> None:
        for exchange in self._buying.values():
            exchange.left.set()
        late = {*self._buying}
        if late:
            _, late = await asyncio.wait(late, timeout=CLOSE_S)
        if late:
            log.warning("%d purchases are cut off; the next start fetches what is left of their money", len(late))
            for buying in late:
                buying.cancel()
            await asyncio.wait(late, timeout=CLOSE_S)

    async def _look_up_usd(self) -> None:
        """So that answers tell what they cost in USD, and a budget in USD keeps none waiting."""
        while True:
            try:
                await self._client.look_up_usd()
            except ClientError as error:
                log.warning("the price of bitcoin is not kept: %s", error)
            await asyncio.sleep(PRICE_EVERY_S)

    async def _recover(self) -> None:
        """What earlier purchases left at nodes and mints is fetched at the start, and every ten minutes."""
        older_than_s = ENDED_S
        while True:
            try:
                async with asyncio.timeout(RECOVER_EVERY_S):
                    await self._client.recover(older_than_s=older_than_s)
            except (ClientError, TimeoutError) as error:
                log.warning("what is out is not back yet: %s", error or "it takes long")
            older_than_s = ABANDONED_S
            await asyncio.sleep(RECOVER_EVERY_S)


def _path(exchange: Exchange) -> str:
    """Also of a base URL without `/v1`."""
    path = exchange.path.rstrip("/")
    return path if path.startswith(("/v1/", "/api/")) else f"/v1{path}"


async def _refuse(exchange: Exchange, refusal: Refusal, request_id: str) -> None:
    """Within a stream an error is an event, at which SDKs raise."""
    body = refusal.body(request_id)
    if exchange.begun:
        typed = _path(exchange) == f"/v1{RESPONSES.path}"
        await exchange.write(telling.error_event(body, typed=typed), last=True)
    else:
        await exchange.whole(refusal.status, body, {**dict.fromkeys(telling.ID_HEADERS, request_id), **refusal.headers})


def _level(error: BaseException) -> int:
    return logging.INFO if isinstance(error, CallerLeft | ClientError) else logging.ERROR
