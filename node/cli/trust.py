"""`satroute trust`, `block` and `follow`: the user's own word on nodes, and on whose word counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.cli.console import note, out, print_json
from node.cli.place import data_option, json_option, place
from relays.event import npub, pubkey_of
from router_client.people import List, People
from router_client.trust import Own

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
        pubkey = pubkey_of(key)
        own = people.put(pubkey, listed, there=not remove)
        if as_json:
            _show(own, listed, as_json=True)
        else:
            note(f"{npub(pubkey)} is {'no longer ' if remove else ''}{listed}")

    return command


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
