"""What cannot be served is refused before money moves, with what is wrong; the hold is tight."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.asks import read_ask
from node.config import Settings, load_settings
from node.errors import Refusal
from node.quote import Quote, quote_for, upstream_request
from node.shop.catalogue import Catalogue
from node.shop.tariffs import Tariffs
from relays.bounds import most_usage
from relays.endpoints import CHAT
from relays.pricing import Usage
from tests.node.test_config import GOOD

SETTINGS = load_settings(Settings, None, **GOOD)
SHOP = Catalogue(SETTINGS, SETTINGS.upstreams(), Tariffs(SETTINGS.fixed_btc_usd))
SHOP.update({"upstream": [{"id": "m", "context_length": 1000, "max_output_tokens": 100}]})
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def raw(**changes: Any) -> bytes:
    return json.dumps(HELLO | changes).encode()


def quote_chat(body: bytes) -> Quote:
    return quote_for(read_ask(CHAT, body, "application/json"), SHOP)


def most(quote: Quote) -> Usage:
    return most_usage(quote.ask.fields, quote.model.limits, quote.model.price)


def sent(quote: Quote) -> Any:
    return json.loads(upstream_request(quote, quote.sources[0]).body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        raw(model=None),
        raw(model=""),
        raw(model=7),
        raw(messages=None),
        raw(messages=[]),
        raw(messages="hi"),
        raw(messages=["hi"]),
        raw(messages=[{"content": "x"}]),
        raw(max_tokens=0),
        raw(max_tokens=-5),
        raw(max_tokens=1.5),
        raw(max_tokens="many"),
        raw(max_completion_tokens=True),
        raw(n=0),
        raw(n=1000),
        raw(stream="yes"),
        raw(stream_options=[]),
        raw(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]),
        raw(messages=[{"role": "user", "content": [{"type": "input_audio"}]}]),
        raw(messages=[{"role": "user", "content": [{"type": "x"}]}]),
        raw(n_predict=1000),
        raw(models=["dearer"]),
        raw(service_tier="priority"),
        b'{"model": "m", "messages": [{"role": "user", "content": "\xff"}]}',
    ],
)
def test_bad_requests_are_400_with_a_reason(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        quote_chat(body)
    assert caught.value.status == 400
    assert len(caught.value.message) > 10


def test_an_unknown_model_is_404() -> None:
    with pytest.raises(Refusal) as caught:
        quote_chat(raw(model="gpt-9"))
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_the_hold_is_what_the_request_can_cost() -> None:
    quote = quote_chat(raw(max_tokens=10))
    seen = len(json.dumps({"messages": HELLO["messages"]}, separators=(",", ":"))) + 64
    assert (most(quote).prompt_tokens, most(quote).completion_tokens) == (seen, 10)
    assert quote.hold_msat == -(-(seen * 500_000 + 10 * 2_000_000) // 10**6)


def test_without_max_tokens_the_longest_answer_is_held() -> None:
    assert most(quote_chat(raw())).completion_tokens == 100


def test_the_upstream_is_asked_for_usage_and_for_no_more_than_is_held() -> None:
    assert sent(quote_chat(raw())) == HELLO | {"max_tokens": 100}
    assert sent(quote_chat(raw(stream=True, max_tokens=5000, seed=1))) == HELLO | {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 100,
        "seed": 1,
    }


extras = st.dictionaries(
    st.sampled_from(["temperature", "seed", "response_format", "logprobs", "user", "metadata"]),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
)


@given(extras)
def test_what_is_not_ours_passes_untouched(fields: dict[str, Any]) -> None:
    body = json.dumps(HELLO | fields).encode()
    passed = sent(quote_chat(body))
    assert 0 < passed.pop("max_tokens", 1) <= 100
    assert passed == json.loads(body)
