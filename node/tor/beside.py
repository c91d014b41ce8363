"""The tor of RUN_TOR for commands beside the node: its SOCKS port is another at each start, and known to that tor alone."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from node.errors import TorFailed
from node.tor.control import JOIN_S, Control
from node.tor.process import control_port_in, running_tor
from node.tor.settings import TorSettings
from node.tor.torrc import CONTROL_FILE

S = TypeVar("S", bound=TorSettings)


@asynccontextmanager
async def own_tor(settings: TorSettings) -> AsyncIterator[Control]:
    """The node's where it runs, else one as long as the block runs, in a folder of its own, which has had a minute to join
    its network. Raises NodeFault."""
    async with AsyncExitStack() as stack:
        try:
            where = control_port_in(settings.tor_dir / CONTROL_FILE)
            control = await stack.enter_async_context(Control.open(where)) if where else None
        except TorFailed:  # what a tor has left that was killed
            control = None
        if control is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="satroute-tor-")))
            where = await stack.enter_async_context(running_tor(folder, "auto", settings.tor_config))
            control = await stack.enter_async_context(Control.open(where))
            await control.take_ownership()
            await control.progress(JOIN_S)
        yield control


@asynccontextmanager
async def with_socks(settings: S) -> AsyncIterator[S]:
    """The settings, with the SOCKS port of our own tor filled in where there is one. Raises NodeFault."""
    if not settings.has_own_tor:
        yield settings
        return
    async with own_tor(settings) as control:
        yield settings.model_copy(update={"tor_socks": await control.socks()})
