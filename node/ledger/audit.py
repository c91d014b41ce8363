"""The proof that the books add up, by query: every msat that came in is an account's, the node's, or went out again."""

from __future__ import annotations

import msgspec

from node.errors import LedgerError
from node.ledger.model import EARNINGS, GRANTS, LOSSES, MINTS
from node.ledger.sql import Steps, only, rows

_CHARGED = "SELECT account, posted_msat FROM holds WHERE purpose = 'request' AND state = 'posted'"
"""A posted request is its own charge: from who held it, to the node."""
_BOOKED = (
    "(SELECT debit, credit, amount_msat FROM transfers "
    f"UNION ALL SELECT account, {EARNINGS}, posted_msat FROM ({_CHARGED}) AS charged) AS booked"
)
"""Whatever went from one account to another."""


def _sums(side: str, kind: str = "") -> str:
    """Per account, the sum of what was booked on one side of it; of one kind of transfers, or of all and the charges."""
    source = f"transfers WHERE kind = '{kind}'" if kind else _BOOKED
    return f"(SELECT {side} AS account, SUM(amount_msat) AS msat FROM {source} GROUP BY {side})"


_HELD = "(SELECT account, SUM(amount_msat) AS msat FROM holds WHERE state = 'pending' GROUP BY account)"
_LAWS = {
    "all accounts together are zero": "SELECT COALESCE(SUM(available_msat + held_msat), 0) FROM accounts",
    "a balance is what was credited less what was debited": (
        f"SELECT COUNT(*) FROM accounts LEFT JOIN {_sums('credit')} AS c ON c.account = accounts.id "
        f"LEFT JOIN {_sums('debit')} AS d ON d.account = accounts.id "
        "WHERE available_msat + held_msat != COALESCE(c.msat, 0) - COALESCE(d.msat, 0)"
    ),
    "what is held is the sum of pending holds": (
        f"SELECT COUNT(*) FROM accounts LEFT JOIN {_HELD} AS h ON h.account = accounts.id "
        "WHERE held_msat != COALESCE(h.msat, 0)"
    ),
    "what was spent is the sum of charges": (
        "SELECT COUNT(*) FROM accounts LEFT JOIN (SELECT account, SUM(posted_msat) AS msat "
        f"FROM ({_CHARGED}) AS charged GROUP BY account) AS d ON d.account = accounts.id "
        "WHERE spent_msat != COALESCE(d.msat, 0)"
    ),
    "what was paid in is deposits less refunds": (
        f"SELECT COUNT(*) FROM accounts LEFT JOIN {_sums('credit', 'deposit')} AS c ON c.account = accounts.id "
        f"LEFT JOIN {_sums('debit', 'refund')} AS d ON d.account = accounts.id "
        "WHERE kind = 'key' AND paid_in_msat != COALESCE(c.msat, 0) - COALESCE(d.msat, 0)"
    ),
    "a limited key has spent and holds what its requests say": (
        "SELECT COUNT(*) FROM keys LEFT JOIN (SELECT key, SUM(posted_msat) AS spent, "
        "SUM(CASE WHEN state = 'pending' THEN amount_msat ELSE 0 END) AS held FROM holds GROUP BY key) AS h "
        "ON h.key = keys.id "
        "WHERE (parent IS NOT NULL OR spend_limit_msat IS NOT NULL OR daily_limit_msat IS NOT NULL) "
        "AND (spent_msat != COALESCE(h.spent, 0) OR held_msat != COALESCE(h.held, 0))"
    ),
    "a request that was not posted costs nothing": (
        "SELECT COUNT(*) FROM holds WHERE state != 'posted' AND posted_msat != 0"
    ),
    "a deposit is of a mint, for the account that its row names": (
        "SELECT COUNT(*) FROM transfers LEFT JOIN deposits ON deposits.id = reference AND state = 'credited' "
        "AND account = credit AND deposits.amount_msat = transfers.amount_msat "
        f"WHERE kind = 'deposit' AND (deposits.id IS NULL OR debit != {MINTS})"
    ),
    "a credited deposit was booked": (
        "SELECT COUNT(*) FROM deposits LEFT JOIN transfers ON kind = 'deposit' AND reference = deposits.id "
        "WHERE state = 'credited' AND transfers.kind IS NULL"
    ),
    "a refund is of the account that its row names, and left": (
        "SELECT COUNT(*) FROM transfers LEFT JOIN refunds ON refunds.id = reference AND state = 'done' "
        "AND account = debit AND refunds.amount_msat = transfers.amount_msat "
        f"WHERE kind = 'refund' AND (refunds.id IS NULL OR credit != {MINTS})"
    ),
    "a refund that is done was booked": (
        "SELECT COUNT(*) FROM refunds LEFT JOIN transfers ON kind = 'refund' AND reference = refunds.id "
        "WHERE state = 'done' AND transfers.kind IS NULL"
    ),
    "a payout is of earnings, as its row says": (
        "SELECT COUNT(*) FROM transfers LEFT JOIN payouts ON payouts.id = reference AND state = 'done' "
        "AND payouts.amount_msat = transfers.amount_msat "
        f"WHERE kind = 'payout' AND (payouts.id IS NULL OR debit != {EARNINGS} OR credit != {MINTS})"
    ),
    "a payout that is done was booked": (
        "SELECT COUNT(*) FROM payouts LEFT JOIN transfers ON kind = 'payout' AND reference = payouts.id "
        "WHERE state = 'done' AND transfers.kind IS NULL"
    ),
    "what leaves is held to its end": (
        "SELECT COUNT(*) FROM holds WHERE purpose IN ('refund', 'payout') AND state != 'posted' "
        "AND EXISTS (SELECT 1 FROM transfers WHERE transfers.kind IN ('refund', 'payout') AND reference = holds.id)"
    ),
    "grants, savings and losses are between the accounts that they are for": (
        "SELECT COUNT(*) FROM transfers LEFT JOIN accounts ON accounts.id = credit WHERE "
        f"(transfers.kind = 'grant' AND (debit != {GRANTS} OR accounts.kind != 'key')) "
        f"OR (transfers.kind = 'saving' AND (debit != {MINTS} OR credit != {EARNINGS})) "
        f"OR (transfers.kind = 'loss' AND (debit != {LOSSES} OR credit != {MINTS})) "
        "OR transfers.kind NOT IN ('grant', 'saving', 'loss', 'deposit', 'refund', 'payout')"
    ),
    "a refund or payout that is open holds its amount": (
        "SELECT COUNT(*) FROM (SELECT id, amount_msat FROM refunds WHERE state = 'open' "
        "UNION ALL SELECT id, amount_msat FROM payouts WHERE state = 'open') AS leaving "
        "LEFT JOIN holds ON holds.id = leaving.id AND state = 'pending' "
        "WHERE COALESCE(holds.amount_msat, -1) != leaving.amount_msat"
    ),
    "holds and transfers name accounts that exist": (
        "SELECT COUNT(*) FROM (SELECT account FROM holds UNION SELECT debit FROM transfers UNION SELECT credit "
        "FROM transfers) AS named LEFT JOIN accounts ON accounts.id = named.account WHERE accounts.id IS NULL"
    ),
}


class Totals(msgspec.Struct, frozen=True):
    """Where the money is, in msat."""

    keys_msat: int
    held_msat: int
    earned_msat: int
    """What the node holds of its own, payouts that are under way included."""
    ecash_in_msat: int
    """What mints paid in less what went out: the node's wallets must hold it."""
    granted_msat: int
    lost_msat: int
    """What the operator bore."""


def audit() -> Steps[Totals]:
    """Check every law; returns the totals. Raises LedgerError that names the laws which are broken."""
    broken = []
    for law, query in _LAWS.items():
        (count,) = yield from only(query)
        if count != 0:
            broken.append(law)
    if broken:
        raise LedgerError("the books do not add up: " + "; ".join(broken))
    available, held = yield from only(
        "SELECT CAST(COALESCE(SUM(available_msat), 0) AS BIGINT), CAST(COALESCE(SUM(held_msat), 0) AS BIGINT) "
        "FROM accounts WHERE kind = 'key'"
    )
    found = yield from rows("SELECT id, available_msat + held_msat FROM accounts WHERE kind != 'key'")
    balance = {int(id_): int(msat) for id_, msat in found}
    return Totals(int(available), int(held), balance[EARNINGS], -balance[MINTS], -balance[GRANTS], -balance[LOSSES])
