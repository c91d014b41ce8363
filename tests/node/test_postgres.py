"""What only a server can do: go away in the middle of a batch. Every move can be made again, and nothing is booked twice."""

from __future__ import annotations

import asyncio
import time

import pytest

from node.ledger.ledger import Ledger
from node.ledger.model import DuplicateHold, Held
from router_client.errors import StorageError
from tests.conftest import connected
from tests.node.drafts import draft

COST_MSAT = 7


async def test_a_process_whose_clock_is_ahead_frees_no_other_ones_requests(postgres_books_url: str) -> None:
    """They are charged where they run. What a process left that does not come back is free an hour after its time."""
    late_s = 0.0
    here = await Ledger.open(postgres_books_url, instance="here")
    ahead = await Ledger.open(postgres_books_url, lambda: time.time() + late_s, instance="ahead")
    await here.create_key("hash", "", "", 1000)
    key = await here.key_of("hash")
    assert key is not None
    for request_id in ("runs", "left"):
        assert isinstance(await here.hold(key, request_id, 100, 60), Held)
    assert isinstance(await ahead.hold(key, "its own", 100, 60), Held)
    late_s = 15 * 60
    assert await ahead.expire_holds() == 1
    await here.post(draft("runs", 100, COST_MSAT))
    late_s = 2 * 3600
    assert await ahead.expire_holds() == 1
    account = await here.account(key.account)
    assert (account.held_msat, account.spent_msat) == (0, COST_MSAT)
    await here.audit()
    await here.close()
    await ahead.close()


async def test_connections_that_break_lose_and_double_nothing(postgres_books_url: str) -> None:
    ledger = await Ledger.open(postgres_books_url)
    await ledger.create_key("hash", "", "", 10**9)
    key = await ledger.key_of("hash")
    assert key is not None
    errors = 0
    stop = asyncio.Event()

    async def request(request_id: str) -> None:
        nonlocal errors
        for end in (
            lambda: ledger.hold(key, request_id, 100, 60),
            lambda: ledger.post(draft(request_id, 100, COST_MSAT)),
        ):
            for _ in range(50):
                try:
                    outcome = await end()
                    assert not isinstance(outcome, DuplicateHold) or errors, "only a lost answer makes one ask twice"
                    break
                except StorageError:
                    errors += 1
                    await asyncio.sleep(0.02)
            else:
                raise AssertionError("the books did not come back")

    async def caller(number: int) -> int:
        done = 0
        while not stop.is_set():
            await request(f"r{number}-{done}")
            done += 1
        return done

    callers = [asyncio.create_task(caller(number)) for number in range(8)]
    async with connected(postgres_books_url) as admin:
        for _ in range(12):
            await asyncio.sleep(0.08)
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() "
                "AND datname = current_database()"
            )
    stop.set()
    made = sum(await asyncio.gather(*callers))
    assert errors > 0, "the connections were cut in the midst of it"
    for _ in range(50):
        try:
            account = await ledger.account(key.account)
            break
        except StorageError:
            await asyncio.sleep(0.02)
    assert (account.held_msat, account.spent_msat) == (0, made * COST_MSAT)
    assert isinstance(await ledger.hold(key, "after", 100, 60), Held)
    await ledger.audit()
    await ledger.close()


async def test_a_closed_ledger_says_so(postgres_books_url: str) -> None:
    ledger = await Ledger.open(postgres_books_url)
    await ledger.close()
    await ledger.close()
    with pytest.raises(StorageError, match="closed"):
        await ledger.create_key("hash", "", "", 0)


async def test_a_server_that_is_not_there_is_one_line_and_no_password() -> None:
    with pytest.raises(StorageError) as error:
        await Ledger.open("postgresql://satroute:secret@127.0.0.1:9/x")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
