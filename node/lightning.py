"""Lightning out: an amount to a Lightning address, with coins of the node's wallet, its fees inside the amount."""

from __future__ import annotations

from typing import Final

import httpx

from node.errors import Refusal
from relays import payment
from relays.money import Msat, ceil_div
from relays.routes import DIRECT, Routes
from router_client.ecash.invoices import Bolt11
from router_client.ecash.outcomes import Melted
from router_client.ecash.token import MSAT_PER_UNIT
from router_client.ecash.wallet import Wallet
from router_client.errors import AddressUnavailable, FeeTooHigh, InsufficientFunds, PaymentFailed, RequestUnreadable
from router_client.paying.lnurl import address_invoice

FIRST_GUESS: Final = 97
"""Per cent of the amount that a first invoice asks for: enough is left to learn what the mint sets aside for fees."""


class Cashier:
    """Pays Lightning addresses. `allow_local` lets addresses of this machine through, for play networks and tests."""

    def __init__(
        self, wallet: Wallet, http: httpx.AsyncClient, *, allow_local: bool = False, routes: Routes = DIRECT
    ) -> None:
        self._wallet = wallet
        self._http = http
        self._allow_local = allow_local
        self._routes = routes

    async def pay(self, address: str, at_most_msat: Msat, mint: str, unit: str, operation_id: str) -> Melted:
        """Send what `at_most_msat` comes to after fees; asked again, it goes on with the payment that was begun.

        Raises Refusal 400 or 502 for the address's or Lightning's refusal, with nothing paid; WalletError for the mint's,
        of which MintUnavailable leaves the payment open.
        """
        begun = self._wallet.outcome(operation_id)
        try:
            if begun is not None and begun.state != "failed":
                return await self._wallet.melt(begun.journal.invoice, mint, unit, operation_id)
            unit_msat = MSAT_PER_UNIT[unit]
            guess_msat = at_most_msat * FIRST_GUESS // 100 // unit_msat * unit_msat
            probe = await self._invoice(address, guess_msat)
            cost = await self._wallet.melt_cost(probe.text, mint, unit)
            reserve_msat = ceil_div(cost.reserve_msat * 100, FIRST_GUESS)
            amount_msat = (at_most_msat - reserve_msat - cost.fee_msat) // unit_msat * unit_msat
            if amount_msat <= 0:
                raise PaymentFailed("the amount is less than the fees of paying it")
            invoice = await self._invoice(address, amount_msat)
            max_fee = (at_most_msat - amount_msat) // unit_msat
            return await self._wallet.melt(invoice.text, mint, unit, operation_id, max_fee=max_fee)
        except RequestUnreadable as error:
            raise Refusal(400, payment.INVALID_REQUEST, f"{error}; nothing was paid") from error
        except (AddressUnavailable, FeeTooHigh, PaymentFailed) as error:
            raise Refusal(
                502, payment.PAYMENT_FAILED, f"{error}; nothing was paid, the balance is as it was"
            ) from error
        except InsufficientFunds as error:
            raise Refusal(
                503,
                payment.MINT_UNAVAILABLE,
                "the node's coins cannot pay this just now; the balance is as it was: try again later",
                headers={"retry-after": "60"},
            ) from error

    async def _invoice(self, address: str, amount_msat: int) -> Bolt11:
        return await address_invoice(
            address, Msat(amount_msat), self._http, allow_local=self._allow_local, routes=self._routes
        )
