"""Where a buyer's commands work: the folder, the relays, and the client that is opened there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import click
import msgspec

from node.cli.console import CommandFailed
from node.cli.preferences import preferences
from node.localnet.network import read_state
from relays.routes import Routes, checked_url, host_and_port
from router_client.client import WALLET_FILE, RouterClient
from router_client.disk.storage import is_held
from router_client.net.torport import found_socks

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])

SOCKS: Final = f"{__name__}.socks"
TOR_ONLY: Final = f"{__name__}.tor_only"
"""Where a command's context keeps what was said of Tor."""
ROOT = Path("~/.satroute").expanduser()


DATA: Final = "SATROUTE_DATA"


class Folder(click.Path):
    """A folder that need not be there yet."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":  # as of a variable that is not set: a wallet would lie in whatever folder one is in
            self.fail("an empty name is no folder; '.' is the one you are in.", param, ctx)
        return super().convert(value, param, ctx)


def folder_option(what: str) -> Callable[[C], C]:
    """`--data`, the folder that `what` says, or SATROUTE_DATA."""
    return click.option("--data", type=Folder(), envvar=DATA, show_envvar=True, help=what)


data_option = folder_option(
    "Folder of the wallet, or of a `satroute up`; else the running network's here, or ~/.satroute/client."
)
RELAYS: Final = "SATROUTE_RELAYS"


def _relays(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return named_relays(*value)
    except ValueError as error:
        raise click.BadParameter(f"{error}, such as wss://relay.example.com") from error


def named_relays(*texts: str) -> tuple[str, ...]:
    """Relays, with commas or blanks between them. Raises ValueError for what is none."""
    urls = dict.fromkeys(part for text in texts for part in re.split(r"[,\s]+", text) if part)
    return tuple(checked_url(url, "ws", "wss") for url in urls)


relays_option = click.option(
    "--relay",
    "relays",
    multiple=True,
    envvar=RELAYS,
    show_envvar=True,
    callback=_relays,
    help="Nostr relay; may be given several times, or several with commas.",
)


def _socks(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value:
        try:
            host_and_port(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        click.get_current_context().meta[SOCKS] = value


def _tor_only(_: click.Context, __: click.Parameter, value: bool) -> None:
    click.get_current_context().meta[TOR_ONLY] = value


def tor_options(command: C) -> C:
    """How nodes, mints and relays are reached: `run_client` goes by it."""
    socks = click.option(
        "--tor",
        metavar="HOST:PORT",
        envvar="SATROUTE_TOR",
        expose_value=False,
        callback=_socks,
        help="Tor's SOCKS port, for onion addresses; looked for at 9050 and 9150 of this machine.",
    )
    only = click.option(
        "--tor-only",
        is_flag=True,
        envvar="SATROUTE_TOR_ONLY",
        expose_value=False,
        callback=_tor_only,
        help="Reach everything through Tor.",
    )
    return socks(only(command))


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


class Place(msgspec.Struct, frozen=True):
    """Where a buyer's wallet lies, and which relays and mint it starts from."""

    folder: Path
    relays: tuple[str, ...]
    mint_url: str | None


def place(data: Path | None, relays: tuple[str, ...] = ()) -> Place:
    """The folder that was named; without one that of the network which `satroute up` runs here, and the user's own where
    none runs or other relays are named. All commands say the same: money goes where it will be looked for."""
    relays = relays or _usual_relays()
    folder = data if data is not None else ROOT / "local"
    state = read_state(folder)
    running = state is not None and is_held(folder / "lock")
    if state is None or (data is None and (relays or not running)):
        return Place(data if data is not None else ROOT / "client", relays, None)
    return Place(folder / "client", relays or ((state.relay_url,) if running else ()), state.mint_url)


def _usual_relays() -> tuple[str, ...]:
    """Those of the environment, for commands that call none and need the folder only."""
    try:
        return named_relays(os.environ.get(RELAYS, ""))
    except ValueError as error:
        raise CommandFailed(f"{RELAYS}: {error}, such as wss://relay.example.com") from error


def fund_command(data: Path | None, relays: tuple[str, ...] = ()) -> str:
    """What fills the wallet, or makes it."""
    mint = place(data, relays).mint_url or "URL"
    where = "" if data is None else f" --data {shlex.quote(str(data))}"
    return f"satroute wallet fund{where} --sats 1000 --mint {mint}"


def has_wallet(folder: Path) -> bool:
    """Whether there is one to look into: opening it makes one, with a new seed."""
    return (folder / WALLET_FILE).exists()


def with_client(
    data: Path | None,
    relays: tuple[str, ...],
    work: Callable[[RouterClient], Awaitable[T]],
    *,
    only_looks: bool = False,
) -> T:
    """The result of `work`, which makes no wallet where there is none if it `only_looks`."""
    where = place(data, relays)
    if not where.relays:
        raise CommandFailed("no relay: name one with --relay or SATROUTE_RELAYS, or start a local network: satroute up")
    with ExitStack() as stack:
        purse = None
        if only_looks and not has_wallet(where.folder):
            purse = Path(stack.enter_context(TemporaryDirectory(prefix="satroute-")))
        return asyncio.run(run_client(where.folder, where.relays, work, purse))


async def run_client(
    folder: Path, relays: tuple[str, ...], work: Callable[[RouterClient], Awaitable[T]], purse: Path | None = None
) -> T:
    """Raises CommandFailed where Tor alone may be used, and is not there."""
    routed = preferences(asks_prices=read_state(folder.parent) is None)
    async with RouterClient.open(relays, folder, await _routes(), routed, purse=purse) as client:
        return await work(client)


async def _routes() -> Routes:
    said = click.get_current_context().meta
    routes = Routes(said.get(SOCKS) or await found_socks(), said.get(TOR_ONLY, False))
    if routes.tor_only and not routes.socks:
        raise CommandFailed("no Tor at 9050 or 9150 of this machine: start it, or name its SOCKS port with --tor")
    return routes
