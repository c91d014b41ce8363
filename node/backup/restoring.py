"""Putting a backup back.

A node that was restored must not use what its elder self gave away, nor count anything twice. Its books are those of the
backup, so every caller has the balance of then; its wallets are made safe by their mints (`router_client.ecash.restoring`);
what the wallet holds less than it did then is booked as the operator's loss, so that the audit holds. A token that came in
after the backup is spent at its mint, and is not credited again.

Everything is done in a folder of its own, which takes the place of the data folder's files at the end. When it breaks off
before that, nothing has changed here, and what was done at mints is found there by the next try. When it breaks off in the
midst of that, no node starts there until it was done again.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from node.backup.archive import Manifest, unpack
from node.backup.making import ASIDE, LEDGER
from node.backup.postgres import PG_DUMP, Replacing
from node.backup.scratch import scratch
from node.errors import BadBackup
from node.ledger.ledger import Ledger
from node.storage import StorageSettings, synced
from relays.money import Msat
from relays.routes import DIRECT, Purpose, Routes
from router_client.disk.storage import exclusive
from router_client.ecash.outcomes import Restored
from router_client.ecash.wallet import Wallet
from router_client.errors import MintMisbehaved, MintUnavailable
from router_client.net.outside import client_for

WALLET: Final = "wallet.db"
BESIDE: Final = ("", "-wal", "-shm")
"""What SQLite keeps of a database: one of another's would spoil it."""


class PutBack(msgspec.Struct, frozen=True):
    """What a restore has done."""

    manifest: Manifest
    wallets: dict[str, Restored]
    """By their file's name; none if nothing had happened since the backup."""
    aside: Path | None
    """Where what was there before is now."""


async def put_back(
    settings: StorageSettings,
    source: Path,
    passphrase: str = "",
    *,
    unchanged: bool = False,
    replace: bool = False,
    without: Collection[str] = (),
    routes: Routes = DIRECT,
) -> PutBack:
    """Make the node of these settings what the backup says, asking mints by `routes`. `unchanged`: it has not run since, so
    that no mint is asked. `replace`: what is there now is put aside, books in PostgreSQL as a dump. `without`: mints that
    are no more.

    Raises BadBackup; StorageError while a node runs; other WalletErrors of mints, with nothing changed here.
    """
    _check_owner(settings.data_dir)
    aside = settings.data_dir / f"{ASIDE}{time.time_ns()}"
    async with AsyncExitStack() as stack:
        stack.enter_context(exclusive(settings.lock_path))
        staged = stack.enter_context(scratch(settings.data_dir, ".restoring-"))
        manifest = unpack(source, staged, passphrase)
        _check(settings, manifest, unchanged=unchanged, replace=replace)
        books = None
        if manifest.ledger == "postgres":
            books = await stack.enter_async_context(Replacing.open(settings.ledger_url))
            if books.has_books and not replace:
                raise BadBackup("there are books in the database already: name an empty one, or add --replace")
        wallets = {} if unchanged else await _made_safe(staged, manifest, without, routes)
        _begin(settings)
        if books is not None:
            try:
                await books.load(staged / PG_DUMP, aside / PG_DUMP)
            except BadBackup:  # in one transaction: nothing has changed, unless the coins that are here were made anew
                if not wallets:
                    settings.unfinished_path.unlink()
                raise
            (staged / PG_DUMP).unlink()
        if wallets and (lost_msat := wallets[WALLET].lost_msat) and manifest.ledger != "none":
            await _book_loss(settings, staged, manifest, lost_msat)
        _place(settings, staged, aside)
        settings.unfinished_path.unlink()
        synced(settings.data_dir)
        return PutBack(manifest, wallets, aside if aside.exists() else None)


def _check_owner(folder: Path) -> None:
    """Root can put files anywhere, and the node could not open them."""
    if os.geteuid() == 0 and folder.exists() and folder.stat().st_uid != 0:
        remedy = "run this as the node's own user: runuser -u satroute -- satroute restore …"
        raise BadBackup(f"{folder} is another user's: {remedy}")


def _check(settings: StorageSettings, manifest: Manifest, *, unchanged: bool, replace: bool) -> None:
    shared = settings.ledger_url.startswith("postgresql://")
    if shared == (manifest.ledger == "sqlite"):
        where = "a SQLite file" if manifest.ledger == "sqlite" else "PostgreSQL"
        raise BadBackup(f"DATABASE_URL: the books of this backup are for {where}")
    if unchanged and manifest.running:
        raise BadBackup("the node was running when this backup was made, and so went on: leave --unchanged out")
    if not replace and (there := [path for path in _targets(settings, manifest).values() if path.exists()]):
        raise BadBackup(f"there is {there[0]} already: name another DATA_DIR, or put it aside with --replace")


async def _made_safe(staged: Path, manifest: Manifest, without: Collection[str], routes: Routes) -> dict[str, Restored]:
    """Every wallet, at its mints. Raises BadBackup when one is away: nothing has changed outside `staged` by then."""
    wallets: dict[str, Restored] = {}
    async with client_for(Purpose.MINTS, routes) as http:
        for path in [staged / name for name in manifest.files if Path(name).name == WALLET]:
            wallet = await Wallet.open(path, http)
            try:
                wallets[str(path.relative_to(staged))] = await wallet.restore(without)
            except (MintUnavailable, MintMisbehaved) as error:
                remedy = "try again in a while, or give all its coins up with --without-mint URL"
                raise BadBackup(f"{error}: nothing has changed here; {remedy}") from error
            finally:
                wallet.close()
    return wallets


async def _book_loss(settings: StorageSettings, staged: Path, manifest: Manifest, lost_msat: int) -> None:
    """What the node's own wallet has lost."""
    url = settings.ledger_url if manifest.ledger == "postgres" else f"sqlite:///{staged / LEDGER}"
    ledger = await Ledger.open(url)
    try:
        await ledger.book_redemption(f"restore:{secrets.token_hex(12)}", 0, Msat(lost_msat))
    finally:
        await ledger.close()


def _targets(settings: StorageSettings, manifest: Manifest) -> dict[str, Path]:
    """Where each file belongs."""
    targets = {name: settings.data_dir / name for name in manifest.files if name != PG_DUMP}
    if manifest.ledger == "sqlite":
        targets[LEDGER] = Path(settings.ledger_url.removeprefix("sqlite:///"))
    return targets


def _begin(settings: StorageSettings) -> None:
    """From here on a node must not start before all is in its place."""
    settings.unfinished_path.touch(mode=0o600)
    synced(settings.data_dir)


def _place(settings: StorageSettings, staged: Path, aside: Path) -> None:
    """The staged files in their places, what was there before in a folder of its own."""
    files = {path.relative_to(staged): path for path in sorted(staged.rglob("*")) if path.is_file()}
    for name, path in files.items():
        target = settings.data_dir / name
        if str(name) == LEDGER:
            target = Path(settings.ledger_url.removeprefix("sqlite:///"))
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for end in BESIDE:
            if (elder := target.with_name(target.name + end)).exists():
                (aside / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.move(elder, aside / name.with_name(name.name + end))
        shutil.move(path, target)
        synced(target)
        synced(target.parent)
