"""A counter: a process beside the till that serves who has a key, and leaves everything else to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from node.app import completions_of, end, limits_of
from node.config import Settings
from node.credentials import Credentials
from node.errors import NotHere
from node.follower import Followed, Follower
from node.front import open_fleet
from node.holding import Holding
from node.jobs import schedule_counter
from node.l402 import L402
from node.ledger.ledger import Ledger
from node.node import Node
from node.pulse import Pulse
from node.replay import Replays
from node.shop.lease import socket_path
from node.tasks import Tasks
from node.till import SHOP
from node.upstream.kinds import known_kinds

log = logging.getLogger(__name__)


class _Away:
    """A part that the till alone has."""

    def __getattr__(self, name: str) -> Any:
        raise NotHere(f"the till has what '{name}' is asked of")


@asynccontextmanager
async def open_counter(settings: Settings, number: int) -> AsyncIterator[Node]:
    """A node whose money, announcements and prices are the till's; what needs them raises NotHere. It waits for the till,
    then ends what an earlier process of this number held."""
    tasks, specs, kinds = Tasks(), settings.upstreams(), known_kinds()
    left_out = {spec.name for spec in specs if kinds[spec.kind].has_wallet}
    limits, catalogue, pulse = limits_of(settings), Followed(settings, specs, left_out), Pulse()
    follower = Follower(socket_path(settings.data_dir, SHOP), catalogue, lambda: limits.in_flight, pulse.take)
    following = tasks.start(follower.run(), "follow the till")
    await follower.ready.wait()  # the till has brought the books up to date, too
    ledger = await Ledger.open(settings.ledger_url, instance=f"{settings.instance()}-{number}")
    fleet = await open_fleet(settings, [spec for spec in specs if spec.name not in left_out], tasks)
    away: Any = _Away()
    signer = settings.signer()
    l402 = L402(signer, ledger, away, tasks, is_offered=settings.l402)
    holding = Holding(ledger, tasks, settings.request_timeout_s)
    node = Node(
        settings=settings,
        signer=signer,
        ledger=ledger,
        wallet=away,
        fleet=fleet,
        btc_price=away,
        catalogue=catalogue,
        till=away,
        listing=away,
        deposits=away,
        refunds=away,
        cash=away,
        invoices=away,
        l402=l402,
        redemptions=away,
        payouts=away,
        replays=Replays(ledger),
        credentials=Credentials(ledger, away, l402),
        holding=holding,
        completions=completions_of(settings, ledger, holding, fleet, signer, tasks, pulse),
        limits=limits,
        utilisation=away,
        announcer=away,
        proofs=away,
        directory=away,
        readiness=away,
    )
    scheduler = schedule_counter(node)
    try:
        if orphans := await ledger.expire_orphans():
            log.warning("ended %d holds that an earlier run left", orphans)
        scheduler.start()
        yield node
    finally:
        scheduler.shutdown(wait=False)
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        await end(tasks)
        await fleet.close()
        await ledger.close()
