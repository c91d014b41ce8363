"""The tor that the node uses: whether it runs, lets the node in, and has joined its network."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from node.config import Settings
from node.doctor.finding import Finding, note, ok, wrong
from node.errors import BadSettings, TorFailed
from node.tor.beside import own_tor
from node.tor.control import Control
from node.tor.service import hostname
from relays.routes import host_and_port

NAME_S = 5.0
"""A tor that was started for this look, as compose does, writes its name within that."""
GREETING, GREETED = b"\x05\x01\x02", b"\x05\x02"
"""SOCKS5 with a name and a password (RFC 1928), and the answer to it."""


async def way_out(settings: Settings, stack: AsyncExitStack, deadline_s: float) -> tuple[Settings, list[Finding]]:
    """The settings with a SOCKS port that is there until the stack closes; what there is to say of tor."""
    found: list[Finding] = []
    try:
        if settings.has_own_tor:
            control = await stack.enter_async_context(own_tor(settings))
            settings = settings.model_copy(update={"tor_socks": await control.socks()})
            found.append(_joined("of our own", await control.progress()))
        elif settings.tor_control:
            async with Control.open(settings.tor_control, settings.tor_control_password.get_secret_value()) as control:
                found.append(_joined(f"at {settings.tor_control}", await control.progress()))
        elif settings.onion_hostname_file is not None:
            await asyncio.to_thread(hostname, settings.onion_hostname_file, NAME_S)
    except TorFailed as error:
        return settings, [wrong("tor", error.words, error.remedy)]
    except BadSettings as error:
        return settings, [
            wrong("tor", words, remedy) for words, _, remedy in (p.rpartition(": ") for p in error.problems)
        ]
    where = settings.routes.socks
    if where and not await _greets(where, deadline_s):
        say = wrong if settings.tor_only else note
        found.append(say("tor", f"no SOCKS port answers at {where}", "start tor, or name its SOCKS port in TOR_SOCKS"))
    elif where and not found:
        found.append(ok("tor", f"its SOCKS port answers at {where}"))
    return settings, found


def _joined(which: str, percent: int) -> Finding:
    if percent == 100:
        return ok("tor", f"the one {which} has joined its network")
    remedy = "wait a moment; where the network blocks Tor, give it bridges in TOR_CONFIG, or in the torrc of its own"
    return wrong("tor", f"the one {which} is at {percent} % of joining its network", remedy)


async def _greets(where: str, deadline_s: float) -> bool:
    try:
        async with asyncio.timeout(deadline_s):
            reader, writer = await asyncio.open_connection(*host_and_port(where))
            try:
                writer.write(GREETING)
                return await reader.readexactly(len(GREETED)) == GREETED
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
