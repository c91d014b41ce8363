"""A private Tor network on loopback, of real authorities, relays and exits: `python -m tests.tornet FOLDER`.

Three authorities vote every few seconds; with the relays beside them there are enough hops for an onion service.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from node.localnet.process import free_port

AUTHORITIES = 3
RELAYS = 3
READY_S = 100
POLL_S = 0.1
BOOTSTRAPPED = "Bootstrapped 100%"
EVERYBODY = """\
TestingTorNetwork 1
RunAsDaemon 0
ShutdownWaitLength 0
PathsNeededToBuildCircuits 0.25
TestingDirAuthVoteExit *
TestingDirAuthVoteHSDir *
TestingDirAuthVoteGuard *
V3AuthNIntervalsValid 2
VanguardsLiteEnabled 0
UseEntryGuards 0
"""
"""Of each tor of the network, and of those that use it. In so small a network a guard that is kept is often the last hop as
well, and such circuits fail: onion services would take a minute to be met."""
RELAY = """\
Address 127.0.0.1
AssumeReachable 1
SocksPort 0
"""
AUTHORITY = """\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ContactInfo nobody@example.com
ExitRelay 1
ExitPolicy accept 127.0.0.0/8:*
ExitPolicyRejectPrivate 0
V3AuthVotingInterval 20
V3AuthVoteDelay 4
V3AuthDistDelay 4
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
TestingMinExitFlagThreshold 0
"""


class TorNet:
    """The network in a folder. `config` is what a tor has to be told to be part of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "network.torrc"
        self._client = folder / "client"

    @property
    def socks(self) -> str:
        """A client's port, HOST:PORT."""
        return (self.folder / "socks").read_text()

    def forget(self) -> None:
        """Let the client ask anew for onion services: those that it could not reach it leaves alone for a while."""
        host, port = (self.folder / "control").read_text().split(":")
        with socket.create_connection((host, int(port)), timeout=10) as control:
            control.sendall(b"AUTHENTICATE\r\nSIGNAL NEWNYM\r\nQUIT\r\n")
            while control.recv(1000):
                pass

    def wait(self) -> None:
        """Return when circuits can be made. Raises AssertionError with what tor says when that takes too long."""
        until = time.monotonic() + READY_S
        while BOOTSTRAPPED not in (said := _said(self._client)):
            assert time.monotonic() < until, f"no Tor network after {READY_S} s: {said[-2000:]}"
            time.sleep(POLL_S)


def installed() -> bool:
    return shutil.which("tor") is not None and shutil.which("tor-gencert") is not None


def start(folder: Path) -> subprocess.Popen[bytes]:
    """A network on its way up; it ends with its standard input."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.tornet", str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)


def _run(folder: Path) -> None:
    """Start all, and stop them when the parent is gone."""
    names = [f"authority{n}" for n in range(AUTHORITIES)]
    ports = {name: (free_port(), free_port()) for name in names}
    network = EVERYBODY + "".join(_authority(folder / name, name, *ports[name]) for name in names)
    (folder / "network.torrc").write_text(network)
    tors = []
    try:
        for name in names:
            or_port, dir_port = ports[name]
            own = f"Nickname {name}\nORPort 127.0.0.1:{or_port}\nDirPort 127.0.0.1:{dir_port}\n"
            tors.append(_tor(folder / name, network + AUTHORITY + RELAY + own))
        for n in range(RELAYS):
            own = f"Nickname relay{n}\nORPort 127.0.0.1:{free_port()}\n"
            tors.append(_tor(folder / f"relay{n}", network + RELAY + own))
        socks, control = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        client = f"{network}SocksPort {socks} IsolateSOCKSAuth\nControlPort {control}\n"
        tors.append(_tor(folder / "client", client))
        (folder / "control").write_text(control)
        (folder / "socks").write_text(socks)
        while os.read(0, 1):
            pass
    finally:
        for tor in tors:
            tor.kill()
        for tor in tors:
            tor.wait()


def _authority(folder: Path, name: str, or_port: int, dir_port: int) -> str:
    """Make its keys; the line by which others know it."""
    keys = folder / "keys"
    keys.mkdir(parents=True)
    folder.chmod(0o700)
    files = [
        (option, str(keys / f"authority_{file}")) for option, file in (("-i", "identity_key"), ("-s", "signing_key"))
    ]
    where = f"127.0.0.1:{dir_port}"
    gencert = ["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a", where]
    _done([*gencert, *(word for pair in files for word in pair), "-c", str(keys / "authority_certificate")])
    certificate = (keys / "authority_certificate").read_text()
    identity = re.search(r"^fingerprint (\w+)", certificate, re.MULTILINE)
    (folder / "torrc").write_text(
        f"Nickname {name}\nORPort 127.0.0.1:{or_port}\nDirPort {where}\nAddress 127.0.0.1\nDataDirectory {folder}\n"
        "TestingTorNetwork 1\nAuthoritativeDirectory 1\nV3AuthoritativeDirectory 1\nContactInfo nobody@example.com\n"
        f"DirAuthority x 127.0.0.1:1 {'0' * 40}\n"
    )
    told = _done(["tor", "--quiet", "--list-fingerprint", "-f", str(folder / "torrc")])
    fingerprint = told.split(maxsplit=1)[1].replace(" ", "").strip()
    assert identity is not None
    return f"DirAuthority {name} orport={or_port} no-v2 v3ident={identity[1]} {where} {fingerprint}\n"


def _done(words: Sequence[str]) -> str:
    return subprocess.run(words, input="\n", capture_output=True, text=True, check=True, timeout=60).stdout


def _tor(folder: Path, config: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    more = f"DataDirectory {folder}\nLog notice file {folder / 'notice.log'}\n__OwningControllerProcess {os.getpid()}\n"
    (folder / "torrc").write_text(config + more)
    words = ["tor", "-f", str(folder / "torrc")]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _said(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / "notice.log").read_text()
    return ""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _run(Path(sys.argv[1]))
