"""Lightning addresses: an invoice over the exact amount, or one clear error; never a way into our own network."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from relays.money import Msat
from router_client.errors import AddressUnavailable, RequestUnreadable
from router_client.paying import lnurl
from router_client.paying.lnurl import address_invoice, looks_like_address

Reply = tuple[int, dict[str, str], bytes]
Serve = Callable[[str, dict[str, list[str]]], Reply]


def answer(body: object) -> Reply:
    return 200, {}, json.dumps(body).encode()


class LnurlServer:
    """A service whose two answers a test can bend."""

    def __init__(self, mint_url: str) -> None:
        self.asked: list[str] = []
        self.offer: Serve = lambda path, query: answer(
            {"tag": "payRequest", "callback": f"{self.url}/pay?x=1", "minSendable": 1000, "maxSendable": 10**7}
        )
        self.pay: Serve = lambda path, query: answer({"pr": self.invoice(int(query["amount"][0])), "routes": []})
        self._mint_url = mint_url
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.address = f"bob@127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def invoice(self, amount_msat: int) -> str:
        asked = {"amount": amount_msat, "unit": "msat"}
        return str(httpx.post(f"{self._mint_url}/v1/mint/quote/bolt11", json=asked).json()["request"])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                service.asked.append(self.path)
                serve = service.pay if url.path == "/pay" else service.offer
                status, headers, body = serve(url.path, parse_qs(url.query))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):  # the caller does not wait for the end of what is too long
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@pytest.fixture
def service(mint_url: str) -> Iterator[LnurlServer]:
    server = LnurlServer(mint_url)
    yield server
    server.close()


async def invoice(service: LnurlServer, http: httpx.AsyncClient, amount_msat: int = 21_000) -> int:
    return (await address_invoice(service.address, Msat(amount_msat), http, allow_local=True)).amount_msat


async def refused(service: LnurlServer, http: httpx.AsyncClient, words: str, amount_msat: int = 21_000) -> None:
    with pytest.raises(AddressUnavailable, match=words):
        await invoice(service, http, amount_msat)


async def test_an_address_gives_an_invoice_over_the_amount(service: LnurlServer, http: httpx.AsyncClient) -> None:
    assert await invoice(service, http, 21_001) == 21_001
    assert service.asked == ["/.well-known/lnurlp/bob", "/pay?x=1&amount=21001"]


@pytest.mark.parametrize("amount_msat", [999, 10**7 + 1])
async def test_amounts_out_of_its_bounds_are_refused(
    amount_msat: int, service: LnurlServer, http: httpx.AsyncClient
) -> None:
    await refused(service, http, "takes from", amount_msat)
    assert len(service.asked) == 1


async def test_an_invoice_over_another_amount_is_refused(service: LnurlServer, http: httpx.AsyncClient) -> None:
    service.pay = lambda path, query: answer({"pr": service.invoice(int(query["amount"][0]) + 1)})
    await refused(service, http, "invoice over")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"tag":"withdrawRequest","callback":"https://example.com"}',
        b'{"tag":"payRequest","minSendable":1,"maxSendable":9999999}',
        b'{"tag":"payRequest","callback":7,"minSendable":1,"maxSendable":9999999}',
        b'{"tag":"payRequest","callback":"https://[","minSendable":1,"maxSendable":9999999}',
        b'{"tag":"payRequest","callback":"file:///etc/passwd","minSendable":1,"maxSendable":9999999}',
        b'{"tag":"payRequest","callback":"http://example.com/","minSendable":1,"maxSendable":9999999}',
        b'{"tag":"payRequest","callback":"https://a","minSendable":-1,"maxSendable":1e99}',
        b'{"status":"ERROR","reason":"gone"}',
        b"[" * 100_000,
        b"x" * 5_000_000,
    ],
    ids=range(13),
)
async def test_a_hostile_offer_is_one_clear_error(body: bytes, service: LnurlServer, http: httpx.AsyncClient) -> None:
    service.offer = lambda path, query: (200, {}, body)
    await refused(service, http, "Lightning address")


@pytest.mark.parametrize("body", [b"{}", b'{"pr":"lnbc1"}', b'{"status":"ERROR","reason":"no"}', b'{"pr":7}', b"\xff"])
async def test_a_hostile_invoice_is_one_clear_error(body: bytes, service: LnurlServer, http: httpx.AsyncClient) -> None:
    service.pay = lambda path, query: (200, {}, body)
    await refused(service, http, ".")


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.1", "169.254.169.254", "[fd00::1]", "0.0.0.0", "[::ffff:10.0.0.1]"]
)
async def test_a_callback_into_a_private_network_is_not_asked(
    host: str, service: LnurlServer, http: httpx.AsyncClient
) -> None:
    service.offer = lambda path, query: answer(
        {"tag": "payRequest", "callback": f"https://{host}/pay", "minSendable": 1, "maxSendable": 10**7}
    )
    await refused(service, http, "private network")


async def test_redirects_are_not_followed(service: LnurlServer, http: httpx.AsyncClient) -> None:
    service.offer = lambda path, query: (302, {"Location": f"{service.url}/pay?amount=21000"}, b"{}")
    await refused(service, http, "302")
    assert len(service.asked) == 1


async def test_this_machine_is_asked_only_when_that_is_allowed(service: LnurlServer, http: httpx.AsyncClient) -> None:
    for address in (service.address, service.address.replace("127.0.0.1", "localhost")):
        with pytest.raises(AddressUnavailable, match="private network"):
            await address_invoice(address, Msat(21_000), http)
    assert service.asked == []


async def test_a_service_that_stalls_has_a_deadline(
    service: LnurlServer, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lnurl, "DEADLINE_S", 0.2)

    def stalls(path: str, query: dict[str, list[str]]) -> Reply:
        time.sleep(1)
        return answer({})

    service.offer = stalls
    await refused(service, http, "does not answer")


@pytest.mark.parametrize("text", ["", "bob", "bob@", "@a.b", "bob@a b", "bob@a/b", "b@c@d", "bob@a.b:x", "bob@a.b?x"])
async def test_what_is_no_address_is_said_so(text: str, http: httpx.AsyncClient) -> None:
    assert not looks_like_address(text)
    with pytest.raises(RequestUnreadable):
        await address_invoice(text, Msat(1000), http)
