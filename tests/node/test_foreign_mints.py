"""A foreign mint's token that does not come home: it is tried ever more seldom, and is never given up."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from node.deposits import MOST_REST_S, Deposits, MintRule
from node.errors import Refusal
from node.ledger.ledger import Ledger
from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import free_port
from node.tasks import Tasks
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from tests.node.harness import funded_wallet, token_of

FAILING = {"FAKEWALLET_PAY_INVOICE_STATE": "FAILED", "FAKEWALLET_PAYMENT_STATE": "FAILED"}


async def test_what_lightning_never_carries_is_tried_ever_more_seldom_and_comes_home_when_it_does(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    port = free_port()
    mint, foreign = start_mint(folder / "mint", port=port, input_fee_ppk=100, extra=FAILING)
    ledger = await Ledger.open(f"sqlite:///{folder / 'books.sqlite'}")
    now, tries = 0.0, 0

    async def count(request: httpx.Request) -> None:
        nonlocal tries
        tries += (request.method, request.url.path) == ("POST", "/v1/melt/bolt11")

    async with httpx.AsyncClient(event_hooks={"request": [count]}, timeout=30) as counted:
        try:
            wait_mint(mint, foreign)
            stranger = await funded_wallet(folder / "stranger.db", http, foreign)
            token = await token_of(stranger, foreign, 100_000)
            stranger.close()
            wallet = await Wallet.open(folder / "wallet.db", counted)
            rule = MintRule((mint_url,), swap_foreign=True, allow_local=True)
            deposits = Deposits(ledger, wallet, Tasks(), rule, clock=lambda: now)
            with pytest.raises(Refusal, match="no way over Lightning"):
                await deposits.open_account(token)
            tried_at = []
            for minute in range(1, 190):
                now, before = minute * 60.0, tries
                assert await deposits.recover() == 0
                tried_at += [minute] * (tries - before)
            assert tried_at == [1, 2, 4, 8, 16, 32, 64, 124, 184]
            with pytest.raises(Refusal, match="no way over Lightning"):
                await deposits.open_account(token)
            assert tries == 1 + len(tried_at) + 1, "who sends it again does not wait"
            mint.stop()
            mint, _ = start_mint(folder / "mint", port=port, input_fee_ppk=100)
            wait_mint(mint, foreign)
            assert await deposits.recover() == 0
            now += MOST_REST_S
            assert await deposits.recover() == 1
            assert 90_000 < (await ledger.audit()).keys_msat < decode(token).amount_msat
            wallet.close()
        finally:
            mint.stop()
            await ledger.close()
