"""Holds, posts and voids, decided in memory: the rows that a batch of moves touches, and what becomes of them. Pure.

A backend adds the rows that the page lacks inside its transaction, applies the moves in their order, and writes the changes
back before it commits; so both backends book by the same rules, and a batch costs a handful of statements however many
moves it has. As long as nobody else writes, the page stands for the next batch too, and most rows need not be read again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import msgspec

from node.errors import LedgerError
from node.ledger.entry import entry, receipt_of
from node.ledger.model import (
    DAY_S,
    EARNINGS,
    DuplicateHold,
    Held,
    HoldOutcome,
    HoldPurpose,
    HoldState,
    Insufficient,
    KeyClosed,
    LimitReached,
    Posted,
    check_end,
)
from relays.money import Msat
from relays.receipt import Receipt

MOST_KEPT = 50_000
"""A page with more rows than this is begun anew."""


@final
class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Move: take the most that a request can cost out of what is available."""

    id: str
    account: int
    key: int
    parent: int | None
    amount_msat: int
    now: int
    expires_at: int
    instance: str
    fingerprint: str


@final
class Post(msgspec.Struct, frozen=True, gc=False):
    """Move: charge a hold by the draft's cost, free the rest, and keep the receipt with the balance after it."""

    id: str
    draft: Receipt
    now: int


@final
class Release(msgspec.Struct, frozen=True, gc=False):
    """Move: free a hold; with a fingerprint, only one that was made with it."""

    id: str
    state: HoldState
    fingerprint: str | None = None


Move = Hold | Post | Release
Outcome = HoldOutcome | Posted | bool


class AccountRow(msgspec.Struct, gc=False):
    """What a move can change of an account."""

    id: int
    available_msat: int
    held_msat: int
    spent_msat: int


class KeyRow(msgspec.Struct, gc=False):
    """What a move can change of a key, and what limits it."""

    id: int
    parent: int | None
    revoked_at: int | None
    expires_at: int | None
    spend_limit_msat: int | None
    daily_limit_msat: int | None
    spent_msat: int
    held_msat: int
    day: int
    day_msat: int

    @property
    def counted(self) -> bool:
        """Whether its sums are kept: those of a key without limits are its account's."""
        return self.parent is not None or self.spend_limit_msat is not None or self.daily_limit_msat is not None


class HoldRow(msgspec.Struct, gc=False):
    id: str
    account: int
    key: int | None
    purpose: HoldPurpose
    amount_msat: int
    posted_msat: int
    state: HoldState
    created_at: int
    expires_at: int | None
    instance: str
    fingerprint: str
    receipt: str | None = None
    """Of a posted request, see `entry`."""
    posted_at: int | None = None


class Page:
    """The rows as they are known; `apply` changes them and notes what must be written."""

    def __init__(self) -> None:
        self.accounts: dict[int, AccountRow] = {}
        self.keys: dict[int, KeyRow] = {}
        self.holds: dict[str, HoldRow] = {}
        self.made: dict[str, HoldRow] = {}
        """New holds."""
        self.ended: dict[str, HoldRow] = {}
        """Holds of earlier batches that ended in this one."""
        self.changed_accounts: set[int] = set()
        self.changed_keys: set[int] = set()

    def add(
        self, accounts: Iterable[AccountRow] = (), keys: Iterable[KeyRow] = (), holds: Iterable[HoldRow] = ()
    ) -> None:
        """Rows that the page lacked."""
        self.accounts.update((row.id, row) for row in accounts)
        self.keys.update((row.id, row) for row in keys)
        self.holds.update((row.id, row) for row in holds)

    def lacking_holds(self, moves: Iterable[Move]) -> list[str]:
        """Ids of holds that the moves may touch; those of new holds too, which must not be in the books yet."""
        return [move.id for move in moves if move.id not in self.holds]

    def lacking_rows(self, moves: Iterable[Move]) -> tuple[list[int], list[int]]:
        """Ids of accounts and of keys that the moves touch, once their holds are known."""
        accounts: set[int] = {EARNINGS}
        keys: set[int | None] = set()
        for move in moves:
            if type(move) is Hold:
                accounts.add(move.account)
                keys.add(move.key)
                keys.add(move.parent)
            elif (hold := self.holds.get(move.id)) is not None:
                accounts.add(hold.account)
                keys.add(hold.key)
        return list(accounts - self.accounts.keys()), [id_ for id_ in keys - self.keys.keys() if id_ is not None]

    @property
    def changed(self) -> bool:
        """Whether there is something to be written."""
        return bool(self.changed_accounts or self.made or self.ended)

    @property
    def size(self) -> int:
        """How many rows it keeps."""
        return len(self.accounts) + len(self.keys) + len(self.holds)

    def written(self) -> None:
        """What `apply` noted is in the books: go on to the next batch."""
        for noted in (self.made, self.ended):
            for id_, row in noted.items():
                if row.state != "pending":
                    self.holds.pop(id_, None)
            noted.clear()
        self.changed_accounts.clear()
        self.changed_keys.clear()

    def apply(self, move: Move) -> Outcome:
        """Do one move. Raises LedgerError for a contradiction: then nothing of the page may be written."""
        if type(move) is Hold:
            return self._hold(move)
        return self._post(move) if type(move) is Post else self._release(move)

    def _hold(self, move: Hold) -> HoldOutcome:
        earlier = self.holds.get(move.id)
        if earlier is not None:
            return DuplicateHold(earlier.state, earlier.fingerprint)
        account, key = self.accounts.get(move.account), self.keys.get(move.key)
        if account is None or key is None:
            raise LedgerError(f"key {move.key} or its account {move.account} does not exist")
        closed = _closed(key, move.now) or (move.parent is not None and _closed(self.keys[move.parent], move.now))
        if closed:
            return closed
        counted = key.counted
        if counted and (refused := _beyond_limits(key, move.amount_msat, move.now // DAY_S)):
            return refused
        if account.available_msat < move.amount_msat:
            return Insufficient(Msat(account.available_msat))
        account.available_msat -= move.amount_msat
        account.held_msat += move.amount_msat
        self.changed_accounts.add(account.id)
        if counted:
            key.held_msat += move.amount_msat
            key.day_msat += move.amount_msat
            self.changed_keys.add(key.id)
        self.made[move.id] = self.holds[move.id] = HoldRow(
            id=move.id,
            account=move.account,
            key=move.key,
            purpose="request",
            amount_msat=move.amount_msat,
            posted_msat=0,
            state="pending",
            created_at=move.now,
            expires_at=move.expires_at,
            instance=move.instance,
            fingerprint=move.fingerprint,
        )
        return Held(Msat(account.available_msat))

    def _post(self, move: Post) -> Posted:
        earlier = self.holds.get(move.id)
        if earlier is not None and earlier.receipt is not None and earlier.posted_at is not None:
            kept = receipt_of(earlier.receipt, earlier.id, earlier.amount_msat, earlier.posted_msat)
            return Posted(kept, earlier.posted_at)
        draft = move.draft
        cost_msat = draft.cost_msat
        row = self._end(move.id, "posted", cost_msat)
        if row.amount_msat != draft.hold_msat:
            raise LedgerError(f"the receipt of {move.id} names another hold than the books")
        account = self.accounts[row.account]
        account.spent_msat += cost_msat
        if cost_msat:
            self.accounts[EARNINGS].available_msat += cost_msat
            self.changed_accounts.add(EARNINGS)
        posted = Posted(msgspec.structs.replace(draft, balance_msat=account.available_msat), move.now)
        row.receipt, row.posted_at = entry(posted.receipt), move.now
        return posted

    def _release(self, move: Release) -> bool:
        row = self.holds.get(move.id)
        if row is None or row.state != "pending" or row.purpose != "request":
            return False
        if move.fingerprint is not None and row.fingerprint != move.fingerprint:
            return False
        self._end(move.id, move.state, 0)
        return True

    def _end(self, hold_id: str, state: HoldState, cost_msat: int) -> HoldRow:
        """Put a request's hold into its final state and free what it does not cost."""
        row = self.holds.get(hold_id)
        if row is None or row.purpose != "request":
            raise LedgerError(f"hold {hold_id} does not exist")
        check_end(row.state, state)
        if not 0 <= cost_msat <= row.amount_msat:
            raise LedgerError(f"{hold_id} would be charged {cost_msat} msat, its hold is {row.amount_msat} msat")
        row.state, row.posted_msat = state, cost_msat
        if hold_id not in self.made:
            self.ended[hold_id] = row
        account = self.accounts[row.account]
        account.held_msat -= row.amount_msat
        account.available_msat += row.amount_msat - cost_msat
        self.changed_accounts.add(account.id)
        if row.key is not None and (key := self.keys[row.key]).counted:
            key.held_msat -= row.amount_msat
            key.spent_msat += cost_msat
            if key.day == row.created_at // DAY_S:
                key.day_msat -= row.amount_msat - cost_msat
            self.changed_keys.add(key.id)
        return row


def _closed(key: KeyRow, now: int) -> KeyClosed | None:
    if key.revoked_at is not None:
        return KeyClosed("revoked")
    if key.expires_at is not None and key.expires_at <= now:
        return KeyClosed("expired")
    return None


def _beyond_limits(key: KeyRow, amount_msat: int, today: int) -> LimitReached | None:
    if key.day < today:
        key.day, key.day_msat = today, 0
    if key.spend_limit_msat is not None:
        left_msat = key.spend_limit_msat - key.spent_msat - key.held_msat
        if amount_msat > left_msat:
            return LimitReached("spend", Msat(left_msat))
    if key.daily_limit_msat is not None and amount_msat > (left_msat := key.daily_limit_msat - key.day_msat):
        return LimitReached("daily", Msat(left_msat))
    return None
