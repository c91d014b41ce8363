"""What one operation waits for, another does not."""

from __future__ import annotations

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
