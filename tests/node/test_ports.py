"""Ports for the local network's parts: nobody else's, and no other network's."""

from __future__ import annotations

import socket
import subprocess
import sys

from node.localnet.process import free_port

ANOTHER = (
    "import sys; from node.localnet.process import free_port; print(free_port(int(sys.argv[1])), flush=True); input()"
)


def test_a_port_that_somebody_listens_on_is_not_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_two_networks_that_start_at_once_do_not_choose_the_same() -> None:
    """A part listens a second after its port was chosen: until then the port looks free."""
    port = free_port()
    command = [sys.executable, "-c", ANOTHER, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        other.communicate("\n", timeout=10)
    assert theirs != port
    assert free_port(port) == port
