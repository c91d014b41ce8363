"""This machine: the folder with the money, the books, and the clock."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from statistics import median
from typing import Final

import httpx

from node.backup.postgres import has_tables
from node.config import Settings
from node.doctor.finding import Finding, note, ok, wrong
from node.storage import AGAIN
from router_client.disk.storage import is_held
from router_client.errors import StorageError
from router_client.net.fetch import FetchFailed, fetch

LEAST_FREE: Final = 500_000_000
"""Bytes."""
MOST_OFF_S: Final = 60
"""Relays and clients take announcements for false whose date is far off; prices and quotes hold for a minute."""
SECRET_FILES: Final = ("nsec", "onion_key", "wallet.db", "ledger.db")
CLOCK: Final = "set it by the network: apt-get install systemd-timesyncd"


async def data(settings: Settings) -> list[Finding]:
    """Whether the folder can be written, is for its owner alone, and has room; whether a node runs there."""
    return await asyncio.to_thread(_data, settings)


def _data(settings: Settings) -> list[Finding]:
    folder = settings.data_dir
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        remedy = f"give it to the node's user (chown), or name another folder than {folder}"
        return [wrong("data", f"DATA_DIR: {there} cannot be written", remedy)]
    if settings.unfinished_path.exists():
        return [wrong("data", f"a restore into {folder} broke off half way", AGAIN)]
    open_to_others = [path for name in SECRET_FILES if _is_open(path := folder / name)]
    if open_to_others:
        names = " ".join(str(path) for path in open_to_others)
        return [wrong("data", f"others on this machine can read {names}", f"chmod 600 {names}")]
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE:
        return [
            wrong("data", f"{there} has {free // 1_000_000} MB left", "make room: what cannot be booked is not served")
        ]
    runs = "a node runs there" if is_held(settings.lock_path) else "no node runs there now"
    return [ok("data", f"{folder}: {runs}, {free // 1_000_000_000} GB are free")]


def settings_file(path: Path | None) -> list[Finding]:
    """Whether others can read the settings, which have keys in them."""
    if path is None or not path.stat().st_mode & stat.S_IRWXO:
        return []
    return [note("settings", f"everybody on this machine can read {path}", f"chmod o-rwx {path}")]


def _is_open(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


async def books(settings: Settings) -> list[Finding]:
    """Whether books in PostgreSQL can be reached."""
    if not settings.ledger_url.startswith("postgresql://"):
        return []
    try:
        there = await has_tables(settings.ledger_url)
    except StorageError as error:
        return [wrong("data", f"DATABASE_URL: {error}", "start PostgreSQL, and check user, password and host")]
    return [ok("data", "books in PostgreSQL" if there else "an empty database, which the first start fills")]


async def clock(settings: Settings, http: httpx.AsyncClient, deadline_s: float) -> list[Finding]:
    """This machine's against those of others, by the dates of their answers."""

    async def off_s(url: str) -> float | None:
        try:
            reply = await fetch(http, "GET", url, deadline_s=deadline_s)
            return time.time() - parsedate_to_datetime(reply.headers["date"]).timestamp()
        except (FetchFailed, KeyError, ValueError):
            return None

    asked = await asyncio.gather(*(off_s(f"{mint}/v1/info") for mint in settings.cashu_mints))
    differences = [each for each in asked if each is not None]
    if not differences:
        return [note("clock", "nobody told the time, so it could not be compared")]
    off = median(differences)
    if abs(off) > MOST_OFF_S:
        return [wrong("clock", f"it is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}", CLOCK)]
    return [ok("clock", "right")]
