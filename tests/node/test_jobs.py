"""Jobs that could not begin on time are done all the same: a start that waits for a mint takes seconds."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from node import jobs
from tests.conftest import DEAD_MINT
from tests.node.harness import running_node


class Earlier(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Earlier:
        return super().now(tz) - timedelta(hours=1)


async def test_what_is_to_be_done_at_the_start_is_done_however_long_that_took(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url="http://127.0.0.1:9") as running:
        announced, recovered = asyncio.Event(), asyncio.Event()

        async def publish() -> None:
            announced.set()

        async def recover() -> None:
            recovered.set()

        monkeypatch.setattr(running.node.announcer, "publish", publish)
        monkeypatch.setattr(running.node.refunds, "recover", recover)
        monkeypatch.setattr(jobs, "datetime", Earlier)
        scheduler = jobs.schedule(running.node)
        scheduler.start()
        try:
            async with asyncio.timeout(20):
                await asyncio.gather(announced.wait(), recovered.wait())
        finally:
            scheduler.shutdown(wait=False)
