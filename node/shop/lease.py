"""What a till and its counters say to each other: one line of JSON up, the shop as it is charged by down.

A counter asks again and again. What it was told is good for `LEASE_S` from when it began to ask; without that it sells
nothing. So whatever the till has shown for that long, every counter that still sells charges by.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

import msgspec

from node.errors import BadSettings
from node.pulse import Beats
from node.shop.catalogue import Shown

LEASE_S: Final = 2.0
POLL_S: Final = 0.5
MAX_PATH_BYTES: Final = 100
"""Of a Unix socket: systems know no longer ones."""
LENGTH_BYTES: Final = 8
BACKLOG: Final = 2048


class Asked(msgspec.Struct, frozen=True):
    """By a counter."""

    running: int
    """Requests that it serves now."""
    version: int
    """Of what it charges by; 0 for nothing yet."""
    measured: Beats = msgspec.field(default_factory=Beats)
    """Since it asked last."""


class Told(msgspec.Struct, frozen=True):
    """By the till."""

    version: int
    btc_known_until: float
    """By `time.monotonic`; after that nothing is sold that is priced in USD."""
    shown: Shown | None
    """None if it is what the counter has."""


def socket_path(data_dir: Path, name: str) -> Path:
    """Where a till listens for its counters. Raises BadSettings."""
    path = data_dir / f"{name}.sock"
    if len(str(path).encode()) > MAX_PATH_BYTES:
        raise BadSettings(
            [f"DATA_DIR: {data_dir} is too long a path for a socket, which --workers needs: name a shorter"]
        )
    return path


def listen_at(path: Path) -> socket.socket:
    """A socket there that this user alone can reach; what an earlier process left there goes."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Raises IncompleteReadError when the other is gone."""
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    return await reader.readexactly(length)


def write_frame(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
