"""What the node holds and charges is what the buyer computes from the announcement alone: never more, whoever serves."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from node.asks import read_ask
from node.config import Settings, load_settings
from node.quote import known_of, quote_for, told
from node.shop.catalogue import Catalogue
from node.shop.tariffs import Tariffs
from node.upstream.spec import UpstreamSpec
from relays.bounds import largest_usage, most_usage
from relays.endpoints import CHAT, EMBEDDINGS, IMAGES, MESSAGES, RESPONSES, Endpoint
from relays.pricing import Usage, at_most, cost, price_for
from tests.node.test_config import GOOD
from tests.relays.test_pictures import part, png

SETTINGS = load_settings(Settings, None, **{k: v for k, v in GOOD.items() if not k.startswith("fixed_per")})
NAMES = ("gpt-4o-mini", "claude-x", "unknown")
parts_msat = st.integers(1, 10**9)
priced = st.fixed_dictionaries(
    {"prompt_msat_per_mtok": parts_msat, "completion_msat_per_mtok": parts_msat, "request_msat": st.integers(0, 1000)},
    optional={
        "cached_msat_per_mtok": parts_msat,
        "cache_write_msat_per_mtok": parts_msat,
        "reasoning_msat_per_mtok": parts_msat,
        "image_msat": st.integers(1, 10**6),
        "image_sizes": st.lists(
            st.fixed_dictionaries({"size": st.sampled_from(["1x1", "2x2"]), "msat": st.integers(1, 10**6)}), max_size=2
        ),
    },
)
stocks = st.lists(
    st.fixed_dictionaries(
        {
            "msat_pricing": priced,
            "context_length": st.integers(1_000, 200_000),
            "max_output_tokens": st.integers(1, 9000),
            "there": st.sampled_from(NAMES),
        }
    ),
    min_size=1,
    max_size=3,
)
texts = st.text(max_size=200).filter(lambda text: text.isprintable() and text != "")
seen = st.builds(lambda side: part(png(side, side)), st.sampled_from([10, 700, 1024, 3000]))
messages = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": texts | st.lists(seen, min_size=1, max_size=2)}),
    min_size=1,
    max_size=2,
)
asks: st.SearchStrategy[tuple[Endpoint, dict[str, Any]]] = st.one_of(
    st.tuples(
        st.just(CHAT),
        st.fixed_dictionaries(
            {"messages": messages}, optional={"max_tokens": st.integers(1, 9999), "n": st.integers(1, 3)}
        ),
    ),
    st.tuples(st.just(MESSAGES), st.fixed_dictionaries({"messages": messages, "max_tokens": st.integers(1, 9999)})),
    st.tuples(st.just(RESPONSES), st.fixed_dictionaries({"input": texts})),
    st.tuples(st.just(EMBEDDINGS), st.fixed_dictionaries({"input": st.lists(texts, min_size=1, max_size=3)})),
    st.tuples(
        st.just(IMAGES),
        st.fixed_dictionaries({"prompt": texts}, optional={"size": st.sampled_from(["1x1", "2x2", "3x3", "auto"])}),
    ),
)


def shop_of(stock: list[dict[str, Any]]) -> Catalogue:
    """One model at several nodes that are resold, each at its own price and limits."""
    specs, lists = [], {}
    for number, entry in enumerate(stock):
        name = f"u{number}"
        there = entry["there"]
        specs.append(UpstreamSpec(name=name, kind="satroute", aliases={"m": there}, models=(there,)))
        lists[name] = [{"id": there, "architecture": {"input_modalities": ["text", "image"]}, **entry}]
    shop = Catalogue(SETTINGS, tuple(specs), Tariffs(None))
    shop.update(lists)
    return shop


@settings(max_examples=300)
@given(stocks, asks, st.data())
def test_the_buyer_computes_at_least_what_the_node_holds_and_charges(
    stock: list[dict[str, Any]], asked: tuple[Endpoint, dict[str, Any]], data: st.DataObject
) -> None:
    shop = shop_of(stock)
    (offer,) = [model.offer for model in shop.all() if model.id == "m"]
    endpoint, fields = asked
    body = {**fields, "model": "m"}
    model = shop.get("m")
    quote = quote_for(read_ask(endpoint, msgspec.json.encode(body), "application/json"), shop)
    answer = told(quote, 60)
    bought = price_for(body, endpoint, offer.price)
    mine_msat = cost(most_usage(body, offer.limits, bought, endpoint), bought)
    assert quote.hold_msat <= mine_msat
    assert answer.hold_msat == quote.hold_msat
    assert quote.hold_msat <= cost(most_usage(body, offer.limits, answer.price, endpoint), answer.price)
    if len(quote.sources) == len(model.sources) == 1:
        assert quote.hold_msat == mine_msat, "to the msat"
    most = largest_usage(body, offer.limits, endpoint)
    for source in quote.sources:
        price = price_for(body, endpoint, source.price)
        assert at_most(price, answer.price)
        assert at_most(price, bought)
        possible = known_of(quote.ask, source).most
        assert possible is not None
        used = Usage(
            data.draw(st.integers(0, possible.prompt_tokens)),
            data.draw(st.integers(0, possible.completion_tokens)),
            images=data.draw(st.integers(0, possible.images)),
        )
        assert used.within(most), "or the buyer would call an honest node a cheat"
