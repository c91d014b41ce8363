"""A world of nodes and routers in simulated time: price spreads as they are, failures, flash crowds and liars.

Fifty nodes sell one model. Each takes so many requests at once and answers 429 to more; a few fail often, some are down for
minutes, liars announce to be fast and empty. Eight routers know only what nodes tell (on a change by a fifth and every five
minutes, as capacity events do, heard seconds later) and what they saw themselves. All routers try four nodes a round and,
when those are full, again until ten seconds are over, so that policies differ in nothing but which node they try.
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import msgspec

from relays.announcement import Announcement, ModelOffer
from relays.bounds import ModelLimits
from relays.capacity import Capacity
from relays.pricing import ModelPrice
from router_client.complexity import Task, assess
from router_client.discovery.directory import Provider
from router_client.routing.candidates import Circumstances, Purse
from router_client.routing.health import Healths
from router_client.routing.market import Market
from router_client.routing.wishes import Wishes
from router_client.selection import choose

NODES: Final = 50
ROUTERS: Final = 8
TRIES: Final = 4
MOST_LOAD: Final = 0.95
"""In a crowd, of what the nodes can serve, those that are down included."""
PATIENCE_S: Final = 10.0
PAUSE_S: Final = (0.2, 0.6)
REFUSAL_S: Final = 0.05
FAILURE_S: Final = 1.0
TOLD_EVERY_S, HEARD_EVERY_S, CHANGED = 300.0, 5.0, 0.2
MINT: Final = "https://mint.example"
MODEL: Final = "m"
BODY: Final[dict[str, Any]] = {"model": MODEL, "max_tokens": 256, "messages": [{"role": "user", "content": "x" * 800}]}
READ: Final = 200


class Node:
    """One seller."""

    def __init__(self, place: int, rng: random.Random) -> None:
        self.name = f"node{place:02}"
        self.key = f"{place:064x}"
        spread = rng.lognormvariate(0, 0.45)  # what OpenRouter's sellers of one model differ by
        self.price = ModelPrice(int(200_000 * spread), int(800_000 * spread))
        self.room = rng.choice((2, 4, 4, 8, 8, 16, 32))
        self.wait_s = rng.lognormvariate(-0.7, 0.5)
        self.speed = rng.lognormvariate(4.0, 0.5)
        self.fails = rng.choice((0.25, 0.1)) if place % 10 == 3 else 0.003
        self.lies = place % 10 == 7
        if self.lies:
            self.price = ModelPrice(120_000, 480_000)
            self.speed, self.fails, self.room = self.speed / 6, 0.2, 2
        self.down_until = 0.0
        self.in_flight = 0
        self.told: Capacity | None = None

    def tell(self, now: float) -> None:
        """Publish its capacity; liars are always fast and empty."""
        free, wait_ms, speed = self.room - self.in_flight, int(self.wait_s * 1000), int(self.speed)
        if self.lies:
            free, wait_ms, speed = 64, 100, 300
        self.told = Capacity(
            pubkey=self.key,
            identifier="",
            capacity=max(0, free),
            max_concurrent=64 if self.lies else self.room,
            latency_ms=wait_ms,
            tokens_per_s=speed,
            error_rate_bps=0 if self.lies else int(self.fails * 10_000),
            created_at=int(now),
            expires_at=int(now) + 600,
        )

    def has_news(self, now: float) -> bool:
        if self.told is None or now - self.told.created_at >= TOLD_EVERY_S:
            return True
        return not self.lies and abs(self.told.capacity - (self.room - self.in_flight)) >= CHANGED * self.room

    def provider(self) -> Provider:
        offer = ModelOffer(MODEL, ModelLimits(8192, 2048), self.price)
        announcement = Announcement(
            pubkey=self.key,
            identifier="",
            urls=("http://node",),
            mints=(MINT,),
            version="1",
            name=self.name,
            about="",
            models=(offer,),
            created_at=0,
            expires_at=None,
        )
        return Provider(announcement, "http://node", capacity=self.told)

    def cost_msat(self, tokens: int) -> int:
        price = self.price
        return -(-(READ * price.prompt_msat_per_mtok + tokens * price.completion_msat_per_mtok) // 1_000_000)


class Policy(Protocol):
    """What a router tries, and what it learns."""

    def order(self, nodes: Sequence[Node], now: float) -> list[Node]: ...
    def began(self, node: Node) -> None: ...
    def ended(self, node: Node, how: str, wait_s: float, tokens: int, whole_s: float) -> None: ...
    def hears(self, nodes: Sequence[Node]) -> None: ...


class Plain:
    """Keeps what the known policies need: who is under way, and who failed in the last 30 s."""

    def __init__(self, rng: random.Random, clock: Callable[[], float]) -> None:
        self.rng = rng
        self.clock = clock
        self.under_way: dict[str, int] = {}
        self.failed_at: dict[str, float] = {}

    def well(self, nodes: Sequence[Node], now: float) -> list[Node]:
        return [node for node in nodes if now - self.failed_at.get(node.key, -1e9) > 30] or list(nodes)

    def began(self, node: Node) -> None:
        self.under_way[node.key] = self.under_way.get(node.key, 0) + 1

    def ended(self, node: Node, how: str, wait_s: float, tokens: int, whole_s: float) -> None:
        self.under_way[node.key] -= 1
        if how == "failed":
            self.failed_at[node.key] = self.clock()

    def hears(self, nodes: Sequence[Node]) -> None:
        return None


class RoundRobin(Plain):
    turn = 0

    def order(self, nodes: Sequence[Node], now: float) -> list[Node]:
        self.turn += 1
        return [nodes[(self.turn + step) % len(nodes)] for step in range(len(nodes))]


class CheapestFirst(Plain):
    def order(self, nodes: Sequence[Node], now: float) -> list[Node]:
        return sorted(self.well(nodes, now), key=lambda node: node.cost_msat(256))


class LeastBusy(Plain):
    def order(self, nodes: Sequence[Node], now: float) -> list[Node]:
        return sorted(
            self.well(nodes, now), key=lambda node: (self.under_way.get(node.key, 0) / node.room, self.rng.random())
        )


class OpenRouter(Plain):
    """By chance, weighted with one over the price squared, without who failed in the last 30 s."""

    def order(self, nodes: Sequence[Node], now: float) -> list[Node]:
        keyed = [
            (self.rng.random() ** (node.cost_msat(256) ** 2 / 1e4), node.name, node) for node in self.well(nodes, now)
        ]
        return [node for _, _, node in sorted(keyed, reverse=True)]


class Ours:
    def __init__(self, rng: random.Random, clock: Callable[[], float]) -> None:
        self.given = Circumstances(healths=Healths(clock, clock, rng), rng=rng)
        self.task: Task = assess(BODY)
        self.purses = (Purse(MINT, "msat", 10**12),)
        self.market = Market(())
        self.by_key: dict[str, Node] = {}

    def hears(self, nodes: Sequence[Node]) -> None:
        self.market = Market(node.provider() for node in nodes)
        self.by_key = {node.key: node for node in nodes}

    def order(self, nodes: Sequence[Node], now: float) -> list[Node]:
        choice = choose(BODY, self.task, self.market, self.purses, wishes=Wishes(models=(MODEL,)), given=self.given)
        return [self.by_key[each.provider.announcement.pubkey] for each in choice.candidates if not each.pause_s]

    def began(self, node: Node) -> None:
        self.given.healths.began(node.key)

    def ended(self, node: Node, how: str, wait_s: float, tokens: int, whole_s: float) -> None:
        if how == "served":
            self.given.healths.served(node.key, wait_s, tokens, whole_s)
        elif how == "busy":
            self.given.healths.busy(node.key)
        else:
            self.given.healths.failed(node.key)


POLICIES: Final[dict[str, Callable[[random.Random, Callable[[], float]], Policy]]] = {
    "round robin": RoundRobin,
    "cheapest first": CheapestFirst,
    "least busy": LeastBusy,
    "1/price^2 (OpenRouter)": OpenRouter,
    "satroute": Ours,
}


class Result(msgspec.Struct, frozen=True):
    """Of one policy under one load."""

    policy: str
    load: float
    """What arrives on average, of what all nodes together can serve."""
    requests: int
    served: float
    """Share of the requests."""
    cost_msat: float
    """The mean of those served."""
    p50_s: float
    p99_s: float
    overload: float
    """Tries that a full node refused, per request."""
    failures: float
    """Tries that failed, per request."""


class World:
    """One run of one policy."""

    def __init__(self, policy: str, load: float, seconds: float, seed: int) -> None:
        self.now = 0.0
        rng = random.Random(seed)
        self.nodes = [Node(place, rng) for place in range(NODES)]
        self.rng = random.Random(seed + 1)
        self.routers = [POLICIES[policy](random.Random(f"{seed}/{n}"), lambda: self.now) for n in range(ROUTERS)]
        self.policy, self.load, self.seconds = policy, load, seconds
        self._events: list[tuple[float, int, Iterator[float]]] = []
        self._count = itertools.count()
        self.waits: list[float] = []
        self.costs: list[int] = []
        self.requests = self.refused = self.failed = 0

    def run(self) -> Result:
        for process in (self._arrivals(), self._telling(), self._outages()):
            self._start(process)
        while self._events:
            self.now, _, process = heapq.heappop(self._events)
            pause = next(process, None)
            if pause is not None:
                heapq.heappush(self._events, (self.now + pause, next(self._count), process))
        centiles = statistics.quantiles(self.waits, n=100)
        return Result(
            policy=self.policy,
            load=self.load,
            requests=self.requests,
            served=round(len(self.waits) / self.requests, 4),
            cost_msat=round(statistics.mean(self.costs), 1),
            p50_s=round(centiles[49], 2),
            p99_s=round(centiles[98], 2),
            overload=round(self.refused / self.requests, 3),
            failures=round(self.failed / self.requests, 3),
        )

    def _start(self, process: Iterator[float]) -> None:
        heapq.heappush(self._events, (self.now, next(self._count), process))

    def _rate(self) -> float:
        """Requests a second that all honest nodes can serve together."""
        return sum(node.room * (1 - node.fails) / (node.wait_s + 256 / node.speed) for node in self.nodes)

    def _arrivals(self) -> Iterator[float]:
        """At random; in the middle third, for half a minute of each two, more come, but not more than can be served."""
        mean, most = self.load * self._rate(), min(1.6, MOST_LOAD / self.load)
        while self.now < self.seconds:
            crowd = self.seconds / 3 < self.now < 2 * self.seconds / 3
            factor = most if crowd and self.now % 120 < 30 else 1.0
            self.requests += 1
            self._start(
                self._request(self.rng.choice(self.routers), min(1024, max(8, int(self.rng.expovariate(1 / 256)))))
            )
            yield self.rng.expovariate(mean * factor)

    def _telling(self) -> Iterator[float]:
        """Nodes tell when they have changed by a fifth, and every five minutes; routers hear of it seconds later."""
        while self.now < self.seconds:
            for node in self.nodes:
                if node.has_news(self.now):
                    node.tell(self.now)
            for router in self.routers:
                router.hears(self.nodes)
            yield HEARD_EVERY_S

    def _outages(self) -> Iterator[float]:
        while self.now < self.seconds:
            self.rng.choice(self.nodes).down_until = self.now + 120
            yield 60.0

    def _request(self, router: Policy, tokens: int) -> Iterator[float]:
        began = self.now
        while self.now - began < PATIENCE_S:
            tried: set[str] = set()
            while len(tried) < TRIES:
                node = next((node for node in router.order(self.nodes, self.now) if node.key not in tried), None)
                if node is None:
                    break
                tried.add(node.key)
                router.began(node)
                how, wait_s = self._tried(node)
                if how != "served":
                    yield wait_s
                    router.ended(node, how, 0.0, 0, 0.0)
                    continue
                node.in_flight += 1
                whole_s = wait_s + tokens / (node.speed * self.rng.lognormvariate(0, 0.1))
                yield whole_s
                node.in_flight -= 1
                router.ended(node, how, wait_s, tokens, whole_s)
                self.waits.append(self.now - began)
                self.costs.append(node.cost_msat(tokens))
                return
            yield self.rng.uniform(*PAUSE_S)

    def _tried(self, node: Node) -> tuple[str, float]:
        """How it goes, and after how long that is known."""
        if self.now < node.down_until or self.rng.random() < node.fails:
            self.failed += 1
            return "failed", FAILURE_S
        if node.in_flight >= node.room:
            self.refused += 1
            return "busy", REFUSAL_S
        return "served", node.wait_s * self.rng.lognormvariate(0, 0.2)


def compare(loads: Sequence[float], seconds: float, seed: int) -> list[Result]:
    """Every policy in the same world, under each load."""
    return [World(policy, load, seconds, seed).run() for load in loads for policy in POLICIES]
