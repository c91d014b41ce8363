"""A market that follows its nodes is the market that would be made of them anew, whatever comes, changes and goes."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from relays.capacity import Capacity
from relays.event import Signer
from relays.pricing import ModelPrice, Usage
from router_client.complexity import assess
from router_client.discovery.directory import Provider, _unless_same
from router_client.discovery.trust import Trust
from router_client.routing.candidates import Circumstances
from router_client.routing.health import Healths
from router_client.routing.market import Market
from router_client.routing.wishes import read_wishes
from router_client.selection import choose
from tests.client.test_selection import HELLO, PURSE, order, provider

MODELS = ("small", "middle", "large", "odd")
KEYS = [Signer.generate().pubkey for _ in range(12)]


def node(rng: random.Random, number: int) -> Provider:
    """One whose scores are nobody else's."""
    offers = [
        (model, ModelPrice(rng.randrange(10**5, 10**7) * (1 + 3 * place), rng.randrange(10**5, 10**7)))
        for place, model in enumerate(MODELS)
        if rng.random() < 0.6
    ]
    return provider(f"n{number}", *offers, pubkey=KEYS[number], created_at=rng.randrange(10**9))


def changed(rng: random.Random, each: Provider, number: int) -> Provider:
    capacity = Capacity(
        pubkey=KEYS[number], identifier="", capacity=rng.randrange(9), max_concurrent=9, created_at=1, expires_at=2**40
    )
    announced = msgspec.structs.replace(each.announcement, created_at=rng.randrange(10**9))
    return rng.choice(
        [
            node(rng, number),
            msgspec.structs.replace(each, url=None),
            msgspec.structs.replace(each, trust=Trust(rng.choice([0.0, 0.3, 0.9]))),
            msgspec.structs.replace(each, capacity=capacity),
            msgspec.structs.replace(each, announcement=announced),
        ]
    )


def choices(market: Market, healths: Healths) -> list[list[str]]:
    bodies: list[dict[str, Any]] = [
        *({**HELLO, "model": model} for model in (*MODELS, "auto:cheap", "auto:best")),
        {**HELLO, "model": "small", "provider": {"only": ["n1", "n2", KEYS[3]]}},
    ]
    found = []
    for body in bodies:
        wishes, request = read_wishes(body)
        given = Circumstances(healths=healths)
        choice = choose(request, assess(request), market, (PURSE,), wishes=wishes, given=given)
        found.append([*order(choice), *sorted(choice.rejected)])
    return found


def weights(market: Market) -> dict[object, dict[str, float]]:
    return {
        key: {p.announcement.pubkey: weight for p, weight in zip(market.providers, known.values, strict=True)}
        for key, known in market._weights.items()
    }


@pytest.mark.parametrize("seed", range(4))
def test_a_market_that_follows_is_the_market_made_anew(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_client.routing.market.AT_A_TIME", 0)  # weights that are in nobody's turn
    rng, healths = random.Random(seed), Healths(clock=lambda: 1.0)
    nodes: dict[int, Provider] = {}
    market = Market()
    for _ in range(80):
        for number in rng.sample(range(len(KEYS)), rng.randrange(3)):
            if number not in nodes:
                nodes[number] = node(rng, number)
            elif rng.random() < 0.3:
                del nodes[number]
            else:
                nodes[number] = changed(rng, nodes[number], number)
        if rng.random() < 0.3:
            healths.began(KEYS[rng.randrange(3)])
        market, anew = Market(nodes.values(), market), Market(nodes.values())
        assert market.ladder == anew.ladder
        assert [market.tier_of(model) for model in MODELS] == [anew.tier_of(model) for model in MODELS]
        assert market.strongest_msat(Usage(100, 100)) == anew.strongest_msat(Usage(100, 100))
        assert choices(market, healths) == choices(anew, healths)
        assert weights(market) == weights(anew)


def test_the_market_of_before_stays_as_it_was() -> None:
    """A choice says why others were left out when it is asked, which may be later."""
    rng = random.Random(7)
    nodes = [node(rng, number) for number in range(9)]
    before, healths = Market(nodes), Healths(clock=lambda: 1.0)
    told = choices(before, healths)
    Market([node(rng, 3), *nodes[5:]], before)
    assert choices(before, healths) == told


def test_nodes_that_have_not_changed_are_the_very_objects_of_before() -> None:
    rng = random.Random(7)
    before = tuple(node(rng, number) for number in range(4))
    same = [msgspec.structs.replace(each) for each in before]
    assert _unless_same(before, same) is before
    risen = msgspec.structs.replace(before[2], latency_ms=7)
    now = _unless_same(before, [msgspec.structs.replace(before[3]), risen])
    assert now[0] is before[3]
    assert now[1] == risen
