"""Balances on their way out, in SQL: a hold and an intent before a coin moves, the token kept before it is answered."""

from __future__ import annotations

from node.errors import LedgerError
from node.ledger import accounts, holds
from node.ledger.model import MINTS, NothingToRefund, Refund
from node.ledger.sql import Steps, columns, one, rows, run, struct
from relays.money import Msat
from router_client.ecash.token import MSAT_PER_UNIT

_COLUMNS = columns(Refund)


def begin(wish: Refund, now: int) -> Steps[Refund | NothingToRefund]:
    """Hold all that can be refunded in the wish's unit, up to its amount, and write the intent; the amount is filled in.

    A refund that is open is returned instead, so that asking twice cannot make two.
    """
    row = yield from one(f"SELECT {_COLUMNS} FROM refunds WHERE account = ?1 AND state = 'open'", wish.account)
    if row is not None:
        return struct(Refund, row)
    account = yield from accounts.read(wish.account)
    amount_msat = min(account.refundable_msat, wish.amount_msat)
    amount_msat -= amount_msat % MSAT_PER_UNIT[wish.unit]
    if amount_msat <= 0:
        return NothingToRefund(Msat(account.available_msat))
    yield from holds.reserve(wish.id, account.id, amount_msat, "refund", wish.instance, now)
    yield from run(
        f"INSERT INTO refunds ({_COLUMNS}, created_at) VALUES (?1, ?2, 'open', ?3, ?4, ?5, 0, '', ?6, ?7, FALSE, ?8)",
        wish.id,
        account.id,
        wish.mint,
        wish.unit,
        amount_msat,
        wish.recipient,
        wish.instance,
        now,
    )
    opened = yield from read(wish.id)
    assert opened is not None
    return opened


def receive(refund_id: str, account: int) -> Steps[bool]:
    """Its owner has it: the token is forgotten. False when the account has no such refund that is done."""
    row = yield from one(
        "UPDATE refunds SET received = TRUE, token = '' WHERE id = ?1 AND account = ?2 AND state = 'done' RETURNING id",
        refund_id,
        account,
    )
    return row is not None


def finish(refund_id: str, paid_msat: int | None, fee_msat: int, token: str, now: int) -> Steps[Refund]:
    """The money has left, all of what was held unless `paid_msat` says otherwise: book it out and keep the token for whoever
    asks again. Once. `fee_msat` is the part of it that did not arrive."""
    refund = yield from read(refund_id)
    if refund is None or refund.state == "failed":
        raise LedgerError(f"refund {refund_id} was given up or never begun, and yet it was paid")
    if refund.state == "open":
        paid_msat = refund.amount_msat if paid_msat is None else paid_msat
        booked_msat = yield from holds.pay_out(refund_id, MINTS, paid_msat, "refund", now)
        yield from run(
            "UPDATE accounts SET paid_in_msat = paid_in_msat - ?1 WHERE id = ?2", booked_msat, refund.account
        )
        yield from run(
            "UPDATE refunds SET state = 'done', token = ?1, fee_msat = ?2, amount_msat = ?3, received = ?4 WHERE id = ?5",
            token,
            fee_msat - (paid_msat - booked_msat),
            booked_msat,
            not token,  # what went to a Lightning address has arrived
            refund_id,
        )
    finished = yield from read(refund_id)
    assert finished is not None
    return finished


def fail(refund_id: str) -> Steps[None]:
    """Nothing was paid: the balance is free again."""
    changed = yield from one(
        "UPDATE refunds SET state = 'failed' WHERE id = ?1 AND state = 'open' RETURNING id", refund_id
    )
    if changed is not None:
        yield from holds.give_back(refund_id)


def read(refund_id: str) -> Steps[Refund | None]:
    """The refund of that id."""
    row = yield from one(f"SELECT {_COLUMNS} FROM refunds WHERE id = ?1", refund_id)
    return None if row is None else struct(Refund, row)


def still_open(instance: str | None) -> Steps[list[Refund]]:
    """Refunds whose outcome is not booked yet; with `instance`, those that that process makes."""
    found = yield from rows(f"SELECT {_COLUMNS} FROM refunds WHERE state = 'open' ORDER BY created_at")
    refunds = [struct(Refund, row) for row in found]
    return [refund for refund in refunds if instance is None or refund.instance == instance]


def unreceived(account: int, most: int) -> Steps[list[Refund]]:
    """The account's latest refunds whose owner may not have them, newest first."""
    found = yield from rows(
        f"SELECT {_COLUMNS} FROM refunds WHERE account = ?1 AND state = 'done' AND NOT received "
        "ORDER BY created_at DESC, id LIMIT ?2",
        account,
        most,
    )
    return [struct(Refund, row) for row in found]
