"""Selection: whoever cannot serve is out with a reason, and among the rest the one expected to cost least is first."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relays.announcement import Announcement, ModelOffer
from relays.bounds import ModelLimits
from relays.capacity import Capacity
from relays.event import Signer
from relays.money import MAX_MSAT
from relays.pricing import ModelPrice
from router_client.complexity import Task, assess
from router_client.discovery.directory import Provider
from router_client.discovery.plain import Listed
from router_client.discovery.trust import Trust
from router_client.routing.candidates import Purse
from router_client.selection import Choice, choose

MINT = "https://mint.example"
PURSE = Purse(MINT, "msat", 10**9)
HELLO: dict[str, Any] = {"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}
LONG: dict[str, Any] = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "word " * 400}]}
DEAR_TOKENS = ModelPrice(2_000_000, 8_000_000, 0)
DEAR_REQUEST = ModelPrice(500_000, 2_000_000, 2000)


def provider(name: str, *offers: tuple[str, ModelPrice], **changes: Any) -> Provider:
    fields: dict[str, Any] = {
        "pubkey": Signer.generate().pubkey,
        "identifier": "satroute",
        "urls": ("http://x",),
        "mints": (f"{MINT}/",),
        "version": "1",
        "name": name,
        "about": "",
        "models": tuple(ModelOffer(id_, ModelLimits(4096, 2048), price) for id_, price in offers),
        "created_at": 1,
        "expires_at": None,
    }
    url = changes.pop("url", "http://x")
    return Provider(Announcement(**fields | changes), url)


def chosen(body: dict[str, Any], *providers: Provider, purses: tuple[Purse, ...] = (PURSE,), **options: Any) -> Choice:
    return choose(body, assess(body), providers, purses, **options)


def order(choice: Choice) -> list[str]:
    return [candidate.provider.announcement.name for candidate in choice.candidates]


def test_the_shape_of_a_price_decides_by_the_shape_of_the_task() -> None:
    sprint, marathon = provider("sprint", ("m", DEAR_TOKENS)), provider("marathon", ("m", DEAR_REQUEST))
    assert order(chosen(HELLO, marathon, sprint)) == ["sprint", "marathon"]
    assert order(chosen(LONG, sprint, marathon)) == ["marathon", "sprint"]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (provider("a", ("m", DEAR_TOKENS), url=None), "does not answer"),
        (provider("a", models=None), "no prices"),
        (provider("a", ("other", DEAR_TOKENS)), "not the model"),
        (provider("a", ("m", DEAR_TOKENS), mints=("https://other.example",)), "none of our mints"),
        (provider("a", ("m", ModelPrice(10**15, 10**15))), "could cost"),
        (provider("a", ("m", ModelPrice(1, 1, MAX_MSAT))), "beyond all bitcoin"),
    ],
)
def test_who_cannot_serve_is_out_with_a_reason(candidate: Provider, reason: str) -> None:
    choice = chosen(LONG, candidate)
    assert choice.candidates == ()
    assert reason in " ".join(choice.rejected.values())


def test_a_prompt_that_does_not_fit_the_context_is_out() -> None:
    huge = {**HELLO, "messages": [{"role": "user", "content": "x" * 20_000}]}
    assert "context" in " ".join(chosen(huge, provider("a", ("m", DEAR_TOKENS))).rejected.values())


def test_a_price_ceiling_is_kept_on_the_most_it_can_cost() -> None:
    node = provider("a", ("m", DEAR_TOKENS))
    hold_msat = chosen(HELLO, node).candidates[0].hold_msat
    assert order(chosen(HELLO, node, max_cost_msat=hold_msat)) == ["a"]
    assert order(chosen(HELLO, node, max_cost_msat=hold_msat - 1)) == []


def test_ignored_nodes_are_out() -> None:
    node = provider("a", ("m", DEAR_TOKENS))
    assert order(chosen(HELLO, node, ignore={node.announcement.pubkey})) == []


def test_a_purse_that_covers_the_hold_comes_first_and_msat_before_sat() -> None:
    node = provider("a", ("m", DEAR_TOKENS))
    poor, sats = Purse(MINT, "msat", 1), Purse(MINT, "sat", 1000)
    assert chosen(HELLO, node, purses=(poor, sats)).candidates[0].purse == sats
    assert chosen(HELLO, node, purses=(sats, PURSE)).candidates[0].purse == PURSE
    assert "wallet holds" in " ".join(chosen(HELLO, node, purses=(poor,)).rejected.values())
    assert "none of our mints" in " ".join(chosen(HELLO, node, purses=()).rejected.values())


@pytest.mark.parametrize(("tier", "model"), [("cheap", "small"), ("mid", "medium"), ("premium", "large")])
def test_auto_takes_the_model_of_the_tier(tier: Any, model: str) -> None:
    offers = [(name, ModelPrice(price, price)) for name, price in (("small", 10), ("medium", 100), ("large", 1000))]
    shop = provider("a", *offers)
    choice = choose({**HELLO, "model": "auto"}, Task(0.5, tier, 10, 10), [shop], [PURSE])
    assert [candidate.offer.id for candidate in choice.candidates] == [model]


def test_auto_with_one_model_takes_it_for_every_tier() -> None:
    for tier in ("cheap", "mid", "premium"):
        choice = choose({**HELLO, "model": "auto"}, Task(0.5, tier, 1, 1), [provider("a", ("m", DEAR_TOKENS))], [PURSE])
        assert len(choice.candidates) == 1


def test_a_request_has_a_size_and_nobody_to_ask_means_cheap() -> None:
    assert assess({"messages": []}).tier == "cheap"
    assert assess({**HELLO, "n": 3}).completion_tokens == 60


def trusted(of: Provider, score: float, *, blocked: bool = False) -> Provider:
    return msgspec.structs.replace(of, trust=Trust(score, ("measured",), blocked))


def test_trust_weighs_against_the_price_and_the_distrusted_are_out() -> None:
    cheap, dear = provider("cheap", ("m", ModelPrice(1_000_000, 4_000_000))), provider("dear", ("m", DEAR_TOKENS))
    assert order(chosen(HELLO, dear, cheap)) == ["cheap", "dear"]
    assert order(chosen(HELLO, trusted(cheap, 0.2), trusted(dear, 1.0))) == ["dear", "cheap"]
    for out in (trusted(cheap, 0.5, blocked=True), trusted(cheap, 0.1)):
        choice = chosen(HELLO, out, dear)
        assert order(choice) == ["dear"]
        assert choice.rejected["cheap"] == "not trusted: measured"


def test_a_plain_node_is_bought_from_by_its_list_with_what_it_wants_to_see_and_costs_more_in_our_eyes() -> None:
    model = Listed(ModelOffer("m", ModelLimits(4096, 2048), DEAR_TOKENS), least_msat=50_000)
    plain = msgspec.structs.replace(provider("plain", models=None), listed=(model,))
    ours = provider("ours", ("m", ModelPrice(2_400_000, 9_600_000)))
    choice = chosen(HELLO, plain, ours)
    assert order(choice) == ["ours", "plain"], "a fifth cheaper is less than a receipt is worth"
    assert choice.candidates[1].hold_msat == 50_000
    assert order(chosen(HELLO, plain, provider("dear", ("m", ModelPrice(3_000_000, 12_000_000))))) == ["plain", "dear"]
    assert chosen(HELLO, msgspec.structs.replace(plain, listed=())).rejected["plain"] == "announces no prices"


def test_the_dead_do_not_decide_what_auto_means() -> None:
    """Else ten thousand announcements of nothing would move the tiers."""
    living = provider("living", ("m", DEAR_TOKENS))
    crowd = [provider(f"{n}", (f"free{n}", ModelPrice(0, 0)), url=None) for n in range(20)]
    assert order(chosen({**HELLO, "model": "auto"}, *crowd, living)) == ["living"]


def doing(node: Provider, **said: Any) -> Provider:
    """The node with figures of its own."""
    fields = {"capacity": 8, "max_concurrent": 8, "created_at": 1, "expires_at": 2**40} | said
    announced = node.announcement
    capacity = Capacity(pubkey=announced.pubkey, identifier=announced.identifier, **fields)
    return msgspec.structs.replace(node, capacity=capacity)


@pytest.mark.parametrize(
    ("said", "first"),
    [
        ({}, "one"),
        ({"capacity": 0}, "other"),
        ({"state": "draining", "capacity": 0}, "other"),
        ({"state": "draining"}, "other"),
        ({"capacity": 1}, "other"),
        ({"error_rate_bps": 5000}, "other"),
        ({"model": "m", "price_msats": 20_000}, "other"),
        ({"model": "another", "price_msats": 20_000}, "one"),
        ({"model": "m", "price_msats": 0}, "one"),
        ({"max_concurrent": 0, "capacity": 5}, "one"),
    ],
)
def test_a_node_that_says_it_is_full_ending_failing_or_dearer_now_loses(said: dict[str, Any], first: str) -> None:
    price = ModelPrice(2_000_000, 8_000_000)
    one = provider("one", ("m", price))
    other = provider("other", ("m", msgspec.structs.replace(price, completion_msat_per_mtok=9_000_000)))
    assert order(chosen(HELLO, doing(one, **said), other))[0] == first
    assert order(chosen(HELLO, doing(one, **said))) == ["one"], "nobody else is there"


def test_fine_figures_gain_nothing() -> None:
    price = ModelPrice(2_000_000, 8_000_000)
    silent, dearer = provider("silent", ("m", price)), provider("boaster", ("m", ModelPrice(2_000_001, 8_000_001)))
    boast = {"capacity": 10**6, "max_concurrent": 10**6, "model": "m", "price_msats": 0, "tokens_per_s": 10**6}
    assert order(chosen(LONG, doing(dearer, **boast), silent)) == ["silent", "boaster"]


def test_figures_beside_a_price_that_cannot_be_are_no_fault() -> None:
    node = provider("huge", ("m", ModelPrice(MAX_MSAT, 0)))
    body = {**HELLO, "messages": [{"role": "user", "content": ""}]}
    choice = choose(body, assess(body), [doing(node, model="m", price_msats=1)], [PURSE])
    assert order(choice) == []
    assert "the wallet holds" in choice.rejected["huge: m"]
