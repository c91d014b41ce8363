"""A caller's own money: a wallet at the same mint, on a machine that does not fail, and tokens that are on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from router_client.ecash.keyring import LOOKUP_PAUSE_S
from router_client.ecash.wallet import Wallet
from router_client.errors import InsufficientFunds, MintUnavailable, TokenRefused
from tests.simulation.oracle import check, worth_msat
from tests.simulation.world import MINT_URL, World

T = TypeVar("T")

FUNDS = {"msat": 1 << 16, "sat": 1 << 9}
"""As much as two of the largest tokens, in one coin."""


class Purse:
    """A caller's own money: a wallet, and tokens that are on their way."""

    def __init__(self, world: World, wallet: Wallet, name: str) -> None:
        self._world = world
        self.wallet = wallet
        self.name = name
        self._count = 0
        self.unsure: list[str] = []
        """Tokens that were made for the node and that it has not taken for sure."""
        self.locked: list[str] = []
        """All tokens that were locked to the node: without it nobody can spend them."""
        self.refunds: list[str] = []
        """Tokens that the node paid out and that are not redeemed yet."""

    async def fund(self, unit: str) -> None:
        """Buy coins of the mint."""
        self._count += 1
        name = f"fund-{self._count}"
        invoice = await self.wallet.invoice(FUNDS[unit], MINT_URL, unit, name)
        self._world.mint.pay(invoice.bolt11)
        got = await self._insisted(lambda: self.wallet.claim(name))
        check(got is not None, "the mint did not see its own payment")

    async def token(self, amount: int, unit: str, lock: str | None = None) -> str:
        """A token that brings at least that much, in the unit."""
        if self.wallet.balances().get((MINT_URL, unit), 0) < 2 * amount + 20:
            await self.fund(unit)
        self._count += 1
        name = f"pay-{self._count}"
        try:
            sent = await self._insisted(lambda: self.wallet.send(amount, MINT_URL, unit, name, lock=lock))
        except InsufficientFunds:  # another token was made meanwhile
            await self.fund(unit)
            sent = await self._insisted(lambda: self.wallet.send(amount, MINT_URL, unit, name, lock=lock))
        self.unsure.append(sent.token)
        if lock is not None:
            self.locked.append(sent.token)
        return sent.token

    async def redeem(self, text: str) -> None:
        """Take a refund in: it must be good, to the last coin."""
        self.refunds.remove(text)
        expected = worth_msat(text)
        if expected <= 0:  # not worth its own fee, and still outstanding
            self.refunds.append(text)
            return
        self._count += 1
        name = f"refund-{self._count}"
        received = await self._insisted(lambda: self.wallet.receive(text, name))
        check(received.amount_msat == expected, "a refund's token is worth less than it says")

    async def take_back(self, text: str) -> None:
        """Swap a token that the node did not take."""
        self.unsure.remove(text)
        if worth_msat(text) > 0:
            self._count += 1
            name = f"back-{self._count}"
            await self._insisted(lambda: self.wallet.receive(text, name))

    async def _insisted(self, work: Callable[[], Awaitable[T]]) -> T:
        """A mint that changed its keys refuses what was made for the old ones: it is asked again."""
        for _ in range(3):
            with suppress(TokenRefused, MintUnavailable):
                return await work()
            await asyncio.sleep(LOOKUP_PAUSE_S + 1)
        return await work()
