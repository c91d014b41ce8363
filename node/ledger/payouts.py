"""Earnings on their way to the operator, in SQL: held and noted before an invoice is paid."""

from __future__ import annotations

from node.errors import LedgerConflict, LedgerError
from node.ledger import accounts, holds
from node.ledger.model import EARNINGS, LOSSES, MINTS, Payout
from node.ledger.sql import Steps, columns, one, rows, run, struct

_COLUMNS = columns(Payout)


def begin(payout: Payout, now: int) -> Steps[Payout]:
    """Hold the amount of the node's own money; the one that is open is returned instead. Earnings that no money came in for,
    such as those from granted credit, are refused (LedgerConflict): they would be paid out of callers' balances."""
    found = yield from still_open(payout.instance)
    if found:
        return found[0]
    if payout.amount_msat > (yield from accounts.free()):
        raise LedgerConflict(f"{payout.id} of {payout.amount_msat} msat is more than callers could not ask back")
    yield from holds.reserve(payout.id, EARNINGS, payout.amount_msat, "payout", payout.instance, now)
    yield from run(
        f"INSERT INTO payouts ({_COLUMNS}) VALUES (?1, 'open', ?2, ?3, ?4, 0, ?5, ?6, ?7)",
        payout.id,
        payout.mint,
        payout.unit,
        payout.amount_msat,
        payout.recipient,
        payout.instance,
        now,
    )
    return payout


def finish(payout_id: str, paid_msat: int, fee_msat: int, now: int) -> Steps[None]:
    """The invoice is paid, for that much in all, of which the fees did not arrive: the rest of the hold is the node's again.
    Once."""
    payout = yield from read(payout_id)
    if payout is None or payout.state == "failed":
        raise LedgerError(f"payout {payout_id} was given up or never begun, and yet it was paid")
    if payout.state == "open":
        booked_msat = yield from holds.pay_out(payout_id, MINTS, paid_msat, "payout", now)
        yield from run(
            "UPDATE payouts SET state = 'done', amount_msat = ?1, fee_msat = ?2 WHERE id = ?3",
            booked_msat,
            fee_msat - (paid_msat - booked_msat),
            payout_id,
        )


def fail(payout_id: str) -> Steps[None]:
    """Nothing was paid: the hold is the node's again."""
    changed = yield from one(
        "UPDATE payouts SET state = 'failed' WHERE id = ?1 AND state = 'open' RETURNING id", payout_id
    )
    if changed is not None:
        yield from holds.give_back(payout_id)


def read(payout_id: str) -> Steps[Payout | None]:
    """The payout of that id."""
    row = yield from one(f"SELECT {_COLUMNS} FROM payouts WHERE id = ?1", payout_id)
    return None if row is None else struct(Payout, row)


def still_open(instance: str | None) -> Steps[list[Payout]]:
    """Payouts whose outcome is not booked yet; with `instance`, those that that process makes."""
    found = yield from rows(f"SELECT {_COLUMNS} FROM payouts WHERE state = 'open' ORDER BY created_at")
    payouts = [struct(Payout, row) for row in found]
    return [payout for payout in payouts if instance is None or payout.instance == instance]


def latest(most: int) -> Steps[list[Payout]]:
    """The latest payouts, newest first."""
    found = yield from rows(f"SELECT {_COLUMNS} FROM payouts ORDER BY created_at DESC LIMIT ?1", most)
    return [struct(Payout, row) for row in found]


def save(reference: str, amount_msat: int, now: int) -> Steps[None]:
    """Mint fees that callers were charged and that redeeming together did not cost: the node's. Once per reference."""
    known = yield from one("SELECT 1 FROM transfers WHERE kind = 'saving' AND reference = ?1", reference)
    if known is None and amount_msat:
        yield from accounts.transfer(MINTS, EARNINGS, amount_msat, "saving", reference, now)
        yield from accounts.move_available(MINTS, -amount_msat)
        yield from accounts.move_available(EARNINGS, amount_msat)


def lose(reference: str, amount_msat: int, now: int) -> Steps[None]:
    """Ecash that was credited and then refused by its mint: the operator bears it. Once per reference."""
    known = yield from one("SELECT 1 FROM transfers WHERE kind = 'loss' AND reference = ?1", reference)
    if known is None and amount_msat:
        yield from accounts.transfer(LOSSES, MINTS, amount_msat, "loss", reference, now)
        yield from accounts.move_available(LOSSES, -amount_msat)
        yield from accounts.move_available(MINTS, amount_msat)
