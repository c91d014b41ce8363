"""Melt: coins pay a Lightning invoice through their mint (NUT-05); what was set aside for fees and not used comes back
as change (NUT-08).

1. the mint quotes what the invoice takes; nothing has happened yet;
2. one transaction reserves the inputs and writes the intent with blank outputs for the change;
3. the mint pays;
4. one transaction stores the change, marks the inputs spent and closes the operation with the preimage.

A payment without an answer, or a pending one, is open. Asked again, or by `recover`, the quote's state decides: PAID
restores the change and closes; PENDING stays open; UNPAID is a failure if the mint had begun, and else is asked for again,
since the first request may still be on its way. The coins are free only when the mint has said that it does not pay.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from relays.money import ceil_div
from router_client.ecash import store
from router_client.ecash.closing import complete
from router_client.ecash.coins import plan_melt
from router_client.ecash.invoices import Bolt11, read_invoice
from router_client.ecash.mint import BlindSignature, MeltQuote
from router_client.ecash.operations import Operations, check_vacant, opened
from router_client.ecash.outcomes import MeltCost, Melted, melted
from router_client.ecash.outputs import blinded, unblinded_change
from router_client.ecash.spending import Spending, check_inputs
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import MSAT_PER_UNIT, to_msat
from router_client.errors import (
    FeeTooHigh,
    MintMisbehaved,
    MintUnavailable,
    PaymentFailed,
    TokenRefused,
    TokenSpent,
    WrongUnit,
)

BEGUN = 1
"""In the journal's `sent`: the mint was seen to pay."""
BLANK = 1
"""Amount of a blank output: the mint sets the real one when it signs."""


class Melting:
    """Lightning out."""

    def __init__(self, operations: Operations, spending: Spending) -> None:
        self._operations = operations
        self._spending = spending
        operations.register("melt", self._pay, self._recover)

    async def cost(self, bolt11: str, mint_url: str, unit: str) -> MeltCost:
        """See `Wallet.melt_cost`."""
        quote = await self.quote(read_invoice(bolt11), mint_url, unit)
        mint = await self._operations.keyring.mint(mint_url)
        coins = self._operations.db.read(lambda conn: store.unspent(conn, mint_url, unit))
        plan = plan_melt(coins, quote.amount + quote.fee_reserve, mint.fees_ppk())
        return MeltCost(to_msat(quote.amount, unit), to_msat(quote.fee_reserve, unit), to_msat(plan.fee, unit))

    async def melt(self, bolt11: str, mint_url: str, unit: str, operation_id: str, max_fee: int | None) -> Melted:
        """See `Wallet.melt`."""
        invoice = read_invoice(bolt11)
        async with self._spending.turn(mint_url, unit):
            operation = self._operations.outcome(operation_id)
            if operation is not None and (operation.kind, operation.journal.invoice) != ("melt", invoice.text):
                raise TokenRefused("an operation of that name is another one")
            if operation is None or operation.state == "failed":
                operation = await self._spending.begun(
                    lambda: opened(self._begin(invoice, mint_url, unit, operation_id, max_fee)), mint_url, unit
                )
        # The coins are reserved: others may spend theirs while a payment takes its time.
        return melted(await self._operations.finish(operation))

    async def quote(self, invoice: Bolt11, mint_url: str, unit: str) -> MeltQuote:
        """What the mint wants for the invoice. Raises PaymentFailed when it does not pay such ones."""
        if unit not in MSAT_PER_UNIT:
            raise WrongUnit(f"the unit {unit[:16]!r} is not taken: bring sat or msat")
        mint = await self._operations.keyring.mint(mint_url)
        if not await self._operations.keyring.gives_change(mint_url):
            raise PaymentFailed(f"the mint {mint_url} gives no change of Lightning fees (NUT-08)")
        try:
            quote = await mint.client.melt_quote(invoice.text, unit)
        except (TokenRefused, TokenSpent) as error:
            raise PaymentFailed(f"the mint does not pay this invoice: {error}") from error
        if quote.amount != ceil_div(invoice.amount_msat, MSAT_PER_UNIT[unit]):
            raise MintMisbehaved(f"the mint {mint_url} wants another amount than the invoice's")
        return quote

    async def _begin(
        self, invoice: Bolt11, mint_url: str, unit: str, operation_id: str, max_fee: int | None
    ) -> Operation:
        quote = await self.quote(invoice, mint_url, unit)
        mint = await self._operations.keyring.mint(mint_url)
        keyset = mint.active(unit)

        def begin(conn: sqlite3.Connection) -> Operation:
            check_vacant(conn, operation_id)
            coins = store.unspent(conn, mint_url, unit)
            plan = plan_melt(coins, quote.amount + quote.fee_reserve, mint.fees_ppk())
            check_inputs(plan.inputs)
            if max_fee is not None and quote.fee_reserve + plan.fee > max_fee:
                raise FeeTooHigh(f"the payment may cost {quote.fee_reserve + plan.fee} {unit}, {max_fee} are allowed")
            most_change = sum(coin.amount for coin in plan.inputs) - plan.fee - quote.amount
            blanks = (BLANK,) * most_change.bit_length()
            journal = Journal(
                keyset=keyset.id,
                counter=store.take_counters(conn, keyset.id, len(blanks)),
                amounts=blanks,
                inputs=plan.inputs,
                quote=quote.quote,
                invoice=invoice.text,
                amount=quote.amount,
                fee=quote.fee_reserve + plan.fee,
            )
            operation = self._operations.open(conn, operation_id, "melt", mint_url, unit, journal)
            secrets = [coin.secret for coin in plan.inputs]
            store.move_coins(conn, secrets, "unspent", "reserved", operation_id)
            return operation

        return await self._operations.db.run(begin)

    async def _pay(self, operation: Operation) -> Operation:
        """Ask the mint to pay, unless it did before. It pays a quote once, however often it is asked."""
        mint = await self._operations.keyring.mint(operation.mint)
        journal = operation.journal
        answer = await mint.client.melt_quote_state(journal.quote)
        refusal: Exception | None = None
        if answer.state == "UNPAID":
            _, outputs = blinded(self._operations.chain, journal)
            try:
                answer = await mint.client.melt(journal.quote, journal.inputs, outputs)
            except (TokenSpent, TokenRefused) as error:
                refusal = error
                answer = await mint.client.melt_quote_state(journal.quote)
        return await self._settle(operation, answer, refusal)

    async def _recover(self, operation: Operation) -> Operation:
        return await self._operations.finish(operation, self._look)

    async def _look(self, operation: Operation) -> Operation:
        """Find out what came of a payment. One that the mint had begun and calls unpaid has failed; one that it may never
        have heard of is asked for again, since the first request may still be on its way."""
        mint = await self._operations.keyring.mint(operation.mint)
        answer = await mint.client.melt_quote_state(operation.journal.quote)
        if answer.state == "UNPAID" and not operation.journal.sent:
            return await self._pay(operation)
        return await self._settle(operation, answer, None)

    async def _settle(self, operation: Operation, answer: MeltQuote, refusal: Exception | None) -> Operation:
        if answer.state == "PAID":
            return await self._close_paid(operation, answer)
        if answer.state != "UNPAID":
            begun = msgspec.structs.replace(operation.journal, sent=BEGUN)
            await self._operations.db.run(lambda conn: store.set_journal(conn, operation.id, begun))
            raise MintUnavailable(f"the payment through {operation.mint} is under way")
        failed = PaymentFailed(
            f"the mint {operation.mint} did not pay the invoice" + (f": {refusal}" if refusal else "")
        )
        await self._operations.fail(operation, failed)
        raise failed from refusal

    async def _close_paid(self, operation: Operation, answer: MeltQuote) -> Operation:
        """The change is in the answer, or is restored when that was lost."""
        mint = await self._operations.keyring.mint(operation.mint)
        journal = operation.journal
        secrets, outputs = blinded(self._operations.chain, journal)
        signatures: Sequence[BlindSignature | None] = answer.change or ()
        if not signatures and outputs:
            restored = await mint.client.restore(outputs)
            signatures = [restored.get(output.B_) for output in outputs]
        change = unblinded_change(mint.keys(journal.keyset), outputs, secrets, signatures)
        fee = sum(coin.amount for coin in journal.inputs) - journal.amount - sum(coin.amount for coin in change)
        if fee < 0:
            raise MintMisbehaved(f"the mint {operation.mint} gives more change than it was sent")
        paid = msgspec.structs.replace(operation, journal=msgspec.structs.replace(journal, fee=fee))
        preimage = answer.payment_preimage or ""

        def close(conn: sqlite3.Connection) -> Operation:
            return complete(conn, paid, change, preimage)

        return await self._operations.db.run(close)
