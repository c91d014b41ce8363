"""One function turns usage into money: exact, rounded up once, and never above what the bounds allow."""

from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays.bounds import ModelLimits, completion_bound, most_usage
from relays.errors import MoneyError
from relays.pricing import ModelPrice, Usage, cost
from relays.prompt import read_prompt

rates = st.integers(0, 10**12)
tokens = st.integers(0, 2_000_000)
prices = st.builds(ModelPrice, rates, rates, st.integers(0, 10**9))


@given(st.builds(Usage, tokens, tokens), prices)
def test_cost_is_the_exact_price_rounded_up_to_the_msat(usage: Usage, price: ModelPrice) -> None:
    exact = (
        Fraction(usage.prompt_tokens * price.prompt_msat_per_mtok, 10**6)
        + Fraction(usage.completion_tokens * price.completion_msat_per_mtok, 10**6)
        + price.request_msat
    )
    assert exact <= cost(usage, price) < exact + 1


def test_cost_of_known_usage() -> None:
    price = ModelPrice(2_000_000, 8_000_000, 5)
    assert cost(Usage(31, 5), price) == 62 + 40 + 5
    assert cost(Usage(0, 0), price) == 5
    assert cost(Usage(1, 0), ModelPrice(1, 1)) == 1


def test_a_price_or_usage_that_cannot_be_is_refused() -> None:
    with pytest.raises(MoneyError):
        ModelPrice(-1, 0)
    with pytest.raises(ValueError, match="cannot be"):
        Usage(-1, 0)
    with pytest.raises(MoneyError):
        cost(Usage(10**9, 0), ModelPrice(10**18, 0))


limits = st.builds(
    lambda context, share: ModelLimits(context, max(1, context * share // 100)),
    st.integers(100, 200_000),
    st.integers(1, 100),
)
bodies: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=300)}))},
    optional={"max_tokens": st.integers(1, 5000), "n": st.integers(1, 4)},
)


@given(bodies, limits, prices, st.floats(0, 1), st.floats(0, 1))
def test_no_usage_that_fits_the_request_costs_more_than_its_most(
    body: dict[str, Any], model: ModelLimits, price: ModelPrice, read: float, wrote: float
) -> None:
    prompt = int(read * min(read_prompt(body).bound(), model.context_length))
    written = int(wrote * min(completion_bound(body, model), model.context_length - prompt))
    used = Usage(prompt, written * body.get("n", 1))
    assert cost(used, price) <= cost(most_usage(body, model, price), price)


@given(st.text())
def test_a_prompt_is_never_bounded_below_its_bytes(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    body = {"messages": [{"role": "user", "content": text}]}
    assert read_prompt(body).bound() >= len(text.encode())
    assert read_prompt(body).likely() <= read_prompt(body).bound()


def test_max_tokens_tightens_the_bound() -> None:
    model = ModelLimits(8192, 4096)
    assert completion_bound({}, model) == 4096
    assert completion_bound({"max_tokens": 10}, model) == 10
    assert completion_bound({"max_completion_tokens": 20, "max_tokens": 10}, model) == 20
    assert completion_bound({"max_tokens": 10**9}, model) == 4096


def test_prices_on_the_wire_are_strict() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"prompt_msat_per_mtok":1.5,"completion_msat_per_mtok":1}', type=ModelPrice)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"prompt_msat_per_mtok":-1,"completion_msat_per_mtok":1}', type=ModelPrice)
