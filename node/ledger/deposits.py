"""Tokens on their way in, in SQL: an intent before the mint is asked, one credit after it answered."""

from __future__ import annotations

from node.errors import LedgerError
from node.ledger import accounts, keys
from node.ledger.model import MINTS, Deposit, Limits
from node.ledger.sql import Steps, columns, one, rows, run, struct

_COLUMNS = columns(Deposit)


def begin(deposit: Deposit, now: int) -> Steps[Deposit]:
    """Write the intent; a token that is known answers with its row, opened again if it failed without being spent."""
    existing = yield from read(deposit.id)
    if existing is None:
        yield from run(
            f"INSERT INTO deposits ({_COLUMNS}, created_at) VALUES (?1, ?2, ?3, 'open', ?4, ?5, ?6, 0, '', ?7, ?8)",
            deposit.id,
            deposit.purpose,
            deposit.account,
            deposit.mint,
            deposit.unit,
            deposit.amount_msat,
            deposit.instance,
            now,
        )
        return deposit
    if existing.state == "failed":
        yield from run(
            "UPDATE deposits SET state = 'open', reason = '', purpose = ?1, account = ?2, instance = ?3 WHERE id = ?4",
            deposit.purpose,
            deposit.account,
            deposit.instance,
            deposit.id,
        )
        return deposit
    return existing


def credit(
    deposit_id: str,
    *,
    amount_msat: int,
    fee_msat: int,
    source: tuple[str, str] | None,
    key_hash: str | None,
    hint: str,
    now: int,
) -> Steps[int]:
    """Book what arrived, once, on the deposit's account or on a new one; returns the account. `source` is the (mint, unit)
    that it arrived at, if that is another than the token's.

    A new account is named by the token, until a key that was made with it is first used. A sweep that was faster has
    credited it without one: its owner is told of the key all the same.
    """
    deposit = yield from read(deposit_id)
    if deposit is None:
        raise LedgerError(f"deposit {deposit_id[:12]} does not exist")
    if deposit.state == "credited" and deposit.account is not None:
        named = None if key_hash is None else (yield from keys.by_hash(deposit_id))
        if named is not None and key_hash is not None:
            yield from keys.succeed(named.id, key_hash, hint)
        return deposit.account
    account = deposit.account
    if account is None:
        account = yield from accounts.create(now)
        yield from keys.create(
            account=account,
            parent=None,
            key_hash=deposit_id,
            next_hash=key_hash,
            hint=hint,
            name="",
            limits=Limits(),
            now=now,
        )
    yield from book(account, amount_msat, deposit_id, now)
    yield from run(
        "UPDATE deposits SET state = 'credited', account = ?1, amount_msat = ?2, fee_msat = ?3, mint = ?4, unit = ?5, "
        "reason = '' WHERE id = ?6",
        account,
        amount_msat,
        fee_msat,
        *(source or (deposit.mint, deposit.unit)),
        deposit_id,
    )
    return account


def book(account: int, amount_msat: int, reference: str, now: int) -> Steps[None]:
    """Ecash that came in for an account."""
    yield from accounts.transfer(MINTS, account, amount_msat, "deposit", reference, now)
    yield from accounts.move_available(MINTS, -amount_msat)
    yield from run(
        "UPDATE accounts SET available_msat = available_msat + ?1, paid_in_msat = paid_in_msat + ?1 WHERE id = ?2",
        amount_msat,
        account,
    )


def fail(deposit_id: str, reason: str) -> Steps[None]:
    """The mint said no: nothing came in."""
    yield from run(
        "UPDATE deposits SET state = 'failed', reason = ?1 WHERE id = ?2 AND state = 'open'", reason, deposit_id
    )


def read(deposit_id: str) -> Steps[Deposit | None]:
    """The deposit of that token hash."""
    row = yield from one(f"SELECT {_COLUMNS} FROM deposits WHERE id = ?1", deposit_id)
    return None if row is None else struct(Deposit, row)


def source(account: int) -> Steps[tuple[str, str] | None]:
    """Mint and unit of the account's latest deposit: where its refund comes from if it can."""
    row = yield from one(
        "SELECT mint, unit FROM deposits WHERE account = ?1 AND state = 'credited' ORDER BY created_at DESC LIMIT 1",
        account,
    )
    return None if row is None else (str(row[0]), str(row[1]))


def mints() -> Steps[set[str]]:
    """Whose ecash was ever credited."""
    found = yield from rows("SELECT DISTINCT mint FROM deposits WHERE state = 'credited'")
    return {str(mint) for (mint,) in found}


def owed() -> Steps[list[tuple[str, str, int]]]:
    """What callers have on their accounts, by the mint and unit of their latest deposit."""
    found = yield from rows(
        "SELECT mint, unit, CAST(SUM(available_msat + held_msat) AS BIGINT) FROM (SELECT id, available_msat, held_msat, "
        "(SELECT d.id FROM deposits AS d WHERE d.account = accounts.id AND d.state = 'credited' "
        "ORDER BY d.created_at DESC, d.id LIMIT 1) AS latest FROM accounts "
        "WHERE kind = 'key' AND paid_in_msat > 0 AND available_msat + held_msat > 0) AS owing "
        "JOIN deposits ON deposits.id = owing.latest GROUP BY mint, unit"
    )
    return [(str(mint), str(unit), int(msat)) for mint, unit, msat in found]


def still_open(instance: str | None) -> Steps[list[Deposit]]:
    """Deposits whose outcome is not booked yet; with `instance`, those whose journal is in that process's wallet."""
    found = yield from rows(f"SELECT {_COLUMNS} FROM deposits WHERE state = 'open' ORDER BY created_at")
    deposits = [struct(Deposit, row) for row in found]
    return [deposit for deposit in deposits if instance is None or deposit.instance == instance]
