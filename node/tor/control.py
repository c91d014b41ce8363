"""Tor's control port (control-spec): authentication, onion services, and a watch on the connection, which they live by.

No events are asked for, so whatever comes is the answer to the last question.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from node.errors import TorFailed
from node.tor.key import OnionKey
from relays.routes import host_and_port

ANSWER_S: Final = 10.0
MAX_LINES: Final = 1000
LOOK_EVERY_S: Final = 20.0
LOOK_AGAIN_S: Final = 0.5
JOIN_S: Final = 60.0
"""A tor that starts has so long to join its network."""
LOOK: Final = "look at tor's log"
ITS_GROUP: Final = "let the node's user into tor's group: usermod -aG debian-tor satroute"
REFUSED: Final = MappingProxyType(
    {"AUTHENTICATE": "check TOR_CONTROL_PASSWORD", "ADD_ONION": "stop what has it already"}
)
COOKIE_BYTES: Final = 32
_CHALLENGE: Final = re.compile(r"AUTHCHALLENGE SERVERHASH=([0-9A-Fa-f]{64}) SERVERNONCE=([0-9A-Fa-f]+)")
_COOKIE_FILE: Final = re.compile(r'COOKIEFILE="((?:[^"\\]|\\.)*)"')
_PROGRESS: Final = re.compile(r"PROGRESS=(\d+)")
_LISTENER: Final = re.compile(r'"(\S+:\d+)"')
_OURS: Final = b"Tor safe cookie authentication controller-to-server hash"
_THEIRS: Final = b"Tor safe cookie authentication server-to-controller hash"


class Control:
    """One connection, authenticated. Methods raise TorFailed."""

    def __init__(self, where: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._where = where
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, where: str, password: str = "") -> AsyncIterator[Control]:
        """A connection to HOST:PORT or to the path of a socket, closed at the end of the block."""
        try:
            async with asyncio.timeout(ANSWER_S):
                if where.startswith("/"):
                    reader, writer = await asyncio.open_unix_connection(where)
                else:
                    reader, writer = await asyncio.open_connection(*host_and_port(where))
        except (OSError, TimeoutError) as error:
            reason = os.strerror(error.errno) if error.errno else "no answer"
            remedy = ITS_GROUP if isinstance(error, PermissionError) else "start it, with ControlPort in its torrc"
            raise TorFailed(f"TOR_CONTROL: no tor answers at {where} ({reason})", remedy) from error
        try:
            control = cls(where, reader, writer)
            await control._authenticate(password)
            yield control
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def add_onion(self, key: OnionKey, target: str) -> None:
        """Serve the key's address, port 80, by connecting to HOST:PORT, until this connection ends."""
        answer = await self._ask(f"ADD_ONION {key.secret} Port=80,{target}")
        if f"ServiceID={key.name.removesuffix('.onion')}" not in answer:
            raise TorFailed(f"tor at {self._where} made another onion service than {key.name}")

    async def take_ownership(self) -> None:
        """From now on this tor ends when the connection does."""
        await self._ask("TAKEOWNERSHIP")

    async def progress(self, within_s: float = 0.0) -> int:
        """How far it has come in joining its network, in per cent; it has so long to get to 100."""
        until = time.monotonic() + within_s
        while True:
            found = _PROGRESS.search(" ".join(await self._ask("GETINFO status/bootstrap-phase")))
            progress = int(found[1]) if found else 0
            if progress == 100 or time.monotonic() >= until:
                return progress
            await asyncio.sleep(LOOK_AGAIN_S)

    async def socks(self) -> str:
        """Its SOCKS port, as HOST:PORT."""
        found = _LISTENER.search(" ".join(await self._ask("GETINFO net/listeners/socks")))
        if found is None:
            raise TorFailed(f"tor at {self._where} has no SOCKS port", "leave SocksPort 0 out of TOR_CONFIG")
        return found[1]

    async def lost(self, key: OnionKey) -> None:
        """Return when the connection is gone, or the onion service with it."""
        service = key.name.removesuffix(".onion")
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._reader.read(1)  # nothing was asked: there is nothing but its end to read
                    return
            except TimeoutError:
                pass
            except OSError:
                return
            if service not in " ".join(await self._ask("GETINFO onions/current")):
                return

    async def _authenticate(self, password: str) -> None:
        told = " ".join(await self._ask("PROTOCOLINFO 1"))
        found = re.search(r"AUTH METHODS=([A-Z,]+)", told)
        methods = found[1].split(",") if found else []
        if password:
            quoted = password.replace("\\", "\\\\").replace('"', '\\"')
            await self._ask(f'AUTHENTICATE "{quoted}"')
        elif "NULL" in methods:
            await self._ask("AUTHENTICATE")
        elif "SAFECOOKIE" in methods and (path := _COOKIE_FILE.search(told)):
            await self._ask(f"AUTHENTICATE {await self._cookie_answer(_read_cookie(path[1]))}")
        else:
            remedy = "set TOR_CONTROL_PASSWORD, or CookieAuthentication 1 in its torrc"
            raise TorFailed(f"tor at {self._where} wants a password", remedy)

    async def _cookie_answer(self, cookie: bytes) -> str:
        """Both sides show that they know the cookie, and neither tells it (SAFECOOKIE)."""
        nonce = secrets.token_bytes(32)
        found = _CHALLENGE.search(" ".join(await self._ask(f"AUTHCHALLENGE SAFECOOKIE {nonce.hex()}")))
        if found is None:
            raise TorFailed(f"tor at {self._where} does not answer as the control protocol says")
        both = cookie + nonce + bytes.fromhex(found[2])
        if not hmac.compare_digest(hmac.digest(_THEIRS, both, hashlib.sha256), bytes.fromhex(found[1])):
            remedy = "name the tor of this machine in TOR_CONTROL"
            raise TorFailed(f"what listens at {self._where} does not know tor's cookie", remedy)
        return hmac.digest(_OURS, both, hashlib.sha256).hex()

    async def _ask(self, line: str) -> list[str]:
        """The lines of the answer, without their codes."""
        if not line.isprintable():
            raise TorFailed(
                "TOR_CONTROL_PASSWORD: not a line of text", "set it to what HashedControlPassword was made of"
            )
        try:
            async with asyncio.timeout(ANSWER_S):
                self._writer.write(f"{line}\r\n".encode())
                await self._writer.drain()
                return await self._answer(line.split(maxsplit=1)[0])
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a line without an end
            raise TorFailed(f"tor at {self._where} does not answer") from error

    async def _answer(self, verb: str) -> list[str]:
        lines = []
        for _ in range(MAX_LINES):
            line = (await self._reader.readline()).decode("utf-8", "replace").rstrip("\r\n")
            code, mark, text = line[:3], line[3:4], line[4:]
            if not line or not code.isdigit():
                raise TorFailed(f"tor at {self._where} has closed its control port")
            lines.append(text)
            if mark == "+":  # data up to a line with a dot
                while (data := (await self._reader.readline()).decode("utf-8", "replace").rstrip("\r\n")) != ".":
                    lines.append(data)
                    if len(lines) > MAX_LINES or self._reader.at_eof():
                        raise TorFailed(f"tor at {self._where} does not come to an end")
            if mark == " ":
                if code != "250":
                    raise TorFailed(f"tor at {self._where} refuses {verb}: {text[:200]}", REFUSED.get(verb, LOOK))
                return lines
        raise TorFailed(f"tor at {self._where} does not come to an end")


def _read_cookie(quoted: str) -> bytes:
    path = Path(re.sub(r"\\(.)", r"\1", quoted))
    try:
        cookie = path.read_bytes() if path.stat().st_size == COOKIE_BYTES else b""
    except OSError as error:
        remedy = f"{ITS_GROUP}; or set TOR_CONTROL_PASSWORD"
        raise TorFailed(f"tor's cookie {path} cannot be read ({error.strerror})", remedy) from error
    if not cookie:
        raise TorFailed(f"tor's cookie {path} is none", "set TOR_CONTROL_PASSWORD")
    return cookie
