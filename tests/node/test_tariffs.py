"""Prices that move: a rise takes effect a minute after it is told, a fall at once; busy nodes are dearer within bounds."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import Settings, load_settings
from node.errors import Refusal
from node.shop.catalogue import Catalogue
from node.shop.tariffs import HOLDS_S, Tariffs, Utilisation, factor_of
from router_client.spending.btc import BtcPrice, PriceSource
from tests.node.books import Clock
from tests.node.hostile import Hostile
from tests.node.test_config import GOOD

USD = {k: v for k, v in GOOD.items() if not k.startswith("fixed_per")} | {"markup": "1"}
MODEL: dict[str, Any] = {"id": "m", "context_length": 1000, "pricing": {"prompt": "0.000001", "completion": "0.000001"}}


class Shop:
    """A catalogue of one model at one USD a million tokens, and the clock that its prices go by."""

    def __init__(self, btc_usd: str | None = "100000", **settings: Any) -> None:
        loaded = load_settings(Settings, None, **USD | settings)
        self.clock = Clock()
        self.known = True
        self.tariffs = Tariffs(None if btc_usd is None else Decimal(btc_usd), lambda: self.known, self.clock)
        self.catalogue = Catalogue(loaded, loaded.upstreams(), self.tariffs, self.clock)
        self.list(MODEL)

    def list(self, *models: dict[str, Any]) -> bool:
        return self.catalogue.update({"upstream": list(models)})

    @property
    def charged(self) -> int:
        return self.catalogue.get("m").price.prompt_msat_per_mtok

    @property
    def announced(self) -> int:
        return self.catalogue.announced("m").price.prompt_msat_per_mtok


def test_a_rise_is_announced_at_once_and_charged_after_a_minute() -> None:
    shop = Shop()
    assert (shop.charged, shop.announced) == (1_000_000, 1_000_000)
    shop.tariffs.put_btc(Decimal(50_000))
    assert (shop.charged, shop.announced) == (1_000_000, 2_000_000)
    shop.clock.now += HOLDS_S - 1
    assert shop.charged == 1_000_000, "a quote of a moment before the rise holds"
    shop.clock.now += 1
    assert shop.charged == 2_000_000


def test_a_fall_is_charged_at_once() -> None:
    shop = Shop()
    shop.tariffs.put_btc(Decimal(200_000))
    assert (shop.charged, shop.announced) == (500_000, 500_000)


def test_up_and_down_within_a_minute_costs_the_lowest() -> None:
    shop = Shop()
    for usd in (50_000, 200_000, 40_000):
        shop.tariffs.put_btc(Decimal(usd))
        shop.clock.now += 10
    assert (shop.charged, shop.announced) == (500_000, 2_500_000)
    shop.clock.now += HOLDS_S
    assert shop.charged == 2_500_000


def test_a_dearer_list_holds_for_a_minute_too_and_a_cheaper_one_does_not() -> None:
    shop = Shop()
    assert shop.list(MODEL | {"pricing": {"prompt": "0.000002", "completion": "0.000002"}})
    assert (shop.charged, shop.announced) == (1_000_000, 2_000_000)
    shop.clock.now += HOLDS_S
    assert shop.charged == 2_000_000
    assert shop.list(MODEL)
    assert shop.charged == 1_000_000


def test_a_list_that_rises_twice_in_a_minute_costs_what_was_told_first() -> None:
    shop = Shop()
    for usd in ("0.000002", "0.000003", "0.0000005", "0.000004"):
        shop.clock.now += 10
        shop.list(MODEL | {"pricing": {"prompt": usd, "completion": usd}})
        lowest = 500_000 if usd in ("0.0000005", "0.000004") else 1_000_000
        assert shop.charged == lowest
    shop.clock.now += HOLDS_S
    assert shop.charged == 4_000_000


def test_a_shop_that_was_closed_opens_at_the_price_of_now() -> None:
    shop = Shop()
    shop.tariffs.put_btc(Decimal(50_000), was_open=False)
    assert shop.charged == 2_000_000, "nobody was told the old one since"


def test_a_list_that_is_dearer_in_one_part_and_cheaper_in_another_costs_the_lower_of_each() -> None:
    shop = Shop()
    shop.list(MODEL | {"pricing": {"prompt": "0.000003", "completion": "0.0000005"}})
    price = shop.catalogue.get("m").price
    assert (price.prompt_msat_per_mtok, price.completion_msat_per_mtok) == (1_000_000, 500_000)


def test_longer_answers_wait_for_a_minute_as_a_rise_does() -> None:
    """Who said no length was quoted the shorter ones."""
    shop = Shop()
    shop.list(MODEL | {"context_length": 9000})
    assert shop.catalogue.get("m").limits.context_length == 1000
    shop.clock.now += HOLDS_S
    assert shop.catalogue.get("m").limits.context_length == 9000


def test_a_model_that_was_away_for_a_moment_costs_what_was_told() -> None:
    shop = Shop()
    shop.list()
    shop.clock.now += 10
    shop.list(MODEL | {"pricing": {"prompt": "0.000003", "completion": "0.000003"}})
    assert shop.charged == 1_000_000


def test_a_quote_tells_how_long_it_holds() -> None:
    shop = Shop()
    assert shop.catalogue.holds_s("m") == HOLDS_S
    shop.tariffs.put_btc(Decimal(50_000))
    shop.clock.now += 20
    assert shop.catalogue.holds_s("m") == HOLDS_S - 20
    shop.list(MODEL | {"pricing": {"prompt": "0.000003", "completion": "0.000003"}})
    shop.clock.now += 30
    assert shop.catalogue.holds_s("m") == 10
    shop.clock.now += 40
    assert shop.catalogue.holds_s("m") == HOLDS_S


def test_a_model_that_its_upstream_dropped_leaves_the_shop() -> None:
    shop = Shop()
    assert shop.list(MODEL | {"id": "other"})
    with pytest.raises(Refusal) as refused:
        shop.catalogue.get("m")
    assert refused.value.status == 404


@pytest.mark.parametrize("jump_s", [-10_000_000, -3600, 3600, 10_000_000])
async def test_a_clock_that_jumps_moves_no_price(
    jump_s: int, http: httpx.AsyncClient, hostile: tuple[Hostile, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither how old bitcoin's price is nor how long a told one holds goes by the system's clock."""
    source = PriceSource(f"{hostile[1]}/models", ("data", "0", "context_length"))
    btc = BtcPrice(http, [source], timeout_s=5, max_age_s=60)
    assert await btc.refresh()
    loaded = load_settings(Settings, None, **USD)
    tariffs = Tariffs(Decimal(100_000), lambda: btc.usd is not None)
    shop = Catalogue(loaded, loaded.upstreams(), tariffs)
    shop.update({"upstream": [MODEL]})
    tariffs.put_btc(Decimal(50_000))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    assert btc.usd is not None
    assert shop.get("m").price.prompt_msat_per_mtok == 1_000_000, "the told price still holds"
    assert 50 <= shop.holds_s("m") <= HOLDS_S


def test_without_a_price_of_bitcoin_the_shop_is_closed_with_a_reason() -> None:
    for shop in (Shop(None), Shop()):
        shop.known = False
        with pytest.raises(Refusal) as refused:
            shop.catalogue.get("m")
        assert (refused.value.status, refused.value.code) == (503, "no_price")
        assert refused.value.headers["retry-after"] == "60"


def test_what_is_priced_in_msat_is_sold_without_a_price_of_bitcoin() -> None:
    shop = Shop(None, fixed_per_1k_input_tokens="1", fixed_per_1k_output_tokens="2")
    shop.known = False
    assert shop.charged == 1_000_000
    assert not shop.catalogue.needs_btc


factors = st.decimals("1", "2", places=2)
ceilings = st.decimals("2", "10", places=2)


@given(st.decimals("0", "1", places=3), st.decimals("0", "100", places=2), factors, ceilings)
def test_a_busy_nodes_factor_is_within_its_bounds(
    busy: Decimal, gamma: Decimal, floor: Decimal, ceiling: Decimal
) -> None:
    factor = factor_of(busy, gamma, floor, ceiling)
    assert floor <= factor <= ceiling
    if busy == 0 or gamma == 0:
        assert factor == max(1, floor)
    assert factor_of(min(Decimal(1), busy + Decimal("0.1")), gamma, floor, ceiling) >= factor


def test_the_factor_follows_puras_curve_in_steps() -> None:
    bounds = (Decimal("0.5"), Decimal(10))
    assert factor_of(Decimal("0.5"), Decimal(1), *bounds) == 2
    assert factor_of(Decimal("0.75"), Decimal(1), *bounds) == 4
    assert factor_of(Decimal("0.5"), Decimal("0.33"), *bounds) == Decimal("1.35")
    assert factor_of(Decimal(1), Decimal(1), *bounds) == 10


def test_the_factor_is_never_below_its_floor() -> None:
    assert factor_of(Decimal(0), Decimal(1), Decimal("1.2"), Decimal(3)) == Decimal("1.2")


def test_utilisation_is_smoothed() -> None:
    utilisation = Utilisation(10)
    assert utilisation.seen(10) == Decimal("0.3")
    assert utilisation.seen(10) == Decimal("0.51")
    assert utilisation.seen(99) == Decimal("0.657")
    for _ in range(30):
        last = utilisation.seen(0)
    assert last < Decimal("0.001")


def test_a_busy_node_is_dearer_in_every_part() -> None:
    shop = Shop(fixed_cost_per_request="0.001")
    assert shop.tariffs.put_factor(Decimal("1.5"))
    assert not shop.tariffs.put_factor(Decimal("1.5"))
    shop.clock.now += HOLDS_S
    assert shop.charged == 1_500_000
    assert shop.catalogue.get("m").price.request_msat == 2, "1.5 msat, rounded up"
