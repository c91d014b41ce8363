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
from collections.abc import Callable
from pathlib import Path

import httpx
from mnemonic import Mnemonic

from relays.money import Msat
from router_client.ecash import store
from router_client.ecash.coins import Fees
from router_client.ecash.crypto import SecretChain
from router_client.ecash.keyring import Keyring
from router_client.ecash.minting import Minting
from router_client.ecash.operations import Operations
from router_client.ecash.outcomes import Invoice, Received, Sent, TokenFees, received
from router_client.ecash.receiving import Receiving
from router_client.ecash.sending import Sending
from router_client.ecash.store import Operation
from router_client.ecash.token import Token, decode, to_msat
from router_client.storage import Database


class Wallet:
    """Coins of any number of mints in one file. Open with `Wallet.open`, close when done."""

    def __init__(self, db: Database, chain: SecretChain, http: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._db = db
        self._keyring = Keyring(db, http, clock)
        self._operations = Operations(db, chain, self._keyring, clock)
        self._receiving = Receiving(self._operations)
        self._sending = Sending(self._operations)
        self._minting = Minting(self._operations)

    @classmethod
    async def open(cls, path: Path, http: httpx.AsyncClient, clock: Callable[[], float] = time.time) -> Wallet:
        """The wallet in the file at `path`, made with a new seed if there is none. Raises StorageError."""
        db = Database(path)
        english = Mnemonic("english")

        def prepare(conn: sqlite3.Connection) -> str:
            store.migrate(conn)
            return store.load_or_create_seed(conn, english.generate(256))

        return cls(db, SecretChain(english.to_seed(await db.run(prepare))), http, clock)

    def close(self) -> None:
        self._db.close()

    def balances(self) -> dict[tuple[str, str], int]:
        """Spendable coins by (mint, unit), in the unit."""
        return self._db.read(store.balances)

    def balance_msat(self) -> Msat:
        """All spendable coins together."""
        return Msat(sum(to_msat(amount, unit) for (_, unit), amount in self.balances().items()))

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

    async def send(self, amount: int, mint_url: str, unit: str, operation_id: str, fees: Fees = "on_top") -> Sent:
        """A token of `amount` in the mint's unit; see `coins.Fees` for who bears the mint's fees.

        Raises InsufficientFunds, TokenRefused, MintMisbehaved; MintUnavailable leaves the operation open.
        """
        return await self._sending.send(amount, mint_url, unit, operation_id, fees)

    async def fees(self, token: str) -> TokenFees:
        """The swap fees of a token's mint. Raises what `receive` does."""
        return await self._receiving.fees(decode(token))

    async def reclaim(self, operation_id: str) -> Received:
        """Take back a token that was sent and not redeemed. Raises TokenSpent when it was."""
        return await self.receive(self._sending.handed_out(operation_id), f"reclaim:{operation_id}")

    # Lightning -------------------------------------------------------------------------------------------------------

    async def invoice(self, amount: int, mint_url: str, unit: str, operation_id: str) -> Invoice:
        """Ask a mint for a Lightning invoice over `amount` of `unit`; pay it, then `claim` the same operation."""
        return await self._minting.invoice(amount, mint_url, unit, operation_id)

    async def claim(self, operation_id: str) -> Received | None:
        """The ecash for a paid invoice, or None while it is unpaid."""
        return await self._minting.claim(operation_id)

    # the journal -----------------------------------------------------------------------------------------------------

    async def recover(self, older_than_s: float = 0) -> list[Operation]:
        """Go on with every open operation of at least that age; returns those that are finished now.

        One that still cannot be finished stays open for the next time.
        """
        return await self._operations.recover(older_than_s)

    async def resume(self, operation: Operation) -> Received:
        """Go on with a receive or a claim from its journal; one that is done answers at once."""
        return received(await self._operations.finish(operation))

    def outcome(self, operation_id: str) -> Operation | None:
        """Where an operation stands."""
        return self._operations.outcome(operation_id)
