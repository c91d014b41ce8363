"""What a user settles once: the most that `auto` pays, a seed, how much is tried and learned, the usual profile."""

from __future__ import annotations

import time
from typing import Any

import httpx
import msgspec
import pytest

from relays.pool import RelayPool
from relays.pricing import ModelPrice
from router_client.client import RouterClient
from router_client.complexity import assess
from router_client.discovery.directory import Directory, Provider
from router_client.preferences import AUTO_MAX_SATS, USUAL, Preferences
from router_client.routing.candidates import Circumstances
from router_client.routing.market import Market
from router_client.routing.wishes import read_wishes
from router_client.selection import Choice, choose
from tests.client.cheat import BODY
from tests.client.test_selection import HELLO, PURSE, order, provider

FAIR = ModelPrice(1_000_000, 4_000_000)
MOST = AUTO_MAX_SATS * 1000
"""Msat per million tokens written."""
RICH = msgspec.structs.replace(PURSE, amount=10**12)
AUTO_BODY = {**HELLO, "model": "auto"}


def chosen(
    body: dict[str, Any], *nodes: Provider, preferences: Preferences = USUAL, usd: float | None = None
) -> Choice:
    given = Circumstances(auto_prices=preferences.auto_prices, msat_per_usd=usd)
    wishes, request = read_wishes(body)
    market = Market(nodes, auto_prices=preferences.auto_prices)
    return choose(request, assess(request), market, (RICH,), wishes=wishes, given=given)


@pytest.mark.parametrize(
    "price",
    [
        ModelPrice(FAIR.prompt_msat_per_mtok, MOST + 1),
        ModelPrice(MOST // 5 + 1, 1),
        ModelPrice(1, 1, request_msat=MOST // 1000 + 1),
        ModelPrice(1, 1, reasoning_msat_per_mtok=MOST + 1),
        ModelPrice(1, 1, cached_msat_per_mtok=MOST),
        ModelPrice(1, 1, cache_write_msat_per_mtok=MOST),
    ],
    ids=["written", "read", "request", "thought", "cached", "written to a cache"],
)
def test_auto_pays_no_absurd_price_in_whatever_part_it_hides(price: ModelPrice) -> None:
    """And whoever names the model, pays it."""
    node = provider("dear", ("m", price))
    assert order(chosen({**HELLO, "model": "m"}, node)) == ["dear"]
    refused = chosen(AUTO_BODY, node)
    assert refused.candidates == ()
    assert "auto_max_sats" in refused.rejected["dear: m"]
    assert order(chosen(AUTO_BODY, node, preferences=Preferences(auto_max_sats=0))) == ["dear"]
    assert order(chosen(AUTO_BODY, node, preferences=Preferences(auto_max_sats=100 * AUTO_MAX_SATS))) == ["dear"]


def test_what_is_at_the_limit_is_paid() -> None:
    node = provider("dear", ("m", ModelPrice(MOST // 5, MOST, request_msat=MOST // 1000)))
    assert order(chosen(AUTO_BODY, node)) == ["dear"]


def test_an_absurd_model_is_no_tiers_best() -> None:
    """Hard tasks go to the best of what can be paid."""
    node = provider("n", ("cheap", FAIR), ("good", ModelPrice(5_000_000, 20_000_000)), ("mad", ModelPrice(1, 10**12)))
    best = chosen({**AUTO_BODY, "model": "auto:best"}, node)
    assert [each.offer.id for each in best.candidates] == ["good"]


def test_a_request_may_set_its_own_limit() -> None:
    """2,000 USD for a million tokens where a bitcoin costs 100,000."""
    node = provider("dear", ("m", ModelPrice(1_000_000, 2_000_000_000)))
    mine = {**AUTO_BODY, "provider": {"max_price": {"completion": 2000}}}
    assert order(chosen(mine, node, usd=1_000_000.0)) == ["dear"]
    other_part = {**AUTO_BODY, "provider": {"max_price": {"prompt": 2000}}}
    assert order(chosen(other_part, node, usd=1_000_000.0)) == []


async def test_a_seed_repeats_the_choices_and_nothing_is_tried_where_it_is_switched_off(
    buyer: RouterClient, mint_url: str, http: httpx.AsyncClient
) -> None:
    nodes = [provider(f"n{n}", ("m", FAIR), mints=(mint_url,)) for n in range(6)]

    async def first(preferences: Preferences) -> list[tuple[str, bool]]:
        async with RelayPool([]) as pool:
            client = RouterClient(Directory(pool, http), buyer.wallet, buyer.payments, http, preferences=preferences)
            client.directory._providers, client.directory._read_at = tuple(nodes), time.time()
            choices = [(await client.choice(BODY))[1] for _ in range(60)]
            return [(order(choice)[0], choice.explored) for choice in choices]

    same = [await first(Preferences(seed=7, explore=0.5)) for _ in range(2)]
    assert same[0] == same[1] != await first(Preferences(seed=8, explore=0.5))
    assert any(explored for _, explored in same[0])
    assert not any(explored for _, explored in await first(Preferences(seed=7, explore=0)))


async def test_the_usual_profile_and_whether_it_learns_are_the_users(
    buyer: RouterClient, http: httpx.AsyncClient
) -> None:
    for learning in (True, False):
        async with RelayPool([]) as pool:
            preferences = Preferences(profile="best", learning=learning, explore=0)
            client = RouterClient(Directory(pool, http), buyer.wallet, buyer.payments, http, preferences=preferences)
            task, _ = await client.choice(AUTO_BODY)
            assert task.tier == "premium", "as the profile has it"
            plan = await client._planned({**AUTO_BODY, "model": "auto:cheap"}, None)
            assert plan.wishes.profile == "cheap", "the request's own word comes first"
            cheap = msgspec.structs.replace(plan.picked, tier="cheap")
            client.feedback.await_word("r", cheap, plan.task)
            assert await client.tell("r", 0.0) is learning
            assert bool(client.feedback.beliefs) is learning
