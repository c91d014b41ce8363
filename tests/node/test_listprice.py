"""From a price list in USD to msat: exact, rounded up part by part, never below what the list says, never above the hold."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.shop.listprice import MsatPrice, Tariff, UsdPrice, read_usd, scaled
from relays.bounds import ModelLimits, largest_usage, most_usage
from relays.endpoints import CHAT, IMAGES
from relays.errors import MoneyError
from relays.money import MSAT_PER_BTC
from relays.pricing import ModelPrice, SizePrice, Usage, at_most, ceiling, cost, parts_of, price_for

AT_100K = Tariff(Decimal(100_000))
"""One USD is a million msat."""


def listed(pricing: dict[str, Any], *, makes_images: bool = False, markup: str = "1") -> UsdPrice:
    return read_usd(pricing, makes_images=makes_images, markup=Decimal(markup), request_msat=Decimal(0))


REAL: list[tuple[str, dict[str, Any], bool, ModelPrice]] = [
    (
        "gpt-4o-mini",
        {"prompt": "0.00000015", "completion": "0.0000006", "request": "0", "image": "0.000217", "web_search": "0"},
        False,
        ModelPrice(150_000, 600_000),
    ),
    (
        "claude-sonnet",
        {
            "prompt": "0.000003",
            "completion": "0.000015",
            "input_cache_read": "0.0000003",
            "input_cache_write": "0.00000375",
        },
        False,
        ModelPrice(3_000_000, 15_000_000, cached_msat_per_mtok=300_000, cache_write_msat_per_mtok=3_750_000),
    ),
    (
        "gemini-flash",
        {"prompt": "0.0000003", "completion": "0.0000025", "audio": "0.000001", "internal_reasoning": "0.0000025"},
        False,
        ModelPrice(300_000, 2_500_000, audio_msat_per_mtok=1_000_000),
    ),
    (
        "gpt-4o-audio",
        {"prompt": "0.0000025", "completion": "0.00001", "audio": "0.00004", "audio_output": "0.00008"},
        False,
        ModelPrice(2_500_000, 10_000_000, audio_msat_per_mtok=40_000_000, speech_msat_per_mtok=80_000_000),
    ),
    (
        "sonar",
        {"prompt": "0.000001", "completion": "0.000001", "request": "0.005", "web_search": "0.005"},
        False,
        ModelPrice(1_000_000, 1_000_000, 5_000, search_msat=5_000),
    ),
    (
        "dall-e-3",
        {
            **{"prompt": "0", "completion": "0", "image": "0.08"},
            "image_sizes": {"1024x1024": "0.04", "1024x1024:hd": "0.08", "1024x1792": "0.08", "1024x1792:hd": "0.12"},
        },
        True,
        ModelPrice(
            0,
            0,
            image_msat=80_000,
            image_sizes=(
                SizePrice("1024x1024", 40_000),
                SizePrice("1024x1024", 80_000, "hd"),
                SizePrice("1024x1792", 80_000),
                SizePrice("1024x1792", 120_000, "hd"),
            ),
        ),
    ),
    (
        "whisper-1",
        {"prompt": "0", "completion": "0", "audio_second": "0.0001"},
        False,
        ModelPrice(0, 0, audio_msat_per_hour=360_000),
    ),
    (
        "tts-1",
        {"prompt": "0", "completion": "0", "character": "0.000015"},
        False,
        ModelPrice(0, 0, characters_msat_per_mchar=15_000_000),
    ),
]


@pytest.mark.parametrize(("name", "pricing", "makes_images", "price"), REAL, ids=[row[0] for row in REAL])
def test_real_price_lists(name: str, pricing: dict[str, Any], makes_images: bool, price: ModelPrice) -> None:
    assert listed(pricing, makes_images=makes_images).at(AT_100K) == price


def test_a_picture_that_is_read_costs_its_tokens_and_not_what_the_list_says_of_it() -> None:
    assert listed({"prompt": "1e-7", "completion": "1e-7", "image": "0.5"}).at(AT_100K).image_msat == 0


@pytest.mark.parametrize(
    "pricing",
    [
        {},
        {"prompt": "1"},
        {"prompt": None, "completion": "1"},
        {"prompt": "-1", "completion": "-1"},
        {"prompt": "NaN", "completion": "1"},
        {"prompt": "1", "completion": "Infinity"},
        {"prompt": "1e-99999999", "completion": "1"},
        {"prompt": "1e99999999", "completion": "1"},
        {"prompt": "1e-7", "completion": "1e-7", "image_sizes": ["x"]},
        {"prompt": "1e-7", "completion": "1e-7", "image_sizes": {"x": "-1"}},
        {"prompt": "1e-7", "completion": "1e-7", "request": "free"},
    ],
)
def test_what_is_no_price_is_said(pricing: dict[str, Any]) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        listed(pricing)


def test_without_a_price_of_bitcoin_there_is_none_in_msat() -> None:
    with pytest.raises(ValueError, match="bitcoin"):
        listed({"prompt": "1", "completion": "1"}).at(Tariff(None))


def test_what_is_beyond_all_bitcoin_is_refused() -> None:
    with pytest.raises(MoneyError):
        listed({"prompt": "900000000", "completion": "1"}).at(Tariff(Decimal(1)))


usd = st.decimals("0", "1", places=12)
NAMES = (
    *("request", "input_cache_read", "input_cache_write", "internal_reasoning", "audio", "audio_output"),
    *("web_search", "image", "audio_second", "character"),
)
pricings = st.fixed_dictionaries({"prompt": usd, "completion": usd}, optional=dict.fromkeys(NAMES, usd))
rates = st.decimals("1000", "10000000", places=2)
factors = st.decimals("0.5", "3", places=2)
markups = st.decimals("1", "5", places=3)
counts = st.integers(0, 100_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    cached, write, audio, plain = (draw(counts) for _ in range(4))
    reasoning, speech, said = (draw(counts) for _ in range(3))
    return Usage(
        cached + write + audio + plain,
        reasoning + speech + said,
        cached,
        write,
        reasoning,
        audio,
        speech,
        draw(st.integers(0, 10)),
        draw(st.integers(0, 10**7)),
        draw(counts),
        draw(st.integers(0, 5)),
    )


def exact_usd(usage: Usage, pricing: dict[str, Decimal]) -> Fraction:
    """What the list wants for it, to the last digit. A kind of tokens at no price costs what the others do."""

    def of(name: str, otherwise: str) -> Fraction:
        return Fraction(pricing.get(name) or pricing[otherwise])

    read = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens - usage.audio_tokens
    written = usage.completion_tokens - usage.reasoning_tokens - usage.speech_tokens
    return (
        read * Fraction(pricing["prompt"])
        + usage.cached_tokens * of("input_cache_read", "prompt")
        + usage.cache_write_tokens * of("input_cache_write", "prompt")
        + usage.audio_tokens * of("audio", "prompt")
        + written * Fraction(pricing["completion"])
        + usage.reasoning_tokens * of("internal_reasoning", "completion")
        + usage.speech_tokens * of("audio_output", "completion")
        + Fraction(pricing.get("request", Decimal(0)))
        + usage.searches * Fraction(pricing.get("web_search", Decimal(0)))
        + usage.images * Fraction(pricing.get("image", Decimal(0)))
        + Fraction(usage.audio_ms, 1000) * Fraction(pricing.get("audio_second", Decimal(0)))
        + usage.characters * Fraction(pricing.get("character", Decimal(0)))
    )


@given(pricings, rates, factors, markups, usages())
def test_nothing_is_sold_below_its_list_price_nor_a_msat_a_part_above(
    pricing: dict[str, Decimal], btc_usd: Decimal, factor: Decimal, markup: Decimal, usage: Usage
) -> None:
    price = listed(pricing, makes_images=True, markup=str(markup)).at(Tariff(btc_usd, factor))
    asked_msat = exact_usd(usage, pricing) * Fraction(markup) * Fraction(factor) * MSAT_PER_BTC / Fraction(btc_usd)
    charged_msat = cost(usage, price)
    assert charged_msat >= asked_msat
    # every price is rounded up to a msat a million tokens, an hour, or a piece; and the sum to a msat
    rounding = Fraction(usage.prompt_tokens + usage.completion_tokens + usage.characters, 10**6)
    rounding += Fraction(usage.audio_ms, 3_600_000) + usage.images + usage.searches + 2
    assert charged_msat < asked_msat + rounding


bodies: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=100)}), min_size=1
        )
    },
    optional={
        "max_tokens": st.integers(1, 5000),
        "n": st.integers(1, 3),
        "web_search_options": st.just({}),
        "modalities": st.just(["text", "audio"]),
    },
)
limits = st.builds(
    lambda window, top: ModelLimits(window, min(window, top)), st.integers(100, 200_000), st.integers(1, 9999)
)


@given(bodies, limits, pricings, rates, st.data())
def test_no_usage_that_a_request_can_have_costs_more_than_its_hold(
    body: dict[str, Any], model: ModelLimits, pricing: dict[str, Decimal], btc_usd: Decimal, data: st.DataObject
) -> None:
    """Of any kinds of tokens."""
    price = listed(pricing).at(Tariff(btc_usd))
    largest = largest_usage(body, model)
    completion = data.draw(st.integers(0, largest.completion_tokens // body.get("n", 1)))
    prompt = data.draw(st.integers(0, max(0, min(largest.prompt_tokens, model.context_length - completion))))
    cached = data.draw(st.integers(0, prompt))
    write = data.draw(st.integers(0, prompt - cached))
    written = completion * body.get("n", 1)
    reasoning = data.draw(st.integers(0, written))
    speech = data.draw(st.integers(0, written - reasoning)) if "modalities" in body else 0
    found = data.draw(st.integers(0, largest.searches))
    used = Usage(prompt, written, cached, write, reasoning, speech_tokens=speech, searches=found)
    assert used.within(largest)
    assert cost(used, price) <= cost(most_usage(body, model, price), price)


prices = st.builds(lambda pricing, rate: listed(pricing, makes_images=True).at(Tariff(rate)), pricings, rates)
sized = st.builds(
    lambda price, sizes: ModelPrice(1, 1, image_msat=price, image_sizes=tuple(sizes)),
    st.integers(0, 100),
    st.lists(
        st.builds(SizePrice, st.sampled_from(["s", "m"]), st.integers(0, 100), st.sampled_from(["", "hd"])),
        max_size=4,
        unique_by=lambda size: (size.size, size.quality),
    ),
)


@given(prices, prices, usages())
def test_a_ceiling_is_below_neither(first: ModelPrice, second: ModelPrice, usage: Usage) -> None:
    both = ceiling(first, second)
    assert at_most(first, both)
    assert at_most(second, both)
    assert cost(usage, both) >= max(cost(usage, first), cost(usage, second))


@given(sized, sized, st.sampled_from(["s", "m", "l", "auto", None]), st.sampled_from(["hd", "sd", "auto", None]))
def test_a_ceiling_is_below_no_image_of_any_size(
    first: ModelPrice, second: ModelPrice, size: str | None, quality: str | None
) -> None:
    fields = {"size": size, "quality": quality}
    image = Usage(0, 0, images=1)
    both = ceiling(first, second)
    assert at_most(first, both)
    assert at_most(second, both)
    most = cost(image, price_for(fields, IMAGES, both))
    assert most >= max(cost(image, price_for(fields, IMAGES, price)) for price in (first, second))
    for price in (first, second):
        assert (cost(image, price_for(fields, IMAGES, price)) == 0) <= (
            price.largest_image_msat == 0 or 0 in _listed(price)
        )
        assert price_for(fields, CHAT, price).image_sizes == ()


def _listed(price: ModelPrice) -> list[int]:
    return [size.msat for size in price.image_sizes]


@given(prices, st.fractions("1/2", "3"), usages())
def test_a_price_times_a_factor_is_rounded_up(price: ModelPrice, factor: Fraction, usage: Usage) -> None:
    dearer = scaled(price, factor)
    assert parts_of(usage, dearer) >= parts_of(usage, price) * factor
    assert MsatPrice(price).at(Tariff(None)) == price
