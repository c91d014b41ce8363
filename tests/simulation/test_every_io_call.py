"""Fail IO call 1, 2, 3 … of a short story, in every way it can fail, until one telling passes untouched: no msat is lost.

An IO call is an exchange with the mint (before it is sent, after it was answered) or a commit (before, after). Whoever gets
no answer asks again, as callers do; then the world is healed and every sum must be exact.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.simulation.callers import Caller
from tests.simulation.machine import Fault, nth
from tests.simulation.purse import Purse
from tests.simulation.settlement import pay_all_out, settle
from tests.simulation.upstream import Script
from tests.simulation.virtual import play
from tests.simulation.world import Lost, World, running

Story = Callable[[Caller], list[Callable[[], Awaitable[object]]]]
MOST_CALLS = 200
TRIES = 2


def first(caller: Caller) -> Callable[[], Awaitable[object]]:
    """A deposit with a key: what a story begins with."""
    return lambda: caller.open(with_key=True)


def deposit(caller: Caller) -> list[Callable[[], Awaitable[object]]]:
    """A token becomes a balance under a key, another one is its own name, a third is added."""
    return [
        lambda: caller.open(with_key=True),
        lambda: caller.open(with_key=False),
        lambda: caller.top_up(caller.balances[0]),
    ]


def spend_and_leave(caller: Caller) -> list[Callable[[], Awaitable[object]]]:
    """Pay in, ask, ask for a stream, take the rest back, and take it back again."""
    return [
        first(caller),
        lambda: caller.chat(caller.balances[0], Script("serve"), stream=False),
        lambda: caller.chat(caller.balances[0], Script("serve", reports=False), stream=True),
        lambda: caller.chat(caller.balances[0], Script("unreachable"), stream=False),
        lambda: caller.refund(caller.balances[0]),
        lambda: caller.refund(caller.balances[0]),
    ]


def top_up_and_refund_at_once(caller: Caller) -> list[Callable[[], Awaitable[object]]]:
    """The balance is paid out while it is paid into and spent from."""

    async def at_once() -> None:
        balance = caller.balances[0]
        await asyncio.gather(
            attempted(caller.refund(balance)),
            attempted(caller.top_up(balance)),
            attempted(caller.chat(balance, Script("serve", pause_s=0.05), stream=True)),
            attempted(caller.refund(balance)),
        )

    return [first(caller), at_once]


def one_token_everywhere(caller: Caller) -> list[Callable[[], Awaitable[object]]]:
    """The same token as top-up, twice, and as bearer."""

    async def everywhere() -> None:
        text, balance = await caller.purse.token(2048, "msat"), caller.balances[0]
        balance.doubtful_tokens.append(text)
        await asyncio.gather(
            attempted(caller.pay_in(balance, text, fresh=False)),
            attempted(caller.pay_in(balance, text, fresh=False)),
            attempted(caller.open_with(text, with_key=False, contested=True)),
        )

    return [first(caller), everywhere]


def cash(caller: Caller) -> list[Callable[[], Awaitable[object]]]:
    """Tokens with the request, locked to the node and plain, and their change."""
    return [
        lambda: caller.pay_and_ask(Script("serve"), stream=False, locked=True),
        lambda: caller.pay_and_ask(Script("serve"), stream=True, locked=False),
        lambda: caller.world.run_job("redeem accepted ecash"),
        lambda: caller.pay_and_ask(Script("serve"), stream=True, locked=True, leaves=1),
    ]


def lightning(caller: Caller) -> list[Callable[[], Awaitable[object]]]:
    """Invoices that become a key, and that add to it."""
    return [
        lambda: caller.pay_invoice(None),
        lambda: caller.pay_invoice(caller.balances[0]),
        lambda: caller.world.run_job("credit paid invoices"),
    ]


STORIES: list[Story] = [lightning, deposit, spend_and_leave, top_up_and_refund_at_once, one_token_everywhere, cash]


async def attempted(work: Awaitable[object]) -> None:
    """Whoever else is doing something goes on."""
    with suppress(Lost):
        await work


async def tell(folder: Path, story: Story, number: int, fault: Fault) -> bool:
    """One telling, with a fault at that call; returns whether it got that far."""
    async with running(World(folder, random.Random(f"{story.__name__} {number}"))) as world:
        purse = Purse(world, await world.wallet("a"), "a")
        caller = Caller(world, purse, random.Random(story.__name__))
        machine = world.machine
        machine.plan(nth(number, fault))
        for deed in story(caller):
            for _ in range(TRIES):
                struck = len(machine.struck)
                with suppress(Lost, IndexError):  # no balance: the answer to its deposit is lost
                    await deed()
                if len(machine.struck) == struck:
                    break
                await _ask_again(world, caller)
        struck = len(machine.struck)
        await settle(world, [caller])
        await pay_all_out(world, [caller])
        return bool(struck)


async def _ask_again(world: World, caller: Caller) -> None:
    """After a failure: send every token again of which no answer told what became."""
    if world.machine.dead:
        await world.restart()
    for balance in caller.balances:
        for text in list(balance.doubtful_tokens):
            if balance.bearer == text:
                await world.request("GET", "/v1/balance/info", bearer=text)
            else:
                await caller.pay_in(balance, text, fresh=False)


@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.CRASH], ids=lambda fault: fault.value)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_no_failed_io_call_loses_or_makes_money(story: Story, fault: Fault, folder: Path) -> None:
    for number in itertools.count(1):
        assert number < MOST_CALLS
        what = f"{story.__name__}: {fault.value} at IO call {number}"
        try:
            struck = play(tell(folder / str(number), story, number, fault), what)
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        if not struck:
            print(f"{story.__name__}: {number - 1} IO calls")
            assert number > 10
            return
