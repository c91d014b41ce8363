"""What the simulation found, each as its shortest story. A test that fails here shows a fault that is not mended yet."""

from __future__ import annotations

import random
from pathlib import Path

from tests.simulation.callers import Caller
from tests.simulation.machine import Fault, nth
from tests.simulation.purse import Purse
from tests.simulation.settlement import settle
from tests.simulation.upstream import Script
from tests.simulation.virtual import play
from tests.simulation.world import World, running


async def met(world: World) -> Caller:
    """One caller of a node that runs."""
    return Caller(world, Purse(world, await world.wallet("a"), "a"), random.Random(1))


def test_a_refund_larger_than_the_coins_of_any_one_unit_is_paid(folder: Path) -> None:
    """Half paid in as sat, half as msat: all of it can be had again, in as many refunds as it takes."""

    async def story() -> None:
        async with running(World(folder, random.Random(1))) as world:
            caller = await met(world)
            purse = caller.purse
            await caller.open_with(await purse.token(4, "sat"), with_key=True)
            balance = caller.balances[0]
            await caller.top_up(balance, await purse.token(4096, "msat"))
            assert balance.total == 8096
            for _ in range(2):
                balance.refund_lost = True  # so that a refund of a part is no surprise
                assert (await caller.refund(balance)).startswith("refund a1 200")
                for text in list(purse.refunds):
                    await purse.redeem(text)
            assert balance.total == 0

    play(story(), "two units")


def test_what_was_served_for_a_token_is_answered_also_when_its_change_fails(folder: Path) -> None:
    """The disk fails after the charge, while the change is made: the answer is given, and the change is fetched later."""

    async def told(number: int) -> bool:
        async with running(World(folder / str(number), random.Random(1))) as world:
            caller = await met(world)
            world.machine.plan(nth(number, Fault.FAIL))
            outcome = await caller.pay_and_ask(Script("serve"), stream=False, locked=False)
            struck = bool(world.machine.struck)
            await settle(world, [caller])
            spent = sum(balance.spent for balance in caller.balances)
            assert not spent or outcome.startswith("cash chat a 2 serve 200"), f"charged {spent} msat for {outcome!r}"
            return struck

    number = 1
    while play(told(number), f"disk at {number}"):
        number += 1
    assert number > 5
