"""A kind of upstream, as its file in `kinds` describes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from node.tasks import Tasks
from node.upstream.base import Upstream
from node.upstream.spec import Timeouts, UpstreamSpec
from relays.routes import DIRECT, Routes


class Surroundings(msgspec.Struct, frozen=True):
    """What an upstream finds at the node that opens it."""

    timeouts: Timeouts
    tasks: Tasks
    data_dir: Path
    routes: Routes = DIRECT

    def routes_to(self, spec: UpstreamSpec) -> Routes:
        """The way to an upstream is its operator's choice, whatever the node's other calls do."""
        return msgspec.structs.replace(self.routes, tor_only=spec.tor)


class Kind(msgspec.Struct, frozen=True):
    """Its name in settings, how one is opened (raises StorageError for a wallet that cannot be), and where all of them are
    found if they have one home."""

    name: str
    open: Callable[[UpstreamSpec, Surroundings], Awaitable[Upstream]]
    home: str = ""
    has_wallet: bool = False
    """Which one process alone can pay from."""
