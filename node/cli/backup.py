"""`satroute backup` and `restore`: a node in one file, and back."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import click

from node.backup.archive import is_sealed
from node.backup.making import back_up
from node.backup.restoring import PutBack, put_back
from node.cli.console import CommandFailed, err, escaped, note, print_json
from node.config import load_settings
from node.storage import StorageSettings
from node.tor.beside import with_socks
from node.tor.settings import TorSettings
from relays.money import in_sats

VARIABLE = "SATROUTE_PASSPHRASE"

_env_file = click.option(
    "--env-file", type=click.Path(path_type=Path, dir_okay=False), help="The node's settings file."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.command(epilog="Example: satroute backup satroute-2026-11-21 --encrypt --env-file /etc/satroute/satroute.env")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--encrypt", is_flag=True, help=f"With a passphrase: {VARIABLE}, or asked for.")
@click.option("--without-database", is_flag=True, help="Leave out books in PostgreSQL: they are backed up elsewhere.")
@_env_file
@_json
def backup(file: Path, encrypt: bool, without_database: bool, env_file: Path | None, as_json: bool) -> None:
    """Write books, wallets and key to FILE, while the node runs or not. The settings are not in it."""
    settings = load_settings(StorageSettings, env_file)
    secret = _passphrase(twice=True) if encrypt else ""
    manifest = asyncio.run(back_up(settings, file, passphrase=secret, with_database=not without_database))
    if as_json:
        sealed = bool(secret)
        print_json({"file": str(file), "bytes": file.stat().st_size, "npub": manifest.npub, "encrypted": sealed})
        return
    note(f"{file}: {len(manifest.files)} files, {file.stat().st_size:,} bytes")
    if not manifest.npub:
        note("the key is not in it, since it is not in DATA_DIR: keep NSEC with the settings")
    if not secret:
        note("whoever has this file has the money: keep it as you would keep that, or add --encrypt")


@click.command(epilog="Example: satroute restore satroute-2026-11-21 --env-file /etc/satroute/satroute.env")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--unchanged", is_flag=True, help="The node was stopped, and has not run since: no mint is asked.")
@click.option("--replace", is_flag=True, help="Put aside what is in DATA_DIR now.")
@click.option(
    "--without-mint", "without", multiple=True, metavar="URL", help="Give up the coins of a mint that is gone."
)
@_env_file
@_json
def restore(
    file: Path,
    unchanged: bool,
    replace: bool,
    without: tuple[str, ...],
    env_file: Path | None,
    as_json: bool,
) -> None:
    """Put a backup back where the settings say, with the node stopped, and make its coins safe at their mints."""
    settings = load_settings(TorSettings, env_file)
    secret = _passphrase(twice=False) if is_sealed(file) else ""
    mints = [url.rstrip("/") for url in without]

    async def put() -> PutBack:
        # Moving a node asks nobody.
        async with nullcontext(settings) if unchanged else with_socks(settings) as filled:
            routes = filled.routes
            return await put_back(
                settings, file, secret, unchanged=unchanged, replace=replace, without=mints, routes=routes
            )

    with err.status("asking mints"):
        done = asyncio.run(put())
    if as_json:
        wallets = {name: {f: int(getattr(one, f)) for f in one.__struct_fields__} for name, one in done.wallets.items()}
        print_json({"npub": done.manifest.npub, "made_at": done.manifest.made_at, "wallets": wallets})
        return
    _tell(done)


def _passphrase(*, twice: bool) -> str:
    """From the environment, since others see command lines, from whoever sits there, or else from standard input."""
    if secret := os.environ.get(VARIABLE):
        return secret
    if _has_terminal():
        return str(click.prompt("passphrase", hide_input=True, confirmation_prompt=twice))
    if secret := sys.stdin.readline().rstrip("\r\n"):
        return secret
    raise CommandFailed(f"nobody is there to ask for the passphrase: set {VARIABLE}")


def _has_terminal() -> bool:
    """Whether somebody can be asked there, also where standard input is something else."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return sys.stdin.isatty()
    return True


def _tell(done: PutBack) -> None:
    made = datetime.fromtimestamp(done.manifest.made_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    note(f"{done.manifest.npub or 'the node'} is as it was at {made}")
    for name, wallet in done.wallets.items():
        note(
            f"{name}: {in_sats(wallet.found_msat)} were made since and are there, {in_sats(wallet.gone_msat)} were spent "
            f"since; all coins are new, for {in_sats(wallet.fee_msat)}"
        )
        if wallet.lost_msat:
            note(
                f"[yellow]{name} holds {in_sats(wallet.lost_msat)} less than then: that is your loss, and booked so[/]"
            )
    if done.aside is not None:
        note(f"what was there before is in {escaped(str(done.aside))}: delete it when the node runs well")
