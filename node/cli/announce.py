"""`satroute announce`: what a node publishes, seen before it does, or taken back when the node cannot do it itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec
from rich.console import RenderableType

from node.announcer import Announcer
from node.cli.console import CommandFailed, escaped, note, out, print_json
from node.cli.place import json_option
from node.cli.sheet import sheet
from node.config import Settings, load_settings
from node.front import looked_at
from node.gauge import Gauge
from node.pulse import Pulse
from node.tor.beside import with_socks
from node.tor.service import with_onion
from relays import kinds
from relays.deletion import deletion
from relays.event import Event, expiration, to_json
from relays.pool import Published, RelayPool

T = TypeVar("T")
WHAT = {
    kinds.PROVIDER_ANNOUNCEMENT: "announcement",
    kinds.CAPACITY: "capacity",
    kinds.PROFILE: "profile",
    kinds.RELAY_LIST: "relay list",
}


@click.command(epilog="Example: satroute announce --dry-run --env-file /etc/satroute.env")
@click.option("--env-file", type=click.Path(path_type=Path, dir_okay=False), help="The node's settings file.")
@click.option("--dry-run", is_flag=True, help="Print the events that the node would send; nothing is sent.")
@click.option("--withdraw", is_flag=True, help="Delete at the relays what a node that is gone has left there.")
@json_option
def announce(env_file: Path | None, *, dry_run: bool, withdraw: bool, as_json: bool) -> None:
    """What the node publishes on Nostr, without running it. A running node announces itself."""
    if dry_run == withdraw:
        raise click.UsageError("say --dry-run or --withdraw; a node announces itself while it runs: satroute serve")
    settings = load_settings(Settings, env_file)
    if withdraw:
        _show_withdrawn(asyncio.run(_through_tor(settings, _withdrawn)), as_json=as_json)
        return
    events = asyncio.run(_through_tor(settings, _events))
    if as_json:
        print_json({"relays": settings.relays, "events": [msgspec.to_builtins(event) for event in events]})
    else:
        out.print(_table(events))
        note(f"relays: {escaped(', '.join(settings.relays)) or 'none: set RELAYS, and HTTP_URL or ONION_URL'}")
        note(
            "a running node adds the key that ecash may be locked to, and measured figures; --json prints all there is"
        )


async def _through_tor(settings: Settings, asked: Callable[[Settings], Awaitable[T]]) -> T:
    """What is asked, of settings with the way out that the running node has."""
    async with with_socks(settings) as filled:
        return await asked(filled)


async def _events(settings: Settings) -> tuple[Event, ...]:
    """As they would be published now. Raises UpstreamError, and BadSettings for an onion's name that is not known yet."""
    settings, _ = with_onion(settings)
    signer, pulse = settings.signer(), Pulse()
    async with looked_at(settings) as front, RelayPool(()) as nowhere:
        gauge = Gauge(settings, signer.pubkey, front.catalogue, pulse, lambda: 0)
        announcer = Announcer(settings, signer, front.catalogue, nowhere, gauge)
        events = announcer.events()
        return (*events, announcer.capacity(next(iter(events[0].values(kinds.TAG_MODEL)), "")))


async def _withdrawn(settings: Settings) -> dict[str, Published]:
    """What each relay said to the deletion of all it has of the node. Raises CommandFailed when there is nothing."""
    signer = settings.signer()
    theirs = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT, kinds.CAPACITY], "authors": [signer.pubkey]}
    async with RelayPool(settings.relays, signer, settings.routes) as pool:
        found = await pool.query(theirs)
        if not found.events:
            reasons = "; ".join(found.failures.values())
            raise CommandFailed(reasons or f"nothing of {signer.npub} is on these relays: name them in RELAYS")
        newest = max(event.created_at for event in found.events)
        return await pool.publish(deletion(found.events, signer, max(int(time.time()), newest)))


def _show_withdrawn(answers: dict[str, Published], *, as_json: bool) -> None:
    said = {url: "deleted" if answer.accepted else answer.words for url, answer in answers.items()}
    if as_json:
        print_json({"relays": said})
    else:
        for url, words in said.items():
            out.print(f"{escaped(url)}: {escaped(words)}", soft_wrap=True)
    if not any(answer.accepted for answer in answers.values()):
        raise CommandFailed("no relay took the deletion: try again later, announcements expire within an hour")


def _table(events: tuple[Event, ...]) -> RenderableType:
    rows = []
    for event in events:
        ends, is_page = expiration(event), event.kind == kinds.PROVIDER_ANNOUNCEMENT and not event.values(kinds.TAG_URL)
        rows.append(
            (
                str(event.kind),
                "page" if is_page else WHAT[event.kind],
                escaped(event.value("d") or ""),
                f"{len(to_json(event).encode()):,}",
                _count(event),
                "" if ends is None else _span(ends - event.created_at),
            )
        )
    columns = ("kind", "what", "d", "bytes", "models", "expires after")
    return sheet(columns, rows, out.width, title=f"as {escaped(events[0].pubkey)}")


def _count(event: Event) -> str:
    return str(len(event.values(kinds.TAG_MODEL))) if event.kind == kinds.PROVIDER_ANNOUNCEMENT else ""


def _span(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds < 86400 else f"{seconds // 86400} days"
