"""Helpers for tests that start the command as a person would."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path


def satroute() -> list[str]:
    return [sys.executable, "-m", "node.cli"]


def leashed(folder: Path) -> list[str]:
    """Command lines of running local network parts whose working folder is inside `folder`."""
    return [command for _, command in running(folder) if "node.localnet.leash" in command]


def running(folder: Path) -> list[tuple[int, str]]:
    """(pid, command line) of every process whose working folder is inside `folder`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if (process / "cwd").resolve().is_relative_to(folder.resolve()):
                    found.append((int(process.name), command))
    return found


def cpu_s(pid: int) -> float:
    """What a running process has used of a processor."""
    after_its_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_its_name[11]) + int(after_its_name[12])) / os.sysconf("SC_CLK_TCK")


def until(condition: object, seconds: float = 20) -> bool:
    """Whether the callable came true in time."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
