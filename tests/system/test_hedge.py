"""Two real nodes and a real mint: the one that is late is left, and its locked money comes back by its own refund."""

from __future__ import annotations

from pathlib import Path

import pytest

from router_client.client import RouterClient
from router_client.routing.health import Healths
from tests.node.harness import HELLO, MODEL, running_node
from tests.node.shopful import running_shopful
from tests.system.test_client import announced, buyer, settings

__all__ = ["buyer"]


async def test_a_late_node_is_left_and_gives_its_money_back(
    folder: Path, mint_url: str, relay: str, buyer: RouterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_shopful(MODEL) as (late, late_url), running_shopful(MODEL) as (_, quick_url):
        late.may.clear()
        low = {"fixed_per_1k_input_tokens": "0.1", "fixed_per_1k_output_tokens": "0.4"}
        async with (
            running_node(folder / "late", **settings("late", mint_url, late_url, relay, **low)) as cheap,
            running_node(folder / "quick", **settings("quick", mint_url, quick_url, relay)) as dear,
        ):
            await announced(cheap)
            await announced(dear)
            monkeypatch.setattr(Healths, "late_s", lambda *_: 0.3)
            before_msat = buyer.wallet.balance_msat()
            answer = await buyer.chat({**HELLO, "routing": {"hedge": True}})
            assert (answer.node_name, answer.verified) == ("quick", True)
            await buyer.close()
            late.may.set()
            await buyer.recover()
            assert buyer.payments.open_count() == 0
            charged_msat = (await cheap.node.ledger.audit()).earned_msat
            spent_msat = before_msat - buyer.wallet.balance_msat()
            assert 0 <= spent_msat - answer.cost_msat - charged_msat <= 40, "beyond it the mint's fees alone"
