"""Lightning addresses: `name@domain` to an invoice over an exact amount (LUD-16, LUD-06).

The domain is a stranger's choice and so is the callback that it names, so neither may lead into the network we stand in:
https only, public addresses only, no redirects. Onion services are reached over http, and hosts of this machine only when
the caller allows it, for a play network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from typing import Annotated

import httpx
import msgspec

from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.money import MAX_MSAT, Msat
from relays.routes import DIRECT, Routes, is_onion
from router_client.ecash.invoices import Bolt11, read_invoice
from router_client.errors import AddressUnavailable, RequestUnreadable
from router_client.net.fetch import FetchFailed, fetch

DEADLINE_S = 10.0
_ADDRESS = re.compile(r"(?P<name>[a-z0-9._+-]{1,64})@(?P<host>[a-z0-9.-]{1,253})(?P<port>:[0-9]{1,5})?")

Millisats = Annotated[int, msgspec.Meta(ge=0, le=MAX_MSAT)]


class _Answer(msgspec.Struct):
    """Either kind of answer; an error has a status and a reason."""

    status: str = ""
    reason: str = ""
    tag: str = ""
    callback: str = ""
    minSendable: Millisats = 0
    maxSendable: Millisats = 0
    pr: str = ""


def looks_like_address(text: str) -> bool:
    """Whether a recipient means to be a Lightning address."""
    return _ADDRESS.fullmatch(text.strip().lower()) is not None


async def address_invoice(
    address: str,
    amount_msat: Msat,
    http: httpx.AsyncClient,
    *,
    allow_local: bool = False,
    routes: Routes = DIRECT,
) -> Bolt11:
    """An invoice of the address over exactly `amount_msat`. `routes` are those of `http`.

    Raises RequestUnreadable for what is no address; AddressUnavailable when its service does not answer, does not take the
    amount, or gives another invoice.
    """
    matched = _ADDRESS.fullmatch(address.strip().lower())
    if matched is None:
        raise RequestUnreadable("not a Lightning address: expected name@domain")
    host, port = matched["host"], matched["port"] or ""
    scheme = "http" if is_onion(host) or (allow_local and is_local(host)) else "https"
    offer = await _ask(f"{scheme}://{host}{port}/.well-known/lnurlp/{matched['name']}", http, allow_local, routes)
    if offer.tag != "payRequest" or not offer.callback:
        raise AddressUnavailable(f"{host} answers what is no Lightning address's answer")
    if not offer.minSendable <= amount_msat <= offer.maxSendable:
        raise AddressUnavailable(
            f"{host} takes from {offer.minSendable} to {offer.maxSendable} msat, not {amount_msat} msat"
        )
    callback = _with_amount(offer.callback, amount_msat)
    try:
        invoice = read_invoice((await _ask(callback, http, allow_local, routes)).pr)
    except RequestUnreadable as error:
        raise AddressUnavailable(f"{host} gives no readable invoice: {error}") from error
    if invoice.amount_msat != amount_msat:
        raise AddressUnavailable(f"{host} gives an invoice over {invoice.amount_msat} msat for {amount_msat} msat")
    return invoice


def _with_amount(callback: str, amount_msat: int) -> str:
    try:
        return str(httpx.URL(callback).copy_merge_params({"amount": str(amount_msat)}))
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise AddressUnavailable("the Lightning address names no usable callback") from error


async def _ask(url: str, http: httpx.AsyncClient, allow_local: bool, routes: Routes) -> _Answer:
    await check_reachable(url, allow_local, routes)
    try:
        reply = await fetch(http, "GET", url, deadline_s=DEADLINE_S)
        answer = from_json(reply.body, _Answer)
    except (FetchFailed, InvalidJson) as error:
        raise AddressUnavailable(f"the Lightning address does not answer: {error}") from error
    if not reply.is_success or answer.status.upper() == "ERROR":
        raise AddressUnavailable(f"the Lightning address says: {answer.reason[:200]!r} (HTTP {reply.status})")
    return answer


async def check_reachable(url: str, allow_local: bool, routes: Routes = DIRECT) -> None:
    """Raise AddressUnavailable unless a stranger's URL leads out of our own network, by a way that nobody can read.

    A name that is reached through Tor is resolved at Tor's far end, which stands in no network of ours: not here."""
    try:
        parts = httpx.URL(url)
        host = parts.host
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise AddressUnavailable("the Lightning address names no usable URL") from error
    if parts.scheme in ("http", "https") and (is_onion(host) or (allow_local and is_local(host))):
        return
    if parts.scheme != "https":
        raise AddressUnavailable("the Lightning address is not served over https")
    if routes.tor_only and not _is_address(host):
        return
    if not all(ipaddress.ip_address(address).is_global for address in await _addresses(host)):
        raise AddressUnavailable("the Lightning address leads into a private network")


async def _addresses(host: str) -> list[str]:
    """What the host's name stands for, at least one address."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise AddressUnavailable("the Lightning address's domain cannot be found") from error
    return [str(address[0]).partition("%")[0] for *_, address in found] or ["0.0.0.0"]  # noqa: S104 - it is refused


def is_local(host: str) -> bool:
    """Whether it is this machine."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host.strip("[]")).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
