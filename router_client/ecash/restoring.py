"""Restore: an old copy of a wallet becomes one that can be used, by its mints' word.

The wallet that was copied went on. It took counters: the same ones again would ask mints to sign the same secrets. It spent
coins, handed some out as they were, and made others. So, mint by mint:

1. signatures that were made since are restored (NUT-09), and counters go on where none can have been taken;
2. what was open when the copy was made is finished;
3. coins that are spent are put away (NUT-07), those that were made since are taken in;
4. all coins are swapped for new ones (NUT-03): one that is also in somebody's hands, of which the copy knows nothing, would
   count twice.

Each step may be done again: what it did at a mint is found there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import partial

from relays.money import Msat
from router_client.ecash import lockedcoins, store
from router_client.ecash.coins import MOST_INPUTS
from router_client.ecash.keyring import MintKeys
from router_client.ecash.operations import Operations
from router_client.ecash.outcomes import Holdings, Restored
from router_client.ecash.outputs import blinded, unblinded_change
from router_client.ecash.spending import Spending
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import MSAT_PER_UNIT, Proof, to_msat
from router_client.errors import MintMisbehaved, TokenSpent

log = logging.getLogger(__name__)

BATCH = 100
"""Counters that a mint is asked about at once (NUT-13)."""
MOST_COINS = 200_000
"""Of one keyset and section: a mint that says to have signed all is not believed for ever."""
GAP = 10
"""So many batches without a signature are the end. NUT-13 says three; tokens that a mint refuses leave gaps."""
LEAP = 2**20
"""A restored wallet goes on at the next multiple of this, whatever gaps there were before: far from any counter that was
taken, and where the next restore looks, too. There are 2**31."""
MOST_LEAPS = 500

Group = tuple[str, str]
"""Mint and unit."""


class Restoring:
    """The way from a copy to a wallet."""

    def __init__(self, operations: Operations, spending: Spending, holdings: Callable[[], Holdings]) -> None:
        self._operations = operations
        self._spending = spending
        self._holdings = holdings

    async def restore(self, without: Collection[str]) -> Restored:
        """See `Wallet.restore`."""
        db = self._operations.db
        mints = sorted(db.read(store.mints) - set(without))
        found: dict[Group, list[Proof]] = {}
        for url in mints:
            found |= await self._signed_since(url)
        await self._operations.recover(0)
        before_msat, gone_msat = self._holdings().all_msat, 0
        for url in without:
            await self._give_up(url)
        for url in mints:
            gone_msat += await self._put_away(url)
        for group, coins in found.items():
            await self._take_in(group, coins)
        fee_msat = 0
        for group in db.read(store.balances):
            fee_msat += await self._renew(*group)
        lost_msat = max(0, before_msat - self._holdings().all_msat - fee_msat)
        found_msat = sum(to_msat(sum(coin.amount for coin in coins), group[1]) for group, coins in found.items())
        return Restored(Msat(found_msat), Msat(gone_msat), Msat(fee_msat), Msat(lost_msat))

    async def _signed_since(self, url: str) -> dict[Group, list[Proof]]:
        """Unspent coins whose signatures the copy does not know, with the counters moved past them."""
        mint = await self._operations.keyring.refresh(url)
        found: dict[Group, list[Proof]] = {}
        for keyset, unit in mint.units().items():
            coins, following = await self._scan(mint, keyset)
            await self._operations.db.run(partial(_go_on_at, keyset=keyset, at=following))
            spent = await mint.client.spent(coins)
            found.setdefault((url, unit), []).extend(coin for coin in coins if coin.y() not in spent)
        return found

    async def _scan(self, mint: MintKeys, keyset: str) -> tuple[list[Proof], int]:
        """Coins from the copy's counter on, and a counter that nobody has taken."""
        at = self._operations.db.read(lambda conn: store.counter(conn, keyset))
        coins, at = await self._section(mint, keyset, at)
        while True:
            leap = (at // LEAP + 1) * LEAP
            more, at = await self._section(mint, keyset, leap)
            if not more:
                return coins, leap
            coins += more

    async def _section(self, mint: MintKeys, keyset: str, at: int) -> tuple[list[Proof], int]:
        """Coins from a counter on to a gap, and where that ends."""
        coins: list[Proof] = []
        empty = 0
        while empty < GAP:
            journal = Journal(keyset=keyset, counter=at, amounts=(1,) * BATCH)  # the mint tells the real amounts
            made, outputs = await asyncio.to_thread(blinded, self._operations.chain, journal)
            signed = await mint.client.restore(outputs)
            signatures = [signed.get(output.B_) for output in outputs]
            coins += await asyncio.to_thread(unblinded_change, mint.keys(keyset), outputs, made, signatures)
            if len(coins) > MOST_COINS:
                raise MintMisbehaved(f"{mint.client.url} signs without end")
            empty = 0 if signed else empty + 1
            at += BATCH
        return coins, at

    async def _put_away(self, url: str) -> int:
        """Coins that are spent, ours and those that were locked to us, which none but we can redeem; their value in msat."""
        mint = await self._operations.keyring.refresh(url)
        db = self._operations.db
        locked = db.read(partial(lockedcoins.all_waiting, mint=url))
        units = mint.units()
        coins = [coin for unit in set(units.values()) for coin in db.read(partial(store.unspent, mint=url, unit=unit))]
        spent = await mint.client.spent([*coins, *locked])
        gone = [coin for coin in coins if coin.y() in spent]
        redeemed = [coin for coin in locked if coin.y() in spent]

        def put(conn: sqlite3.Connection) -> None:
            store.move_coins(conn, [coin.secret for coin in gone], "unspent", "spent", None)
            lockedcoins.move(conn, redeemed, "locked", "redeemed", None)

        await db.run(put)
        return sum(to_msat(coin.amount, units[coin.id]) for coin in (*gone, *redeemed) if coin.id in units)

    async def _give_up(self, url: str) -> None:
        """A mint that is no more: its coins are not handed out again, and its counters go far away, since nobody can tell
        which were taken."""

        def give_up(conn: sqlite3.Connection) -> None:
            for unit in MSAT_PER_UNIT:
                secrets_ = [coin.secret for coin in store.unspent(conn, url, unit)]
                store.move_coins(conn, secrets_, "unspent", "spent", None)
            lockedcoins.move(conn, lockedcoins.all_waiting(conn, url), "locked", "lost", None)
            for keyset in store.keysets(conn, url):
                far = store.counter(conn, keyset.id) // LEAP + 1 + secrets.randbelow(MOST_LEAPS)
                _go_on_at(conn, keyset.id, far * LEAP)

        await self._operations.db.run(give_up)

    async def _take_in(self, group: Group, coins: Sequence[Proof]) -> None:
        if not coins:
            return
        operation = Operation(
            id=f"restore:{secrets.token_hex(12)}",
            kind="restore",
            mint=group[0],
            unit=group[1],
            state="done",
            journal=Journal(amount=sum(coin.amount for coin in coins)),
            result="",
            created_at=int(self._operations.clock()),
        )

        def take(conn: sqlite3.Connection) -> None:
            store.insert_operation(conn, operation)
            store.add_coins(conn, operation, coins, "unspent")

        await self._operations.db.run(take)

    async def _renew(self, url: str, unit: str) -> int:
        """All coins of a mint and unit swapped for new ones; what that cost, in msat. What is not worth its fee goes."""
        db = self._operations.db
        old = {coin.secret for coin in db.read(partial(store.unspent, mint=url, unit=unit))}
        fee = 0

        def some(conn: sqlite3.Connection, url: str, unit: str) -> list[Proof]:
            left = [coin for coin in store.unspent(conn, url, unit) if coin.secret in old]
            return sorted(left, key=lambda coin: -coin.amount)[:MOST_INPUTS]

        for _ in range(len(old) + 1):
            try:
                swap = await self._spending.swap(url, unit, some)
            except TokenSpent:  # somebody was faster with a coin of those: it is put away, and the rest tried again
                continue
            if swap is None:
                break
            fee += swap.journal.fee
        else:
            raise MintMisbehaved(f"the mint {url} neither swaps coins nor calls them spent")
        dust = db.read(lambda conn: some(conn, url, unit))
        await db.run(lambda conn: store.move_coins(conn, [coin.secret for coin in dust], "unspent", "spent", None))
        return to_msat(fee, unit)


def _go_on_at(conn: sqlite3.Connection, keyset: str, at: int) -> None:
    store.take_counters(conn, keyset, at - store.counter(conn, keyset))
