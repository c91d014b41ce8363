"""In a world of nodes that are full, fail, vanish and lie, the router serves what can be served, for less than others."""

from __future__ import annotations

import pytest

from bench.world import World


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_it_serves_nearly_all_and_is_cheaper_than_openrouters_rule(load: float) -> None:
    ours, theirs = (World(policy, load, 90, 4).run() for policy in ("satroute", "1/price^2 (OpenRouter)"))
    assert ours.served >= 0.99
    assert ours.served >= theirs.served
    assert ours.cost_msat < theirs.cost_msat
    assert ours.p99_s < theirs.p99_s


def test_the_same_seed_is_the_same_world() -> None:
    assert World("satroute", 0.5, 40, 9).run() == World("satroute", 0.5, 40, 9).run()
