"""Where a buyer's commands work: the folder, the relays, and the client that is opened there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from node.cli.console import CommandFailed
from node.localnet.network import read_state
from router_client.client import RouterClient
from router_client.storage import is_held

T = TypeVar("T")

ROOT = Path("~/.satroute").expanduser()

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SATROUTE_DATA",
    help="Folder of the wallet, or of a running `satroute up`.",
)
relays_option = click.option(
    "--relay", "relays", multiple=True, envvar="SATROUTE_RELAYS", help="Nostr relay; may be given several times."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


class Place(msgspec.Struct, frozen=True):
    """Where a buyer's wallet lies, and which relays and mint it starts from."""

    folder: Path
    relays: tuple[str, ...]
    mint_url: str | None


def place(data: Path | None, relays: tuple[str, ...] = ()) -> Place:
    """What was named; else the network that `satroute up` runs on this machine; else the user's own folder."""
    local = data if data is not None else ROOT / "local"
    state = read_state(local)
    if state is not None and not relays:
        running = is_held(local / "lock")
        return Place(local / "client", (state.relay_url,) if running else (), state.mint_url)
    return Place(data if data is not None else ROOT / "client", relays, None)


def with_client(data: Path | None, relays: tuple[str, ...], work: Callable[[RouterClient], Awaitable[T]]) -> T:
    where = place(data, relays)
    if not where.relays:
        raise CommandFailed("no relay: name one with --relay or SATROUTE_RELAYS, or start a local network: satroute up")
    return asyncio.run(run_client(where.folder, where.relays, work))


async def run_client(folder: Path, relays: tuple[str, ...], work: Callable[[RouterClient], Awaitable[T]]) -> T:
    async with RouterClient.open(relays, folder) as client:
        return await work(client)
