"""Mint: a Lightning invoice of the mint, once paid, becomes coins (NUT-04)."""

from __future__ import annotations

import asyncio
import sqlite3

import msgspec

from router_client.ecash import store
from router_client.ecash.closing import complete
from router_client.ecash.coins import split
from router_client.ecash.invoices import read_invoice
from router_client.ecash.mint import BlindSignature
from router_client.ecash.operations import Operations, opened
from router_client.ecash.outcomes import Invoice, Received, received
from router_client.ecash.outputs import blinded
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import Proof, to_msat
from router_client.errors import MintUnavailable, TokenRefused, TokenSpent

GRACE_S = 3600
"""A payment that was under way when its invoice ended may still arrive."""


class Minting:
    """Lightning in."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        operations.register("mint", self._step, self._recover)

    async def invoice(self, amount: int, mint_url: str, unit: str, operation_id: str) -> Invoice:
        """See `Wallet.invoice`."""
        operations = self._operations
        operation = operations.outcome(operation_id)
        if operation is None:
            mint = await operations.keyring.mint(mint_url)
            mint.active(unit)
            quote = await mint.client.mint_quote(amount, unit)
            journal = Journal(quote=quote.quote, invoice=quote.request, amount=amount, expires_at=quote.expiry)
            opening = operations.db.run(
                lambda conn: operations.open(conn, operation_id, "mint", mint_url, unit, journal)
            )
            operation = await opened(opening)
        journal = operation.journal
        return Invoice(operation_id, journal.invoice, to_msat(journal.amount, operation.unit), journal.expires_at)

    async def claim(self, operation_id: str) -> Received | None:
        """See `Wallet.claim`."""
        operation = self._operations.outcome(operation_id)
        if operation is None or operation.kind != "mint":
            raise TokenRefused("there is no invoice of that name")
        # Also one that was paid after its time, or that the mint has refused before.
        if operation.state == "failed" or (operation.state == "open" and not operation.journal.amounts):
            mint = await self._operations.keyring.mint(operation.mint)
            quote = await mint.client.mint_quote_state(operation.journal.quote)
            if quote.state not in ("PAID", "ISSUED"):
                return None
            operation = await self._planned(operation, mint.active(operation.unit).id)
        return received(await self._operations.finish(operation))

    async def _planned(self, operation: Operation, keyset: str) -> Operation:
        """The operation with its outputs in the journal, ours or those of whoever was faster."""
        amounts = split(operation.journal.amount)

        def plan(conn: sqlite3.Connection) -> Operation:
            current = store.operation(conn, operation.id)
            assert current is not None
            if current.state == "done" or (current.state == "open" and current.journal.amounts):
                return current
            journal = current.journal
            if not journal.amounts:
                counter = store.take_counters(conn, keyset, len(amounts))
                journal = msgspec.structs.replace(journal, keyset=keyset, counter=counter, amounts=amounts)
            store.set_journal(conn, operation.id, journal)
            return msgspec.structs.replace(current, state="open", journal=journal, result="")

        return await self._operations.db.run(plan)

    async def _step(self, operation: Operation) -> Operation:
        quote = operation.journal.quote
        try:
            proofs = await self._operations.signed(operation, lambda client, outputs: client.mint(quote, outputs))
        except (TokenSpent, TokenRefused) as refusal:
            proofs = await self._in_spite_of(operation, refusal)
        return await self._operations.db.run(lambda conn: complete(conn, operation, proofs))

    async def _in_spite_of(self, operation: Operation, refusal: TokenSpent | TokenRefused) -> list[Proof]:
        """The coins that the mint refused, and had not made before, if it has made them since: an earlier request of ours,
        whose answer was lost, may have been under way.

        Raises the refusal where it has not: then the operation has failed. Raises MintUnavailable as long as the mint is at
        it, and for an invoice that is paid all the same.
        """
        mint = await self._operations.keyring.mint(operation.mint)
        state = (await mint.client.mint_quote_state(operation.journal.quote)).state
        if state == "PENDING":
            raise MintUnavailable(f"{refusal}; it is at it") from refusal
        if state == "PAID":
            await self._check_outputs(operation)
            raise MintUnavailable(f"{refusal}; the invoice is paid: claim it again") from refusal

        async def refused(*_: object) -> list[BlindSignature]:
            raise refusal

        try:
            return await self._operations.signed(operation, refused)
        except (TokenSpent, TokenRefused):
            await self._operations.fail(operation, refusal)
            raise

    async def _check_outputs(self, operation: Operation) -> None:
        """Have outputs planned anew that their mint cannot sign (a keyset was rotated) or has signed for somebody else (a
        copy of this wallet). Any other no, such as that the payment came too late, may be said for ever: what it is about
        stays as it is, since counters that are taken for nothing hide coins from a restore."""
        mint = await self._operations.keyring.refresh(operation.mint)
        journal = operation.journal
        _, outputs = await asyncio.to_thread(blinded, self._operations.chain, journal)
        if not mint.is_active(journal.keyset) or await mint.client.restore(outputs):
            unplanned = msgspec.structs.replace(journal, amounts=())
            await self._operations.db.run(lambda conn: store.set_journal(conn, operation.id, unplanned))

    async def _recover(self, operation: Operation) -> None:
        """Nobody pays an invoice after its time: then the operation is over, until somebody claims it all the same."""
        is_over = self._is_over(operation.journal)
        try:
            is_unpaid = await self.claim(operation.id) is None
        except (TokenRefused, TokenSpent):  # the mint knows it no more
            if not is_over:
                raise
            is_unpaid = True
        if is_unpaid and is_over:
            await self.give_up(operation.id, "invoice expired")

    async def give_up(self, operation_id: str, reason: str) -> bool:
        """See `Wallet.give_up`. One that somebody claims in this moment goes on."""

        def close(conn: sqlite3.Connection) -> bool:
            current = store.operation(conn, operation_id)
            is_claimed = current is not None and bool(current.journal.amounts)
            return not is_claimed and store.close_operation(conn, operation_id, "failed", reason)

        return await self._operations.db.run(close)

    def _is_over(self, journal: Journal) -> bool:
        """Whether nobody can pay any more: the payer knows the invoice's end alone, whatever the mint says of its quote."""
        latest = self._operations.clock() - GRACE_S
        return (journal.expires_at or 0) < latest and read_invoice(journal.invoice).expires_at < latest
