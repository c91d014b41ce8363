"""A node's till: what it takes, and the change that it makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relays.payment import CHANGE_SSE_PREFIX
from router_client.ecash.token import decode, token_hash
from tests.client.cheat import DONE, TEXT, Cheat, receipt

COST_MSAT = 102
FEES_MSAT = 20
Saying = Callable[[str], list[bytes]]
"""The stream of a node that made this change."""


def comment(change: str) -> bytes:
    return f"{CHANGE_SSE_PREFIX}{change}\n\n".encode()


def honestly(change: str) -> list[bytes]:
    return [TEXT, receipt(COST_MSAT), comment(change), DONE]


def silently(_: str) -> list[bytes]:
    return [TEXT, receipt(COST_MSAT), DONE]


class Till:
    """Takes the tokens that a node is paid with, and makes change of what the request did not cost."""

    def __init__(self, cheat: Cheat, mint: str, say: Saying, cost_msat: int = COST_MSAT) -> None:
        self.mint = mint
        self.say = say
        self.cost_msat = cost_msat
        self.tokens: list[str] = []
        self.change = ""
        self._cheat = cheat
        cheat.on_payment = self.take

    async def take(self, token: str) -> None:
        wallet, name = self._cheat.wallet, token_hash(token)
        self.tokens.append(token)
        if wallet.is_locked_here(decode(token)):
            credited_msat = (await wallet.accept_locked(token, name)).amount_msat
            await wallet.redeem_locked()
        else:
            credited_msat = (await wallet.receive(token, name)).amount_msat
        self.change = (await self.made(credited_msat - self.cost_msat)) if credited_msat > self.cost_msat else ""
        self._cheat.chat = self.say(self.change)

    async def made(self, amount_msat: int) -> str:
        name = f"change {len(self.tokens)} {asyncio.get_running_loop().time()}"
        return (await self._cheat.wallet.send(amount_msat, self.mint, "msat", name, fees="inside")).token
