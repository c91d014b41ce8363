"""What a user settles once about routing: options of the commands that buy, each with its variable."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from node.cli.real import Real
from router_client.preferences import AUTO_MAX_SATS, EXPLORE, MOST_EXPLORED, Preferences
from router_client.spending.btc import KNOWN_SOURCES

C = TypeVar("C", bound=Callable[..., Any])

SAID: Final = f"{__name__}.said"
"""Where a command's context keeps what was said."""


NOBODY: Final = "none"
BTC_SOURCES: Final = "SATROUTE_BTC_SOURCES"


def settle(**said: object) -> None:
    """Note what was said of a preference."""
    click.get_current_context().meta.setdefault(SAID, {}).update(said)


def _keep(_: click.Context, parameter: click.Parameter, value: object) -> None:
    if parameter.name is not None and value not in (None, ()):
        settle(**{parameter.name: value})


def _keep_sources(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> None:
    """An empty variable is nobody, too: click takes it for none."""
    if value == (NOBODY,) or (not value and os.environ.get(BTC_SOURCES) == ""):
        settle(btc_sources=())
    elif NOBODY in value:
        raise click.BadParameter(f"'{NOBODY}' stands alone")
    else:
        _keep(context, parameter, value)


def routing_options(command: C) -> C:
    """How requests are routed: `preferences` has it."""
    kept: dict[str, Any] = {"expose_value": False, "callback": _keep}
    options = (
        click.option(
            "--onion/--no-onion",
            default=None,
            envvar="SATROUTE_ONION",
            help="Ask only nodes at onion addresses, which do not see where you are; needs Tor.",
            **kept,
        ),
        click.option("--seed", type=int, envvar="SATROUTE_SEED", help="Repeat the same choices.", **kept),
        click.option(
            "--learning/--no-learning",
            default=None,
            envvar="SATROUTE_LEARNING",
            help="Whether outcomes change which model is asked; they do unless told otherwise.",
            **kept,
        ),
        click.option(
            "--explore",
            type=Real(0, MOST_EXPLORED),
            envvar="SATROUTE_EXPLORE",
            help=f"Share of requests that try what is not known yet; {EXPLORE} unless told otherwise.",
            **kept,
        ),
        click.option(
            "--auto-max",
            "auto_max_sats",
            type=click.IntRange(min=0),
            metavar="SATS",
            envvar="SATROUTE_AUTO_MAX",
            help=f"The most 'auto' pays for a million tokens written, and a fifth of it for those read; 0: no limit; "
            f"{AUTO_MAX_SATS} unless told otherwise.",
            **kept,
        ),
        click.option(
            "--btc-usd",
            type=Real(min=0, min_open=True),
            envvar="SATROUTE_BTC_USD",
            help="USD per bitcoin, for amounts in USD; else it is asked for.",
            **kept,
        ),
        click.option(
            "--btc-source",
            "btc_sources",
            multiple=True,
            envvar=BTC_SOURCES,
            help=f"Who is asked: {', '.join(KNOWN_SOURCES)}, or a URL with a JSON pointer; may be given several times. "
            f"'{NOBODY}': nobody.",
            expose_value=False,
            callback=_keep_sources,
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def preferences(*, asks_prices: bool) -> Preferences:
    """What was said. Unless `asks_prices`, nobody is asked for the price of bitcoin who was not named: a network of play
    money is nobody's business. Raises BadSetting."""
    said = click.get_current_context().meta.get(SAID, {})
    return Preferences(**({} if asks_prices else {"btc_sources": ()}) | said)
