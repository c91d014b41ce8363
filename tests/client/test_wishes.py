"""What a request says of its routing is read in OpenRouter's and Pura's words; what cannot be kept is refused."""

from __future__ import annotations

from typing import Any

import pytest

from router_client.errors import BadRequest
from router_client.routing.wishes import Cascade, MaxPrice, Wishes, read_wishes, session_of


def wishes(**body: Any) -> Wishes:
    return read_wishes(body)[0]


def test_nothing_said_is_auto_and_balanced() -> None:
    assert wishes() == Wishes()
    assert wishes(model="m") == Wishes(models=("m",))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m:floor", Wishes(models=("m",), sort="price")),
        ("m:nitro", Wishes(models=("m",), sort="throughput")),
        ("qwen3:0.6b", Wishes(models=("qwen3:0.6b",))),
        ("auto:cheap", Wishes(profile="cheap")),
        ("auto:best", Wishes(profile="best")),
        ("auto:free", Wishes(models=("auto:free",))),
    ],
)
def test_the_ending_of_a_name(name: str, expected: Wishes) -> None:
    assert wishes(model=name) == expected


def test_models_are_tried_in_their_order() -> None:
    assert wishes(model="a:floor", models=["a", "b:nitro", "c"]) == Wishes(models=("a", "b", "c"), sort="price")
    assert wishes(models=["a", "b"]).models == ("a", "b")


def test_openrouters_provider() -> None:
    provider = {
        "order": ["one", "two"],
        "only": ["one", "two", "three"],
        "ignore": ["four"],
        "allow_fallbacks": False,
        "require_parameters": True,
        "data_collection": "allow",
        "sort": {"by": "latency"},
        "max_price": {"prompt": 1, "completion": 2.5},
        "preferred_min_throughput": 50,
    }
    assert wishes(model="m", provider=provider) == Wishes(
        models=("m",),
        order=("one", "two"),
        only=("one", "two", "three"),
        ignore=("four",),
        allow_fallbacks=False,
        require_parameters=True,
        sort="latency",
        max_price=MaxPrice(1, 2.5),
        preferred_min_throughput=50,
    )


def test_puras_routing() -> None:
    routing = {
        "quality": "high",
        "prefer": "one",
        "maxCost": 0.01,
        "maxLatency": 800,
        "excludeProviders": ["bad"],
        "cascade": True,
        "cascade_threshold": 0.7,
        "cascade_max_depth": 2,
    }
    assert wishes(routing=routing) == Wishes(
        tier="premium",
        order=("one",),
        max_cost_usd=0.01,
        max_latency_ms=800,
        ignore=("bad",),
        cascade=Cascade(0.7, 2),
    )
    assert wishes(routing={"prefer": "speed"}).profile == "fast"
    assert [wishes(routing={"quality": q}).tier for q in (0, 0.5, 1)] == ["cheap", "mid", "premium"]


@pytest.mark.parametrize(
    "body",
    [
        {"provider": {"data_collection": "deny"}},
        {"provider": {"quantizations": ["int8"]}},
        {"provider": {"zdr": True}},
        {"provider": {"order": "one"}},
        {"provider": "one"},
        {"provider": {"only": ["x"] * 65}},
        {"routing": {"quality": "superb"}},
        {"routing": {"quality": 2}},
        {"routing": {"maxCost": 0}},
        {"routing": {"maxLatency": -1}},
        {"routing": {"max_cost_msat": 0}},
        {"routing": {"cascade": True, "cascade_threshold": 1.5}},
        {"routing": {"cascade": True, "cascade_max_depth": 3}},
        {"routing": {"profile": "frugal"}},
        {"models": "m"},
        {"models": [1]},
        {"models": [f"m{n}" for n in range(100)]},
    ],
)
def test_what_cannot_be_kept_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        read_wishes(body)


def test_a_node_gets_the_request_without_its_routing() -> None:
    body = {"model": "m:nitro", "models": ["n"], "provider": {}, "routing": {}, "temperature": 0}
    assert read_wishes(body)[1] == {"model": "m", "temperature": 0}
    assert body["model"] == "m:nitro", "the caller's own is left as it was"


def test_turns_of_one_conversation_are_one_session_and_others_are_not() -> None:
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    turn = [*first, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "And now?"}]
    assert session_of(Wishes(), {"messages": first}) == session_of(Wishes(), {"messages": turn})
    other = [{"role": "user", "content": "Hello"}]
    assert session_of(Wishes(), {"messages": other}) != session_of(Wishes(), {"messages": first})
    assert session_of(wishes(user="u7"), {"messages": other}) == "u7"
    assert session_of(wishes(user="u7", routing={"session": "s"}), {}) == "s"
