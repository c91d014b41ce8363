"""The ecash wallet: receive, send and mint as journaled steps that a crash cannot lose.

Each operation has an id that the caller chooses and is done once, however often it is asked for:

1. one transaction writes the intent (inputs, counters, exact outputs) and takes the counters for ever;
2. the request goes to the mint;
3. one transaction stores the coins and closes the operation.

Outputs are deterministic (NUT-13), so after a lost reply the same request is sent again, and where the mint says that it
was done before, its signatures are restored (NUT-09). No answer means open, never failed: `recover` goes on with it.

This is the door; what each operation does stands in a room of its own, and `operations` drives them all.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import httpx
from mnemonic import Mnemonic

from relays.money import Msat
from router_client.disk.storage import Database
from router_client.ecash import lockedcoins, store
from router_client.ecash.accepting import Accepting
from router_client.ecash.coins import Fees
from router_client.ecash.exchange import Exchange, Order
from router_client.ecash.keyring import Keyring
from router_client.ecash.melting import Melting
from router_client.ecash.minting import Minting
from router_client.ecash.operations import Operations
from router_client.ecash.outcomes import (
    Exchanged,
    Holdings,
    Invoice,
    MeltCost,
    Melted,
    Received,
    Redeemed,
    Restored,
    Sent,
    TokenFees,
    Unread,
    received,
)
from router_client.ecash.receiving import Receiving
from router_client.ecash.redeeming import Redeeming
from router_client.ecash.restoring import Restoring
from router_client.ecash.sending import Sending
from router_client.ecash.spending import Spending
from router_client.ecash.store import Operation
from router_client.ecash.token import MSAT_PER_UNIT, Token, decode, to_msat
from router_client.ecash.unread import Reading


class Wallet:
    """Coins of any number of mints in one file. Open with `Wallet.open`, close when done."""

    def __init__(
        self, db: Database, seed: bytes, http: httpx.AsyncClient, clock: Callable[[], float], stock: int
    ) -> None:
        self._db = db
        self._keyring = Keyring(db, http, clock)
        self._operations = Operations(db, seed, self._keyring, clock, stock)
        self._accepting = Accepting(self._operations)
        self._redeeming = Redeeming(self._operations)
        self._receiving = Receiving(self._operations)
        self._spending = Spending(self._operations)
        self._sending = Sending(self._operations, self._spending)
        self._reading = Reading(self._operations, self._sending, self._receiving)
        self._minting = Minting(self._operations)
        self._melting = Melting(self._operations, self._spending)
        self._restoring = Restoring(self._operations, self._spending, self.holdings)
        self._exchange = Exchange(self._operations, self._receiving, self._minting, self._melting)

    @classmethod
    async def open(
        cls, path: Path, http: httpx.AsyncClient, clock: Callable[[], float] = time.time, stock: int = 0
    ) -> Wallet:
        """The wallet in the file at `path`, made with a new seed if there is none. Raises StorageError.

        `stock` is how many coins of each small amount are kept, so that change can be handed out without the mint.
        """
        db = Database(path)
        english = Mnemonic("english")

        def prepare(conn: sqlite3.Connection) -> str:
            store.migrate(conn)
            return store.load_or_create_seed(conn, english.generate(256))

        return cls(db, english.to_seed(await db.run(prepare)), http, clock, stock)

    def close(self) -> None:
        self._db.close()

    def balances(self) -> dict[tuple[str, str], int]:
        """Spendable coins by (mint, unit), in the unit."""
        return self._db.read(store.balances)

    def holds(self, amount: int, mint_url: str, unit: str) -> bool:
        """Whether that much of `unit` can be spent there."""
        return self._db.read(lambda conn: store.holds(conn, mint_url, unit, amount))

    def balance_msat(self) -> Msat:
        """All spendable coins together."""
        return Msat(sum(to_msat(amount, unit) for (_, unit), amount in self.balances().items()))

    def holdings(self, mints: Collection[str] | None = None) -> Holdings:
        """All coins, or those of these mints, as of one moment, so that a swap between two looks hides nothing."""

        def in_msat(amounts: Mapping[tuple[str, str], int]) -> Msat:
            ours = (group for group in amounts if mints is None or group[0] in mints)
            return Msat(sum(to_msat(amounts[group], group[1]) for group in ours))

        def read(conn: sqlite3.Connection) -> Holdings:
            conn.execute("BEGIN")
            try:
                sums = store.balances(conn), lockedcoins.values(conn), store.away(conn)
            finally:
                conn.execute("COMMIT")
            return Holdings(*(in_msat(each) for each in sums))

        return self._db.read(read)

    def mints(self) -> set[str]:
        """Mints that this wallet knows."""
        return self._db.read(store.mints)

    async def move_mint(self, old_url: str, new_url: str) -> None:
        """A mint has moved to another URL: its keysets, coins and open operations are the new URL's."""
        await self._db.run(lambda conn: store.move_mint(conn, old_url, new_url))
        self._keyring.forget(old_url)

    # tokens ----------------------------------------------------------------------------------------------------------

    async def receive(self, token: str | Token, operation_id: str) -> Received:
        """Swap a token for coins of our own.

        Raises TokenUnreadable, WrongUnit, TokenSpent, TokenRefused, MintMisbehaved; MintUnavailable leaves the operation
        open, and asking again with the same id goes on with it.
        """
        return await self._receiving.receive(decode(token) if isinstance(token, str) else token, operation_id)

    async def send(
        self,
        amount: int,
        mint_url: str,
        unit: str,
        operation_id: str,
        fees: Fees = "on_top",
        *,
        lock: str | None = None,
        most_coins: int | None = None,
        unread: bool = False,
    ) -> Sent:
        """A token of `amount` in the mint's unit; see `coins.Fees` for who bears the mint's fees.

        With `lock`, a compressed public key in hex, only its owner can spend the token (NUT-11) and can check it offline
        (NUT-12); it cannot be reclaimed. It is then worth more than `amount`, if that takes no more than `most_coins`.
        One for somebody to read is `unread` until `have_read` is called, or it was reclaimed.
        Raises InsufficientFunds, TokenRefused, MintMisbehaved; MintUnavailable leaves the operation open.
        """
        return await self._sending.send(
            amount, mint_url, unit, operation_id, fees=fees, lock=lock, most_coins=most_coins, unread=unread
        )

    async def fees(self, token: str | Token) -> TokenFees:
        """The swap fees of a token's mint. Raises what `receive` does."""
        return await self._receiving.fees(decode(token) if isinstance(token, str) else token)

    async def fee_ppk(self, mint_url: str, unit: str) -> int:
        """The highest fee of the mint for one coin of that unit, in thousandths of the unit. Raises MintUnavailable."""
        return (await self._keyring.mint(mint_url)).most_fee_ppk(unit)

    async def is_spent(self, token: str) -> bool:
        """Whether any coin of a token was spent at its mint. Raises MintUnavailable, MintMisbehaved."""
        coins = decode(token)
        mint = await self._keyring.mint(coins.mint)
        return bool(await mint.client.spent(coins.proofs))

    async def reclaim(self, operation_id: str) -> Received:
        """Take back a token that was sent and not redeemed. Raises TokenSpent when it was, TokenRefused if it is locked."""
        return await self._reading.take_back(operation_id)

    def unread(self) -> list[Unread]:
        """Tokens that were sent for somebody to read, who has not, oldest first, and coins that are to become such ones."""
        return self._reading.unread()

    async def have_read(self, operation_id: str) -> None:
        """The token of that send was read: it is not ours any more."""
        await self._reading.have_read(operation_id)

    async def take_back_unread(self) -> Msat:
        """Reclaim those, as far as their mints let; returns what came back. What is still open is left to `recover`.

        For their owner to ask for: one that was shown in the moment of a crash counts as unread, and somebody may have it.
        """
        return await self._reading.take_back_all()

    # locked tokens ---------------------------------------------------------------------------------------------------

    @property
    def lock_key(self) -> str:
        """The public key to lock tokens to that are for this wallet: compressed, hex; it comes from the seed."""
        return self._operations.lock_key.public

    def is_locked_here(self, token: Token) -> bool:
        """Whether every coin names this wallet's key: `accept_locked` is worth a try, and `receive` signs for it."""
        return all(self._operations.lock_key.owns(coin.secret) for coin in token.proofs)

    async def knows_locks(self, mint_url: str) -> bool:
        """Whether the mint's tokens can be locked; asked of it once. Raises MintUnavailable."""
        return await self._keyring.locks(mint_url)

    async def reach(self, mint_url: str) -> None:
        """Ask the mint whether it is there and makes coins. Raises MintUnavailable or MintMisbehaved."""
        await self._keyring.reach(mint_url)

    async def pin(self, mint_url: str) -> bool:
        """Look the mint's keys up now and keep them; whether its tokens can be locked. Raises MintUnavailable."""
        await self._keyring.mint(mint_url)
        return await self.knows_locks(mint_url)

    async def accept_locked(self, token: str | Token, operation_id: str) -> Received:
        """Take in a token that is locked to `lock_key`, without asking its mint if that is pinned; `redeem_locked` follows.

        The amount is the face value less the fee of swapping this token alone. Raises TokenUnreadable; WrongUnit;
        TokenSpent for a coin that was accepted before; TokenRefused for any other token, which `receive` may still take;
        MintUnavailable for a mint or keyset that was never seen and does not answer, with nothing begun.
        """
        return await self._accepting.accept(decode(token) if isinstance(token, str) else token, operation_id)

    async def redeem_locked(self, most: int = 100) -> list[Redeemed]:
        """Swap accepted coins for ordinary ones: per mint and unit one batch of up to `most`. Empty when none waits.

        A mint that fails is logged, and its coins wait; one that leaves the outcome open is for `recover`.
        """
        return await self._redeeming.redeem(most)

    def lacks_stock(self) -> bool:
        """Whether `restock` has something to do: half of the coins of a small size are used up, the stock is being filled,
        or far too many of a size are there."""
        return self._spending.lacks_stock()

    async def restock(self, most_fee_msat: int) -> int:
        """Make coins smaller where the stock is low, until it is full, larger where too many of a size lie about, for that
        fee at most.

        One swap per mint and unit; returns how many there were. What they cost is the wallet's own loss: `redemptions`.
        """
        return await self._spending.restock(most_fee_msat)

    def lacks_parts(self, amount: int, mint_url: str, unit: str) -> bool:
        """Whether a payment of that amount would take a coin of more than twice that: for as long as it hangs, all of it."""
        return self._spending.lacks_parts(mint_url, unit, amount)

    async def part(self, amount: int, mint_url: str, unit: str, most_fee_msat: int) -> bool:
        """Have such a coin swapped for some of that amount and the rest, for that fee at most; whether it was. The fee is
        the wallet's own loss: `redemptions`. Raises what `receive` does."""
        return await self._spending.part(mint_url, unit, amount, most_fee_msat // MSAT_PER_UNIT[unit])

    def redemptions(self) -> list[Redeemed]:
        """Finished redemptions, and swaps of our own coins (`restock`, and before payments that took too many small ones),
        those of `recover` among them, each until `know_redemption` is called for it."""
        return self._redeeming.finished()

    async def know_redemption(self, operation_id: str) -> None:
        """It is booked: `redemptions` need not tell of it any more."""
        await self._redeeming.told(operation_id)

    def has_unfinished_redemptions(self) -> bool:
        """Whether one of those is still open."""
        return self._redeeming.has_unfinished()

    def locked_msat(self) -> Msat:
        """Accepted coins that are not redeemed yet, at what they were credited for."""
        return self.holdings().locked_msat

    # Lightning -------------------------------------------------------------------------------------------------------

    async def invoice(self, amount: int, mint_url: str, unit: str, operation_id: str) -> Invoice:
        """Ask a mint for a Lightning invoice over `amount` of `unit`; pay it, then `claim` the same operation."""
        return await self._minting.invoice(amount, mint_url, unit, operation_id)

    async def claim(self, operation_id: str) -> Received | None:
        """The ecash for a paid invoice, or None while it is unpaid."""
        return await self._minting.claim(operation_id)

    async def give_up(self, operation_id: str, reason: str) -> bool:
        """Ask no more after an unpaid invoice, unless it is being claimed; whether that is so. `claim` takes it up again."""
        return await self._minting.give_up(operation_id, reason)

    async def melt_cost(self, bolt11: str, mint_url: str, unit: str) -> MeltCost:
        """What paying the invoice with coins of that mint takes at most; nothing is begun. Raises what `melt` does."""
        return await self._melting.cost(bolt11, mint_url, unit)

    async def melt(
        self, bolt11: str, mint_url: str, unit: str, operation_id: str, *, max_fee: int | None = None
    ) -> Melted:
        """Pay a Lightning invoice with coins of that mint, for at most `max_fee` of `unit` beyond its amount.

        Raises RequestUnreadable, WrongUnit, InsufficientFunds and FeeTooHigh before anything is begun; PaymentFailed when
        the mint did not pay, with the coins free again; TokenRefused for an id that paid another invoice; MintMisbehaved;
        MintUnavailable leaves the operation open: it may have been paid. Ask again with the same id, or `recover`.
        """
        return await self._melting.melt(bolt11, mint_url, unit, operation_id, max_fee)

    async def exchange(self, token: str | Token, mint_url: str, unit: str, operation_id: str) -> Exchanged:
        """Bring a token of a foreign mint to this one over Lightning. Asking again with the same id goes on where it stood.

        Raises TokenRefused, with the token untouched, when it is worth less than that costs; PaymentFailed when Lightning
        found no way: its coins are ours at the foreign mint then, and asking again tries anew; else what `receive`, `melt`
        and `claim` do, MintUnavailable among them.
        """
        coins = decode(token) if isinstance(token, str) else token
        return await self._exchange.exchange(Order(operation_id, coins, mint_url, unit))

    # the journal -----------------------------------------------------------------------------------------------------

    async def recover(self, older_than_s: float = 0) -> list[Operation]:
        """Go on with every open operation of at least that age; returns those that are finished now.

        One that still cannot be finished stays open for the next time.
        """
        return await self._operations.recover(older_than_s)

    async def recover_redemptions(self) -> int:
        """The same for those that `redemptions` tells of; returns how many of `redeem_locked` are finished now."""
        return len([done for done in await self._operations.recover(0, store.TOLD) if done.kind == "redeem"])

    async def restore(self, without: Collection[str] = ()) -> Restored:
        """Make an old copy of a wallet safe to go on with: the copied one may have taken counters, spent coins, handed out
        others and made new ones since. All its mints are asked; afterwards every coin is new and nobody else's. Coins of
        the mints `without` are given up.

        Raises MintUnavailable and what else a swap does: then it is not safe yet. Begin again with the copy.
        """
        return await self._restoring.restore(without)

    async def resume(self, operation: Operation) -> Received:
        """Go on with a receive or a claim from its journal; one that is done answers at once."""
        return received(await self._operations.finish(operation))

    def outcome(self, operation_id: str) -> Operation | None:
        """Where an operation stands."""
        return self._operations.outcome(operation_id)

    def done(self, prefix: str) -> list[Operation]:
        """Operations that are done and whose ids begin so."""
        return self._db.read(lambda conn: store.done_operations(conn, prefix))
