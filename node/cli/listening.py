"""Where a command listens."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from node.errors import BadSettings
from node.shop.lease import BACKLOG


@contextmanager
def listening(host: str, port: int, *, shared: bool = False) -> Iterator[socket.socket]:
    """A socket that listens at the address. Raises BadSettings when it cannot be had."""
    with bound(host, port, shared=shared) as listener:
        try:
            listener.listen(BACKLOG)  # two sockets may be bound to one port, but only one listens
        except OSError as error:
            raise _not_to_be_had(host, port, error) from error
        yield listener


@contextmanager
def bound(host: str, port: int, *, shared: bool) -> Iterator[socket.socket]:
    """A socket bound to the address; `shared`, among all that share it, callers are dealt out by the system."""
    with ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = stack.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
        except (OSError, ValueError) as error:
            raise _not_to_be_had(host, port, error) from error
        yield bound


def _not_to_be_had(host: str, port: int, error: Exception) -> BadSettings:
    reason = getattr(error, "strerror", None) or "not an address"
    away = isinstance(error, socket.gaierror | ValueError) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL
    which = "HOST, such as 127.0.0.1" if away else "PORT"
    return BadSettings([f"HOST, PORT: cannot listen on {host!a}:{port} ({reason}): set another {which}"])
