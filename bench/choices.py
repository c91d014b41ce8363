"""How long a choice among a thousand nodes takes, while every answer changes what is known of one."""

from __future__ import annotations

import random
import time
from typing import Any, Final

from relays.announcement import Announcement, ModelOffer
from relays.bounds import ModelLimits
from relays.pricing import ModelPrice
from router_client.complexity import assess
from router_client.discovery.directory import Provider
from router_client.routing.candidates import Circumstances, Purse
from router_client.routing.market import Market
from router_client.routing.wishes import Wishes
from router_client.selection import choose

NODES, MODELS, CHOICES, CHANGES = 1000, 5, 400, 100
MINT: Final = "https://mint.example"
MESSAGES: Final = [{"role": "user", "content": "Summarise this in a sentence: " + "word " * 150}]


def _node(place: int, rng: random.Random) -> Provider:
    offers = tuple(
        ModelOffer(
            f"model{n}",
            ModelLimits(8192, 2048),
            ModelPrice(int(2e5 * 3**n * rng.uniform(0.5, 2)), int(8e5 * 3**n * rng.uniform(0.5, 2))),
        )
        for n in range(MODELS)
    )
    announcement = Announcement(
        pubkey=f"{place:064x}",
        identifier="",
        urls=("http://node",),
        mints=(MINT,),
        version="1",
        name=f"node{place}",
        about="",
        models=offers,
        created_at=0,
        expires_at=None,
    )
    return Provider(announcement, "http://node")


def choices(seed: int = 1) -> dict[str, dict[str, float]]:
    """Milliseconds a choice, of a model by name and of `auto`; what it takes to sort the market once, and when a node's
    prices have changed, with the first choice after that."""
    rng = random.Random(seed)
    nodes = [_node(place, rng) for place in range(NODES)]
    began = time.perf_counter()
    market = Market(nodes)
    sorting = time.perf_counter() - began
    found = {"market made": {"ms": sorting * 1000}}
    purses = (Purse(MINT, "msat", 10**12),)
    for model in ("model2", "auto"):
        body: dict[str, Any] = {"model": model, "max_tokens": 256, "messages": MESSAGES}
        task, wishes, given = assess(body), Wishes(models=(model,)), Circumstances(rng=rng)
        times = []
        for _ in range(CHOICES):
            began = time.perf_counter()
            choice = choose(body, task, market, purses, wishes=wishes, given=given)
            times.append((time.perf_counter() - began) * 1000)
            node = choice.candidates[0].provider.announcement.pubkey
            given.healths.began(node)
            given.healths.served(node, rng.uniform(0.3, 2), 100, rng.uniform(3, 6))
        found[model] = _middle(times)
    body = {"model": "auto", "max_tokens": 256, "messages": MESSAGES}
    task, given, times = assess(body), Circumstances(rng=rng), []
    for _ in range(CHANGES):
        place = rng.randrange(NODES)
        nodes[place] = _node(place, rng)
        began = time.perf_counter()
        market = Market(nodes, market)
        choose(body, task, market, purses, given=given)
        times.append((time.perf_counter() - began) * 1000)
    return found | {"auto, a node changed": _middle(times)}


def _middle(times: list[float]) -> dict[str, float]:
    ranked = sorted(times)
    return {"ms": ranked[len(ranked) // 2], "ms p99": ranked[int(len(ranked) * 0.99)]}
