"""A cascade against real nodes and a real mint: the cheap answer is doubted, a better model is asked, and the whole comes to
no more than that one alone could have cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relays.pricing import ModelPrice, Usage, cost
from router_client.client import RouterClient
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from tests.node.harness import running_node
from tests.node.shopful import running_shopful
from tests.system.test_client import announced, buyer, settings

__all__ = ["buyer"]
REFUSAL = ["I'm sorry", ", but I cannot", " help with that."]
ASK: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": "What is two and two?"}],
    "max_tokens": 40,
    "routing": {"cascade": True},
}
SMALL, LARGE = ModelPrice(100_000, 400_000), ModelPrice(2_000_000, 8_000_000)
"""As the settings below say it, per thousand tokens in sats."""
USED = Usage(20, 6)


@asynccontextmanager
async def two_nodes(folder: Path, mint_url: str, relay: str, cheap_says: list[str]) -> AsyncIterator[list[Any]]:
    """A cheap one with a small model and a dear one with a large one; what the large model's server was asked."""
    async with running_shopful("small") as (small, small_url), running_shopful("large") as (large, large_url):
        small.words = cheap_says
        low = {"fixed_per_1k_input_tokens": "0.1", "fixed_per_1k_output_tokens": "0.4"}
        async with (
            running_node(folder / "cheap", **settings("cheap", mint_url, small_url, relay, **low)) as cheap,
            running_node(folder / "dear", **settings("dear", mint_url, large_url, relay)) as dear,
        ):
            await announced(cheap)
            await announced(dear)
            yield large.asked


async def test_a_refusal_goes_up_and_the_whole_costs_no_more_than_the_better_model_could(
    folder: Path, mint_url: str, relay: str, buyer: RouterClient
) -> None:
    async with two_nodes(folder, mint_url, relay, REFUSAL) as asked:
        spending = await Spending.open(folder / "spending.db")
        buyer._serving.allowance = Allowance(spending)
        _, alone = await buyer.choice({**ASK, "routing": {"quality": "high"}})
        before_msat = buyer.wallet.balance_msat()
        answer = await buyer.chat(ASK)
        assert (answer.model, answer.node_name, answer.verified) == ("large", "dear", True)
        assert [(step.model, step.verified) for step in answer.steps] == [("small", True)]
        assert answer.steps[0].cost_msat == cost(USED, SMALL)
        assert answer.cost_msat == cost(USED, SMALL) + cost(USED, LARGE)
        assert answer.cost_msat <= alone.candidates[0].hold_msat
        assert 0 <= before_msat - buyer.wallet.balance_msat() - answer.cost_msat <= 24, (
            "beyond it the mint's fees alone"
        )
        assert [(line.model, line.quality) for line in spending.lines(60)] == [
            ("large", None),
            ("small", answer.steps[0].confidence),
        ]
        assert buyer.report().saved_msat == answer.saved_msat, "an answer that does not stand has saved nothing"
        (_, body), *_ = asked
        assert body["max_tokens"] <= ASK["max_tokens"]
        spending.close()


async def test_an_answer_that_is_trusted_is_all_there_is_to_pay(
    folder: Path, mint_url: str, relay: str, buyer: RouterClient
) -> None:
    async with two_nodes(folder, mint_url, relay, ["Two and two", " is 2 + 2 = 4. The answer is 4."]) as asked:
        answer = await buyer.chat(ASK)
        assert (answer.model, answer.steps, answer.cost_msat) == ("small", (), cost(USED, SMALL))
        assert answer.confidence is not None
        more = {"cascade": True, "cascade_threshold": answer.confidence + 0.01, "cascade_consistency": True}
        twice = await buyer.chat({**ASK, "routing": more})
        assert (twice.model, [step.model for step in twice.steps]) == ("small", ["small"]), "it has said the same twice"
        assert twice.confidence is not None
        assert twice.confidence > answer.confidence
        assert twice.cost_msat == 2 * cost(USED, SMALL)
        assert asked == []


@pytest.mark.parametrize("words", [3000])
async def test_a_long_prompt_leaves_the_better_model_its_words(
    folder: Path, mint_url: str, relay: str, buyer: RouterClient, words: int
) -> None:
    """A prompt's tokens are bounded by its bytes, of which the cheap model's count shows how few they are."""
    async with two_nodes(folder, mint_url, relay, REFUSAL) as asked:
        ask = {**ASK, "messages": [{"role": "user", "content": "two " * words + "What is two and two?"}]}
        answer = await buyer.chat(ask)
        assert answer.model == "large"
        ((_, body),) = asked
        assert body["max_tokens"] == ASK["max_tokens"]


async def test_a_response_goes_up_likewise(folder: Path, mint_url: str, relay: str, buyer: RouterClient) -> None:
    asked_for = {
        "model": "auto",
        "input": "What is two and two?",
        "max_output_tokens": 40,
        "routing": {"cascade": True},
    }
    async with two_nodes(folder, mint_url, relay, REFUSAL) as asked:
        _, alone = await buyer.choice({**ASK, "routing": {"quality": "high"}})
        answer = await buyer.responses(asked_for)
        assert (answer.model, answer.node_name, answer.verified) == ("large", "dear", True)
        assert answer.body is not None
        assert [(step.model, step.verified) for step in answer.steps] == [("small", True)]
        assert answer.cost_msat <= alone.candidates[0].hold_msat
        (path, body), *_ = asked
        assert (path, "max_tokens" in body) == ("/responses", False)
        assert body["max_output_tokens"] <= 40
