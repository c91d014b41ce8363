"""Spend: what all that gives coins away has in common. One spender at a time, and coins of sizes that serve.

A swap of our own coins for our own makes them larger, where a payment would need more of them than a mint takes at once, or
smaller, for a stock that change is handed out of. Its fee is the wallet's own: `Wallet.redemptions` tells of it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from weakref import WeakValueDictionary

import msgspec

from router_client.ecash import store
from router_client.ecash.coins import MOST_INPUTS, plan_melt, split, swap_fee, worth_their_fee
from router_client.ecash.operations import Operations
from router_client.ecash.stock import MOST_MADE, MOST_MADE_BEHIND, lacks, stocked, surplus_of
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import MSAT_PER_UNIT, Proof, to_msat
from router_client.errors import MintUnavailable, TokenRefused, WalletError

log = logging.getLogger(__name__)

TURN_WAIT_S = 20.0
REST_S = 60
"""A mint that failed is left alone for so long."""
MOST_MERGES = 16
"""Swaps of small coins for large ones before one payment."""


class TooManyCoins(Exception):
    """A plan needs more coins than a mint takes at once."""


def check_inputs(coins: Sequence[Proof]) -> None:
    """Raise TooManyCoins when a mint would not take so many at once."""
    if len(coins) > MOST_INPUTS:
        raise TooManyCoins


class Spending:
    """Turns, and swaps of our own coins for our own."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._rests: dict[tuple[str, str], float] = {}
        """Until when a (mint, unit) that failed is left alone."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: Counter[str] = Counter()
        self._filling: set[tuple[str, str]] = set()
        """The (mint, unit) whose stock was low, until it is full."""
        operations.register("swap", operations.swap)

    @asynccontextmanager
    async def turn(self, mint_url: str, unit: str) -> AsyncIterator[None]:
        """One spender at a time: while a large coin is away for change, the next would find too little.

        Raises MintUnavailable when the mint keeps those before us too long.
        """
        group = f"{unit} {mint_url}"
        turn = self._turns.setdefault(group, asyncio.Lock())
        self._waiting[group] += 1
        try:
            async with asyncio.timeout(TURN_WAIT_S):
                await turn.acquire()
        except TimeoutError as error:
            raise MintUnavailable(f"the mint {mint_url} keeps others waiting for their change") from error
        finally:
            self._waiting[group] -= 1
        try:
            yield
        finally:
            turn.release()

    def most_made(self, mint_url: str, unit: str) -> int:
        """How many coins for the stock a swap should make: the more, the more wait for theirs, who are spared one."""
        return min(MOST_MADE_BEHIND, MOST_MADE * (1 + self._waiting[f"{unit} {mint_url}"]))

    async def begun(self, begin: Callable[[], Awaitable[Operation]], mint_url: str, unit: str) -> Operation:
        """An operation begun, in our turn; as long as it takes too many coins, the smallest are merged first."""
        for _ in range(MOST_MERGES):
            try:
                return await begin()
            except TooManyCoins:
                fee_ppk = (await self._operations.keyring.mint(mint_url)).fees_ppk()
                if await self.swap(mint_url, unit, partial(self._smallest, fee_ppk=fee_ppk)) is None:
                    break
        raise TokenRefused("the wallet's coins are too many and too small for this amount: send less")

    def lacks_stock(self) -> bool:
        """Whether `restock` has something to do, if the fee is there."""

        def look(conn: sqlite3.Connection) -> bool:
            return any(
                self._has_work(conn, group)
                for group in store.balances(conn)
                if self._operations.clock() >= self._rests.get(group, 0)
            )

        return self._operations.db.read(look)

    async def restock(self, most_fee_msat: int) -> int:
        """For each mint and unit, coins made smaller until the stock is full, once it is low; larger where too many of a
        size lie about.

        Returns how many swaps there were. A mint that fails is logged, and left alone for a while.
        """
        swaps, left_msat = 0, most_fee_msat
        for group in self._operations.db.read(store.balances):
            if self._operations.clock() < self._rests.get(group, 0):
                continue
            try:
                done = await self._restocked(group, left_msat // MSAT_PER_UNIT[group[1]])
                if done is not None:
                    swaps, left_msat = swaps + 1, left_msat - to_msat(done.journal.fee, group[1])
            except WalletError as error:  # what one mint does must not keep the others' coins from being made
                log.warning("coins in %s of %s stay as they are: %s", group[1], group[0], error)
                self._rests[group] = self._operations.clock() + REST_S
        return swaps

    async def _restocked(self, group: tuple[str, str], most_fee: int) -> Operation | None:
        db, begun = self._operations.db, group in self._filling
        if db.read(lambda conn: lacks(store.held(conn, *group), self._operations.stock, begun=begun)):
            self._filling.add(group)
        else:
            self._filling.discard(group)
        if not db.read(lambda conn: self._has_work(conn, group)):
            return None
        fee_ppk = (await self._operations.keyring.mint(group[0])).most_fee_ppk(group[1])
        choose = partial(self._stock, fee_ppk=fee_ppk, begun=group in self._filling)
        async with self.turn(*group):
            return await self.swap(*group, choose, most_fee)

    def _has_work(self, conn: sqlite3.Connection, group: tuple[str, str]) -> bool:
        begun = group in self._filling
        return bool(self._stock(conn, *group, begun=begun)) or store.open_swap(conn, *group) is not None

    def _stock(
        self, conn: sqlite3.Connection, mint_url: str, unit: str, *, fee_ppk: int = 0, begun: bool
    ) -> list[Proof]:
        """The surplus of one size, or the largest coin if the stock is low, or not full where that is `begun`; else none."""
        aim = self._operations.stock
        held = store.held(conn, mint_url, unit)
        for size, count in held.items():
            if surplus := surplus_of(size, count, aim, fee_ppk):
                return store.some_of(conn, mint_url, unit, size, surplus)
        return store.some_of(conn, mint_url, unit, max(held), 1) if lacks(held, aim, begun=begun) else []

    def lacks_parts(self, mint_url: str, unit: str, amount: int) -> bool:
        """See `Wallet.lacks_parts`."""
        return bool(self._operations.db.read(lambda conn: self._much_larger(conn, mint_url, unit, amount=amount)))

    async def part(self, mint_url: str, unit: str, amount: int, most_fee: int) -> bool:
        """See `Wallet.part`."""
        async with self.turn(mint_url, unit):
            choose = partial(self._much_larger, amount=amount)
            return await self.swap(mint_url, unit, choose, most_fee, part=amount) is not None

    def _much_larger(self, conn: sqlite3.Connection, mint_url: str, unit: str, *, amount: int) -> list[Proof]:
        """The coin that a payment of that amount would take though half of it were enough, if there is one."""
        coins = store.unspent(conn, mint_url, unit)
        if sum(coin.amount for coin in coins) < amount:
            return []
        taken = plan_melt(coins, amount, dict.fromkeys((coin.id for coin in coins), 0)).inputs
        return [coin for coin in taken if coin.amount > 2 * amount]

    def _smallest(
        self, conn: sqlite3.Connection, mint_url: str, unit: str, *, fee_ppk: Mapping[str, int]
    ) -> list[Proof]:
        """Of the coins that a merge makes anything of."""
        coins = worth_their_fee(store.unspent(conn, mint_url, unit), fee_ppk)
        return sorted(coins, key=lambda coin: coin.amount)[:MOST_INPUTS]

    async def swap(
        self,
        mint_url: str,
        unit: str,
        choose: Callable[[sqlite3.Connection, str, str], list[Proof]],
        most_fee: int | None = None,
        *,
        part: int = 0,
    ) -> Operation | None:
        """Swap what is chosen, if anything is, if it is worth more than the fee, and if that is not above the most; with a
        `part` so that some of the coins are worth just that. One that the mint has not answered yet is gone on with instead:
        a silent mint is not given one coin after another."""
        db = self._operations.db
        begun = db.read(lambda conn: store.open_swap(conn, mint_url, unit))
        if begun is not None:
            return await self._operations.finish(begun)
        if not db.read(lambda conn: choose(conn, mint_url, unit)):
            return None
        mint = await self._operations.keyring.mint(mint_url)
        fee_ppk, keyset = mint.fees_ppk(), mint.active(unit)

        def begin(conn: sqlite3.Connection) -> Operation | None:
            coins = choose(conn, mint_url, unit)
            total, fee = sum(coin.amount for coin in coins), swap_fee([fee_ppk.get(coin.id, 0) for coin in coins])
            if total <= fee + part or (most_fee is not None and fee > most_fee):
                return None
            operation_id = f"swap:{secrets.token_hex(12)}"
            operation = self._operations.open(conn, operation_id, "swap", mint_url, unit, Journal())
            store.move_coins(conn, [coin.secret for coin in coins], "unspent", "reserved", operation_id)
            aim = self._operations.stock if len(coins) == 1 else 0  # several are merged
            amounts = stocked(total - fee, store.held(conn, mint_url, unit), aim, MOST_MADE_BEHIND, beside=False)
            if part:
                amounts = tuple(sorted(split(part) + split(total - fee - part)))
            journal = Journal(
                keyset=keyset.id,
                counter=store.take_counters(conn, keyset.id, len(amounts)),
                amounts=amounts,
                inputs=tuple(coins),
                amount=total - fee,
                fee=fee,
                credited=total,
            )
            store.set_journal(conn, operation_id, journal)
            return msgspec.structs.replace(operation, journal=journal)

        operation = await db.run(begin)
        return None if operation is None else await self._operations.finish(operation)
