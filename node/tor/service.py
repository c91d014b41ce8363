"""The onion service, kept up: where tor goes away it is started, or called, again, and the service is added anew.

Its address follows from the key, so the node knows it before any of this; and the service lives by the connection to the
control port, so it is gone when the node is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from node.errors import BadSettings, NodeFault
from node.tor.control import JOIN_S, Control
from node.tor.key import NAME, OnionKey, onion_key
from node.tor.process import running_tor, tor_program
from node.tor.settings import TorSettings

log = logging.getLogger(__name__)

AGAIN_MIN_S: Final = 1.0
AGAIN_MAX_S: Final = 60.0
WELL_S: Final = 60.0
"""What stood for so long has not failed at once: the pauses begin anew."""
HOSTNAME_S: Final = 30.0

S = TypeVar("S", bound=TorSettings)


class OnionService(msgspec.Struct, frozen=True):
    """What is to be kept up: the service of a key, at a tor that runs, or at one of our own."""

    settings: TorSettings
    key: OnionKey

    @asynccontextmanager
    async def open(self, target: str) -> AsyncIterator[None]:
        """Lead the address to HOST:PORT as long as the block runs. Raises NodeFault where it cannot be done at first; later
        it is tried again."""
        ready = asyncio.Event()
        keeping = asyncio.create_task(self._keep(target, ready), name="the onion service")
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({keeping, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                await keeping
            keeping.add_done_callback(_tell)
            yield
        finally:
            for task in (keeping, waiting):
                task.cancel()
            await asyncio.gather(keeping, waiting, return_exceptions=True)

    async def _keep(self, target: str, ready: asyncio.Event) -> None:
        pause_s = AGAIN_MIN_S
        while True:
            began = time.monotonic()
            try:
                await self._once(target, ready)
            except NodeFault as error:
                if not ready.is_set():
                    raise
                log.warning("%s", error)
            if time.monotonic() - began > WELL_S:
                pause_s = AGAIN_MIN_S
            log.warning("the onion service is down; it is set up again in %g s", pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_MAX_S)

    async def _once(self, target: str, ready: asyncio.Event) -> None:
        """From its making to its end."""
        async with self._control() as control:
            await control.add_onion(self.key, target)
            log.info("http://%s leads to this node", self.key.name)
            # A node that may use nothing else waits for Tor, though not for ever.
            if self.settings.tor_only and not ready.is_set() and (percent := await control.progress(JOIN_S)) < 100:
                log.warning("Tor is at %d %% after %g s: the node starts without", percent, JOIN_S)
            ready.set()
            await control.lost(self.key)

    @asynccontextmanager
    async def _control(self) -> AsyncIterator[Control]:
        settings = self.settings
        if settings.tor_control:
            async with Control.open(settings.tor_control, settings.tor_control_password.get_secret_value()) as control:
                yield control
            return
        async with (
            running_tor(settings.tor_dir, settings.tor_socks, settings.tor_config) as where,
            Control.open(where) as control,
        ):
            await control.take_ownership()
            yield control


def _tell(keeping: asyncio.Task[None]) -> None:
    """Nothing but the end of the block should end it."""
    if not keeping.cancelled() and (error := keeping.exception()) is not None:
        log.error("the onion service is no longer kept up", exc_info=error)


def with_tor(settings: S, free_socks_port: int) -> tuple[S, OnionService | None]:
    """The settings with the onion's URL and the SOCKS port filled in, and the service to keep up, if the node makes one.
    A tor of our own takes the port. Raises BadSettings."""
    if settings.has_own_tor:
        tor_program()
        socks = settings.tor_socks or f"127.0.0.1:{free_socks_port}"
        settings = settings.model_copy(update={"tor_socks": socks})
    filled, key = with_onion(settings, HOSTNAME_S)
    return filled, None if key is None else OnionService(filled, key)


def with_onion(settings: S, within_s: float = 0.0) -> tuple[S, OnionKey | None]:
    """The settings with the onion's URL filled in, and its key, if the node makes the service. Another tor has so long to
    write its name. Raises BadSettings."""
    if settings.has_onion_service:
        key = onion_key(settings)
        return settings.model_copy(update={"onion_url": f"http://{key.name}"}), key
    if settings.onion_hostname_file is not None:
        name = hostname(settings.onion_hostname_file, within_s)
        return settings.model_copy(update={"onion_url": f"http://{name}"}), None
    return settings, None


def hostname(file: Path, within_s: float = 0.0) -> str:
    """What tor wrote there; a tor that starts beside the node has so long to do it. Raises BadSettings."""
    until = time.monotonic() + within_s
    while True:
        try:
            if NAME.fullmatch(name := file.read_text().strip()):
                return name
            reason = "no name of an onion service in it"
        except PermissionError as error:  # no wait mends that
            remedy = "set ONION_URL to http:// and the name that is in it, instead"
            raise BadSettings([f"ONION_HOSTNAME_FILE: {file} is for tor's own user alone: {remedy}"]) from error
        except OSError as error:
            reason = error.strerror or "not readable"
        if time.monotonic() >= until:
            raise BadSettings([f"ONION_HOSTNAME_FILE: {file}: {reason}: start tor, or look at its log"])
        time.sleep(0.2)
