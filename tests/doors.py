"""A door in front of a server on loopback: it notes which program calls, and passes all on."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit


class Door:
    """`url` leads through it; `callers` has the program of each connection, by its name."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.callers: list[str] = []
        self.url = urlunsplit(parts._replace(netloc=f"127.0.0.1:{self._listener.getsockname()[1]}"))
        threading.Thread(target=self._open, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _open(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                caller, (_, port) = self._listener.accept()
                self.callers.append(_program_at(port))
                try:
                    called = socket.create_connection(self._target)
                except OSError:
                    caller.close()
                    continue
                for one, other in ((caller, called), (called, caller)):
                    threading.Thread(target=_pass, args=(one, other), daemon=True).start()


def _program_at(port: int) -> str:
    """Whose socket on loopback has the port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{words[9]}]" for words in lines if words[1] == f"0100007F:{port:04X}"}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it is gone
                if any(str(each.readlink()) in sockets for each in (process / "fd").iterdir()):
                    return (process / "comm").read_text().strip()
    return "nobody"


def _pass(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for each in (one, other):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
    one.close()


@contextlib.contextmanager
def doors(*urls: str) -> Iterator[tuple[Door, ...]]:
    made = tuple(Door(url) for url in urls)
    try:
        yield made
    finally:
        for door in made:
            door.close()
