"""Lightning invoices (BOLT 11): what of one we need to know before we pay it."""

from __future__ import annotations

import bolt11
import msgspec

from relays.errors import MoneyError
from relays.money import Msat, msat
from router_client.errors import RequestUnreadable

MAX_INVOICE_CHARS = 4096
DEFAULT_EXPIRY_S = 3600


class Bolt11(msgspec.Struct, frozen=True):
    """An invoice over a fixed amount."""

    text: str
    amount_msat: Msat
    payment_hash: str
    expires_at: int


def read_invoice(text: str) -> Bolt11:
    """Read an invoice; its signature is checked. Raises RequestUnreadable, also for one that leaves the amount open."""
    text = text.strip().lower().removeprefix("lightning:")
    if len(text) > MAX_INVOICE_CHARS:
        raise RequestUnreadable(f"the Lightning invoice is longer than {MAX_INVOICE_CHARS} characters")
    try:
        invoice = bolt11.decode(text)
        amount = None if invoice.amount_msat is None else int(invoice.amount_msat)
        expires_at = invoice.date + (DEFAULT_EXPIRY_S if invoice.expiry is None else invoice.expiry)
        payment_hash = invoice.payment_hash
    except Exception as error:  # bech32, bitstring, decimal and coincurve errors come through
        raise RequestUnreadable("not a Lightning invoice: was it copied whole?") from error
    if not amount:
        raise RequestUnreadable("the Lightning invoice leaves its amount open: ask for one over an amount")
    try:
        return Bolt11(text, msat(amount), payment_hash, expires_at)
    except MoneyError as error:
        raise RequestUnreadable("the Lightning invoice asks for more than all bitcoin") from error
