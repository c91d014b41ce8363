"""A SOCKS5 port that notes who asks for what, knows names of its own, and passes on; and a resolver that nobody may ask."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest


class SocksPort:
    """`names` says at which URL each of its names is; `asked` has (user's name, host) of each connection."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names: dict[str, tuple[str | None, int | None]] = {}
        for name, url in names.items():
            self.add(name, url)
        self.asked: list[tuple[str, str]] = []
        self.passwords: set[str] = set()
        self.where = ""

    def add(self, name: str, url: str) -> None:
        self._names[name] = (urlsplit(url).hostname, urlsplit(url).port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                await self._serve(reader, writer)
            finally:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        assert b"\x02" in await reader.readexactly(count), "a name that keeps circuits apart"
        writer.write(b"\x05\x02")
        await reader.readexactly(1)
        user = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        self.passwords.add((await reader.readexactly((await reader.readexactly(1))[0])).decode())
        writer.write(b"\x01\x00")
        *_, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        await reader.readexactly(2)
        self.asked.append((user, host))
        if host not in self._names:
            writer.write(b"\x05\x04\x00\x01" + bytes(6))
            return
        there, back = await asyncio.open_connection(*self._names[host])
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await asyncio.gather(_pass(reader, back), _pass(there, writer))


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


@contextlib.asynccontextmanager
async def socks_port(**names: str) -> AsyncIterator[SocksPort]:
    """One that runs; a name's dots are written as two underscores."""
    port = SocksPort({name.replace("__", "."): url for name, url in names.items()})
    server = await asyncio.start_server(port.serve, "127.0.0.1", 0)
    port.where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield port
    finally:
        server.close()


def forbid_dns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on no name is found; those that were asked for."""
    asked: list[str] = []
    usual = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            asked.append(name)
            raise socket.gaierror(socket.EAI_NONAME, "nobody may ask") from None
        return usual(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked
