"""What happens by the clock: each job is one call, and its failure is logged, not swallowed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from node.errors import NodeFault, UpstreamError
from node.node import Node
from relays.errors import RelaysError
from router_client.ecash import late
from router_client.errors import ClientError

log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 30
NOTE_EVERY_S = 5
RECOVER_EVERY_S = 60
REDEEM_EVERY_S = 5
RESTOCK_EVERY_S = 3
INVOICES_EVERY_S = 5
PAYOUT_EVERY_S = 600
MINTS_EVERY_S = 300
MODELS_EVERY_S = 60
BTC_EVERY_S = 60
BUSY_EVERY_S = 10
ANNOUNCE_EVERY_S = 20 * 60
ANNOUNCE_JITTER_S = 60
CHANGES_EVERY_S = 10
RELAYS_EVERY_S = 5
AUDIT_EVERY_S = 600
JITTER_S = 5
FIRST_ANNOUNCEMENT = timedelta(seconds=0.5)
"""After the start: who reads it will knock at once, and should find the door open."""


def schedule(node: Node) -> AsyncIOScheduler:
    """The node's scheduler, not yet started."""
    scheduler = _scheduler()
    every = partial(_every, scheduler)
    every(EXPIRE_EVERY_S, node.holding.expire, "expire holds")
    every(NOTE_EVERY_S, node.completions.note_streams, "note what runs")
    every(RECOVER_EVERY_S, node.deposits.recover, "recover deposits")
    every(RECOVER_EVERY_S, node.refunds.recover, "recover refunds")
    every(REDEEM_EVERY_S, node.redemptions.run, "redeem accepted ecash")
    every(RESTOCK_EVERY_S, node.redemptions.restock, "make small coins for change")
    every(INVOICES_EVERY_S, node.invoices.watch, "credit paid invoices")
    every(PAYOUT_EVERY_S, node.payouts.run, "pay earnings out")
    every(MINTS_EVERY_S, node.look_at_mints, "look at the mints")
    every(MODELS_EVERY_S, node.refresh_models, "refresh models")
    every(BTC_EVERY_S, node.refresh_btc, "ask for the price of bitcoin")
    every(BUSY_EVERY_S, node.look_how_busy, "look how busy the node is")
    every(ANNOUNCE_EVERY_S, node.announcer.publish, "announce", ANNOUNCE_JITTER_S)
    every(CHANGES_EVERY_S, node.announcer.publish_changes, "announce what has changed")
    every(CHANGES_EVERY_S, node.announcer.publish_capacity, "tell the capacity")
    every(RELAYS_EVERY_S, node.announcer.retry, "offer relays what they have not taken")
    every(AUDIT_EVERY_S, node.audit, "audit")
    for delay, work, name in (
        (timedelta(0), partial(node.deposits.recover, older_than_s=0), "recover deposits at the start"),
        (timedelta(0), node.look_at_mints, "look at the mints at the start"),
        (timedelta(0), node.refunds.recover, "recover refunds at the start"),
        (timedelta(0), partial(asyncio.to_thread, late.warm), "import what tokens need"),
        (FIRST_ANNOUNCEMENT, node.announcer.publish, "announce at the start"),
    ):
        scheduler.add_job(_guarded(work, name), "date", run_date=datetime.now(UTC) + delay)
    return scheduler


def schedule_counter(node: Node) -> AsyncIOScheduler:
    """That of a process beside the till, not yet started: all but what it runs itself is the till's to look after."""
    scheduler = _scheduler()
    _every(scheduler, EXPIRE_EVERY_S, node.holding.expire, "expire holds")
    _every(scheduler, NOTE_EVERY_S, node.completions.note_streams, "note what runs")
    return scheduler


def _scheduler() -> AsyncIOScheduler:
    """However late a job's turn comes, it is run: left to itself the scheduler drops what is a second late, and with a slow
    start all that the start is for."""
    return AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True})


def _every(
    scheduler: AsyncIOScheduler,
    seconds: int,
    work: Callable[[], Awaitable[object]],
    name: str,
    jitter_s: int = JITTER_S,
) -> None:
    scheduler.add_job(
        _guarded(work, name),
        "interval",
        seconds=seconds,
        jitter=min(jitter_s, seconds // 5),
        max_instances=1,
        id=name,
    )


def _guarded(work: Callable[[], Awaitable[object]], name: str) -> Callable[[], Awaitable[None]]:
    """The job with its failures in the log; anything unforeseen is logged by the scheduler with its trace."""

    async def run() -> None:
        try:
            await work()
        except asyncio.CancelledError:  # the node is going, and its journals know what was under way
            log.debug("%s: stopped", name)
        except UpstreamError as error:
            log.warning("%s: %s", name, error)
        except (NodeFault, ClientError, RelaysError) as error:
            log.error("%s: %s", name, error)

    return run
