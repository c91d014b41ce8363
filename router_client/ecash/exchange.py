"""Exchange: a token of a foreign mint becomes coins at a primary mint, over Lightning.

Each step is an operation of its own, journaled and done once, whose id derives from the caller's:

    <id>:in        receive the token at the foreign mint
    <id>:out:<n>   ask the primary mint for an invoice; once it is paid, claim it
    <id>:pay:<n>   pay that invoice with the foreign coins, for no more than what the token brought

Asked again, each step that is done answers at once and the first that is not goes on. A payment that failed is tried again,
with the same invoice, which cannot be paid twice. `n` counts invoices that ran out before they were paid: then nothing has
moved, and the next payment has an invoice of its own. There is no last one: the token's coins are ours until they arrive.
What the exchange would cost is asked of both mints before the token is touched.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from relays.money import Msat
from router_client.ecash import store
from router_client.ecash.coins import plan_melt, split, swap_fee
from router_client.ecash.invoices import read_invoice
from router_client.ecash.melting import Melting
from router_client.ecash.minting import Minting
from router_client.ecash.operations import Operations
from router_client.ecash.outcomes import Exchanged, Invoice, Melted, Received, melted
from router_client.ecash.receiving import Receiving
from router_client.ecash.token import MSAT_PER_UNIT, Proof, Token, to_msat
from router_client.errors import InsufficientFunds, MintUnavailable, PaymentFailed, TokenRefused

CLAIM_WAIT_S, CLAIM_PAUSE_S = 10.0, 0.2
LEAST_INVOICE_LIFE_S = 60
"""An invoice that ends sooner is not paid any more: a payment takes its time."""


class Order(msgspec.Struct, frozen=True):
    """Which token goes where."""

    id: str
    token: Token
    mint: str
    unit: str


class Exchange:
    """From a foreign mint to a primary one."""

    def __init__(self, operations: Operations, receiving: Receiving, minting: Minting, melting: Melting) -> None:
        self._operations = operations
        self._receiving = receiving
        self._minting = minting
        self._melting = melting

    async def exchange(self, order: Order) -> Exchanged:
        """See `Wallet.exchange`."""
        if self._operations.outcome(f"{order.id}:in") is None:
            await self._check_worth(order)
        came = await self._receiving.receive(order.token, f"{order.id}:in")
        n = next(n for n in itertools.count() if not self._is_over(order, n))
        invoice = await self._invoice(order, n, came)
        paid = await self._pay(order, n, came, invoice)
        arrived = await self._claimed(f"{order.id}:out:{n}")
        left_msat = came.amount_msat - paid.paid_msat - paid.fee_msat
        fee_msat = order.token.amount_msat - arrived.amount_msat - left_msat
        return Exchanged(order.mint, order.unit, arrived.amount_msat, Msat(fee_msat), Msat(left_msat))

    async def _check_worth(self, order: Order) -> None:
        """Raise TokenRefused for a token that costs more to exchange than it is worth."""
        token = order.token
        _, fees_ppk = await self._operations.keyring.resolve(token)
        foreign = await self._operations.keyring.mint(token.mint)
        net = token.amount - swap_fee(fees_ppk)
        fee = swap_fee([foreign.active(token.unit).input_fee_ppk] * len(split(max(0, net))))
        if net <= 0 or arrival(net, await self._reserve(order, net), fee, token.unit, order.unit) <= 0:
            raise TokenRefused(f"the token of {token.mint} is worth less than bringing it to {order.mint} costs")

    def _is_over(self, order: Order, n: int) -> bool:
        """Whether the n-th invoice is too old now and was not paid, nor may be."""
        pay, out = (self._operations.outcome(f"{order.id}:{step}:{n}") for step in ("pay", "out"))
        if out is None or (pay is not None and pay.state != "failed"):
            return False
        ends = [end for end in (out.journal.expires_at, read_invoice(out.journal.invoice).expires_at) if end]
        return min(ends) < self._operations.clock() + LEAST_INVOICE_LIFE_S

    async def _invoice(self, order: Order, n: int, came: Received) -> Invoice:
        """The n-th invoice, over what is left of the token after what its payment takes at most."""
        name = f"{order.id}:out:{n}"
        if self._operations.outcome(name) is not None:
            return await self._minting.invoice(0, order.mint, order.unit, name)
        foreign = await self._operations.keyring.mint(came.mint)
        budget = came.amount_msat // MSAT_PER_UNIT[came.unit]
        reserve = await self._reserve(order, budget)
        coins = self._operations.db.read(lambda conn: store.unspent(conn, came.mint, came.unit))
        fee = input_fee(coins, budget, foreign.fees_ppk())
        amount = arrival(budget, reserve, fee, came.unit, order.unit)
        if amount <= 0:
            raise PaymentFailed(f"what came from {came.mint} does not pay for its way to {order.mint}")
        return await self._minting.invoice(amount, order.mint, order.unit, name)

    async def _reserve(self, order: Order, budget: int) -> int:
        """What the foreign mint sets aside for Lightning, in its unit, for an invoice over the whole budget: no less than
        for the smaller one that is paid in the end. Nothing is journaled: neither quote is used.
        """
        budget_msat = budget * MSAT_PER_UNIT[order.token.unit]
        primary = await self._operations.keyring.mint(order.mint)
        primary.active(order.unit)
        probe = await primary.client.mint_quote(max(1, budget_msat // MSAT_PER_UNIT[order.unit]), order.unit)
        quote = await self._melting.quote(read_invoice(probe.request), order.token.mint, order.token.unit)
        return quote.fee_reserve

    async def _pay(self, order: Order, n: int, came: Received, invoice: Invoice) -> Melted:
        name = f"{order.id}:pay:{n}"
        begun = self._operations.outcome(name)
        if begun is not None and begun.state != "failed":
            return melted(await self._operations.finish(begun))
        unit_msat = MSAT_PER_UNIT[came.unit]
        max_fee = (came.amount_msat - invoice.amount_msat) // unit_msat
        return await self._melting.melt(invoice.bolt11, came.mint, came.unit, name, max_fee)

    async def _claimed(self, name: str) -> Received:
        """The coins of an invoice that is paid; the primary mint may take a moment to see it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLAIM_WAIT_S):
                for pause_s in itertools.repeat(CLAIM_PAUSE_S):
                    if (arrived := await self._minting.claim(name)) is not None:
                        return arrived
                    await asyncio.sleep(pause_s)
        raise MintUnavailable("the invoice is paid, but its mint does not see that yet")


def arrival(budget: int, reserve: int, fee: int, unit: str, primary_unit: str) -> int:
    """What of `budget` can be invoiced at the primary mint, in its unit, so that the foreign mint can pay it with this
    Lightning reserve and input fee (all in the foreign unit). Rounds down, so that what is paid fits; 0 when nothing does.
    """
    left = budget - reserve - fee
    return max(0, to_msat(left, unit) // MSAT_PER_UNIT[primary_unit]) if left > 0 else 0


def input_fee(coins: Sequence[Proof], budget: int, fee_ppk: Mapping[str, int]) -> int:
    """The fee of spending coins so that, with it, no more than `budget` is gone; all in the coins' unit.

    Which coins go depends on the amount, and the fee on the coins: it is tried from below until both agree.
    Raises InsufficientFunds when the coins do not make the budget.
    """
    most = swap_fee([fee_ppk[coin.id] for coin in coins])
    fee = 0
    while True:
        try:
            needed = plan_melt(coins, budget - fee, fee_ppk).fee
        except InsufficientFunds:
            if fee >= most:
                raise
            needed = fee + 1
        if needed <= fee:
            return fee
        fee = needed
