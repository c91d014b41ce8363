"""Holds outside the hot path, in SQL: of money that leaves, and of requests that a crash left. See `page` for requests."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from node.errors import LedgerError
from node.ledger import accounts
from node.ledger.entry import receipt_of
from node.ledger.model import LOSSES, HoldPurpose, HoldState, Posted, TransferKind, check_end
from node.ledger.sql import Row, Steps, one, only, rows, run
from relays.receipt import Receipt

log = logging.getLogger(__name__)

SWEPT_AT_ONCE = 500
OTHERS_S = 3600
"""A process frees the holds of one that does not come back this long after their time: their clocks may differ."""


def reserve(hold_id: str, account: int, amount_msat: int, purpose: HoldPurpose, instance: str, now: int) -> Steps[None]:
    """Hold an amount that is on its way out. The tables refuse more than is available (LedgerConflict)."""
    yield from accounts.move_available(account, -amount_msat)
    yield from accounts.move_held(account, amount_msat)
    yield from run(
        "INSERT INTO holds (id, account, key, purpose, amount_msat, posted_msat, state, created_at, expires_at, instance, "
        "fingerprint) VALUES (?1, ?2, NULL, ?3, ?4, 0, 'pending', ?5, NULL, ?6, '')",
        hold_id,
        account,
        purpose,
        amount_msat,
        now,
        instance,
    )


def pay_out(hold_id: str, external: int, paid_msat: int, kind: TransferKind, now: int) -> Steps[int]:
    """What was reserved has left towards `external`; what of it was not needed is free again. Returns what was booked.

    More than was reserved leaves when a mint keeps the change of a payment: the operator bears that.
    """
    if paid_msat <= 0:
        raise LedgerError(f"{hold_id} paid {paid_msat} msat")
    account, amount_msat, before = yield from _hold(hold_id)
    booked_msat = min(paid_msat, amount_msat)
    yield from _end(hold_id, before, "posted", booked_msat)
    yield from accounts.move_held(account, -amount_msat)
    if booked_msat != amount_msat:
        yield from accounts.move_available(account, amount_msat - booked_msat)
    yield from accounts.transfer(account, external, booked_msat, kind, hold_id, now)
    yield from accounts.move_available(external, booked_msat)
    if lost_msat := paid_msat - booked_msat:
        log.error("%s took %d msat more than was held for it", hold_id, lost_msat)
        yield from accounts.transfer(LOSSES, external, lost_msat, "loss", hold_id, now)
        yield from accounts.move_available(LOSSES, -lost_msat)
        yield from accounts.move_available(external, lost_msat)
    return booked_msat


def give_back(hold_id: str) -> Steps[None]:
    """Nothing left: what was reserved is available again."""
    account, amount_msat, before = yield from _hold(hold_id)
    yield from _end(hold_id, before, "voided", 0)
    yield from accounts.move_held(account, -amount_msat)
    yield from accounts.move_available(account, amount_msat)


def expired(now: int, instance: str | None) -> Steps[list[str]]:
    """Requests whose hold outlived its time; with `instance`, those of other processes are left to them for longer."""
    found = yield from rows(
        "SELECT id FROM holds WHERE state = 'pending' AND purpose = 'request' AND expires_at <= ?1 "
        "AND (instance = ?2 OR expires_at <= ?3) LIMIT ?4",
        now,
        instance or "",
        now if instance is None else now - OTHERS_S,
        SWEPT_AT_ONCE,
    )
    return _ids(found)


def orphans(instance: str | None) -> Steps[list[str]]:
    """Requests on hold for a process; without `instance`, for any."""
    found = yield from rows(
        "SELECT id, instance FROM holds WHERE state = 'pending' AND purpose = 'request' ORDER BY created_at"
    )
    return _ids(row for row in found if instance is None or row[1] == instance)


def note(drafts: Iterable[Receipt]) -> Steps[None]:
    """What running streams have come to; what was noted of requests that have ended is dropped."""
    yield from run(
        "DELETE FROM progress WHERE request_id NOT IN (SELECT id FROM holds WHERE state = 'pending')",
    )
    for draft in drafts:
        yield from run(
            "INSERT INTO progress (request_id, draft) "
            "SELECT id, CAST(?2 AS TEXT) FROM holds WHERE id = ?1 AND state = 'pending' "
            "ON CONFLICT (request_id) DO UPDATE SET draft = excluded.draft",
            draft.request_id,
            msgspec.json.encode(draft).decode(),
        )


def noted(request_id: str) -> Steps[Receipt | None]:
    """What a stream had come to when it was last noted."""
    row = yield from one("SELECT draft FROM progress WHERE request_id = ?1", request_id)
    if row is None:
        return None
    try:
        return msgspec.json.decode(row[0], type=Receipt)
    except msgspec.DecodeError as error:  # of another version: one note must not keep all other holds
        log.error("what was noted of %s cannot be read: %s", request_id, error)
        return None


def receipt(request_id: str, account: int) -> Steps[Posted | None]:
    """A request's receipt, for the account that paid."""
    if "\0" in request_id:  # which PostgreSQL takes in no text
        return None
    row = yield from one(
        "SELECT receipt, amount_msat, posted_msat, posted_at FROM holds WHERE id = ?1 AND account = ?2",
        request_id,
        account,
    )
    if row is None or row[0] is None:
        return None
    return Posted(receipt_of(row[0], request_id, int(row[1]), int(row[2])), int(row[3]))


def posted_since(request_id: str, moment: int) -> Steps[bool]:
    """Whether a request was charged at that moment or later."""
    return (yield from one("SELECT 1 FROM holds WHERE id = ?1 AND posted_at >= ?2", request_id, moment)) is not None


def account_of(request_id: str) -> Steps[int | None]:
    """The account that a request was held on."""
    if "\0" in request_id:
        return None
    row = yield from one("SELECT account FROM holds WHERE id = ?1 AND purpose = 'request'", request_id)
    return None if row is None else int(row[0])


def running(account: int) -> Steps[bool]:
    """Whether a request of the account is on hold."""
    row = yield from one(
        "SELECT 1 FROM holds WHERE state = 'pending' AND purpose = 'request' AND account = ?1 LIMIT 1", account
    )
    return row is not None


def _hold(hold_id: str) -> Steps[tuple[int, int, HoldState]]:
    """Its account, amount and state. Raises LedgerError when there is none."""
    account, amount_msat, state = yield from only(
        "SELECT account, amount_msat, state FROM holds WHERE id = ?1", hold_id
    )
    return int(account), int(amount_msat), state


def _end(hold_id: str, before: HoldState, state: HoldState, posted_msat: int) -> Steps[None]:
    check_end(before, state)
    yield from run("UPDATE holds SET state = ?1, posted_msat = ?2 WHERE id = ?3", state, posted_msat, hold_id)


def _ids(found: Iterable[Row]) -> list[str]:
    return [str(row[0]) for row in found]
