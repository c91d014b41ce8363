"""Among those that can serve, cost, trust, speed, failures and load decide, by the profile; chance spreads what is equal."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from relays.announcement import ModelOffer
from relays.bounds import ModelLimits
from relays.capacity import Capacity
from relays.pricing import ModelPrice
from router_client.complexity import assess
from router_client.discovery.directory import Provider
from router_client.errors import BadRequest
from router_client.routing.candidates import Circumstances
from router_client.routing.health import Healths
from router_client.routing.market import Market
from router_client.routing.wishes import read_wishes
from router_client.selection import Choice, choose
from tests.client.test_selection import HELLO, LONG, PURSE, order, provider

PRICE = ModelPrice(1_000_000, 4_000_000)
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def times(price: ModelPrice, factor: float) -> ModelPrice:
    return ModelPrice(int(price.prompt_msat_per_mtok * factor), int(price.completion_msat_per_mtok * factor))


def key(node: Provider) -> str:
    return node.announcement.pubkey


def chosen(body: dict[str, Any], *nodes: Provider, given: Circumstances | None = None) -> Choice:
    wishes, request = read_wishes(body)
    return choose(request, assess(request), nodes, (PURSE,), wishes=wishes, given=given)


def measured(node: Provider, healths: Healths, wait_s: float, whole_s: float) -> None:
    healths.began(key(node))
    healths.served(key(node), wait_s, 101, whole_s)


def shares(*nodes: Provider, given: Circumstances, times: int = 400) -> Counter[str]:
    return Counter(order(chosen(HELLO, *nodes, given=given))[0] for _ in range(times))


def told(node: Provider, free: int, most: int, state: Any = "serving") -> Provider:
    capacity = Capacity(
        pubkey=key(node),
        identifier="",
        capacity=free,
        max_concurrent=most,
        state=state,
        created_at=1,
        expires_at=2**40,
    )
    return msgspec.structs.replace(node, capacity=capacity)


def test_equals_share_and_the_dearer_get_less_and_the_much_dearer_nothing() -> None:
    nodes = [provider(f"n{n}", ("m", PRICE)) for n in range(3)]
    dearer, dear = provider("dearer", ("m", times(PRICE, 1.1))), provider("dear", ("m", times(PRICE, 2)))
    got = shares(*nodes, dearer, dear, given=Circumstances(rng=random.Random(7), explore=False))
    assert all(got[f"n{n}"] > 80 for n in range(3))
    assert 0 < got["dearer"] < 90
    assert got["dear"] == 0


def test_the_same_seed_chooses_the_same() -> None:
    nodes = [provider(f"n{n}", ("m", PRICE)) for n in range(5)]
    runs = [
        [order(chosen(HELLO, *nodes, given=given)) for _ in range(20)]
        for given in (Circumstances(rng=random.Random(3)), Circumstances(rng=random.Random(3)))
    ]
    assert runs[0] == runs[1]
    assert len({tuple(names) for names in runs[0]}) > 1


def test_the_unknown_is_tried_now_and_then_within_bounds_and_not_when_that_is_off() -> None:
    known, unknown, dear = (
        provider("known", ("m", PRICE)),
        provider("unknown", ("m", times(PRICE, 2))),
        provider("dear", ("m", times(PRICE, 9))),
    )
    healths = Healths()
    measured(known, healths, 1.0, 4.0)
    got = shares(known, unknown, dear, given=Circumstances(healths=healths, rng=random.Random(1)), times=1000)
    assert 20 < got["unknown"] < 90
    assert got["dear"] == 0
    off = Circumstances(healths=healths, rng=random.Random(1), explore=False)
    assert shares(known, unknown, dear, given=off) == {"known": 400}


@pytest.mark.parametrize(("profile", "first"), [("cheap", "slow"), ("balanced", "slow"), ("fast", "quick")])
def test_profiles_weigh_time_against_money(profile: str, first: str) -> None:
    slow, quick = provider("slow", ("m", PRICE)), provider("quick", ("m", times(PRICE, 2)))
    healths = Healths()
    measured(slow, healths, 4.0, 12.0)
    measured(quick, healths, 0.5, 3.0)
    choice = chosen({**HELLO, "routing": {"profile": profile}}, slow, quick, given=Circumstances(healths=healths))
    assert order(choice)[0] == first


def test_the_private_profile_prefers_an_onion_and_best_takes_a_premium_model() -> None:
    clear = provider("clear", ("m", PRICE))
    onion = provider("onion", ("m", times(PRICE, 1.5)), url="http://" + "a" * 56 + ".onion")
    assert order(chosen(HELLO, clear, onion))[0] == "clear"
    assert order(chosen({**HELLO, "routing": {"profile": "private"}}, clear, onion))[0] == "onion"
    ladder = provider("all", ("small", PRICE), ("large", times(PRICE, 9)), ("middle", times(PRICE, 3)))
    best = chosen({**HELLO, "model": "auto:best"}, ladder)
    assert [candidate.offer.id for candidate in best.candidates] == ["large"]


def test_failures_cost_and_a_node_that_failed_just_now_is_the_last_resort() -> None:
    cheap, other = provider("cheap", ("m", PRICE)), provider("other", ("m", times(PRICE, 5)))
    healths = Healths()
    healths.began(key(cheap))
    healths.failed(key(cheap))
    given = Circumstances(healths=healths)
    assert order(chosen(HELLO, cheap, other, given=given)) == ["other", "cheap"]
    assert order(chosen(HELLO, cheap, given=given)) == ["cheap"]


def test_a_loaded_node_loses_share_smoothly_and_one_that_stops_is_the_last_resort() -> None:
    rival = provider("rival", ("m", PRICE))
    got = []
    for free in (10, 4, 2, 1, 0):
        busy = told(provider("busy", ("m", PRICE)), free, 10)
        given = Circumstances(rng=random.Random(5), explore=False)
        got.append(shares(told(rival, 10, 10), busy, given=given)["busy"])
    assert got == sorted(got, reverse=True)
    assert got[0] > 150
    assert got[-1] == 0
    assert order(chosen(HELLO, told(rival, 10, 10, "draining"), provider("b", ("m", times(PRICE, 9))))) == [
        "b",
        "rival",
    ]


def test_a_session_stays_with_its_node_until_that_is_much_dearer() -> None:
    here, there = provider("here", ("m", times(PRICE, 1.3))), provider("there", ("m", PRICE))
    given = Circumstances(sessions={"s": key(here)})
    body = {**HELLO, "routing": {"session": "s"}}
    assert order(chosen(body, here, there, given=given))[0] == "here"
    assert order(chosen(HELLO, here, there, given=given))[0] == "there"
    dear = msgspec.structs.replace(provider("dear", ("m", times(PRICE, 3))))
    assert order(chosen(body, dear, there, given=Circumstances(sessions={"s": key(dear)})))[0] == "there"


def test_openrouters_order_only_ignore_and_no_fallbacks() -> None:
    nodes = [provider(f"n{n}", ("m", times(PRICE, n + 1))) for n in range(4)]

    def names(**wish: Any) -> list[str]:
        return order(chosen({**HELLO, "provider": wish}, *nodes))

    assert names() == ["n0", "n1", "n2", "n3"]
    assert names(order=["n2", "N3"]) == ["n2", "n3", "n0", "n1"]
    assert names(only=["n1", nodes[2].npub]) == ["n1", "n2"]
    assert names(ignore=[key(nodes[0])]) == ["n1", "n2", "n3"]
    assert names(order=["n2"], allow_fallbacks=False) == ["n2"]
    assert names(only=["nobody"]) == []


def test_sort_leaves_nothing_to_chance_and_nothing_to_other_factors() -> None:
    cheap, quick, prompt = (
        provider("cheap", ("m", PRICE)),
        provider("quick", ("m", times(PRICE, 3))),
        provider("prompt", ("m", times(PRICE, 2))),
    )
    healths = Healths()
    measured(cheap, healths, 5.0, 105.0)
    measured(quick, healths, 2.0, 3.0)
    measured(prompt, healths, 0.2, 20.0)
    given = Circumstances(healths=healths, rng=random.Random(2))
    for ending, first in ((":floor", "cheap"), (":nitro", "quick")):
        firsts = {
            order(chosen({**HELLO, "model": f"m{ending}"}, cheap, quick, prompt, given=given))[0] for _ in range(30)
        }
        assert firsts == {first}
    by_wait = chosen({**HELLO, "provider": {"sort": "latency"}}, cheap, quick, prompt, given=given)
    assert order(by_wait) == ["prompt", "quick", "cheap"]


def test_models_are_fallbacks_in_their_order() -> None:
    nodes = provider("a", ("m", PRICE)), provider("b", ("n", times(PRICE, 0.1)))
    assert order(chosen({**HELLO, "models": ["m", "n"]}, *nodes)) == ["a", "b"]
    assert order(chosen({"models": ["n", "m"], "messages": HELLO["messages"]}, *nodes)) == ["b", "a"]


def test_limits_in_usd_need_a_rate_and_are_then_kept() -> None:
    node = provider("a", ("m", PRICE))
    rate = Circumstances(msat_per_usd=1_000_000.0)  # 1 USD is 1,000 sat
    for wish, fits in (({"prompt": 1, "completion": 4}, True), ({"completion": 3.9}, False)):
        choice = chosen({**HELLO, "provider": {"max_price": wish}}, node, given=rate)
        assert bool(choice.candidates) is fits
    assert "max_price" in " ".join(choice.rejected.values())
    held = chosen(HELLO, node).candidates[0].hold_msat
    for usd, fits in ((held / 1e6, True), ((held - 1) / 1e6, False)):
        assert bool(chosen({**HELLO, "routing": {"maxCost": usd}}, node, given=rate).candidates) is fits
    for body in ({"provider": {"max_price": {"prompt": 1}}}, {"routing": {"maxCost": 1}}):
        with pytest.raises(BadRequest, match="bitcoin"):
            chosen({**HELLO, **body}, node)


def test_a_first_word_that_takes_too_long_is_out() -> None:
    node, healths = provider("a", ("m", PRICE)), Healths()
    measured(node, healths, 0.9, 2.0)
    given = Circumstances(healths=healths)
    assert order(chosen({**HELLO, "routing": {"maxLatency": 1000}}, node, given=given)) == ["a"]
    assert order(chosen({**HELLO, "routing": {"maxLatency": 800}}, node, given=given)) == []


def featured(name: str, features: tuple[str, ...] | None, reads: tuple[str, ...] = ("text",)) -> Provider:
    node = provider(name, ("m", PRICE))
    offers = tuple(msgspec.structs.replace(o, features=features, input=reads) for o in node.offers)
    return msgspec.structs.replace(node, announcement=msgspec.structs.replace(node.announcement, models=offers))


def test_what_a_task_needs_the_model_must_have() -> None:
    tools = {**HELLO, "tools": [{"type": "function", "function": {"name": "f"}}]}
    able, unable, silent = featured("able", ("tools",)), featured("unable", ("json",)), featured("silent", None)
    choice = chosen(tools, able, unable, silent)
    assert set(order(choice)) == {"able", "silent"}
    assert choice.rejected["unable: m"] == "it has no tools"
    assert order(chosen({**tools, "provider": {"require_parameters": True}}, able, unable, silent)) == ["able"]
    picture = {**HELLO, "messages": [{"role": "user", "content": [PICTURE]}]}
    seeing = featured("sees", None, ("text", "image")), featured("has vision", ("vision",))
    assert set(order(chosen(picture, featured("blind", None), *seeing))) == {"sees", "has vision"}
    form = {**HELLO, "response_format": {"type": "json_object"}}
    assert order(chosen(form, able, unable)) == ["unable"]


def test_one_liar_does_not_move_the_ladder_of_models() -> None:
    honest = [provider(f"h{n}", ("small", PRICE), ("large", times(PRICE, 20))) for n in range(3)]
    liar = provider("liar", ("large", ModelPrice(1, 1)))
    assert Market([*honest, liar]).ladder == ["small", "large"]


def test_a_market_of_thousands_forgets_nothing_that_changed() -> None:
    """Weights are kept between choices: what is noted of a node in between counts at once."""
    nodes = [provider(f"n{n}", ("m", PRICE)) for n in range(50)]
    market, given = Market(nodes), Circumstances()
    wishes, request = read_wishes(LONG)
    seen = []
    for _ in range(10):
        choice = choose(request, assess(request), market, (PURSE,), wishes=wishes, given=given)
        node = choice.candidates[0].provider
        seen.append(key(node))
        given.healths.began(key(node))
        given.healths.failed(key(node))
    assert len(set(seen)) == 10


def test_a_key_is_never_taken_for_a_name() -> None:
    good = provider("good", ("m", times(PRICE, 3)))
    thieves = [provider(name, ("m", PRICE)) for name in (good.npub, key(good))]
    for name in (good.npub, key(good)):
        assert order(chosen({**HELLO, "provider": {"only": [name]}}, good, *thieves)) == ["good"]
    assert order(chosen({**HELLO, "provider": {"only": ["npub1nonsense"]}}, good, *thieves)) == []


def test_who_invents_models_does_not_make_the_tiers() -> None:
    prices = [times(PRICE, 1 + n) for n in range(6)]
    honest = [provider(f"h{n}", *((f"m{k}", price) for k, price in enumerate(prices))) for n in range(3)]
    inventor = provider("inventor", *((f"x{n}", times(PRICE, 1000 + n)) for n in range(30)))
    market = Market([*honest, inventor])
    assert sum(model.startswith("x") for model in market.ladder) == 2
    assert {"m4", "m5"} <= set(market.ladder)


def test_nodes_that_take_no_coins_of_ours_are_not_looked_at_one_by_one() -> None:
    """Else a thousand cheap ones of another mint would make every choice slow."""
    others = [provider(f"o{n}", ("m", PRICE), mints=("https://other.example",)) for n in range(100)]
    ours = provider("ours", ("m", times(PRICE, 5)))
    choice = chosen(HELLO, *others, ours)
    assert order(choice) == ["ours"]
    assert choice.rejected["o1: m"] == "takes ecash of none of our mints"


def test_who_takes_no_token_with_a_request_is_not_paid() -> None:
    keys = provider("keys", ("m", PRICE), payments=("key", "lightning"))
    silent = provider("silent", ("m", times(PRICE, 2)), payments=None)
    usual = provider("usual", ("m", times(PRICE, 3)), payments=("key", "x-cashu"))
    choice = chosen(HELLO, keys, silent, usual)
    assert order(choice) == ["silent", "usual"]
    assert "X-Cashu" in choice.rejected["keys: m"]


def test_where_onions_are_wanted_nobody_else_is_asked() -> None:
    behind = provider("behind", ("m", times(PRICE, 3)), url=f"http://{'a' * 56}.onion")
    open_ = provider("open", ("m", PRICE))
    choice = chosen({**HELLO, "provider": {"onion": True}}, behind, open_)
    assert order(choice) == ["behind"]
    assert "onion" in choice.rejected["open: m"]
    assert len(order(chosen(HELLO, behind, open_))) == 2
    assert read_wishes(HELLO, onion=True)[0].onion
    assert not read_wishes({**HELLO, "provider": {"onion": False}}, onion=True)[0].onion, "a request can overrule it"


def test_where_a_region_is_wanted_who_does_not_say_that_it_stands_there_is_out() -> None:
    nodes = (
        provider("ch", ("m", PRICE), region="CH"),
        provider("us", ("m", PRICE), region="US"),
        provider("?", ("m", PRICE)),
    )
    for wish in ({"region": "ch"}, {"regions": ["CH", "DE"]}):
        choice = chosen({**HELLO, "provider": wish}, *nodes)
        assert order(choice) == ["ch"]
        assert set(choice.rejected.values()) == {"says that it stands in US", "does not say where it stands"}
    assert len(order(chosen(HELLO, *nodes))) == 3
    wrong: list[dict[str, Any]] = [{"region": "Europe"}, {"regions": []}, {"regions": ["C1"]}]
    for each in wrong:
        with pytest.raises(BadRequest, match="ISO 3166"):
            chosen({**HELLO, "provider": each}, *nodes)


def test_a_model_that_only_reads_is_no_tier_of_those_that_write() -> None:
    """It would be the cheapest, and of its tier nothing could be bought that is written."""
    reader = ModelOffer("vectors", ModelLimits(4096, 4096), ModelPrice(1, 0), endpoints=("embeddings",))
    other = provider("embeds", ("x", PRICE), models=(reader,))
    choice = chosen({**HELLO, "model": "auto:cheap"}, other, provider("chats", ("m", PRICE)))
    assert [candidate.offer.id for candidate in choice.candidates] == ["m"]
    assert Market([other]).ladder == []
