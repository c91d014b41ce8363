"""Helpers for tests that start the command as a person would."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def satroute() -> list[str]:
    return [sys.executable, "-m", "node.cli"]


def leashed(folder: Path) -> list[str]:
    """Command lines of running local network parts whose working folder is inside `folder`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                inside = (process / "cwd").resolve().is_relative_to(folder.resolve())
            except OSError:
                continue
            if inside and "node.localnet.leash" in command:
                found.append(command)
    return found


def until(condition: object, seconds: float = 20) -> bool:
    """Whether the callable came true in time."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def no_children_of(_: object) -> None:
    """The temporary folders of finished demos hold no running part."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "satroute-demo-" not in listed
