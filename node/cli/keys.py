"""`satroute keys`: keys that the operator hands out, credited from the operator's own pocket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from node.cli.console import CommandFailed, escaped, note, out, print_json
from node.cli.sheet import sheet
from node.config import load_settings
from node.deposits import new_key
from node.ledger.ledger import Ledger
from node.ledger.model import Account, Key
from node.storage import StorageSettings
from relays.money import from_sat, in_sats

T = TypeVar("T")

_env_file = click.option(
    "--env-file", type=click.Path(path_type=Path, dir_okay=False), help="The node's settings file."
)
_ID = click.IntRange(1, 2**63 - 1)
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

    async def make(ledger: Ledger) -> int:
        note(f"in the books at {ledger.place}")
        return await ledger.create_key(key.hash, key.hint, name, grant_msat)

    id_ = _with_ledger(env_file, make, makes=True)
    try:
        if as_json:
            print_json({"id": id_, "name": name, "api_key": key.text, "balance_msat": grant_msat})
        else:
            note(f"key {id_} with {in_sats(grant_msat)}; it is shown this once:")
            click.echo(key.text)
    except OSError:  # nobody has seen it
        _with_ledger(env_file, lambda ledger: ledger.revoke_key(id_))
        raise


@keys.command("list", epilog="Example: satroute keys list --json")
@_env_file
@_json
def list_(env_file: Path | None, as_json: bool) -> None:
    """All keys with their balances."""
    found = _with_ledger(env_file, lambda ledger: ledger.keys())
    if as_json:
        print_json({"keys": [_flat(key, account) for key, account in found]})
        return
    columns = ("id", "name", "key", "available", "held", "spent", "made", "state")
    rows = [
        (
            str(key.id),
            escaped(key.name),
            key.hint,
            in_sats(account.available_msat),
            in_sats(account.held_msat),
            in_sats(account.spent_msat),
            datetime.fromtimestamp(key.created_at, UTC).strftime("%Y-%m-%d"),
            "[red]revoked[/]" if key.revoked else "active",
        )
        for key, account in found
    ]
    out.print(sheet(columns, rows, out.width) if rows else "no keys yet; `satroute keys create --sats 100` makes one")


@keys.command(epilog="Example: satroute keys revoke 4")
@click.argument("key_id", type=_ID)
@_env_file
def revoke(key_id: int, env_file: Path | None) -> None:
    """Close a key for good. Its balance stays in the books."""
    if not _with_ledger(env_file, lambda ledger: ledger.revoke_key(key_id)):
        raise CommandFailed(f"there is no key {key_id}; `satroute keys list` shows all")
    note(f"key {key_id} is revoked")


@keys.command(epilog="Example: satroute keys rotate 4")
@click.argument("key_id", type=_ID)
@_env_file
@_json
def rotate(key_id: int, env_file: Path | None, as_json: bool) -> None:
    """Make a new key for the same balance. The old one is good until the new one is first used."""
    key = new_key()
    if not _with_ledger(env_file, lambda ledger: ledger.rotate_key(key_id, key.hash, key.hint)):
        raise CommandFailed(f"there is no key {key_id} that is in force; `satroute keys list` shows all")
    if as_json:
        print_json({"id": key_id, "api_key": key.text})
        return
    note(f"key {key_id} anew; it is shown this once, and closes the old one when it is first used:")
    click.echo(key.text)


def _flat(key: Key, account: Account) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "hint": key.hint,
        "revoked": key.revoked,
        "available_msat": account.available_msat,
        "held_msat": account.held_msat,
        "spent_msat": account.spent_msat,
        "created_at": key.created_at,
    }


def _with_ledger(env_file: Path | None, work: Callable[[Ledger], Awaitable[T]], *, makes: bool = False) -> T:
    """The result of `work` on the books that the settings name; it `makes` them where there are none yet."""
    settings = load_settings(StorageSettings, env_file)
    # A key of books that no node reads opens nothing.
    if not settings.model_fields_set and not settings.data_dir.exists():
        raise CommandFailed(f"there is no node in {settings.data_dir}: name its settings with --env-file")
    books = settings.ledger_url.removeprefix("sqlite:///")
    if not makes and books != settings.ledger_url and not Path(books).exists():
        raise CommandFailed(
            f"there are no books at {books} yet; `satroute keys create --sats 100` makes them, and a key"
        )

    async def run() -> T:
        ledger = await Ledger.open(settings.ledger_url)
        try:
            return await work(ledger)
        finally:
            await ledger.close()

    return asyncio.run(run())
