"""Who is asked for the price of bitcoin, and when: nobody, unless an amount in USD needs it or the user named somebody."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from node.cli.preferences import BTC_SOURCES, preferences, routing_options
from router_client.client import RouterClient
from router_client.errors import BadSetting
from router_client.preferences import Preferences
from router_client.spending.account import Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import Budget
from router_client.spending.rate import Rate


@pytest.mark.parametrize(
    ("sources", "day_usd", "asked"), [(None, None, 0), (None, 1.0, 1), (("kraken",), None, 1)], ids=str
)
async def test_exchanges_are_left_alone_while_nothing_is_limited_in_usd(
    buyer: RouterClient,
    spending: Spending,
    monkeypatch: pytest.MonkeyPatch,
    sources: tuple[str, ...] | None,
    day_usd: float | None,
    asked: int,
) -> None:
    looks: list[Rate] = []

    async def look(rate: Rate) -> None:
        looks.append(rate)

    monkeypatch.setattr(Rate, "look", look)
    buyer._rate = Rate(Preferences(btc_sources=sources))
    buyer._serving.allowance = Allowance(spending, Budget(day_usd=day_usd), buyer._rate)
    await buyer.look_up_usd()
    assert len(looks) == asked


@pytest.mark.parametrize(
    ("arguments", "variables", "sources"),
    [
        ([], {}, None),
        (["--btc-source", "none"], {}, ()),
        ([], {BTC_SOURCES: ""}, ()),
        ([], {BTC_SOURCES: "none"}, ()),
        (["--btc-source", "kraken"], {BTC_SOURCES: ""}, ("kraken",)),
    ],
)
def test_it_can_be_switched_off(
    arguments: list[str], variables: dict[str, str], sources: tuple[str, ...] | None
) -> None:
    found: list[Any] = []

    @click.command()
    @routing_options
    def command() -> None:
        found.append(preferences(asks_prices=True).btc_sources)

    assert CliRunner().invoke(command, arguments, env=variables).exit_code == 0
    assert found == [sources]
    assert CliRunner().invoke(command, ["--btc-source", "none", "--btc-source", "kraken"]).exit_code == 2


@pytest.mark.parametrize("usd", [1e-300, 1e300])
def test_a_price_that_cannot_be_is_refused(usd: float) -> None:
    with pytest.raises(BadSetting, match="from 1 to"):
        Preferences(btc_usd=usd)
