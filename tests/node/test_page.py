"""The hold state machine, pure: in whatever order there is held, posted and released, each hold ends once and sums agree."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from node.errors import LedgerError
from node.ledger.model import (
    DAY_S,
    EARNINGS,
    DuplicateHold,
    Held,
    HoldState,
    Insufficient,
    KeyClosed,
    LimitReached,
    Posted,
)
from node.ledger.page import AccountRow, Hold, KeyRow, Page, Post, Release
from tests.node.drafts import draft

START_MSAT, SPEND_MSAT, DAILY_MSAT = 10_000, 6_000, 4_000
ACCOUNT, ROOT, CHILD = 100, 1, 2


class Holds(RuleBasedStateMachine):
    """A page against an oracle of plain dictionaries."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.now = 20_000 * DAY_S
        root = KeyRow(ROOT, None, None, None, None, None, 0, 0, 0, 0)
        child = KeyRow(CHILD, ROOT, None, None, SPEND_MSAT, DAILY_MSAT, 0, 0, 0, 0)
        rows = [AccountRow(ACCOUNT, START_MSAT, 0, 0), AccountRow(EARNINGS, 0, 0, 0)]
        self.page = Page()
        self.page.add(rows, [root, child])
        self.held: dict[str, tuple[int, int]] = {}
        self.ended: dict[str, str] = {}
        self.posted: dict[str, tuple[int, int]] = {}

    @rule(target=ids, name=st.text("abcdef", min_size=1, max_size=2))
    def name(self, name: str) -> str:
        return name

    @rule(id_=ids, amount=st.integers(0, 12_000), key=st.sampled_from([ROOT, CHILD]))
    def hold(self, id_: str, amount: int, key: int) -> None:
        known = id_ in self.held or id_ in self.ended
        free_msat = START_MSAT - sum(msat for msat, _ in self.held.values()) - self.spent()
        outcome = self.page.apply(
            Hold(
                id=id_,
                account=ACCOUNT,
                key=key,
                parent=None if key == ROOT else ROOT,
                amount_msat=amount,
                now=self.now,
                expires_at=self.now + 60,
                instance="",
                fingerprint="",
            )
        )
        if known:
            assert isinstance(outcome, DuplicateHold)
        elif isinstance(outcome, Held):
            assert amount <= free_msat
            self.held[id_] = (amount, key)
        else:
            assert isinstance(outcome, Insufficient | LimitReached | KeyClosed)
            assert amount > free_msat or key == CHILD

    @rule(id_=ids, part=st.floats(0, 1.2))
    def post(self, id_: str, part: float) -> None:
        amount, key = self.held.get(id_, (1000, ROOT))
        cost_msat = int(amount * part)
        try:
            outcome = self.page.apply(Post(id_, draft(id_, amount, cost_msat), self.now))
        except LedgerError:
            assert id_ not in self.held or cost_msat > amount
            return
        assert isinstance(outcome, Posted)
        if id_ in self.held:
            del self.held[id_]
            self.ended[id_] = "posted"
            self.posted[id_] = (cost_msat, key)
        assert outcome.receipt.cost_msat == self.posted[id_][0], "posted again, it answers as at first"

    @rule(id_=ids, state=st.sampled_from(["voided", "expired"]))
    def release(self, id_: str, state: HoldState) -> None:
        freed = self.page.apply(Release(id_, state))
        assert freed == (id_ in self.held)
        if freed:
            del self.held[id_]
            self.ended[id_] = state

    @rule()
    def a_day_passes(self) -> None:
        self.now += DAY_S

    def spent(self) -> int:
        return sum(cost for cost, _ in self.posted.values())

    @invariant()
    def sums_agree(self) -> None:
        account, child = self.page.accounts[ACCOUNT], self.page.keys[CHILD]
        held_msat = sum(msat for msat, _ in self.held.values())
        assert account.available_msat == START_MSAT - held_msat - self.spent() >= 0
        assert (account.held_msat, account.spent_msat) == (held_msat, self.spent())
        assert self.page.accounts[EARNINGS].available_msat == self.spent()
        assert child.held_msat == sum(msat for msat, key in self.held.values() if key == CHILD)
        assert child.spent_msat == sum(cost for cost, key in self.posted.values() if key == CHILD)
        assert child.spent_msat + child.held_msat <= SPEND_MSAT
        assert 0 <= child.day_msat <= DAILY_MSAT
        for id_, row in self.page.holds.items():
            assert row.state == self.ended.get(id_, "pending"), "a hold ends once"


Holds.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestHolds = Holds.TestCase
