"""One account cannot take the node for itself: requests at once, requests a minute, tokens a minute."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.errors import Refusal
from node.limits import MAX_ACCOUNTS, RateLimits
from relays.pricing import Usage
from tests.conftest import DEAD_MINT
from tests.node.books import Clock
from tests.node.harness import HELLO, bearer, granted_key, running_node
from tests.node.hostile import TEXT, Hostile
from tests.node.test_before_the_bill import DONE, EVENTS, FINISH, JSON, usage

GRANT_MSAT = 10_000_000


def test_requests_a_minute_are_refilled_as_time_goes_by() -> None:
    clock = Clock()
    limits = RateLimits(9, 3, 0, clock)
    for left in (2, 1, 0):
        with limits.running(1, 10) as place:
            assert place.told["x-ratelimit-limit-requests"] == "3"
            assert place.told["x-ratelimit-remaining-requests"] == str(left)
    with pytest.raises(Refusal) as caught, limits.running(1, 10):
        pass
    assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "20")
    assert caught.value.headers["x-ratelimit-remaining-requests"] == "0"
    with limits.running(2, 10):
        pass  # another account has its own
    clock.now += 20
    with limits.running(1, 10):
        pass


def test_tokens_a_minute_are_those_read_and_asked_for_and_then_those_used() -> None:
    clock = Clock()
    limits = RateLimits(9, 0, 600, clock)
    with limits.running(1, 500) as place:
        assert place.told["x-ratelimit-remaining-tokens"] == "100"
        with pytest.raises(Refusal) as caught, limits.running(1, 200):
            pass
        assert caught.value.headers["retry-after"] == "10"
        place.used(Usage(10, 50))
    with limits.running(1, 500) as place:
        assert place.told["x-ratelimit-remaining-tokens"] == "40"
        place.used(Usage(100, 1000))
    with pytest.raises(Refusal) as caught, limits.running(1, 60):
        pass
    assert caught.value.headers["retry-after"] == "62", "what was used beyond what was asked for is paid back"
    clock.now += 60 * 60
    with limits.running(1, 5000) as place:
        place.used(Usage(0, 5000))  # more than a minute's: passes when the bucket is full, and is paid back
    clock.now += 60
    with pytest.raises(Refusal), limits.running(1, 1):
        pass


def test_a_request_that_came_to_nothing_used_no_tokens() -> None:
    limits = RateLimits(9, 0, 600, Clock())
    for _ in range(5):
        with limits.running(1, 500):
            pass
    with limits.running(1, 600) as place:
        assert place.told["x-ratelimit-remaining-tokens"] == "0"


def test_a_request_that_is_refused_takes_nothing() -> None:
    limits = RateLimits(1, 5, 0, Clock())
    with limits.running(1, 1):
        for _ in range(9):
            with pytest.raises(Refusal), limits.running(1, 1):
                pass
    with limits.running(1, 1) as place:
        assert place.told["x-ratelimit-remaining-requests"] == "3"


@pytest.mark.parametrize("a_minute", [0, 5])
def test_the_limit_that_was_reached_is_told(a_minute: int) -> None:
    """Of requests at once, whether or not there is another of requests a minute."""
    limits = RateLimits(1, a_minute, 0, Clock())
    with limits.running(1, 1), pytest.raises(Refusal) as caught, limits.running(1, 1):
        pass
    headers = {name: value for name, value in caught.value.headers.items() if "limit" in name or "retry" in name}
    assert headers == {
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
        "retry-after": "1",
    }


def test_many_accounts_fill_a_bounded_memory() -> None:
    limits = RateLimits(1, 5, 5, Clock())
    with limits.running(0, 1):
        for account in range(1, MAX_ACCOUNTS + 50):
            with limits.running(account, 1):
                pass
        assert len(limits._accounts) <= MAX_ACCOUNTS
        with pytest.raises(Refusal), limits.running(0, 1):
            pass  # who runs is not forgotten


async def test_the_caller_is_told_when_to_come_again(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [b'{"choices":[{"message":{"content":"hi"}}]}'])
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], requests_per_minute=2, tokens_per_minute=1000
    ) as node:
        key, text = await granted_key(node.node, GRANT_MSAT)
        replies = [
            await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(text)) for _ in range(3)
        ]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["1", "0", "0"]
        assert 0 < int(replies[2].headers["retry-after"]) <= 30
        assert replies[2].json()["error"]["type"] == "rate_limit_error"
        assert "x-ratelimit-remaining-tokens" in replies[0].headers
        assert (await node.node.ledger.account(key.account)).held_msat == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
async def test_tokens_a_minute_follow_the_report(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str], stream: bool, leaves: bool
) -> None:
    """A request that names no limit is counted by what it wrote, one that names a wide one gets back what it did not."""

    def answer(written: int) -> None:
        report = {"prompt_tokens": 31, "completion_tokens": written}
        if stream:
            waits = [b": wait\n\n"] * (30 if leaves else 0)
            hostile[0].answer = (200, EVENTS, [*waits, TEXT, FINISH, usage(31, written), DONE])
        else:
            whole = {"choices": [{"message": {"content": "hi"}}], "usage": report}
            waits = [b" "] * (30 if leaves else 0)
            hostile[0].answer = (200, JSON, [*waits, json.dumps(whole).encode()])

    settings = {"upstream_base_url": hostile[1], "tokens_per_minute": 4000}
    async with running_node(folder, cashu_mints=DEAD_MINT, **settings) as node:
        key, text = await granted_key(node.node, 10 * GRANT_MSAT)

        async def ask(body: dict[str, Any]) -> int:
            url = f"{node.url}/v1/chat/completions"
            try:
                reply = await http.post(url, json=body, headers=bearer(text), timeout=0.15 if leaves else 10)
            except httpx.ReadTimeout:
                while (await node.node.ledger.account(key.account)).held_msat:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.05)
                return 0
            return reply.status_code

        body = {"model": HELLO["model"], "messages": HELLO["messages"], "stream": stream, "reasoning_effort": "low"}
        wide = {**body, "max_tokens": 1900}
        answer(5)
        for _ in range(4):
            assert await ask(wide) in (200, 0), "of 4 times 1900 some 150 were used"
        answer(3900)
        assert await ask(body) in (200, 0)
        assert await ask(body) == 429


async def test_a_key_runs_no_more_requests_at_once_than_it_may(
    folder: Path, http: httpx.AsyncClient, hostile: tuple[Hostile, str]
) -> None:
    """Those that were refused cost nothing; when the others are through, it may again."""
    done = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    hostile[0].answer = (200, {"Content-Type": "application/json"}, [done[:10], b"WAIT", done[10:]])
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], max_requests_per_key=4
    ) as node:
        key, text = await granted_key(node.node, GRANT_MSAT)

        async def ask() -> int:
            reply = await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(text), timeout=30)
            assert reply.headers.get("x-ratelimit-limit-requests") == ("4" if reply.status_code == 429 else None)
            return reply.status_code

        statuses = await asyncio.gather(*(ask() for _ in range(12)))
        assert sorted(statuses) == [200] * 4 + [429] * 8
        account = await node.node.ledger.account(key.account)
        assert (account.held_msat, account.spent_msat) == (0, 4 * (3 * 2 + 8))
        assert await ask() == 200
