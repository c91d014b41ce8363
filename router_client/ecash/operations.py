"""The journal's driver: opens operations, asks the mint, restores what a lost reply held back, and closes them.

What an operation asks of its mint is its own room's business (`receiving`, `sending`, `minting`, …), which registers a step
for its kind. A step returns the closed operation; it raises MintUnavailable as long as the outcome is open.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Sequence
from weakref import WeakValueDictionary

import msgspec

from router_client.disk.storage import Database
from router_client.ecash import store
from router_client.ecash.closing import close_failed, complete
from router_client.ecash.crypto import SecretChain
from router_client.ecash.keyring import Keyring
from router_client.ecash.locks import LockKey
from router_client.ecash.mint import BlindedMessage, BlindSignature, MintClient
from router_client.ecash.outcomes import failure
from router_client.ecash.outputs import blinded, unblinded
from router_client.ecash.store import Journal, Kind, Operation
from router_client.ecash.token import Proof
from router_client.errors import MintSilent, MintUnavailable, TokenRefused, TokenSpent, WalletError

log = logging.getLogger(__name__)

Step = Callable[[Operation], Awaitable[object]]
MINTS_AT_ONCE = 16
"""Where foreign mints' tokens are taken, any number of them may be strangers that do not answer."""

NOT_TAKEN = {"UNSPENT", "UNPAID", "PAID"}
"""Of coins, and of an invoice: what is signed for them is not signed yet. A mint that was killed as it signed an invoice's
coins calls that pending for ever."""

Ask = Callable[[MintClient, Sequence[BlindedMessage]], Awaitable[list[BlindSignature]]]


class Operations:
    """The operations of one wallet, each done once however often it is asked for."""

    def __init__(
        self,
        db: Database,
        seed: bytes,
        keyring: Keyring,
        clock: Callable[[], float],
        stock: int,
    ) -> None:
        self.db = db
        self.chain = SecretChain(seed)
        self.lock_key = LockKey(seed)
        self.keyring = keyring
        self.clock = clock
        self.stock = stock
        self._steps: dict[Kind, Callable[[Operation], Awaitable[Operation]]] = {}
        self._recoveries: dict[Kind, Step] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def register(
        self, kind: Kind, step: Callable[[Operation], Awaitable[Operation]], recover: Step | None = None
    ) -> None:
        """How an open operation of this kind goes on; `recover` where that differs when nobody asks for it."""
        self._steps[kind] = step
        self._recoveries[kind] = recover or self.finish

    def outcome(self, operation_id: str) -> Operation | None:
        """Where an operation stands."""
        return self.db.read(lambda conn: store.operation(conn, operation_id))

    def open(
        self, conn: sqlite3.Connection, operation_id: str, kind: Kind, mint: str, unit: str, journal: Journal
    ) -> Operation:
        """Write the intent, over that of an operation of this id that failed."""
        existing = check_vacant(conn, operation_id)
        if existing is None:
            operation = Operation(
                id=operation_id,
                kind=kind,
                mint=mint,
                unit=unit,
                state="open",
                journal=journal,
                result="",
                created_at=int(self.clock()),
            )
            store.insert_operation(conn, operation)
            return operation
        store.set_journal(conn, operation_id, journal)
        return msgspec.structs.replace(existing, state="open", journal=journal, result="")

    async def finish(
        self, operation: Operation, step: Callable[[Operation], Awaitable[Operation]] | None = None
    ) -> Operation:
        """Bring an operation to its end, one caller at a time; who comes later finds it done."""
        turn = self._turns.setdefault(operation.id, asyncio.Lock())
        async with turn:
            current = self.outcome(operation.id) or operation
            if current.state == "failed":
                raise failure(current.result)
            return current if current.state == "done" else await (step or self._steps[current.kind])(current)

    async def recover(self, older_than_s: float, kinds: Collection[Kind] | None = None) -> list[Operation]:
        """Go on with every open operation of at least that age, of these kinds if some are named; returns those that are
        finished now. What one mint keeps waiting keeps no other mint's waiting."""
        by_mint: dict[str, list[Operation]] = {}
        for operation in self.db.read(store.open_operations):
            # Both ways: one that was begun while the clock was ahead must not wait for that time to come.
            is_old = abs(self.clock() - operation.created_at) >= older_than_s
            if is_old and (kinds is None or operation.kind in kinds):
                by_mint.setdefault(operation.mint, []).append(operation)
        room = asyncio.Semaphore(MINTS_AT_ONCE)
        work = (self._recovered(each, room) for each in by_mint.values())
        found = []
        for each in await asyncio.gather(*work, return_exceptions=True):  # all are at their end
            if isinstance(each, BaseException):
                raise each
            found += each
        return found

    async def _recovered(self, operations: Sequence[Operation], room: asyncio.Semaphore) -> list[Operation]:
        """Those of one mint that are finished now; a silent one is waited for once, not once for each operation."""
        finished: list[Operation] = []
        async with room:
            # Invoices wait for their payers: hundreds of them come after what has money on its way.
            for operation in sorted(operations, key=lambda each: each.kind == "mint"):
                is_silent = False
                try:
                    await self._recoveries[operation.kind](operation)
                except MintSilent as error:
                    is_silent = True
                    log.warning("%s %s waits: %s", operation.kind, operation.id, error)
                except WalletError as error:  # a stranger's pending coins, say: they keep nobody else's waiting
                    log.warning("%s %s: %s", operation.kind, operation.id, error)
                after = self.outcome(operation.id)
                if after is not None and after.state != "open":
                    finished.append(after)
                if is_silent:
                    break
        return finished

    async def swap(self, operation: Operation) -> Operation:
        """The step of whatever is a swap (NUT-03): the journal's inputs for its outputs."""
        try:
            proofs = await self.swapped(operation)
        except (TokenSpent, TokenRefused) as refusal:
            await self.fail(operation, refusal)
            raise
        return await self.db.run(lambda conn: complete(conn, operation, proofs))

    async def swapped(self, operation: Operation) -> list[Proof]:
        """The coins that the mint swaps the inputs for, those that are locked to us with our signature.

        A mint that has retired the outputs' keyset since they were planned is asked for others. Raises what `signed` does.
        """
        inputs = await asyncio.to_thread(lambda: [self.lock_key.signed(coin) for coin in operation.journal.inputs])
        try:
            return await self.signed(operation, lambda client, outputs: client.swap(inputs, outputs))
        except TokenRefused:
            anew = await self._replanned(operation)
            if anew is None:
                raise
            return await self.signed(anew, lambda client, outputs: client.swap(inputs, outputs))

    async def _replanned(self, operation: Operation) -> Operation | None:
        """The operation with outputs of the keyset in use, if those in its journal, which the mint has refused and never
        signed, are of another."""
        mint = await self.keyring.refresh(operation.mint)
        journal = operation.journal
        if mint.is_active(journal.keyset) or not mint.makes(operation.unit):
            return None
        keyset = mint.active(operation.unit)

        def plan(conn: sqlite3.Connection) -> Operation:
            counter = store.take_counters(conn, keyset.id, len(journal.amounts))
            planned = msgspec.structs.replace(journal, keyset=keyset.id, counter=counter)
            store.set_journal(conn, operation.id, planned)
            return msgspec.structs.replace(operation, journal=planned)

        return await self.db.run(plan)

    async def signed(self, operation: Operation, ask: Ask) -> list[Proof]:
        """The coins that a journal stands for: asked for, and restored where that was done before.

        Raises TokenSpent or TokenRefused when the mint says no and never said yes; MintUnavailable, MintMisbehaved.
        """
        mint = await self.keyring.mint(operation.mint)
        # Each coin takes a third of a millisecond of arithmetic, in which others are to be served.
        secrets, outputs = await asyncio.to_thread(blinded, self.chain, operation.journal)
        try:
            signatures = await ask(mint.client, outputs)
        except (TokenSpent, TokenRefused) as refusal:
            made = await self._made_before(mint.client, operation, outputs, refusal)
            if made is None:
                raise
            signatures = made
        keys = mint.keys(operation.journal.keyset)
        return await asyncio.to_thread(unblinded, keys, outputs, secrets, signatures)

    async def fail(self, operation: Operation, refusal: WalletError) -> None:
        """Close as failed; coins of ours that were to be spent are free again, but for those the mint calls spent."""
        spent: set[str] = set()
        if operation.kind in ("send", "melt", "swap"):
            mint = await self.keyring.mint(operation.mint)
            spent = await mint.client.spent(operation.journal.inputs)
        await self.db.run(lambda conn: close_failed(conn, operation, refusal, spent))
        self.keyring.forget(operation.mint)

    async def _made_before(
        self,
        client: MintClient,
        operation: Operation,
        outputs: Sequence[BlindedMessage],
        refusal: TokenSpent | TokenRefused,
    ) -> list[BlindSignature] | None:
        """The signatures that were lost on their way, if the mint did what it refuses now.

        A copy of this wallet may have used the same counters: signatures on other amounts are not this operation's, nor
        are any whose price the mint says it has not taken. Raises MintUnavailable where it is at it, or cannot say what it
        signed.
        """
        restored = await self._restored(client, operation, outputs)
        if all(output.B_ in restored and restored[output.B_].amount == output.amount for output in outputs):
            is_unpaid = NOT_TAKEN & await self._prices(client, operation)
            return None if is_unpaid else [restored[output.B_] for output in outputs]
        is_coins = operation.kind != "mint" and isinstance(refusal, TokenRefused)
        if is_coins and "PENDING" in await self._prices(client, operation):  # an earlier request of ours
            raise MintUnavailable(f"{refusal}; it is at it") from refusal
        return None

    async def _prices(self, client: MintClient, operation: Operation) -> set[str]:
        """The states of what the mint was to take: of the inputs, or of the invoice; none, if it cannot tell."""
        try:
            if operation.kind == "mint":
                return {str((await client.mint_quote_state(operation.journal.quote)).state)}
            return set((await client.states(operation.journal.inputs)).values())
        except (TokenRefused, TokenSpent):
            return set()

    async def _restored(
        self, client: MintClient, operation: Operation, outputs: Sequence[BlindedMessage]
    ) -> dict[str, BlindSignature]:
        """What the mint signed before; nothing, if it cannot tell (no NUT-09) but calls the inputs unspent.

        One that refuses to tell either has said nothing of our request: it may be somebody before it who answers for it.
        """
        untold = MintUnavailable(f"the mint {operation.mint} cannot say what it signed")
        try:
            return await client.restore(outputs)
        except (TokenRefused, TokenSpent) as error:
            try:
                is_free = operation.kind != "mint" and not await client.spent(operation.journal.inputs)
            except (TokenRefused, TokenSpent):
                raise untold from error
            if not is_free:
                raise untold from error
            return {}


class AlreadyOpen(Exception):
    """Another caller opened the operation between our look and our write."""

    def __init__(self, operation: Operation) -> None:
        super().__init__(operation.id)
        self.operation = operation


def check_vacant(conn: sqlite3.Connection, operation_id: str) -> Operation | None:
    """The operation of that name if it failed. Raises AlreadyOpen for one that is to be gone on with, before anything is
    taken for a second one."""
    existing = store.operation(conn, operation_id)
    if existing is not None and existing.state != "failed":
        raise AlreadyOpen(existing)
    return existing


async def opened(opening: Awaitable[Operation]) -> Operation:
    """The operation as opened by us or by whoever was faster."""
    try:
        return await opening
    except AlreadyOpen as other:
        return other.operation
