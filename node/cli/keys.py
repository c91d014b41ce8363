"""`satroute keys`: keys that the operator hands out, credited from the operator's own pocket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.table import Table

from node.cli.console import CommandFailed, escaped, note, out, print_json
from node.config import StorageSettings, load_settings
from node.deposits import new_key
from node.ledger.ledger import Ledger
from relays.money import from_sat, in_sats

_env_file = click.option(
    "--env-file", type=click.Path(path_type=Path, dir_okay=False), help="The node's settings file."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group()
def keys() -> None:
    """Hand out, list and revoke credited keys. Works beside a running node."""


@keys.command(epilog="Example: satroute keys create --sats 500 --name alice")
@click.option("--sats", type=click.IntRange(min=0), required=True, help="Credit, booked as your own grant.")
@click.option("--name", default="", help="Whom it is for.")
@_env_file
@_json
def create(sats: int, name: str, env_file: Path | None, as_json: bool) -> None:
    """Make a key. It is shown once; the node keeps its hash."""
    key, grant_msat = new_key(), from_sat(sats)
    with _ledger(env_file) as ledger:
        account = asyncio.run(ledger.create_key(key.hash, key.hint, name, grant_msat))
        note(f"in the books at {ledger.path}")
    if as_json:
        print_json({"id": account, "name": name, "api_key": key.text, "balance_msat": grant_msat})
        return
    note(f"key {account} with {in_sats(grant_msat)}; it is shown this once:")
    click.echo(key.text)


@keys.command("list", epilog="Example: satroute keys list --json")
@_env_file
@_json
def list_(env_file: Path | None, as_json: bool) -> None:
    """All keys with their balances."""
    with _ledger(env_file) as ledger:
        accounts = ledger.keys()
    if as_json:
        print_json({"keys": msgspec.to_builtins(accounts)})
        return
    table = Table("id", "name", "key", "available", "held", "spent", "made", "state")
    for account in accounts:
        table.add_row(
            str(account.id),
            escaped(account.name),
            account.hint,
            in_sats(account.available_msat),
            in_sats(account.held_msat),
            in_sats(account.spent_msat),
            datetime.fromtimestamp(account.created_at, UTC).strftime("%Y-%m-%d"),
            "[red]revoked[/]" if account.revoked else "active",
        )
    out.print(table if accounts else "no keys yet; `satroute keys create --sats 100` makes one")


@keys.command(epilog="Example: satroute keys revoke 4")
@click.argument("key_id", type=int)
@_env_file
def revoke(key_id: int, env_file: Path | None) -> None:
    """Close a key for good. Its balance stays in the books."""
    with _ledger(env_file) as ledger:
        if not asyncio.run(ledger.revoke_key(key_id)):
            raise CommandFailed(f"there is no key {key_id}; `satroute keys list` shows all")
    note(f"key {key_id} is revoked")


@contextmanager
def _ledger(env_file: Path | None) -> Iterator[Ledger]:
    ledger = Ledger(load_settings(StorageSettings, env_file).ledger_path)
    try:
        yield ledger
    finally:
        ledger.close()
