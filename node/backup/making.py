"""Making a backup, beside a running node or without one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from node.backup.archive import Books, Manifest, manifest_of, pack
from node.backup.postgres import PG_DUMP
from node.backup.scratch import scratch
from node.backup.snapshot import copy_all
from node.errors import BadBackup
from node.storage import StorageSettings
from relays.errors import InvalidKey
from relays.event import Signer
from router_client.disk.storage import is_held

LEDGER: Final = "ledger.db"
TEXTS: Final = ("nsec", "instance", "onion_key")
"""Files of the data folder that are not databases."""
LEAST_LEFT: Final = 20_000_000
"""Bytes that a backup leaves a node to write in."""
ASIDE: Final = "replaced-"
"""Folders of what a restore took the place of."""


async def back_up(
    settings: StorageSettings, target: Path, *, passphrase: str = "", with_database: bool = True
) -> Manifest:
    """Write everything the node cannot do without into one file, all as of one moment. Without `with_database`, books in
    PostgreSQL are left out: they are backed up elsewhere.

    Raises BadBackup, BadSettings amid a restore, and StorageError for databases that cannot be read.
    """
    folder, shared = settings.data_dir, settings.ledger_url.startswith("postgresql://")
    dumped = shared and with_database
    _check_folder(target.parent)
    try:
        there = settings.wallet_path.exists()
    except PermissionError as error:
        remedy = "run this as the node's own user: runuser -u satroute -- satroute backup …"
        raise BadBackup(f"{folder} is another user's: {remedy}") from error
    settings.check_whole()
    if not there:
        raise BadBackup(f"there is no node in {folder}: name its settings with --env-file")
    running = is_held(settings.lock_path)
    with scratch(folder, ".backup-") as copy:
        files = {
            path: copy / path.relative_to(folder) for path in sorted(folder.rglob("*.db")) if _is_ours(path, folder)
        }
        files.pop(folder / LEDGER, None)
        if not shared:
            files[Path(settings.ledger_url.removeprefix("sqlite:///"))] = copy / LEDGER
        if not all(path.exists() for path in files):
            raise BadBackup(f"there is no node in {folder}: name its settings with --env-file")
        _check_room((folder, target.parent), files)
        await copy_all(files, settings.ledger_url if dumped else "", copy / PG_DUMP if dumped else None)
        for text in TEXTS:
            if (folder / text).exists():
                (copy / text).write_text((folder / text).read_text())
        ledger: Books = "postgres" if dumped else "none" if shared else "sqlite"
        manifest = manifest_of(copy, npub_in(copy), ledger, running=running or is_held(settings.lock_path))
        pack(copy, manifest, target, passphrase)
        return manifest


def npub_in(folder: Path) -> str:
    """Whose data a folder holds; empty when the key is not among it."""
    try:
        return Signer.parse((folder / "nsec").read_text()).npub
    except (OSError, InvalidKey):
        return ""


def _is_ours(path: Path, folder: Path) -> bool:
    first = path.relative_to(folder).parts[0]
    return path.is_file() and not first.startswith((ASIDE, "."))


def _check_room(folders: Iterable[Path], files: Iterable[Path]) -> None:
    """A backup an hour must not fill the disk on which the node books. It takes a copy of the files, and itself."""
    needed = 2 * sum(path.stat().st_size for path in files) + LEAST_LEFT
    for folder in folders:
        if (free := shutil.disk_usage(folder).free) < needed:
            remedy = "make room there, or take older backups elsewhere"
            raise BadBackup(f"{folder} has {free // 1_000_000} MB left, of {needed // 1_000_000} MB needed: {remedy}")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise BadBackup(f"there is no folder {folder}: make it, or name another place")
