"""`satroute trust`, `block`, `follow` and `recommend`: the user's own word on nodes, and on whose word counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from node.cli.console import CommandFailed, note, out, print_json
from node.cli.place import data_option, json_option, place, relays_option, with_client
from relays.errors import InvalidKey
from relays.event import Event, npub, pubkey_of
from relays.review import MAX_WORDS
from router_client.client import RouterClient
from router_client.discovery.people import List, People
from router_client.discovery.trust import Own

FILE = "people.json"


def _command(name: str, listed: List, help_text: str) -> click.Command:
    @click.command(name, help=help_text, epilog=f"Example: satroute {name} npub1…")
    @click.argument("key", metavar="NPUB", required=False)
    @click.option("--remove", is_flag=True, help="Take the key off the list again.")
    @data_option
    @json_option
    def command(key: str | None, remove: bool, data: Path | None, as_json: bool) -> None:
        people = People(place(data).folder / FILE)
        if key is None:
            if remove:
                raise click.UsageError("name the key to take off the list")
            _show(people.own(), listed, as_json=as_json)
            return
        pubkey = _whole(key)
        own = people.put(pubkey, listed, there=not remove)
        if as_json:
            _show(own, listed, as_json=True)
        else:
            note(f"{npub(pubkey)} is {'no longer ' if remove else ''}{listed}")

    return command


def _whole(key: str) -> str:
    """The key in hex. Raises CommandFailed for the first letters of one, as tables have them."""
    try:
        return pubkey_of(key)
    except InvalidKey as error:
        raise CommandFailed(f"{error}; satroute nodes --npub lists them whole") from error


def _show(own: Own, listed: List, *, as_json: bool) -> None:
    keys: list[Any] = sorted(npub(key) for key in getattr(own, listed))
    if as_json:
        print_json({listed: keys})
    elif keys:
        out.print("\n".join(keys))
    else:
        out.print(f"nobody is {listed}")


trust = _command("trust", "trusted", "Trust a node wholly; without a key, list whom you trust.")
block = _command("block", "blocked", "Never buy from a node; without a key, list whom you block.")
follow = _command(
    "follow",
    "followed",
    "Let someone's reviews of nodes count, and half as much those by whom they follow; without a key, list whom you follow.",
)


@click.command(epilog='Example: satroute recommend npub1… "fast, and its receipts hold"')
@click.argument("key", metavar="NPUB")
@click.argument("words", default="")
@click.option("--remove", is_flag=True, help="Take back what you have published of it, reviews included.")
@data_option
@relays_option
@json_option
def recommend(key: str, words: str, remove: bool, data: Path | None, relays: tuple[str, ...], as_json: bool) -> None:
    """Recommend a node on the relays, under a key that is made for this alone: who follows that key sees it."""
    if len(words) > MAX_WORDS:
        raise click.UsageError(f"no more than {MAX_WORDS} characters are read")
    pubkey = _whole(key)

    async def work(client: RouterClient) -> tuple[Event, ...]:
        return await client.take_back(pubkey) if remove else (await client.recommend(pubkey, words),)

    events = with_client(data, relays, work, only_looks=True)
    if not events:
        raise CommandFailed(f"nothing of yours about {npub(pubkey)} is on these relays")
    if as_json:
        print_json({"events": [msgspec.to_builtins(event) for event in events]})
    else:
        done, ending = (
            ("no longer recommended or reviewed", "") if remove else ("recommended", ", which others can follow")
        )
        note(f"{npub(pubkey)} is {done} by {npub(events[0].pubkey)}{ending}")
