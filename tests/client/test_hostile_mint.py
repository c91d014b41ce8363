"""What a mint may answer that cannot be: it is the wallet's own error, of which its callers know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from router_client.ecash.wallet import Wallet
from router_client.errors import MintMisbehaved, WalletError
from tests.client.mints import running_mint
from tests.client.purses import funded


class Lying(httpx.AsyncHTTPTransport):
    """Real HTTP, except that what comes from one path is `told` otherwise."""

    def __init__(self, path: str, told: Callable[[dict[str, Any]], object]) -> None:
        super().__init__()
        self._path = path
        self._told = told

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        reply = await super().handle_async_request(request)
        if self._path not in request.url.path:
            return reply
        body = msgspec.json.decode(await reply.aread())
        self._told(body)
        return httpx.Response(reply.status_code, stream=httpx.ByteStream(msgspec.json.encode(body)))


async def test_more_change_than_was_sent_is_not_taken(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    """A sum that no book has a place for: it would stop whatever is looked at after it, such as others' refunds."""

    def give_more(quote: dict[str, Any]) -> None:
        for coin in quote.get("change") or ():
            coin.update(amount=2**15, dleq=None)

    with running_mint(folder / "mint") as mine:
        payee = await Wallet.open(folder / "payee.db", http)
        bolt11 = (await payee.invoice(20_000, mint_url, "msat", "in")).bolt11
        payee.close()
        (await funded(folder / "w.db", http, mine, 100_000)).close()
        async with httpx.AsyncClient(transport=Lying("/melt/", give_more), timeout=30) as lied_to:
            wallet = await Wallet.open(folder / "w.db", lied_to)
            before = wallet.holdings().all_msat
            for _ in range(2):
                with pytest.raises(MintMisbehaved, match="more change"):
                    await wallet.melt(bolt11, mine, "msat", "pay")
            assert wallet.holdings().all_msat == before
            assert await wallet.recover() == []
            wallet.close()
        wallet = await Wallet.open(folder / "w.db", http)
        paid = await wallet.melt(bolt11, mine, "msat", "pay")
        assert wallet.balance_msat() == before - paid.paid_msat - paid.fee_msat
        wallet.close()


@pytest.mark.parametrize("ppk", [-1000, 2**64, 10**30])
async def test_a_fee_that_cannot_be_is_no_mints_answer(
    ppk: int, folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Also later, when its keys are known. Where foreign mints' tokens are taken, any stranger may name one."""

    def take(listed: dict[str, Any]) -> None:
        for keyset in listed["keysets"]:
            keyset["input_fee_ppk"] = ppk

    payer = await funded(folder / "a.db", http, mint_url, 1000)
    token = (await payer.send(500, mint_url, "msat", "x")).token
    payer.close()
    for has_seen_it in (False, True):
        path = folder / f"{has_seen_it}.db"
        if has_seen_it:
            seen = await Wallet.open(path, http)
            await seen.pin(mint_url)
            seen.close()
        async with httpx.AsyncClient(transport=Lying("/v1/keysets", take), timeout=30) as lied_to:
            wallet = await Wallet.open(path, lied_to)
            if has_seen_it:
                wallet._keyring.forget(mint_url)
                assert (await wallet.receive(token, "in")).fee_msat == 1, "as it was when it made sense"
            else:
                with pytest.raises(WalletError):
                    await wallet.receive(token, "in")
            wallet.close()


async def test_a_key_of_a_coin_that_cannot_be_is_none(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    def add(answer: dict[str, Any]) -> None:
        for keyset in answer["keysets"]:
            keyset["keys"] |= {"9" * 5000: "02" + "11" * 32}

    async with httpx.AsyncClient(transport=Lying("/v1/keys/", add), timeout=30) as lied_to:
        wallet = await Wallet.open(folder / "w.db", lied_to)
        await wallet.pin(mint_url)
        wallet.close()
