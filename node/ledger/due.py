"""What a wallet must hold, by the books: what came in there less what left."""

from __future__ import annotations

import msgspec

from node.ledger.sql import Steps, only, rows


class Due(msgspec.Struct, frozen=True):
    """As of one moment, of all books or of one process."""

    came_msat: int
    """It only grows."""
    left_msat: int
    """So does this."""
    leaving: tuple[str, ...]
    """Refunds and payouts that are not booked yet: what of them has left is known to the wallet."""
    untold_msat: int = 0
    """What mints' fees saved and took, which is booked for all processes together."""


def due(instance: str | None) -> Steps[Due]:
    """What one process has to show; None: the only one. Of one among several it is the least: what it saved is left out, and
    what any of them lost is taken off."""
    open_ = yield from rows(
        "SELECT id, instance FROM refunds WHERE state = 'open' UNION ALL "
        "SELECT id, instance FROM payouts WHERE state = 'open'"
    )
    leaving = tuple(str(id_) for id_, its in open_ if instance is None or its == instance)
    booked = yield from rows(
        "SELECT kind, CAST(SUM(amount_msat) AS BIGINT) FROM transfers "
        "WHERE kind IN ('deposit', 'saving', 'refund', 'payout', 'loss') GROUP BY kind"
    )
    sums = {str(kind): int(msat) for kind, msat in booked}
    saved_msat, lost_msat = sums.get("saving", 0), sums.get("loss", 0)
    if instance is None:
        came_msat = sums.get("deposit", 0) + saved_msat
        return Due(came_msat, sums.get("refund", 0) + sums.get("payout", 0) + lost_msat, leaving)
    (came,) = yield from only(
        "SELECT CAST(COALESCE(SUM(amount_msat), 0) AS BIGINT) FROM deposits WHERE state = 'credited' AND instance = ?1",
        instance,
    )
    (left,) = yield from only(
        "SELECT CAST(COALESCE(SUM(amount_msat), 0) AS BIGINT) FROM ("
        "SELECT amount_msat FROM refunds WHERE state = 'done' AND instance = ?1 UNION ALL "
        "SELECT amount_msat FROM payouts WHERE state = 'done' AND instance = ?1) AS gone",
        instance,
    )
    return Due(int(came), int(left) + lost_msat, leaving, saved_msat + lost_msat)
