"""Who pays the invoice that a 402 brings (L402), as tests do it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import bolt11
import httpx
import msgspec

from router_client.ecash.invoices import read_invoice
from tests.node.harness import HELLO, Running

CHAT = "/v1/chat/completions"
APERTURES = re.compile(r'(LSAT|L402) macaroon="(.*?)", invoice="(.*?)"')
"""As Aperture's client reads the first line."""


class Asked(msgspec.Struct, frozen=True):
    """What a 402 asks for."""

    token: str
    invoice: str

    @property
    def preimage(self) -> bytes:
        """nutshell's simulated payments hash the digits of the secret that the invoice tells its payer."""
        return (bolt11.decode(self.invoice).payment_secret or "").encode()

    @property
    def amount_msat(self) -> int:
        return read_invoice(self.invoice).amount_msat

    @property
    def paid(self) -> dict[str, str]:
        """The header of who has paid."""
        return {"Authorization": f"L402 {self.token}:{self.preimage.hex()}"}


async def asked_by(url: str, http: httpx.AsyncClient, body: dict[str, Any] = HELLO, **headers: str) -> Asked:
    answer = await http.post(url + CHAT, json=body, headers=headers)
    assert (answer.status_code, bool(answer.headers["x-cashu"])) == (402, True)
    first, second = answer.headers.get_list("www-authenticate")
    older = APERTURES.search(first)
    newer = re.fullmatch(r'L402 version="0", token="(.+)", macaroon="\1", invoice="(ln.+)"', second)
    assert older is not None
    assert newer is not None
    assert older.groups() == ("LSAT", *newer.groups())
    return Asked(*newer.groups())


async def settled(node: Running) -> None:
    """Until the mint has seen a payment, and it is credited: as the jobs do it, though nobody comes."""
    for _ in range(100):
        await node.node.wallet.recover()
        if await node.node.invoices.watch():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("what was paid is not credited")


async def pay(
    url: str, http: httpx.AsyncClient, asked: Asked, body: dict[str, Any] = HELLO, **more: str
) -> httpx.Response:
    """The request with its credential, as soon as the mint has seen the payment."""
    for _ in range(100):
        answer = await http.post(url + CHAT, json=body, headers=asked.paid | more)
        if answer.status_code != 401:
            break
        assert "does not know" in answer.json()["error"]["message"]
        await asyncio.sleep(0.1)
    return answer
