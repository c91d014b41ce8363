"""Seeded runs: callers do what callers do, everything that can fail fails, and after each step every msat is somewhere."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from router_client.errors import StorageError
from tests.simulation.callers import Caller
from tests.simulation.machine import Fault, some
from tests.simulation.oracle import Balance, Broken, check
from tests.simulation.purse import Purse
from tests.simulation.settlement import pay_all_out, settle
from tests.simulation.upstream import Act, Script
from tests.simulation.virtual import play
from tests.simulation.world import Lost, World, running

CALLERS = 3
MOST_BALANCES = 4
SETTLE_EVERY = 60
FAULTY = 0.25
"""Share of steps in which an IO call fails."""
BACK = 0.3
"""Chance of a mint that is away to be back at the next step."""
ACTS: tuple[Act, ...] = ("unreachable", "busy", "refuse", "timeout", "error as an answer", "break", "silence")


class Told(msgspec.Struct):
    """What a run was: for comparison, and for who reads a failure."""

    steps: list[str] = []
    crashes: int = 0
    faults: int = 0

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.steps).encode()).hexdigest()


class Simulation:
    """One run. `told` grows with every step, also of one that breaks off."""

    def __init__(self, world: World, chance: random.Random, told: Told) -> None:
        self.world = world
        self.told = told
        self._chance = chance
        self.callers: list[Caller] = []
        self._streams: list[asyncio.Task[str]] = []

    async def run(self, steps: int) -> None:
        """Raises Broken, or whatever the node let through."""
        for number in range(CALLERS):
            name = "abc"[number]
            purse = Purse(self.world, await self.world.wallet(name), name)
            self.callers.append(Caller(self.world, purse, self._chance))
        done = settled = 0
        while done < steps:
            done += await self._steps(done)
            if done - settled >= SETTLE_EVERY:
                settled = done
                await self._quiet()
        await self._quiet()
        await pay_all_out(self.world, self.callers)

    async def _steps(self, number: int) -> int:
        """One step, or a few at once; the books are proved after them. Returns how many."""
        machine = self.world.machine
        if self._chance.random() < FAULTY:
            faults = [Fault.FAIL, Fault.FAIL, Fault.HANG, Fault.TROUBLE, Fault.CRASH]
            machine.plan(some(self._chance, self._chance.choice([4, 12, 24]), faults))
        else:
            machine.plan({})
        if machine.mint_is_away and self._chance.random() < BACK:
            machine.mint_is_away = False
        several = self._chance.choice([1, 1, 1, 1, 2, 3])
        told = await asyncio.gather(*(self._guarded(self._drawn()) for _ in range(several)))
        struck = [f"{point} {fault.value}" for _, point, fault in machine.struck]
        self.told.faults += len(struck)
        self.told.steps.append(f"{number}: {' + '.join(told)} {struck or ''} {asyncio.get_running_loop().time():.3f}")
        if machine.dead:
            await self._crashed()
        self.world.machine.plan({})
        await self.world.node.audit()
        return several

    async def _guarded(self, doing: Awaitable[str]) -> str:
        try:
            return await doing
        except Lost:
            return "lost"
        except StorageError:
            return "no disk"

    async def _crashed(self) -> None:
        """The node is gone, and with it all streams; a new one starts, perhaps badly."""
        self.told.crashes += 1
        await self._end_streams()
        again = some(self._chance, 6, [Fault.CRASH, Fault.FAIL]) if self._chance.random() < 0.2 else None
        away = self.world.machine.mint_is_away
        await self.world.restart(again)
        self.world.machine.mint_is_away = away
        ledger = self.world.node.ledger
        leaving_msat = sum(refund.amount_msat for refund in await ledger.open_refunds())
        held_msat = (await ledger.audit()).held_msat
        check(
            held_msat == leaving_msat, f"{held_msat} msat are held after a start, {leaving_msat} are on their way out"
        )

    async def _quiet(self) -> None:
        await self._end_streams()
        await settle(self.world, self.callers)
        for caller in self.callers:
            caller.balances = caller.balances[-MOST_BALANCES:]

    async def _end_streams(self) -> None:
        streams, self._streams = self._streams, []
        self.told.steps += await asyncio.gather(*streams)

    # what happens ----------------------------------------------------------------------------------------------------

    def _drawn(self) -> Awaitable[str]:
        caller = self._chance.choice(self.callers)
        if not caller.balances:
            return caller.open(with_key=self._chance.random() < 0.5)
        balance = self._chance.choice(caller.balances)
        deeds: list[tuple[int, Callable[[], Awaitable[str]]]] = [
            (5, lambda: self._open(caller)),
            (10, lambda: caller.top_up(balance)),
            (4, lambda: self._again(caller, balance)),
            (3, lambda: self._same_token(caller, balance)),
            (30, lambda: self._ask(caller, balance)),
            (8, lambda: self._pay_and_ask(caller)),
            (4, lambda: self._pay_invoice(caller, balance)),
            (4, lambda: caller.ask_twice(balance, self._script(), together=self._chance.random() < 0.5)),
            (6, lambda: self._leave_running(caller, balance)),
            (6, lambda: caller.refund(balance)),
            (2, lambda: self._twice(lambda: caller.refund(balance), lambda: caller.refund(balance))),
            (2, lambda: self._twice(lambda: caller.refund(balance), lambda: caller.top_up(balance))),
            (2, lambda: self._twice(lambda: caller.refund(balance), lambda: self._ask(caller, balance))),
            (8, lambda: self._redeem(caller)),
            (2, lambda: caller.make_child(balance)),
            (2, lambda: caller.rotate(balance)),
            (4, self._sweep),
            (3, self._pass_time),
            (1, self._rotate_keyset),
            (2, self._outage),
            (1, self._pull_the_plug),
        ]
        (_, deed) = self._chance.choices(deeds, [weight for weight, _ in deeds])[0]
        return deed()

    async def _open(self, caller: Caller) -> str:
        if len(caller.balances) >= 2 * MOST_BALANCES:
            return "enough balances"
        return await caller.open(with_key=self._chance.random() < 0.5)

    async def _again(self, caller: Caller, balance: Balance) -> str:
        """Send a token again of which no answer told what became."""
        if not balance.doubtful_tokens:
            return "nothing to send again"
        text = self._chance.choice(balance.doubtful_tokens)
        if balance.bearer == text or not balance.paid_in:
            answer = await self.world.request("GET", "/v1/balance/info", bearer=text)
            check(answer.status != 500, "the node failed inside")
            return f"same bearer {balance.name} {answer.status}"
        return await caller.top_up(balance, text)

    async def _same_token(self, caller: Caller, balance: Balance) -> str:
        """One token in two places at once: it counts in one of them."""
        text = await caller.purse.token(self._chance.randint(100, 5000), "msat")
        balance.doubtful_tokens.append(text)
        if self._chance.random() < 0.5:
            return await self._twice(
                lambda: caller.pay_in(balance, text, fresh=False), lambda: caller.pay_in(balance, text, fresh=False)
            )
        return await self._twice(
            lambda: caller.pay_in(balance, text, fresh=False),
            lambda: caller.open_with(text, with_key=self._chance.random() < 0.5, contested=True),
        )

    async def _ask(self, caller: Caller, balance: Balance) -> str:
        script = self._script()
        stream = self._chance.random() < 0.6
        leaves = self._chance.randint(1, 6) if stream and self._chance.random() < 0.25 else 0
        child = bool(balance.child) and self._chance.random() < 0.5
        return await caller.chat(balance, script, stream=stream, leaves=leaves, child=child)

    async def _pay_and_ask(self, caller: Caller) -> str:
        if len(caller.balances) >= 2 * MOST_BALANCES:
            return "enough balances"
        stream, locked = self._chance.random() < 0.5, self._chance.random() < 0.6
        leaves = self._chance.randint(1, 6) if stream and self._chance.random() < 0.25 else 0
        return await caller.pay_and_ask(self._script(), stream=stream, locked=locked, leaves=leaves)

    async def _pay_invoice(self, caller: Caller, balance: Balance) -> str:
        fresh = self._chance.random() < 0.4 and len(caller.balances) < 2 * MOST_BALANCES
        return await caller.pay_invoice(None if fresh else balance)

    async def _leave_running(self, caller: Caller, balance: Balance) -> str:
        """A long stream that goes on beside the next steps."""
        if len(self._streams) >= 4:
            return "enough streams"
        script = self._script()
        script.pause_s = 5.0
        self._streams.append(asyncio.create_task(self._guarded(caller.chat(balance, script, stream=True))))
        await asyncio.sleep(1)
        return "stream begun"

    def _script(self) -> Script:
        chance = self._chance
        pieces = chance.randint(1, 8)
        return Script(
            act=chance.choice(ACTS) if chance.random() < 0.3 else "serve",
            pieces=pieces,
            prompt_tokens=chance.choice([chance.randint(1, 40), 100_000]) if chance.random() < 0.2 else 12,
            reports=chance.random() < 0.6,
            breaks_after=chance.randint(0, pieces - 1),
            pause_s=chance.choice([0.0, 0.0, 0.1]),
        )

    async def _redeem(self, caller: Caller) -> str:
        if not caller.purse.refunds:
            return "no refund to redeem"
        await caller.purse.redeem(self._chance.choice(caller.purse.refunds))
        return "refund redeemed"

    async def _twice(self, one: Callable[[], Awaitable[str]], other: Callable[[], Awaitable[str]]) -> str:
        return " & ".join(await asyncio.gather(self._guarded(one()), self._guarded(other())))

    async def _sweep(self) -> str:
        name = self._chance.choice(
            sorted(set(self.world.jobs) - {"refresh models", "announce", "announce where missing"})
        )
        await self.world.run_job(name)
        return name

    async def _pass_time(self) -> str:
        seconds = self._chance.choice([1, 30, 120, 800, 90_000])
        await asyncio.sleep(seconds)
        return f"{seconds} s pass"

    async def _rotate_keyset(self) -> str:
        unit = self._chance.choice(["msat", "sat"])
        self.world.mint.rotate(unit)
        return f"new {unit} keyset"

    async def _outage(self) -> str:
        self.world.machine.mint_is_away = True
        return "mint away"

    async def _pull_the_plug(self) -> str:
        self.world.machine.crash()
        return "plug pulled"


def simulate(folder: Path, seed: str, steps: int) -> Told:
    """Play one seed. Raises AssertionError that says how to play it again."""
    told = Told()

    async def played() -> None:
        chance = random.Random(seed)
        async with running(World(folder, chance)) as world:
            await Simulation(world, chance, told).run(steps)

    try:
        play(played(), seed)
    except Exception as error:
        last = "\n".join(told.steps[-12:])
        raise Broken(f"seed {seed}, after {len(told.steps)} steps: {error!r}; the last steps were\n{last}") from error
    return told
