"""What one operation waits for, another does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from router_client.ecash import store
from router_client.ecash.token import Token, encode
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable
from tests.client.faults import LosesNth
from tests.client.mints import running_mint
from tests.client.purses import funded
from tests.client.test_melt import invoiced

STUCK = {"FAKEWALLET_PAY_INVOICE_STATE": "PENDING", "FAKEWALLET_PAYMENT_STATE": "PENDING"}


async def test_a_strangers_pending_coins_keep_nobody_elses_waiting(folder: Path, http: httpx.AsyncClient) -> None:
    """Who pays an invoice that hangs can bring the same coins here: the mint does not say what will become of them."""
    with running_mint(folder / "mint", extra=STUCK) as mint_url:
        mallory = await funded(folder / "m.db", http, mint_url, 100_000)
        honest = await funded(folder / "h.db", http, mint_url, 1000)
        good = (await honest.send(100, mint_url, "msat", "good")).token
        with pytest.raises(MintUnavailable):
            await mallory.melt(await invoiced(folder, http, mint_url, 5, "sat"), mint_url, "msat", "melt")
        spending = mallory.outcome("melt")
        assert spending is not None

        bob = await Wallet.open(folder / "b.db", http)
        await bob.pin(mint_url)
        with pytest.raises(MintUnavailable, match="pending"):
            await bob.receive(encode(Token(mint_url, "msat", spending.journal.inputs[:1])), "mallory's")
        bob.close()
        async with httpx.AsyncClient(transport=LosesNth(2, "reply"), timeout=60) as losing:
            bob = await Wallet.open(folder / "b.db", losing)
            with pytest.raises(MintUnavailable):
                await bob.receive(good, "honest")
            bob.close()

        bob = await Wallet.open(folder / "b.db", http)
        await bob.recover()
        states = {operation.id: operation.state for operation in bob._db.read(store.open_operations)}
        assert states == {"mallory's": "open"}
        assert bob.balance_msat() == 100


class Hanging(httpx.AsyncHTTPTransport):
    """Real HTTP, but for a port where nothing is answered any more."""

    port: int | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.port == self.port:
            await asyncio.Event().wait()
        return await super().handle_async_request(request)


async def test_a_mint_that_never_answers_keeps_no_other_mints_operations_waiting(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Any number of strangers may bring tokens of such mints, where foreign ones are taken."""
    with running_mint(folder / "mint") as silent:
        for name, url in (("silent", silent), ("good", mint_url)):
            payer = await funded(folder / f"{name}.db", http, url, 1000)
            token = (await payer.send(100, url, "msat", name)).token
            payer.close()
            async with httpx.AsyncClient(transport=LosesNth(4, "reply"), timeout=60) as losing:
                bob = await Wallet.open(folder / "b.db", losing)
                with pytest.raises(MintUnavailable):
                    await bob.receive(token, name)
                bob.close()
        hanging = Hanging()
        hanging.port = httpx.URL(silent).port
        async with httpx.AsyncClient(transport=hanging, timeout=60) as some_answer:
            bob = await Wallet.open(folder / "b.db", some_answer)
            assert [operation.id for operation in bob._db.read(store.open_operations)] == ["silent", "good"]
            recovering = asyncio.create_task(bob.recover())
            async with asyncio.timeout(20):
                while (done := bob.outcome("good")) is None or done.state == "open":
                    await asyncio.sleep(0.05)
            assert done.state == "done"
            assert bob.balance_msat() == 100
            recovering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await recovering
            bob.close()
