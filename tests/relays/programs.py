"""Three relay programs that other people wrote, each of which can be killed and started again on its port.

rust-nostr's keeps the protocol; `nostr-relay` (PyPI) keeps stale events and ignores expirations; `@nostr-relay/core` (npm)
is the frame of a relay with the store left to us.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from node.localnet.process import free_port
from tests.conftest import CERTIFICATES

NPM: Final = Path(__file__).parent / "npm"
PYTHON_RELAY: Final = "nostr-relay==1.14"
READY_S: Final = 30
CONFIG: Final = """
storage:
  sqlalchemy.url: sqlite+aiosqlite:///{folder}/nostr.sqlite3
  validators: [nostr_relay.validators.is_signed]
gunicorn:
  bind: 127.0.0.1:{port}
  workers: 1
purple: {{host: 127.0.0.1, port: {port}, workers: 1, disable_compression: true}}
authentication: {{enabled: false}}
"""


class Program:
    """A relay program at a port of this machine."""

    def __init__(self, command: list[str], folder: Path, port: int) -> None:
        self._command = command
        self._folder = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"ws://127.0.0.1:{port}"
        self.tells_deletions = True
        """To those who follow; otherwise to those who ask."""

    def start(self) -> None:
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        until = time.monotonic() + READY_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            assert self._process.poll() is None, (self._folder / "log.txt").read_text()[-2000:]
            assert time.monotonic() < until, f"{self._command[0]} does not listen"
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def rust(folder: Path) -> Program:
    port = free_port()
    return Program([sys.executable, "-m", "node.localnet.relay", str(port)], folder, port)


def python(folder: Path) -> Program:
    """In an environment of its own: what it needs fights with what we do."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: pip install uv")
    port = free_port()
    env = {name: value for name, value in os.environ.items() if name != "SSL_CERT_DIR"}
    if certificates := env.get(CERTIFICATES):
        env["SSL_CERT_FILE"] = certificates
    for words in (["venv", "-q", "env"], ["pip", "install", "-q", "-p", "env/bin/python", PYTHON_RELAY]):
        done = subprocess.run(
            [uv, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
    (folder / "relay.yaml").write_text(CONFIG.format(folder=folder, port=port))
    return Program([str(folder / "env/bin/nostr-relay"), "-c", "relay.yaml", "serve", "--use-uvicorn"], folder, port)


def npm(folder: Path) -> Program:
    tool, node = shutil.which("npm"), shutil.which("node")
    if tool is None or node is None:
        pytest.skip("npm is not installed: apt-get install nodejs npm")
    for name in ("package.json", "package-lock.json", "relay.mjs"):
        shutil.copy(NPM / name, folder)
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run([tool, "ci", *flags], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    port = free_port()
    made = Program([node, "relay.mjs", str(port)], folder, port)
    made.tells_deletions = False
    return made


PROGRAMS: Final = {"rust": rust, "python": python, "npm": npm}
