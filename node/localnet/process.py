"""Child processes of the local network: started on a leash, awaited until they answer, stopped in order."""

from __future__ import annotations

import atexit
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from node.errors import PartFailed

STOP_GRACE_S = 8.0
POLL_S = 0.05
FREE_PORTS = range(10_000, 32_000)
"""Below those that systems hand to outgoing connections: one of these could take a part's port while it restarts."""
PORT_TRIES = 20


class Child:
    """A running part: `name`, `url` once it serves, and a log file with everything it printed."""

    def __init__(self, name: str, module: str, args: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = folder / "log.txt"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node.localnet.leash", module, *args],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**_clean_environment(), "HOME": str(folder), **env},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops its children in order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait_http(self, url: str, deadline_s: float) -> None:
        """Return when `url` answers 2xx. Raises PartFailed when the child ends or the deadline passes first."""
        until = time.monotonic() + deadline_s
        with httpx.Client(timeout=2, trust_env=False) as http:
            while True:
                self._check_alive(until, deadline_s)
                try:
                    if http.get(url).is_success:
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(POLL_S)

    def wait_port(self, port: int, deadline_s: float) -> None:
        """Return when something listens on the port."""
        until = time.monotonic() + deadline_s
        while True:
            self._check_alive(until, deadline_s)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it: SIGTERM, then after a grace SIGKILL. Safe for one that is already gone."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._buried()

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._buried()

    def _buried(self) -> None:
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def last_words(self, lines: int = 5) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-lines:])

    def _check_alive(self, until: float, deadline_s: float) -> None:
        if (code := self._process.poll()) is not None:
            raise PartFailed(f"the {self.name} ended with code {code}; its log {self.log} ends:\n{self.last_words()}")
        if time.monotonic() > until:
            raise PartFailed(f"the {self.name} did not answer within {deadline_s:g} s; see {self.log}")


def free_port(preferred: int | None = None) -> int:
    """The preferred port of 127.0.0.1, or any other when it is taken, or was given out a moment ago."""
    others = random.sample(FREE_PORTS, PORT_TRIES)
    for port in others if preferred is None else (preferred, *others):
        if _is_ours(port) and _is_free(port):
            return port
    raise PartFailed("no port of 127.0.0.1 is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


_names: dict[int, socket.socket] = {}


def _is_ours(port: int) -> bool:
    """Whether no other network of this machine is about to listen there: a part takes a second from its start to that.

    For as long as this process lives it holds a name for the port, which on Linux costs no file.
    """
    if sys.platform != "linux" or port in _names:
        return True
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0satroute port {port}")
    except OSError:
        name.close()
        return False
    _names[port] = name
    return True


@atexit.register
def _forget_names() -> None:
    for name in _names.values():
        name.close()


def _clean_environment() -> dict[str, str]:
    """Ours without the settings of an operator's node: a play network must not touch real keys or money."""
    keep = ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "SYSTEMROOT")
    return {name: os.environ[name] for name in keep if name in os.environ}
