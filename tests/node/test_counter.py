"""A counter beside its till, both on real sockets: one node to whoever asks, and one price."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from node.api.app import create_app
from node.api.counter import create_counter
from node.api.passing import Passing
from node.api.server import Server, at_socket, config_of
from node.app import open_node
from node.config import Settings, load_settings
from node.counter import open_counter
from node.node import Node
from node.pulse import Beats
from node.shop.catalogue import Catalogue
from node.shop.lease import LEASE_S, POLL_S, Told
from node.shop.tariffs import HOLDS_S, Tariffs
from relays.payment import RECEIPT_HEADER
from relays.receipt import decode, from_header
from router_client.ecash.token import MAX_TOKEN_CHARS
from tests.node.harness import (
    HELLO,
    MODEL,
    bearer,
    funded_wallet,
    granted_key,
    receipt_event,
    streamed_receipt,
    token_of,
)

CHAT = "/v1/chat/completions"


class Pair(msgspec.Struct, frozen=True):
    """A till and a counter, each at a port of its own."""

    till: Node
    counter: Node
    till_url: str
    url: str
    """The counter's."""


@asynccontextmanager
async def at_a_port(app: Any) -> AsyncIterator[str]:
    config = config_of(app, lifespan="off")
    config.host, config.port = "127.0.0.1", 0
    server = Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def running_pair(folder: Path, **settings: Any) -> AsyncIterator[Pair]:
    loaded = load_settings(Settings, None, **{"data_dir": folder / "n", "port": 0, **settings})
    passing = Passing(folder / "n" / "till.sock")
    async with (
        open_node(loaded, with_counters=True) as till,
        at_socket(create_app(till), folder / "n" / "till.sock", 30),
        at_a_port(create_app(till)) as till_url,
        open_counter(loaded, 1) as counter,
        at_a_port(create_counter(counter, passing)) as url,
    ):
        yield Pair(till, counter, till_url, url)
        await passing.close()


@pytest.fixture
async def pair(folder: Path, postgres_books_url: str, mint_url: str, model_url: str) -> AsyncIterator[Pair]:
    common = {"database_url": postgres_books_url, "cashu_mints": mint_url, "upstream_base_url": model_url}
    async with running_pair(folder, **common, fixed_per_1k_input_tokens="2", fixed_per_1k_output_tokens="8") as pair:
        yield pair


@pytest.fixture
async def market(folder: Path, postgres_books_url: str, mint_url: str, model_url: str) -> AsyncIterator[Pair]:
    """Prices that move."""
    common = {"database_url": postgres_books_url, "cashu_mints": mint_url, "upstream_base_url": model_url}
    async with running_pair(folder, **common, fixed_btc_usd="100000", markup="1") as pair:
        await pair.till.till.change(updating(1_000_000))
        await asyncio.sleep(2 * POLL_S)
        yield pair


async def test_what_a_counter_measures_is_in_the_nodes_figures(pair: Pair, http: httpx.AsyncClient) -> None:
    _, text = await granted_key(pair.till, 10_000_000)
    body = {**HELLO, "stream": True}
    for _ in range(3):
        assert (await http.post(pair.url + CHAT, json=body, headers=bearer(text))).status_code == 200
    async with asyncio.timeout(10):
        while pair.till.completions._pulse.asked[MODEL] < 3:
            await asyncio.sleep(POLL_S / 5)
    told, measured = pair.till.completions._pulse, pair.counter.completions._pulse
    assert (told.asked, told.error_rate_bps) == ({MODEL: 3}, 0)
    assert told.latency_ms is not None
    assert told.tokens_per_s is not None
    assert measured.take() == Beats(), "each is told once"


async def test_what_only_the_till_has_is_had_through_a_counter(pair: Pair, http: httpx.AsyncClient) -> None:
    for path in (
        "/v1/info",
        "/v1/models",
        f"/v1/models/{MODEL}",
        "/v1/pricing",
        "/v1/providers",
        "/health",
        "/schema/openapi.json",
    ):
        here, there = await http.get(pair.url + path), await http.get(pair.till_url + path)
        assert (here.status_code, here.text) == (there.status_code, there.text) and here.status_code == 200, path
    same = {"if-none-match": (await http.get(f"{pair.url}/v1/models")).headers["etag"]}
    assert (await http.get(f"{pair.url}/v1/models", headers=same)).status_code == 304
    assert (await http.get(f"{pair.url}/nothing")).json()["error"]["code"] == "not_found"
    unpaid = await http.post(pair.url + CHAT, json=HELLO)
    assert (unpaid.status_code, bool(unpaid.headers["x-cashu"])) == (402, True)
    unknown = await http.post(pair.url + CHAT, json={**HELLO, "model": "none"}, headers=bearer("sk-none"))
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert (await http.post(pair.url + CHAT, json=HELLO, headers=bearer("sk-none"))).status_code == 401
    assert (await http.request("PURGE", f"{pair.url}/v1/info")).status_code == 405
    assert (await http.get(pair.url + CHAT)).status_code == 405


async def test_a_key_is_served_at_the_counter_itself(pair: Pair, http: httpx.AsyncClient) -> None:
    key, text = await granted_key(pair.till, 1_000_000)
    before = pair.counter.ledger.instance
    assert before == f"{pair.till.ledger.instance}-1"
    reply = await http.post(pair.url + CHAT, json=HELLO, headers=bearer(text))
    receipt = decode(receipt_event(reply))
    assert pair.till.limits._accounts == {}, "the till had nothing to do with it"
    there = await http.get(f"{pair.till_url}/v1/receipts/{receipt.request_id}", headers=bearer(text))
    assert there.json()["receipt"]["cost_msat"] == receipt.cost_msat
    streamed = await http.post(pair.url + CHAT, json={**HELLO, "stream": True}, headers=bearer(text))
    event = streamed_receipt(streamed.text)
    assert event is not None
    left = await pair.till.ledger.account(key.account)
    assert left.spent_msat == receipt.cost_msat + decode(event).cost_msat


async def test_a_name_is_one_request_whoever_is_asked(pair: Pair, http: httpx.AsyncClient) -> None:
    _, text = await granted_key(pair.till, 1_000_000)
    named = bearer(text) | {"Idempotency-Key": "one"}
    urls = [pair.url, pair.till_url] * 4
    asked = [http.post(url + CHAT, json=HELLO, headers=named) for url in urls]
    replies = await asyncio.gather(*asked)
    assert {reply.status_code for reply in replies} <= {200, 409}
    again = [await http.post(url + CHAT, json=HELLO, headers=named) for url in urls[:2]]
    assert again[0].text == again[1].text
    assert len({reply.headers[RECEIPT_HEADER] for reply in (*again, *replies) if reply.status_code == 200}) == 1


async def test_change_that_was_not_fetched_is_had_at_either(
    pair: Pair, folder: Path, mint_url: str, http: httpx.AsyncClient
) -> None:
    wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    token = await token_of(wallet, mint_url, 50_000)
    paid = await http.post(pair.url + CHAT, json=HELLO, headers={"X-Cashu": token})
    assert paid.status_code == 200, paid.text
    id_ = decode(receipt_event(paid)).request_id
    told = [await http.get(f"{url}/v1/change/{id_}", headers={"X-Cashu": token}) for url in (pair.url, pair.till_url)]
    assert {reply.json()["token"] for reply in told} == {paid.headers["x-cashu"]}
    wallet.close()


async def test_a_new_token_opens_its_account_at_the_till_and_is_known_from_then_on(
    pair: Pair, folder: Path, mint_url: str, http: httpx.AsyncClient
) -> None:
    wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    token = await token_of(wallet, mint_url, 50_000)
    assert (await http.post(pair.url + CHAT, json=HELLO, headers=bearer(token))).status_code == 200
    assert len(pair.till.limits._accounts) == 1, "passed on"
    assert not pair.counter.limits._accounts
    assert (await http.post(pair.url + CHAT, json=HELLO, headers=bearer(token))).status_code == 200
    assert len(pair.counter.limits._accounts) == 1, "served"
    assert (await http.post(f"{pair.url}/v1/balance/refund", headers=bearer(token))).status_code == 200
    wallet.close()


async def test_who_leaves_a_stream_that_is_passed_on_is_gone_at_the_till(
    pair: Pair, folder: Path, mint_url: str, http: httpx.AsyncClient
) -> None:
    wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    token = await token_of(wallet, mint_url, 900_000)
    story = {**HELLO, "stream": True, "max_tokens": 1500, "messages": [{"role": "user", "content": "Tell a story."}]}
    async with http.stream("POST", pair.url + CHAT, json=story, headers={"X-Cashu": token}) as reply:
        pieces = reply.aiter_raw()
        await anext(pieces)
        assert pair.till.limits.in_flight == 1
    for _ in range(100):
        held = await pair.till.ledger.open_holds()
        if not (pair.till.limits.in_flight or held):
            break
        await asyncio.sleep(0.05)
    assert (pair.till.limits.in_flight, held) == (0, [])
    wallet.close()


async def test_a_counter_without_its_till_sells_nothing(
    pair: Pair, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = await granted_key(pair.till, 1_000_000)
    never = property(lambda _: 0.0, lambda _, __: None)
    monkeypatch.setattr(type(pair.counter.catalogue), "until", never, raising=False)
    passed = await http.post(pair.url + CHAT, json=HELLO, headers=bearer(text))
    assert passed.status_code == 200
    assert not pair.counter.limits._accounts, "the till served it"


async def test_a_till_that_is_gone_is_a_503_to_try_again(folder: Path, http: httpx.AsyncClient) -> None:
    passing = Passing(folder / "none.sock")
    async with at_a_port(passing) as url:
        reply = await http.get(f"{url}/v1/info")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
        assert reply.json()["error"]["type"] == "server_error"
        await passing.close()


async def test_change_of_very_many_coins_passes_with_its_answer(folder: Path) -> None:
    """As long as a token may be: what the till has answered is paid for already."""

    async def till(_: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-cashu", b"c" * MAX_TOKEN_CHARS), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    passing = Passing(folder / "till.sock")
    async with at_socket(till, folder / "till.sock", 1), at_a_port(passing) as url:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(url.rpartition(":")[2]), limit=2 * MAX_TOKEN_CHARS
        )
        writer.write(b"GET /v1/info HTTP/1.1\r\nhost: node\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"c" * MAX_TOKEN_CHARS in head
        writer.close()
        await passing.close()


def listed(prompt_msat: int) -> dict[str, list[dict[str, Any]]]:
    """In USD, at 100,000 for a bitcoin."""
    price = {"prompt": f"{prompt_msat / 10**12:.12f}", "completion": f"{4 * prompt_msat / 10**12:.12f}"}
    return {"upstream": [{"id": MODEL, "context_length": 2048, "pricing": price}]}


class Prices(msgspec.Struct):
    """What the till told, and what was charged, in their order."""

    told: list[tuple[float, int]] = []
    charged: list[tuple[float, int]] = []
    """With when the request began."""

    def check(self) -> None:
        """No request was charged above a price that was told before it began, in the last minute."""
        assert len(self.charged) > 5
        for began, price in self.charged:
            before = [told for at, told in self.told if began - HOLDS_S <= at <= began]
            assert not before or price <= min(before), (began, price, before[-5:])


@asynccontextmanager
async def load(pair: Pair, http: httpx.AsyncClient) -> AsyncIterator[Prices]:
    """Callers of the counter without a pause, and one who asks the till what it costs."""
    _, text = await granted_key(pair.till, 10**12)
    seen, ends = Prices(), False

    async def ask() -> None:
        while not ends:
            quote = await http.post(f"{pair.till_url}/v1/quote", json=HELLO)
            seen.told.append((time.monotonic(), quote.json()["price"]["prompt_msat_per_mtok"]))
            await asyncio.sleep(0.005)

    async def buy() -> None:
        while not ends:
            began = time.monotonic()
            reply = await http.post(pair.url + CHAT, json={**HELLO, "max_tokens": 1}, headers=bearer(text))
            receipt = decode(from_header(reply.headers[RECEIPT_HEADER]))
            seen.charged.append((began, receipt.price.prompt_msat_per_mtok))

    tasks = [asyncio.create_task(work()) for work in (ask, buy, buy, buy)]
    yield seen
    ends = True
    await asyncio.gather(*tasks)


def updating(prompt_msat: int) -> Callable[[Catalogue], Any]:
    async def change(shop: Catalogue) -> bool:
        return shop.update(listed(prompt_msat))

    return change


async def test_a_fall_is_charged_at_the_counter_before_the_till_tells_it(market: Pair, http: httpx.AsyncClient) -> None:
    async with load(market, http) as seen:
        for price in (900_000, 500_000, 100_000):
            await asyncio.sleep(0.3)
            await market.till.till.change(updating(price))
        await asyncio.sleep(0.5)
    seen.check()
    assert {price for _, price in seen.charged} >= {900_000, 500_000, 100_000}
    first = {price: at for at, price in reversed(seen.told)}
    assert min(at for at, price in seen.charged if price == 100_000) < first[100_000]


async def test_a_rise_is_told_and_not_charged_yet(market: Pair, http: httpx.AsyncClient) -> None:
    async with load(market, http) as seen:
        await market.till.till.change(updating(7_000_000))
        await asyncio.sleep(1)
    seen.check()
    assert {price for _, price in seen.charged} == {1_000_000}
    announced = await http.get(f"{market.till_url}/v1/models/{MODEL}")
    assert announced.json()["msat_pricing"]["prompt_msat_per_mtok"] == 7_000_000


@pytest.mark.parametrize("priced", ["list", "factor", "bitcoin"])
def test_a_counter_charges_the_lower_of_before_and_after_and_a_rise_after_its_minute(priced: str) -> None:
    """The same clock for both; the counter knows no more than what a frame holds."""
    now = 1000.0
    there = {"cashu_mints": "http://127.0.0.1:9", "upstream_base_url": "http://127.0.0.1:9"}
    settings = load_settings(Settings, None, **there, fixed_btc_usd="100000", markup="1")
    till, counter = (
        Catalogue(settings, settings.upstreams(), Tariffs(Decimal(100_000), clock=lambda: now), lambda: now)
        for _ in range(2)
    )

    def show(shop: Catalogue) -> None:
        frame = msgspec.msgpack.encode(Told(1, 0.0, shop.shown))
        shown = msgspec.msgpack.decode(frame, type=Told).shown
        assert shown is not None
        counter.follow(shown)

    def put(shop: Catalogue, times: int) -> None:
        if priced == "list":
            shop.update(listed(100_000 * times))
        elif priced == "factor":
            shop.tariffs.put_factor(Decimal(times))
        else:
            shop.tariffs.put_btc(Decimal(100_000) / times)

    def charged() -> int:
        return counter.get(MODEL).price.prompt_msat_per_mtok

    till.update(listed(100_000))
    for times in (1, 2):
        put(till, times)
        now += HOLDS_S + 1
    show(till)
    dear = charged()
    assert dear == till.get(MODEL).price.prompt_msat_per_mtok
    for times in (1, 2):
        ahead = till.ahead()
        put(ahead, times)
        show(ahead)
        now += 10 * HOLDS_S  # however long the till takes to make it
        assert charged() == dear // 2
        assert till.get(MODEL).price.prompt_msat_per_mtok == (dear if times == 1 else dear // 2)
        put(till, times)
        show(till)
        assert charged() == dear // 2
        now += HOLDS_S - 1
        assert charged() == dear // 2
        now += 2
        assert charged() == dear // 2 * times


async def test_counters_count_for_how_busy_the_node_is(pair: Pair) -> None:
    with pair.counter.limits.running(1, 1), pair.till.limits.running(1, 1):
        for _ in range(int(LEASE_S / 0.05)):
            if pair.till.till.running:
                break
            await asyncio.sleep(0.05)
        assert pair.till.till.running == 1


async def test_the_sockets_are_for_this_user_alone(pair: Pair, folder: Path) -> None:
    for name in ("till", "shop"):
        assert (folder / "n" / f"{name}.sock").stat().st_mode & 0o777 == 0o600
