"""The torrc of our own tor."""

from __future__ import annotations

import os
from pathlib import Path

from node.errors import BadSettings

CONTROL_FILE = "control_port"
COOKIE_FILE = "control_cookie"


def torrc(folder: Path, socks: str, more: Path | None) -> str:
    """Its text: all of tor's files lie in `folder`, its SOCKS port is `socks` (HOST:PORT, `auto`), and `more` is a file of
    further lines. Raises BadSettings for a path that a torrc cannot name."""
    lines = [
        f"DataDirectory {_quoted(folder / 'data')}",
        f"SocksPort {socks} IsolateSOCKSAuth",
        # Any free port: another node on this machine has another.
        "ControlPort auto",
        f"ControlPortWriteToFile {_quoted(folder / CONTROL_FILE)}",
        "CookieAuthentication 1",
        f"CookieAuthFile {_quoted(folder / COOKIE_FILE)}",
        # However this process ends, tor looks after it.
        f"__OwningControllerProcess {os.getpid()}",
        "ClientOnly 1",
        "AvoidDiskWrites 1",
        "Log notice stdout",
        "RunAsDaemon 0",
    ]
    if more is not None:
        lines.append(f"%include {_quoted(more)}")
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    text = str(path.absolute())
    if not text.isprintable():
        raise BadSettings([f"DATA_DIR: tor cannot be told of {text!a}: name another folder"])
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
