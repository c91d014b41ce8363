"""The ecash wallet: receive, send and mint as journaled steps that a crash cannot lose.

Each operation has an id that the caller chooses and is done once, however often it is asked for:

1. one transaction writes the intent (inputs, counters, exact outputs) and takes the counters for ever;
2. the request goes to the mint;
3. one transaction stores the coins and closes the operation.

Outputs are deterministic (NUT-13), so after a lost reply the same request is sent again, and where the mint says that it
was done before, its signatures are restored (NUT-09). No answer means open, never failed: `recover` goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import httpx
import msgspec
from mnemonic import Mnemonic

from relays.money import Msat
from router_client.ecash import store
from router_client.ecash.closing import complete, hand_out
from router_client.ecash.coins import Fees, plan_spend, split, swap_fee
from router_client.ecash.crypto import SecretChain
from router_client.ecash.keyring import Keyring
from router_client.ecash.mint import BlindedMessage, BlindSignature, MintClient
from router_client.ecash.outcomes import Invoice, Received, Sent, TokenFees, failure, received, sent, was_spent
from router_client.ecash.outputs import blinded, unblinded
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import Proof, Token, decode, to_msat
from router_client.errors import (
    MintUnavailable,
    TokenRefused,
    TokenSpent,
    WalletError,
)
from router_client.storage import Database

log = logging.getLogger(__name__)

SEND_WAIT_S = 20.0
MOST_COINS = 128
"""No sensible swap gives up more coins than this."""


class Wallet:
    """Coins of any number of mints in one file. Open with `Wallet.open`, close when done."""

    def __init__(self, db: Database, chain: SecretChain, http: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._db = db
        self._chain = chain
        self._keyring = Keyring(db, http, clock)
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._spending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

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

    # receive ---------------------------------------------------------------------------------------------------------

    async def receive(self, token: str | Token, operation_id: str) -> Received:
        """Swap a token for coins of our own.

        Raises TokenUnreadable, WrongUnit, TokenSpent, TokenRefused, MintMisbehaved; MintUnavailable leaves the operation
        open, and asking again with the same id goes on with it.
        """
        coins = decode(token) if isinstance(token, str) else token
        operation = self.outcome(operation_id)
        if operation is not None and _secrets(operation.journal.inputs) != _secrets(coins.proofs):
            raise TokenRefused("an operation of that name took in another token")
        if operation is None or (operation.state == "failed" and not was_spent(operation)):
            operation = await _opened(self._begin_receive(coins, operation_id))
        return received(await self._finish(operation))

    async def _begin_receive(self, token: Token, operation_id: str) -> Operation:
        coins, fees_ppk = await self._keyring.resolve(token)
        mint = await self._keyring.mint(token.mint)
        fee = swap_fee(fees_ppk)
        net = token.amount - fee
        if net <= 0:
            raise TokenRefused(f"the token is worth {token.amount} {token.unit}, the mint's fee for it is {fee}")
        keyset = mint.active(token.unit)
        amounts = split(net)

        def begin(conn: sqlite3.Connection) -> Operation:
            _check_vacant(conn, operation_id)
            counter = store.take_counters(conn, keyset.id, len(amounts))
            journal = Journal(keyset=keyset.id, counter=counter, amounts=amounts, inputs=coins, amount=net, fee=fee)
            return self._open(conn, operation_id, "receive", token.mint, token.unit, journal)

        return await self._db.run(begin)

    # send ------------------------------------------------------------------------------------------------------------

    async def send(self, amount: int, mint_url: str, unit: str, operation_id: str, fees: Fees = "on_top") -> Sent:
        """A token of `amount` in the mint's unit; see `coins.Fees` for who bears the mint's fees.

        Raises InsufficientFunds, TokenRefused, MintMisbehaved; MintUnavailable leaves the operation open.
        """
        # One at a time: while a large coin is away for change, the next would find too little.
        turn = self._spending.setdefault(f"{unit} {mint_url}", asyncio.Lock())
        try:
            async with asyncio.timeout(SEND_WAIT_S):
                await turn.acquire()
        except TimeoutError as error:
            raise MintUnavailable(f"the mint {mint_url} keeps others waiting for their change") from error
        try:
            operation = self.outcome(operation_id)
            if operation is None or operation.state == "failed":
                operation = await _opened(self._begin_send(amount, mint_url, unit, operation_id, fees))
            return sent(await self._finish(operation))
        finally:
            turn.release()

    async def _begin_send(self, amount: int, mint_url: str, unit: str, operation_id: str, fees: Fees) -> Operation:
        mint = await self._keyring.mint(mint_url)
        keyset = mint.active(unit)

        def begin(conn: sqlite3.Connection) -> Operation:
            _check_vacant(conn, operation_id)
            coins = store.unspent(conn, mint_url, unit)
            plan = plan_spend(coins, amount, fees, mint.fees_ppk(), keyset.input_fee_ppk)
            outputs = plan.send + plan.keep
            counter = store.take_counters(conn, keyset.id, len(outputs)) if plan.needs_swap else 0
            journal = Journal(
                keyset=keyset.id,
                counter=counter,
                amounts=outputs,
                sent=len(plan.send),
                inputs=plan.inputs,
                amount=sum(plan.send) if plan.needs_swap else sum(coin.amount for coin in plan.inputs),
                fee=plan.fee,
            )
            operation = self._open(conn, operation_id, "send", mint_url, unit, journal)
            secrets = [coin.secret for coin in plan.inputs]
            store.move_coins(conn, secrets, "unspent", "reserved", operation_id)
            if not plan.needs_swap:
                operation = hand_out(conn, operation, plan.inputs, "reserved")
            return operation

        return await self._db.run(begin)

    async def fees(self, token: str) -> TokenFees:
        """The swap fees of a token's mint. Raises what `receive` does."""
        decoded = decode(token)
        _, fees_ppk = await self._keyring.resolve(decoded)
        most_ppk = (await self._keyring.mint(decoded.mint)).most_fee_ppk(decoded.unit)
        return TokenFees(
            to_msat(swap_fee(fees_ppk), decoded.unit), to_msat(swap_fee([most_ppk] * MOST_COINS), decoded.unit)
        )

    async def reclaim(self, operation_id: str) -> Received:
        """Take back a token that was sent and not redeemed. Raises TokenSpent when it was."""
        operation = self.outcome(operation_id)
        if operation is None or operation.kind != "send" or operation.state != "done":
            raise TokenRefused("there is no sent token of that name")
        return await self.receive(operation.result, f"reclaim:{operation_id}")

    # mint ------------------------------------------------------------------------------------------------------------

    async def invoice(self, amount: int, mint_url: str, unit: str, operation_id: str) -> Invoice:
        """Ask a mint for a Lightning invoice over `amount` of `unit`; pay it, then `claim` the same operation."""
        operation = self.outcome(operation_id)
        if operation is None:
            mint = await self._keyring.mint(mint_url)
            mint.active(unit)
            quote = await mint.client.mint_quote(amount, unit)
            journal = Journal(quote=quote.quote, invoice=quote.request, amount=amount, expires_at=quote.expiry)
            opening = self._db.run(lambda conn: self._open(conn, operation_id, "mint", mint_url, unit, journal))
            operation = await _opened(opening)
        journal = operation.journal
        return Invoice(operation_id, journal.invoice, to_msat(journal.amount, operation.unit), journal.expires_at)

    async def claim(self, operation_id: str) -> Received | None:
        """The ecash for a paid invoice, or None while it is unpaid."""
        operation = self.outcome(operation_id)
        if operation is None or operation.kind != "mint":
            raise TokenRefused("there is no invoice of that name")
        if operation.state == "open" and not operation.journal.amounts:
            mint_url = operation.mint
            mint = await self._keyring.mint(mint_url)
            quote = await mint.client.mint_quote_state(operation.journal.quote)
            if quote.state not in ("PAID", "ISSUED"):
                return None
            keyset = mint.active(operation.unit)
            amounts = split(operation.journal.amount)

            def begin(conn: sqlite3.Connection) -> None:
                current = store.operation(conn, operation_id)
                if current is not None and current.state == "open" and not current.journal.amounts:
                    counter = store.take_counters(conn, keyset.id, len(amounts))
                    planned = msgspec.structs.replace(
                        current.journal, keyset=keyset.id, counter=counter, amounts=amounts
                    )
                    store.set_journal(conn, operation_id, planned)

            await self._db.run(begin)
            operation = self.outcome(operation_id)
            assert operation is not None
        return received(await self._finish(operation))

    # the journal -----------------------------------------------------------------------------------------------------

    async def recover(self, older_than_s: float = 0) -> list[Operation]:
        """Go on with every open operation of at least that age; returns those that are finished now.

        One that still cannot be finished stays open for the next time.
        """
        finished = []
        away: set[str] = set()
        for operation in self._db.read(store.open_operations):
            if operation.created_at > self._clock() - older_than_s or operation.mint in away:
                continue
            try:
                if operation.kind == "mint":
                    await self._recover_mint(operation)
                else:
                    await self._finish(operation)
            except MintUnavailable as error:
                away.add(operation.mint)  # one deadline per silent mint, not one per operation
                log.warning("%s %s waits: %s", operation.kind, operation.id, error)
            except WalletError as error:
                log.warning("%s %s: %s", operation.kind, operation.id, error)
            after = self.outcome(operation.id)
            if after is not None and after.state != "open":
                finished.append(after)
        return finished

    async def resume(self, operation: Operation) -> Received:
        """Go on with a receive or a claim from its journal; one that is done answers at once."""
        return received(await self._finish(operation))

    def outcome(self, operation_id: str) -> Operation | None:
        """Where an operation stands."""
        return self._db.read(lambda conn: store.operation(conn, operation_id))

    async def _recover_mint(self, operation: Operation) -> None:
        claimed = await self.claim(operation.id)
        expires_at = operation.journal.expires_at
        if claimed is None and expires_at is not None and expires_at < self._clock():
            await self._db.run(lambda conn: store.close_operation(conn, operation.id, "failed", "invoice expired"))

    def _open(
        self, conn: sqlite3.Connection, operation_id: str, kind: store.Kind, mint: str, unit: str, journal: Journal
    ) -> Operation:
        """Write the intent, over that of an operation of this id that failed."""
        _check_vacant(conn, operation_id)
        existing = store.operation(conn, operation_id)
        if existing is None:
            operation = Operation(
                id=operation_id,
                kind=kind,
                mint=mint,
                unit=unit,
                state="open",
                journal=journal,
                result="",
                created_at=int(self._clock()),
            )
            store.insert_operation(conn, operation)
            return operation
        store.set_journal(conn, operation_id, journal)
        return msgspec.structs.replace(existing, state="open", journal=journal, result="")

    async def _finish(self, operation: Operation) -> Operation:
        """Bring an operation to its end, one caller at a time; who comes later finds it done."""
        turn = self._turns.setdefault(operation.id, asyncio.Lock())
        async with turn:
            current = self.outcome(operation.id) or operation
            if current.state == "failed":
                raise failure(current.result)
            return current if current.state == "done" else await self._ask_mint(current)

    async def _ask_mint(self, operation: Operation) -> Operation:
        """Ask the mint for what the journal says, restore it where that was done before, and close the operation."""
        mint = await self._keyring.mint(operation.mint)
        journal = operation.journal
        secrets, outputs = blinded(self._chain, journal)
        try:
            if operation.kind == "mint":
                signatures = await mint.client.mint(journal.quote, outputs)
            else:
                signatures = await mint.client.swap(journal.inputs, outputs)
        except (TokenSpent, TokenRefused) as refusal:
            restored = await self._restored(mint.client, operation, outputs)
            # Signatures on other amounts are not this operation's: a copy of this wallet used the same counters.
            if not all(output.B_ in restored and restored[output.B_].amount == output.amount for output in outputs):
                await self._refused(operation, refusal)
                raise
            signatures = [restored[output.B_] for output in outputs]
        proofs = unblinded(mint.keys(journal.keyset), outputs, secrets, signatures)
        return await self._db.run(lambda conn: complete(conn, operation, proofs))

    async def _restored(
        self, client: MintClient, operation: Operation, outputs: Sequence[BlindedMessage]
    ) -> dict[str, BlindSignature]:
        """What the mint signed before; nothing, if it cannot tell (no NUT-09) but calls the inputs unspent."""
        try:
            return await client.restore(outputs)
        except (TokenRefused, TokenSpent) as error:
            if operation.kind == "mint" or await client.spent(operation.journal.inputs):
                raise MintUnavailable(f"the mint {operation.mint} cannot say what it signed") from error
            return {}

    async def _refused(self, operation: Operation, refusal: WalletError) -> None:
        """The mint said no, and had not said yes before: the operation has failed, unless its invoice is paid all the same.

        Then the no was about the outputs (a keyset was rotated): they are planned anew. Raises MintUnavailable for that.
        """
        if operation.kind == "mint":
            mint = await self._keyring.mint(operation.mint)
            if (await mint.client.mint_quote_state(operation.journal.quote)).state == "PAID":
                unplanned = msgspec.structs.replace(operation.journal, amounts=())
                await self._db.run(lambda conn: store.set_journal(conn, operation.id, unplanned))
                self._keyring.forget(operation.mint)
                raise MintUnavailable(f"{refusal}; the invoice is paid: claim it again") from refusal
        await self._fail(operation, refusal)

    async def _fail(self, operation: Operation, refusal: WalletError) -> None:
        """Close as failed; coins of ours that were to be spent are free again, but for those the mint calls spent."""
        spent: set[str] = set()
        if operation.kind == "send":
            mint = await self._keyring.mint(operation.mint)
            spent = await mint.client.spent(operation.journal.inputs)

        def fail(conn: sqlite3.Connection) -> None:
            result = f"{type(refusal).__name__}: {refusal}"
            if store.close_operation(conn, operation.id, "failed", result) and operation.kind == "send":
                for coin in operation.journal.inputs:
                    after: store.CoinState = "spent" if coin.y() in spent else "unspent"
                    store.move_coins(conn, [coin.secret], "reserved", after, operation.id)

        await self._db.run(fail)
        self._keyring.forget(operation.mint)


class _AlreadyOpen(Exception):
    """Another caller opened the operation between our look and our write."""

    def __init__(self, operation: Operation) -> None:
        super().__init__(operation.id)
        self.operation = operation


def _secrets(proofs: Sequence[Proof]) -> set[str]:
    return {proof.secret for proof in proofs}


def _check_vacant(conn: sqlite3.Connection, operation_id: str) -> None:
    """Raise _AlreadyOpen for an operation that is to be gone on with, before anything is taken for a second one."""
    existing = store.operation(conn, operation_id)
    if existing is not None and existing.state != "failed":
        raise _AlreadyOpen(existing)


async def _opened(opening: Awaitable[Operation]) -> Operation:
    """The operation as opened by us or by whoever was faster."""
    try:
        return await opening
    except _AlreadyOpen as other:
        return other.operation
